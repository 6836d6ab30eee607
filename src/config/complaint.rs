//! What is wrong with a file that a person wrote, said so that the person can mend it.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One fault in a configuration or table file: place, key, value, what is wrong and what to do.
///
/// Boxed, because it travels in the `Err` of many small functions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint(Box<Parts>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Parts {
    path: PathBuf,
    line: Option<usize>,
    key: Option<String>,
    value: Option<String>,
    problem: String,
    remedy: Option<String>,
}

impl Complaint {
    /// Something is wrong with the file as a whole.
    pub(crate) fn of_file(path: &Path, problem: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            path: path.to_owned(),
            line: None,
            key: None,
            value: None,
            problem: problem.into(),
            remedy: None,
        }))
    }

    /// Says on which line, counted from 1.
    #[must_use]
    pub fn line(mut self, line: usize) -> Self {
        self.0.line = Some(line);
        self
    }

    /// Says under which key.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.0.key = Some(key.into());
        self
    }

    /// Says which value.
    #[must_use]
    pub fn value(mut self, value: impl fmt::Display) -> Self {
        self.0.value = Some(value.to_string());
        self
    }

    /// Says what to do.
    #[must_use]
    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.0.remedy = Some(remedy.into());
        self
    }

    /// A fault that the TOML parser found in `text`.
    pub(crate) fn of_toml(path: &Path, text: &str, error: &toml::de::Error) -> Self {
        let complaint = Self::of_file(path, error.message().trim().to_owned());
        match error.span() {
            Some(span) => complaint.line(line_of(text, &span)),
            None => complaint,
        }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { path, line, key, value, problem, remedy } = &*self.0;
        write!(f, "{}", path.display())?;
        if let Some(line) = line {
            write!(f, ":{line}")?;
        }
        if let Some(key) = key {
            write!(f, ": {key}")?;
        }
        if let Some(value) = value {
            write!(f, " = {value}")?;
        }
        write!(f, ": {problem}")?;
        if let Some(remedy) = remedy {
            write!(f, "; {remedy}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Complaint {}

/// The line, counted from 1, on which `span` of `text` begins.
pub(crate) fn line_of(text: &str, span: &Range<usize>) -> usize {
    let before = text.get(..span.start).unwrap_or(text);
    before.bytes().filter(|byte| *byte == b'\n').count() + 1
}
