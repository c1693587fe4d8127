//! Resource quantities: `100m`, `1.5Gi`, `12e6`, read, compared, added and written in the canonical form that
//! the API stores.
//!
//! An amount is an integer of 128 bits and a power of ten, never a float. Never knows which resource it measures.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use compact_str::{CompactString, ToCompactString};

use crate::Value;

/// The finest amount there is: 10^-9.
const NANO: i32 = -9;
/// Digits that surely fit 64 bits.
const SURE_DIGITS: i32 = 18;
/// Powers of ten beyond this cannot be told apart from garbage in 128 bits.
const MAX_EXPONENT: i32 = 36;

/// How a quantity is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `12e6`.
    DecimalExponent,
    /// `12Mi`.
    BinarySi,
    /// `12M`.
    #[default]
    DecimalSi,
}

/// Why text is no quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not a number and a suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The number cannot be read.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// The suffix is unknown.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// An amount of something.
#[derive(Clone, Debug, Default)]
pub struct Quantity {
    unscaled: i128,
    /// The power of ten.
    scale: i32,
    format: Format,
    /// The text it was read from, when that is kept as it is.
    text: Option<CompactString>,
}

struct Parts<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

fn split(text: &str) -> Result<Parts<'_>, QuantityError> {
    if text.is_empty() {
        return Err(QuantityError::Format);
    }
    let negative = text.starts_with('-');
    let rest = text.strip_prefix(['-', '+']).unwrap_or(text).trim_start_matches('0');
    let (whole, rest) = rest.split_at(digits(rest));
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(digits(rest)),
        None => ("", rest),
    };
    let letters = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let tail = letters.strip_prefix(['-', '+']).unwrap_or(letters);
    if tail.len() != digits(tail) {
        return Err(QuantityError::Format);
    }
    Ok(Parts { negative, whole: if whole.is_empty() { "0" } else { whole }, fraction, suffix })
}

/// Base, exponent and format of a suffix.
fn interpret(suffix: &str) -> Option<(u32, i32, Format)> {
    let decimal = match suffix {
        "" => Some(0),
        "n" => Some(-9),
        "u" => Some(-6),
        "m" => Some(-3),
        "k" => Some(3),
        "M" => Some(6),
        "G" => Some(9),
        "T" => Some(12),
        "P" => Some(15),
        "E" => Some(18),
        _ => None,
    };
    if let Some(exponent) = decimal {
        return Some((10, exponent, Format::DecimalSi));
    }
    let binary = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].iter().position(|known| *known == suffix);
    if let Some(at) = binary {
        return Some((2, 10 * (i32::try_from(at).ok()? + 1), Format::BinarySi));
    }
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    Some((10, exponent, Format::DecimalExponent))
}

fn power_of_ten(exponent: i32) -> Option<i128> {
    10_i128.checked_pow(u32::try_from(exponent).ok()?)
}

/// `unscaled * 10^scale` without the digits below `10^floor`, rounded away from zero; says whether nothing was lost.
fn round_to(unscaled: i128, scale: i32, floor: i32) -> (i128, i32, bool) {
    if scale >= floor {
        return (unscaled, scale, true);
    }
    match power_of_ten(floor - scale) {
        Some(divisor) => {
            let (quotient, rest) = (unscaled / divisor, unscaled % divisor);
            (quotient + rest.signum(), floor, rest == 0)
        }
        None => (unscaled.signum(), floor, unscaled == 0),
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let parts = split(text)?;
        let (base, exponent, format) = interpret(parts.suffix).ok_or(QuantityError::Suffix)?;
        let shifted = format!("{}{}", parts.whole, parts.fraction);
        let magnitude: i128 = shifted.parse().map_err(|_| QuantityError::Numeric)?;
        let unscaled = if parts.negative { -magnitude } else { magnitude };
        let fraction = i32::try_from(parts.fraction.len()).map_err(|_| QuantityError::Numeric)?;
        let mut quantity = if base == 2 {
            Self::binary(unscaled, fraction, exponent)?
        } else {
            let scale = exponent.checked_sub(fraction).ok_or(QuantityError::Numeric)?;
            if scale > MAX_EXPONENT && unscaled != 0 {
                return Err(QuantityError::Numeric);
            }
            let (unscaled, scale, _) = round_to(unscaled, scale, NANO);
            Self { unscaled, scale, format, text: None }
        };
        if keeps_text(&shifted, magnitude, exponent, fraction, format) {
            quantity.text = Some(text.into());
        }
        Ok(quantity)
    }
}

