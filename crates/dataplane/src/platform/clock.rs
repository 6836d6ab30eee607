//! The clocks. Everything else takes `now` as an argument or asks here.

use std::time::{Instant, SystemTime};

/// The present moment of the monotonic clock.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// The present moment in nanoseconds since 1970, for what people and other programs read.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub fn unix_nanos() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
