//! The monotonic clock: what deadlines and measurements of a lab go by.

use std::time::Instant;

/// The present moment.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place of the lab that reads the clock")]
pub fn now() -> Instant {
    Instant::now()
}
