//! `tun`: whether somebody reads what the kernel routes to the TUN device.

use culvert_node::words::counted;

use crate::doctor::facts::Facts;
use crate::doctor::finding::Finding;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let expected = match super::expected(facts) {
        Ok(expected) => expected,
        Err(skipped) => return skipped,
    };
    let kernel = match &facts.kernel {
        Ok(kernel) => kernel,
        Err(why) => return vec![Finding::skip(why)],
    };
    let tun = &expected.setup.tun;
    if !kernel.carrying {
        let found =
            format!("{tun} has no carrier: nobody reads it, and what goes there is dropped");
        return vec![Finding::fail(found, super::bring_up(facts))];
    }
    let Some([before, after]) = facts.tun_drops else {
        return vec![Finding::skip(format!("the kernel has no counters of {tun}"))];
    };
    let new = after.saturating_sub(before);
    if new > 0 {
        let found =
            format!("{} of pods dropped while this looked: {tun} is full", counted(new, "packet"));
        return vec![Finding::fail(found, facts.busy())];
    }
    if after > 0 {
        let found = format!("{} of pods dropped since {tun} was made", counted(after, "packet"));
        let remedy = "nothing, if that was while no daemon ran; if it grows under load: more workers, by \
                      tun.queues";
        return vec![Finding::warn(found, remedy)];
    }
    vec![Finding::ok(format!("{tun} is read, and no packet was dropped"))]
}
