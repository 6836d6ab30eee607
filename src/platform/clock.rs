//! The monotonic clock. Everything else takes `now` as an argument or asks here.

use std::time::Instant;

/// The present moment of the monotonic clock.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
pub fn now() -> Instant {
    Instant::now()
}
