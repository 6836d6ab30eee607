//! What `culvert doctor` finds on this node, for answers to peers.
//!
//! Looking takes half a second of waiting, and netlink. So what was found holds for some seconds,
//! and nobody waits for a look of another's: such an answer goes without.

use std::fmt;
use std::sync::{Mutex, TryLockError};
use std::time::{Duration, Instant};

use culvert_dataplane::platform::clock;

/// How long what was found is told again.
const SPAN: Duration = Duration::from_secs(5);

/// Looks, and answers the names of the checks that failed; nothing if it could not look.
pub(crate) type Look = Box<dyn Fn() -> Option<Vec<String>> + Send + Sync>;

/// Looks when asked, and not too often.
pub(super) struct Checkup {
    look: Look,
    last: Mutex<Option<(Instant, Vec<String>)>>,
}

impl Checkup {
    pub(super) fn new(look: Look) -> Self {
        Self { look, last: Mutex::default() }
    }

    /// The checks that fail, if that is known; may wait for a look.
    pub(super) fn failing(&self) -> Option<Vec<String>> {
        let mut last = match self.last.try_lock() {
            Ok(last) => last,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        match &*last {
            Some((at, found)) if clock::now().saturating_duration_since(*at) < SPAN => {
                Some(found.clone())
            }
            _ => {
                let found = (self.look)()?;
                *last = Some((clock::now(), found.clone()));
                Some(found)
            }
        }
    }
}

impl fmt::Debug for Checkup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkup").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Arc, Barrier};
    use std::thread;

    use super::*;

    #[test]
    fn many_questions_are_one_look_and_nobody_waits_for_it() {
        let looks = Arc::new(AtomicU32::new(0));
        let (begun, ended) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
        let checkup = {
            let (looks, begun, ended) =
                (Arc::clone(&looks), Arc::clone(&begun), Arc::clone(&ended));
            Checkup::new(Box::new(move || {
                looks.fetch_add(1, Ordering::Relaxed);
                begun.wait();
                ended.wait();
                Some(vec!["forward".to_owned()])
            }))
        };
        thread::scope(|scope| {
            let first = scope.spawn(|| checkup.failing());
            begun.wait();
            assert_eq!(checkup.failing(), None, "another one looks");
            ended.wait();
            assert_eq!(first.join().unwrap(), Some(vec!["forward".to_owned()]));
        });
        assert_eq!(checkup.failing(), Some(vec!["forward".to_owned()]));
        assert_eq!(looks.load(Ordering::Relaxed), 1);
    }
}
