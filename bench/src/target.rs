//! Something that must be reached, and whether it is.

use std::fmt;

use serde::Serialize;

/// A figure that has a limit.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Target {
    what: String,
    value: f64,
    limit: f64,
    pub(crate) is_reached: bool,
}

impl Target {
    /// A figure of which less is better. One that could not be measured is no number, and is not
    /// reached.
    pub(crate) fn at_most(what: impl Into<String>, value: f64, limit: f64) -> Self {
        Self { what: what.into(), value, limit, is_reached: value <= limit }
    }

    /// A figure of which more is better.
    pub(crate) fn at_least(what: impl Into<String>, value: f64, limit: f64) -> Self {
        Self { what: what.into(), value, limit, is_reached: value >= limit }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, value, limit, is_reached } = self;
        let verdict = if *is_reached { "reached" } else { "MISSED" };
        write!(f, "{verdict}  {what}: {value:.3} (target {limit})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_itself_is_reached_and_what_is_no_number_is_not() {
        assert!(Target::at_most("a", 5.0, 5.0).is_reached);
        assert!(Target::at_least("a", 5.0, 5.0).is_reached);
        assert!(!Target::at_most("a", f64::NAN, 5.0).is_reached);
        assert!(!Target::at_least("a", f64::NAN, 5.0).is_reached);
        assert_eq!(Target::at_most("a", 6.0, 5.0).to_string(), "MISSED  a: 6.000 (target 5)");
    }
}
