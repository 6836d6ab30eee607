//! What the running kernel is capable of, where asking it would not tell.

/// Whether elements that exist can be given a time to expire.
#[must_use]
pub fn expires_elements() -> bool {
    let name = rustix::system::uname();
    release(&name.release().to_string_lossy()).is_some_and(|release| release >= (6, 12))
}

/// The first two numbers of a release, such as `6.12.0-rc1`.
fn release(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_is_read_whatever_follows() {
        assert_eq!(release("6.12.0-rc1"), Some((6, 12)));
        assert_eq!(release("5.4-vendor"), Some((5, 4)));
        assert!(release("6.9.3") < release("6.12"));
        assert_eq!(release("unknown"), None);
    }
}
