//! Start, readiness, signals and the end of the process. No features.

mod interrupt;
mod readiness;
mod signals;
mod supervisor;

pub(crate) use interrupt::{INTERRUPTED, on_interrupt};
pub(crate) use readiness::Readiness;
pub use readiness::{Missing, Need};
pub(crate) use signals::{ReloadSignal, Signal, Signals};
pub(crate) use supervisor::Supervisor;
