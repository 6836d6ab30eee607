//! What was attempted on which object, and why it failed.

use std::fmt;
use std::io;

use rustix::io::Errno;

/// A request that the kernel refused, or that got no answer.
#[derive(Debug, thiserror::Error)]
pub struct Error {
    /// What was attempted: a phrase that reads after "cannot".
    pub op: &'static str,
    /// The object.
    pub target: String,
    /// The kernel's own words, where it had some.
    pub kernel_words: Option<String>,
    /// The error number. Part of the display, so not a source: a chain would say it twice.
    pub cause: io::Error,
}

/// The result of a request.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Names the request that failed with `cause`.
    pub fn new(op: &'static str, target: impl Into<String>, cause: impl Into<io::Error>) -> Self {
        Self { op, target: target.into(), kernel_words: None, cause: cause.into() }
    }

    /// Whether the object is not there.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(
            self.errno(),
            Some(Errno::NODEV | Errno::NOENT | Errno::SRCH | Errno::ADDRNOTAVAIL)
        )
    }

    /// Whether the object to make is there already.
    #[must_use]
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(Errno::EXIST)
    }

    /// Whether nothing is known to be wrong: the kernel did not answer in time, answers were lost,
    /// or the objects changed faster than they could be listed.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        matches!(self.cause.kind(), io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
            || self.errno() == Some(Errno::NOBUFS)
    }

    /// The kernel's error number, where it refused.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        Errno::from_io_error(&self.cause)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}: ", self.op, self.target)?;
        if let Some(meaning) = self.errno().and_then(meaning) {
            write!(f, "{meaning}: ")?;
        }
        write!(f, "{}", self.cause)?;
        match &self.kernel_words {
            Some(words) => write!(f, " (kernel: {words})"),
            None => Ok(()),
        }
    }
}

/// What an error number means for a request about an object, where its own words leave that open.
fn meaning(errno: Errno) -> Option<&'static str> {
    match errno {
        Errno::EXIST => Some("there is one already"),
        Errno::PERM => Some("this process needs CAP_NET_ADMIN in this network namespace"),
        Errno::NOBUFS => Some("the kernel dropped answers that did not fit the socket's buffer"),
        Errno::BUSY => Some("the kernel or another program uses it"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_number_is_said_in_a_sentence() {
        let mut error = Error::new("add", "route 10.0.0.0/8", io::Error::from(Errno::EXIST));
        assert_eq!(
            error.to_string(),
            "cannot add route 10.0.0.0/8: there is one already: File exists (os error 17)"
        );
        error.kernel_words = Some("no".to_owned());
        assert!(error.to_string().ends_with("(os error 17) (kernel: no)"));
        assert!(error.is_exists() && !error.is_missing() && !error.is_interrupted());
    }
}
