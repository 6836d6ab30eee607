//! Numbers for people.

/// Bytes.
pub(super) fn octets(bytes: u64) -> String {
    scaled(bytes, 1024, &["B", "KiB", "MiB", "GiB", "TiB", "PiB"])
}

/// Something of which there are many.
pub(super) fn many(count: u64) -> String {
    scaled(count, 1000, &["", "k", "M", "G", "T"]).trim_end().to_owned()
}

fn scaled(count: u64, step: u32, units: &[&str]) -> String {
    if count < step.into() {
        return format!("{count} {}", units[0]);
    }
    #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
    let mut value = count as f64;
    let mut unit = 0;
    while value >= step.into() && unit + 1 < units.len() {
        value /= f64::from(step);
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_unit_that_keeps_them_short() {
        assert_eq!(octets(0), "0 B");
        assert_eq!(octets(1023), "1023 B");
        assert_eq!(octets(1536), "1.5 KiB");
        assert_eq!(octets(u64::MAX), "16384.0 PiB");
        assert_eq!(many(999), "999");
        assert_eq!(many(1_250_000), "1.2 M");
    }
}
