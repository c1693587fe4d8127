//! Sizes in Kubernetes' notation, to and from bytes. Only what storage needs: no fractions of a byte, no signs.

const BINARY: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];
const DECIMAL: [(&str, u32); 6] = [("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];

/// Bytes of a quantity, rounded up; `None` if it is no quantity or does not fit.
#[must_use]
pub fn parse_bytes(text: &str) -> Option<u64> {
    let (digits, scale) = split(text)?;
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits: u128 = format!("0{whole}{fraction}").parse().ok()?;
    let divisor = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let (scaled, divisor) = match scale {
        Scale::Up(factor) => (digits.checked_mul(factor)?, divisor),
        Scale::Down(factor) => (digits, divisor.checked_mul(factor)?),
    };
    u64::try_from(scaled.div_ceil(divisor)).ok()
}

enum Scale {
    Up(u128),
    Down(u128),
}

fn split(text: &str) -> Option<(&str, Scale)> {
    if let Some((suffix, bits)) = BINARY.iter().find(|(suffix, _)| text.ends_with(suffix)) {
        return Some((text.strip_suffix(suffix)?, Scale::Up(1 << bits)));
    }
    if let Some((suffix, power)) = DECIMAL.iter().find(|(suffix, _)| text.ends_with(suffix)) {
        return Some((text.strip_suffix(suffix)?, Scale::Up(10_u128.pow(*power))));
    }
    if let Some(digits) = text.strip_suffix('m') {
        return Some((digits, Scale::Down(1_000)));
    }
    if let Some((digits, power)) = text.split_once(['e', 'E']) {
        let power: i32 = power.parse().ok()?;
        let factor = 10_u128.checked_pow(power.unsigned_abs())?;
        return Some((digits, if power < 0 { Scale::Down(factor) } else { Scale::Up(factor) }));
    }
    Some((text, Scale::Up(1)))
}

/// Bytes in the largest binary unit that keeps them whole.
#[must_use]
pub fn format_bytes(bytes: u64) -> String {
    let unit = BINARY.iter().rev().find(|(_, bits)| bytes > 0 && bytes.trailing_zeros() >= *bits);
    unit.map_or_else(|| bytes.to_string(), |(suffix, bits)| format!("{}{suffix}", bytes >> bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("1", Some(1)),
            ("1Ki", Some(1024)),
            ("1.5Gi", Some(1_610_612_736)),
            ("10G", Some(10_000_000_000)),
            ("1e3", Some(1000)),
            ("12E2", Some(1200)),
            ("1E", Some(1_000_000_000_000_000_000)),
            ("1500m", Some(2)),
            (".5Ki", Some(512)),
            ("", None),
            ("Gi", None),
            ("-1", None),
            ("1x", None),
            ("1e99", None),
            ("99999999999999Ei", None),
        ] {
            assert_eq!(parse_bytes(text), bytes, "{text}");
        }
    }

    #[test]
    fn formatting_is_read_back() {
        for bytes in [0, 1, 1023, 1024, 5 << 30, (1 << 40) + 1, u64::MAX] {
            assert_eq!(parse_bytes(&format_bytes(bytes)), Some(bytes));
        }
        assert_eq!(format_bytes(5 << 30), "5Gi");
    }
}
