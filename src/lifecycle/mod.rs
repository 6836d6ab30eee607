//! Start, readiness, signals and the end of the process. No features.

mod readiness;
mod signals;

pub use readiness::{Readiness, State};
pub use signals::{Signal, Signals};
