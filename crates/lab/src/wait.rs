//! Waiting for a condition, with a deadline.
//!
//! Owns the one loop that looks again and again. Ends early when the user interrupts.

use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};

use super::interrupt;
use crate::clock;

/// Time between two looks: short beside what is waited for, long beside a look.
const PAUSE: Duration = Duration::from_millis(5);

/// Waits until `condition` holds, for at most `limit`.
///
/// # Errors
///
/// It did not hold in time; the error says `what` was waited for.
pub fn wait_until(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    wait_for(limit, what, || Ok(condition().then_some(())))
}

/// Waits until `look` finds something, for at most `limit`.
///
/// # Errors
///
/// It found nothing in time, or failed.
pub fn wait_for<T>(
    limit: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = clock::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        interrupt::check()?;
        if start.elapsed() >= limit {
            bail!("waited {limit:?} in vain for {what}");
        }
        thread::sleep(PAUSE);
    }
}
