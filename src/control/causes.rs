//! Errors of libraries, in words.

use std::error::Error;

/// Longest text, in characters.
const LONGEST: usize = 1000;

/// The library's own words say only that something failed; what did is among the causes.
pub(super) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    // Some quote whole pages that a proxy has sent.
    if let Some((end, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut() {
        let error = std::io::Error::other("ä".repeat(5000));
        assert_eq!(causes(&error).chars().count(), LONGEST + 1);
        assert_eq!(causes(&std::io::Error::other("broken")), "broken");
    }
}
