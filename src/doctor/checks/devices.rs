//! `devices`: the TUN device, the bridge, and the ports of pods.

use culvert_node::words::counted;

use super::missing::{self, Part};
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
    let mut findings = missing::of(facts, Part::Devices);
    findings.extend(kernel.captured.as_ref().map(|captured| {
        Finding::fail(captured, "ip link set dev DEVICE nomaster, with the device that is named")
    }));
    findings.extend(kernel.stranded.iter().map(|pod| {
        Finding::warn(
            format!("a pod cannot be reached: {pod}"),
            "delete the pod, so that it is plugged in anew",
        )
    }));
    findings.extend(kernel.noteless.iter().map(|device| {
        Finding::warn(
            format!(
                "the note on {device}, the port of a pod, is gone: it may send from any address"
            ),
            "delete the pod, so that it is plugged in anew",
        )
    }));
    if findings.is_empty() {
        let setup = &expected.setup;
        let (tun, bridge, pods) = (&setup.tun, &setup.bridge, kernel.pods);
        findings.push(Finding::ok(format!("{tun} and {bridge} up, {}", counted(pods, "pod"))));
    }
    super::some(findings)
}
