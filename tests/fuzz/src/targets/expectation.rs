//! Files of `culvert replay --expect`: understood, or refused with a reason.

use culvert::replay::Expectation;

pub(crate) fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Err(error) = Expectation::parse(text) {
        assert!(!error.to_string().is_empty());
    }
}