/// Whether upstream keeps the text as it was written: a quick check that passes some forms that are not canonical.
fn keeps_text(shifted: &str, magnitude: i128, exponent: i32, fraction: i32, format: Format) -> bool {
    if shifted == "0" && fraction == 0 && exponent == 0 {
        return false;
    }
    let length = i32::try_from(shifted.len()).unwrap_or(i32::MAX);
    match format {
        Format::BinarySi => {
            fraction == 0 && 15 - length - exponent * 3 / 10 > 0 && magnitude & 7 != 0 && exponent % 10 == 0
        }
        Format::DecimalSi | Format::DecimalExponent => {
            let scale = exponent.saturating_sub(fraction);
            length <= SURE_DIGITS
                && scale >= NANO
                && scale % 3 == 0
                && !shifted.ends_with("000")
                && !shifted.starts_with('0')
        }
    }
}

impl Quantity {
    fn binary(unscaled: i128, fraction: i32, exponent: i32) -> Result<Self, QuantityError> {
        let product = unscaled.checked_mul(1_i128 << exponent).ok_or(QuantityError::Numeric)?;
        let (mut unscaled, mut scale, _) = round_to(product, -fraction, NANO);
        let limit = Self { unscaled: i64::MAX.into(), scale: 0, ..Self::default() };
        let amount = Self { unscaled: unscaled.abs(), scale, ..Self::default() };
        if amount > limit {
            (unscaled, scale) = (limit.unscaled * unscaled.signum(), 0);
        }
        let below_one = unscaled != 0 && amount < Self::from(1);
        let format = if below_one { Format::DecimalSi } else { Format::BinarySi };
        Ok(Self { unscaled, scale, format, text: None })
    }

    /// A whole number in a format.
    #[must_use]
    pub fn new(value: i64, format: Format) -> Self {
        Self { unscaled: value.into(), scale: 0, format, text: None }
    }

    /// Thousandths, in decimal format.
    #[must_use]
    pub fn from_milli(value: i64) -> Self {
        Self { unscaled: value.into(), scale: -3, format: Format::DecimalSi, text: None }
    }

    /// From a node of an object: text, or a number as people write in YAML. `null` is zero.
    ///
    /// # Errors
    /// When the node is no quantity.
    pub fn from_value(value: &Value) -> Result<Self, QuantityError> {
        match value {
            Value::Null => Ok(Self::default()),
            Value::String(text) => text.trim().parse(),
            Value::Int(number) => number.to_compact_string().parse(),
            Value::Float(number) => {
                let text = if *number != 0.0 && number.abs() < 1e-5 || number.abs() >= 1e21 {
                    format!("{number:e}")
                } else {
                    number.to_string()
                };
                text.parse()
            }
            _ => Err(QuantityError::Format),
        }
    }

    /// How it is written.
    #[must_use]
    pub const fn format(&self) -> Format {
        self.format
    }

    /// Whether it is nothing.
    #[must_use]
    pub const fn is_zero(&self) -> bool {
        self.unscaled == 0
    }

    /// -1, 0 or 1.
    #[must_use]
    pub const fn signum(&self) -> i32 {
        self.unscaled.signum() as i32
    }

    /// The amount in units of `10^scale`, rounded away from zero, as far as 64 bits go.
    #[must_use]
    pub fn scaled(&self, scale: i32) -> i64 {
        let (unscaled, at, _) = round_to(self.unscaled, self.scale, scale);
        let factor = power_of_ten(at - scale);
        let wide = factor.and_then(|factor| unscaled.checked_mul(factor));
        let limit = if unscaled < 0 { i64::MIN } else { i64::MAX };
        wide.and_then(|wide| i64::try_from(wide).ok()).unwrap_or(if unscaled == 0 { 0 } else { limit })
    }

    /// The amount as a whole number, rounded away from zero.
    #[must_use]
    pub fn value(&self) -> i64 {
        self.scaled(0)
    }

    /// The amount in thousandths, rounded away from zero.
    #[must_use]
    pub fn milli_value(&self) -> i64 {
        self.scaled(-3)
    }

    /// Whether it is a whole number of units of `10^scale`.
    #[must_use]
    pub fn is_whole(&self, scale: i32) -> bool {
        round_to(self.unscaled, self.scale, scale).2
    }

