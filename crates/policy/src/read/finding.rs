//! What is wrong with an object, said so that its author can mend it.

use std::fmt;

/// One thing that is wrong with an object, or not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Kind and name of the object.
    pub object: String,
    /// The field, such as `spec.ingress[0].from[1].ipBlock.cidr`.
    pub field: String,
    /// What is written there; empty if nothing is.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to do.
    pub remedy: String,
    /// What becomes of it.
    pub gravity: Gravity,
}

/// What becomes of an object with a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gravity {
    /// An API server would take it, but this program does not understand that part: it allows
    /// nothing.
    Closes,
    /// An API server would refuse the object. Where it is there all the same, that part allows
    /// nothing.
    Wrong,
}

impl Gravity {
    /// The word in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closes => "closes",
            Self::Wrong => "wrong",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, field, value, problem, remedy, gravity: _ } = self;
        write!(f, "{object}: {field}")?;
        if !value.is_empty() {
            write!(f, " = {value}")?;
        }
        write!(f, ": {problem}; {remedy}")
    }
}
