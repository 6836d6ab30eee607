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
    if let Err(why) = &facts.daemon {
        // A daemon that is stopped holds it open all the same.
        let found =
            format!("no packet was dropped, and whether anybody reads {tun} is open: {why}");
        return vec![Finding::skip(found)];
    }
    vec![Finding::ok(format!("{tun} is read, and no packet was dropped"))]
}

#[cfg(test)]
mod tests {
    use super::super::tests::said;
    use super::*;
    use crate::doctor::facts::fixture::healthy;
    use crate::doctor::finding::Verdict;

    #[test]
    fn device_of_a_daemon_that_does_not_answer_is_not_called_read() {
        assert_eq!(said("tun", &healthy())[0].verdict, Verdict::Ok);
        let facts = Facts { daemon: Err("it does not answer".to_owned()), ..healthy() };
        assert_eq!(said("tun", &facts)[0].verdict, Verdict::Skip);
    }
}