    fn combine(&self, other: &Self, sign: i128) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        let scale = if self.is_zero() {
            other.scale
        } else if other.is_zero() {
            self.scale
        } else {
            self.scale.min(other.scale)
        };
        let aligned =
            |q: &Self| if q.is_zero() { Some(0) } else { power_of_ten(q.scale - scale)?.checked_mul(q.unscaled) };
        let sum = aligned(self).zip(aligned(other)).and_then(|(a, b)| a.checked_add(sign * b));
        match sum {
            Some(unscaled) => Self { unscaled, scale, format, text: None },
            None => Self { unscaled: i128::from(i64::MAX) * self.unscaled.signum(), scale: 0, format, text: None },
        }
    }

    /// The sum; the format is that of the first unless that is zero.
    #[must_use]
    pub fn add(&self, other: &Self) -> Self {
        self.combine(other, 1)
    }

    /// The difference; the format is that of the first unless that is zero.
    #[must_use]
    pub fn sub(&self, other: &Self) -> Self {
        self.combine(other, -1)
    }

    /// The nearest float, for ratios only.
    #[must_use]
    pub fn as_f64(&self) -> f64 {
        self.unscaled as f64 * 10_f64.powi(self.scale)
    }

    fn write_decimal(&self, f: &mut fmt::Formatter<'_>, format: Format) -> fmt::Result {
        let (mut amount, mut exponent) = (self.unscaled, self.scale);
        while amount % 10 == 0 {
            amount /= 10;
            exponent += 1;
        }
        let highest = if format == Format::DecimalSi { 18 } else { i32::MAX };
        while exponent % 3 != 0 || exponent > highest {
            amount = amount.saturating_mul(10);
            exponent -= 1;
        }
        let suffix = match exponent {
            0 => "",
            _ if format == Format::DecimalExponent => return write!(f, "{amount}e{exponent}"),
            -9 => "n",
            -6 => "u",
            -3 => "m",
            3 => "k",
            6 => "M",
            9 => "G",
            12 => "T",
            15 => "P",
            _ => "E",
        };
        write!(f, "{amount}{suffix}")
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(text) = &self.text {
            return f.write_str(text);
        }
        if self.is_zero() {
            return f.write_str("0");
        }
        let (whole, at, exact) = round_to(self.unscaled, self.scale, 0);
        let small = Self { unscaled: self.unscaled.abs(), ..self.clone() } < Self::from(1024);
        if self.format != Format::BinarySi {
            return self.write_decimal(f, self.format);
        }
        let whole = power_of_ten(at).and_then(|factor| whole.checked_mul(factor));
        let Some(mut amount) = whole.filter(|_| exact && !small) else {
            return self.write_decimal(f, Format::DecimalSi);
        };
        let mut suffixes = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].iter();
        let mut suffix = suffixes.next().unwrap_or(&"");
        while amount % 1024 == 0 {
            let Some(next) = suffixes.next() else { break };
            suffix = next;
            amount /= 1024;
        }
        write!(f, "{amount}{suffix}")
    }
}

impl From<i64> for Quantity {
    fn from(value: i64) -> Self {
        Self::new(value, Format::DecimalSi)
    }
}

impl From<&Quantity> for Value {
    fn from(quantity: &Quantity) -> Self {
        Self::String(quantity.to_compact_string())
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        let signs = self.unscaled.signum().cmp(&other.unscaled.signum());
        if signs != Ordering::Equal || self.scale == other.scale || self.is_zero() {
            return signs.then_with(|| self.unscaled.cmp(&other.unscaled));
        }
        let scale = self.scale.min(other.scale);
        let aligned = |q: &Self| power_of_ten(q.scale - scale).and_then(|factor| factor.checked_mul(q.unscaled));
        let beyond = if self.unscaled > 0 { Ordering::Greater } else { Ordering::Less };
        match (aligned(self), aligned(other)) {
            (Some(a), Some(b)) => a.cmp(&b),
            (None, _) => beyond,
            (_, None) => beyond.reverse(),
        }
    }
}

