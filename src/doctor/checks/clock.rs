//! `clock`: whether this machine knows what time it is. Certificates of etcd and Kubernetes, and
//! leases, go by it.

use crate::doctor::facts::Facts;
use crate::doctor::finding::Finding;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let clock = &facts.clock;
    if let Some((file, ahead)) = &clock.future {
        let found = format!(
            "{} was written {} seconds later than now: this clock, or that of who wrote it, is wrong",
            file.display(),
            ahead.as_secs()
        );
        return vec![Finding::fail(found, "timedatectl set-ntp true, and wait until it agrees")];
    }
    vec![match &clock.is_synchronised {
        Ok(true) => Finding::ok("kept right, as the kernel is told"),
        Ok(false) => Finding::skip(
            "nobody tells the kernel that he keeps it right, and there is nothing to compare it with",
        ),
        Err(why) => Finding::skip(why),
    }]
}
