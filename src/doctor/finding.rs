//! What a check says.

use std::fmt;

use serde::Serialize;

/// How it stands with one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// Looked at, and as it should be.
    Ok,
    /// It may be in the way, or be so soon.
    Warn,
    /// It is in the way of packets.
    Fail,
    /// It could not be looked at.
    Skip,
}

/// One line of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// The check.
    pub check: &'static str,
    /// The peer that it is about, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// How it stands.
    pub verdict: Verdict,
    /// What was found; of a check that could not look, why.
    pub found: String,
    /// The command that mends it, or the next step toward one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    pub(super) fn ok(found: impl Into<String>) -> Self {
        Self::new(Verdict::Ok, found.into(), None)
    }

    pub(super) fn warn(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Verdict::Warn, found.into(), Some(remedy.into()))
    }

    pub(super) fn fail(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Verdict::Fail, found.into(), Some(remedy.into()))
    }

    pub(super) fn skip(why: impl Into<String>) -> Self {
        Self::new(Verdict::Skip, why.into(), None)
    }

    /// The same, about a peer.
    pub(super) fn about(self, peer: &str) -> Self {
        Self { peer: Some(peer.to_owned()), ..self }
    }

    fn new(verdict: Verdict, found: String, remedy: Option<String>) -> Self {
        // The check's name is put in by whoever calls the check.
        Self { check: "", peer: None, verdict, found, remedy }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
            Self::Skip => "skip",
        })
    }
}
