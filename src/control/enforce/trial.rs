//! What tests do to a daemon that enforces policies: have it die or wait between two steps, or make
//! a chain of which the kernel takes none. Only a development build looks.

use std::fs;
use std::thread;
use std::time::Duration;

/// How the name of the file begins that has the order; a dash and the number of the process follow.
/// It may change while the daemon runs.
const VARIABLE: &str = "CULVERT_TEST_POLICY_ORDER";

/// What the order with this first word is about.
fn order(word: &str) -> Option<String> {
    if !cfg!(debug_assertions) {
        return None;
    }
    let path = format!("{}-{}", std::env::var(VARIABLE).ok()?, std::process::id());
    let text = fs::read_to_string(path).ok()?;
    let (first, about) = text.trim().split_once(' ')?;
    (first == word).then(|| about.to_owned())
}

/// Dies here, as by SIGKILL, if that is the order, or waits until it is another one.
pub(super) fn reached(step: &str) {
    if order("die").is_some_and(|about| about == step) {
        std::process::abort();
    }
    while order("stall").is_some_and(|about| about == step) {
        thread::sleep(Duration::from_millis(10));
    }
}

/// The chain that the kernel is to refuse.
pub(super) fn refused_chain() -> Option<String> {
    order("refuse")
}
