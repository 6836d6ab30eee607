//! The monotonic clock: what deadlines and round trips go by.

use std::time::Instant;

#[expect(clippy::disallowed_methods, reason = "the one place of this crate that reads the clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
