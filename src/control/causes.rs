//! Errors of libraries, in words.

use std::error::Error;

/// The library's own words say only that something failed; what did is among the causes.
pub(super) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
