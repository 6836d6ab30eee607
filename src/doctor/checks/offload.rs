//! `offload`: whether the kernel hands over packets that are not cut yet.

use culvert_dataplane::platform::tun::Offload;

use culvert_node::words::counted;

use crate::doctor::facts::Facts;
use crate::doctor::finding::Finding;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let Ok(status) = &facts.daemon else {
        return vec![Finding::skip("the daemon knows it, and does not answer")];
    };
    let mut findings = Vec::new();
    if status.offload_refusals > 0 {
        let times = status.offload_refusals;
        findings.push(Finding::warn(
            format!("the kernel refused {} to cut datagrams of the tunnel", counted(times, "time")),
            "see the daemon's log; ethtool -k DEVICE shows what the underlay's device can",
        ));
    }
    let granted = status.offload.as_str();
    findings.push(match status.offload {
        Offload::TcpUdp => Finding::ok(granted),
        // By the configuration, or by the kernel: slower, and in nobody's way.
        Offload::Tcp | Offload::None => Finding::ok(format!(
            "{granted}: slower than it could be; tun.offload, and Linux 6.2 for UDP"
        )),
    });
    findings
}