/// The form in which the API stores what a person wrote.
///
/// # Errors
/// When the node is no quantity.
pub fn canonical_quantity(value: &Value) -> Result<CompactString, QuantityError> {
    Quantity::from_value(value).map(|quantity| quantity.to_compact_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Quantity {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn the_canonical_form_is_upstreams() {
        let table = [
            ("0", "0"),
            ("0.0", "0"),
            ("00", "0"),
            ("0Gi", "0"),
            ("1", "1"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("5.", "5."),
            ("1.5", "1500m"),
            ("0.0001", "100u"),
            ("0.0000000001", "1n"),
            ("1000", "1k"),
            ("1000000", "1M"),
            ("1k", "1k"),
            ("12e6", "12e6"),
            ("12e5", "1200e3"),
            ("1e2", "100"),
            ("1E3", "1E3"),
            ("1024", "1024"),
            ("1Ki", "1Ki"),
            ("1024Ki", "1Mi"),
            ("1024Mi", "1Gi"),
            ("1025Mi", "1025Mi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("0.5Mi", "512Ki"),
            ("8Gi", "8Gi"),
            ("100Gi", "100Gi"),
            ("0.001Ki", "1024m"),
            ("-1Gi", "-1Gi"),
            ("-500m", "-500m"),
            ("8Ei", "9223372036854775807"),
            ("128974848", "128974848"),
            ("129e6", "129e6"),
            ("129M", "129M"),
            ("123Mi", "123Mi"),
            ("9223372036854775807", "9223372036854775807"),
            ("1000G", "1T"),
            ("1.000", "1"),
        ];
        for (text, canonical) in table {
            assert_eq!(parse(text).to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for (text, error) in [
            ("", QuantityError::Format),
            ("1.1.1", QuantityError::Format),
            ("1+1", QuantityError::Suffix),
            ("abc", QuantityError::Format),
            ("1mi", QuantityError::Suffix),
            ("1 Gi", QuantityError::Format),
            ("1e", QuantityError::Suffix),
            ("1e99999999999", QuantityError::Suffix),
            ("1e999", QuantityError::Numeric),
        ] {
            assert_eq!(text.parse::<Quantity>(), Err(error), "{text}");
        }
    }

    #[test]
    fn amounts_compare_by_value() {
        for (small, large) in
            [("100m", "0.2"), ("1Ki", "1025"), ("-1", "0"), ("0", "1n"), ("1Ei", "2E"), ("1n", "1e30")]
        {
            assert!(parse(small) < parse(large), "{small} {large}");
        }
        for (one, other) in [("1Gi", "1024Mi"), ("1", "1000m"), ("0", "0Ki"), ("1e3", "1k")] {
            assert_eq!(parse(one), parse(other));
        }
    }

    #[test]
    fn sums_keep_the_first_format() {
        for (a, b, sum, difference) in [
            ("1Gi", "1Gi", "2Gi", "0"),
            ("0", "1Gi", "1Gi", "-1Gi"),
            ("100m", "1", "1100m", "-900m"),
            ("1Gi", "1", "1073741825", "1073741823"),
            ("1500m", "500m", "2", "1"),
        ] {
            assert_eq!(parse(a).add(&parse(b)).to_string(), sum);
            assert_eq!(parse(a).sub(&parse(b)).to_string(), difference);
        }
    }

    #[test]
    fn amounts_round_away_from_zero() {
        assert_eq!(parse("1500m").value(), 2);
        assert_eq!(parse("-1500m").value(), -2);
        assert_eq!(parse("1500u").milli_value(), 2);
        assert_eq!(parse("1Gi").milli_value(), 1_073_741_824_000);
        assert_eq!(parse("10E").milli_value(), i64::MAX);
        assert!(parse("1500m").is_whole(-3) && !parse("1500m").is_whole(0));
    }

    #[test]
    fn numbers_of_yaml_are_quantities() {
        for (value, canonical) in
            [(Value::Int(2), "2"), (Value::Float(0.5), "500m"), (Value::Float(1e-7), "100e-9"), (Value::Null, "0")]
        {
            assert_eq!(canonical_quantity(&value).unwrap(), canonical);
        }
        assert!(canonical_quantity(&Value::Bool(true)).is_err());
    }

    proptest::proptest! {
        #[test]
        fn the_canonical_form_reads_back_as_the_same_amount(
            number in -1_000_000_000_i64..1_000_000_000, fraction in 0_u32..1000,
            suffix in proptest::sample::select(vec!["", "m", "k", "M", "G", "Ki", "Mi", "Gi", "e3", "u"]),
        ) {
            let quantity = parse(&format!("{number}.{fraction}{suffix}"));
            let canonical = quantity.to_string();
            proptest::prop_assert_eq!(&parse(&canonical), &quantity);
            proptest::prop_assert_eq!(parse(&canonical).to_string(), canonical);
        }
    }
}
