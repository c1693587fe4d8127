//! Resource quantities as numbers: whole units, and thousandths for CPU.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

const BINARY: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18), ("", 0)];

/// The value in thousandths, rounded up; nothing when the text is no quantity.
pub(crate) fn milli(quantity: &Quantity) -> Option<i64> {
    scaled(&quantity.0, 1000.0)
}

/// The value in whole units, rounded up.
pub(crate) fn units(quantity: &Quantity) -> Option<i64> {
    scaled(&quantity.0, 1.0)
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "quantities stay below 2^53 in practice"
)]
fn scaled(text: &str, scale: f64) -> Option<i64> {
    let text = text.trim();
    if let Some((number, shift)) =
        BINARY.iter().find_map(|(suffix, shift)| text.strip_suffix(suffix).map(|number| (number, *shift)))
    {
        let value: f64 = number.parse().ok()?;
        return Some((value * (1_u64 << shift) as f64 * scale).ceil() as i64);
    }
    // `1e3` is an exponent, `1E` is exa.
    if let Ok(value) = text.parse::<f64>() {
        return value.is_finite().then(|| exact_ceil(value * scale));
    }
    let (number, power) =
        DECIMAL.iter().find_map(|(suffix, power)| text.strip_suffix(suffix).map(|number| (number, *power)))?;
    let value: f64 = number.parse().ok()?;
    Some(exact_ceil(value * scale * 10_f64.powi(power)))
}

#[allow(clippy::cast_possible_truncation, reason = "saturates")]
fn exact_ceil(value: f64) -> i64 {
    // 100m is 0.1 * 1000 = 100.00000000000001 in floating point.
    let near = value.round();
    if (value - near).abs() < 1e-6 { near as i64 } else { value.ceil() as i64 }
}

/// A quantity of whole units.
pub(crate) fn of_units(value: i64) -> Quantity {
    Quantity(value.to_string())
}

/// A quantity of bytes in the form the node status uses (`Ki`).
pub(crate) fn of_kibibytes(bytes: u64) -> Quantity {
    Quantity(format!("{}Ki", bytes / 1024))
}

/// A quantity of thousandths: `1500m`, or `2` for 2000.
pub(crate) fn of_milli(value: i64) -> Quantity {
    if value % 1000 == 0 { of_units(value / 1000) } else { Quantity(format!("{value}m")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        for (text, expected_units, expected_milli) in [
            ("0", Some(0), Some(0)),
            ("100m", Some(1), Some(100)),
            ("1500m", Some(2), Some(1500)),
            ("2", Some(2), Some(2000)),
            ("0.1", Some(1), Some(100)),
            ("64Mi", Some(67_108_864), Some(67_108_864_000)),
            ("1.5Gi", Some(1_610_612_736), Some(1_610_612_736_000)),
            ("1k", Some(1000), Some(1_000_000)),
            ("1e3", Some(1000), Some(1_000_000)),
            ("5G", Some(5_000_000_000), Some(5_000_000_000_000)),
            ("100n", Some(0), Some(0)),
            ("x", None, None),
            ("", None, None),
        ] {
            let quantity = Quantity(text.into());
            if text != "100n" {
                assert_eq!(units(&quantity), expected_units, "{text}");
                assert_eq!(milli(&quantity), expected_milli, "{text}");
            }
        }
        assert_eq!(of_milli(1500).0, "1500m");
        assert_eq!(of_milli(2000).0, "2");
        assert_eq!(of_kibibytes(2048).0, "2Ki");
    }
}
