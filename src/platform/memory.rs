//! Who may look into this process.

use culvert_dataplane::platform::{Error, Result};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// Keeps this process out of core dumps, and from whoever has not all rights on the machine: its
/// memory holds keys from now on.
///
/// # Errors
///
/// When the kernel refuses.
pub(crate) fn conceal() -> Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| Error::new("prctl(PR_SET_DUMPABLE)", "this process", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_keys_leaves_no_dump() {
        conceal().unwrap();
        let now = rustix::process::dumpable_behavior().unwrap();
        assert_eq!(now, DumpableBehavior::NotDumpable);
    }
}
