//! One request, with the words for the case that it fails.

use std::io;

use crate::error::Error;

/// A request, and what it is about.
#[derive(Clone, Debug)]
pub struct Request<M> {
    pub(crate) op: &'static str,
    pub(crate) target: String,
    pub(crate) flags: u16,
    pub(crate) message: M,
}

impl<M> Request<M> {
    /// A request to do `op` (a verb) to `target` (a noun). `flags` are those that the message needs
    /// (`NLM_F_CREATE` and the like); the socket adds those of the exchange.
    pub fn new(op: &'static str, target: impl Into<String>, flags: u16, message: M) -> Self {
        Self { op, target: target.into(), flags, message }
    }

    /// The message itself.
    pub const fn message(&self) -> &M {
        &self.message
    }

    /// The error that the request failed with `cause`.
    pub fn failed(&self, cause: impl Into<io::Error>) -> Error {
        Error::new(self.op, self.target.as_str(), cause)
    }
}
