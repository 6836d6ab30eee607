//! Start, readiness, signals and the end of the process. No features.

mod interrupt;
mod readiness;
mod signals;

pub use interrupt::{INTERRUPTED, on_interrupt};
pub use readiness::{Missing, Need, Readiness};
pub use signals::{ReloadSignal, Signal, Signals, StopSignals};
