//! `port`: whether somebody listens where the peers send to.

use crate::doctor::facts::Facts;
use crate::doctor::finding::Finding;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let expected = match super::expected(facts) {
        Ok(expected) => expected,
        Err(skipped) => return skipped,
    };
    let sockets = match &facts.sockets {
        Ok([_, sockets]) => sockets,
        Err(why) => return vec![Finding::skip(why)],
    };
    let Some(own) = expected.setup.address else {
        return vec![Finding::skip("the underlay address is not known")];
    };
    let is_bound =
        |port: u16| sockets.iter().any(|socket| socket.address == own && socket.port == port);
    let is_taken = |port: u16| {
        sockets.iter().any(|socket| socket.address.is_unspecified() && socket.port == port)
    };
    let mut findings = Vec::new();
    for port in &expected.setup.underlay_ports {
        if is_bound(*port) {
            continue;
        }
        findings.push(if is_taken(*port) {
            Finding::fail(
                format!("another program has UDP {port} on every address"),
                format!("ss -lunp sport = :{port} shows which: stop it, or choose another port"),
            )
        } else {
            Finding::fail(
                format!("nobody listens on UDP {own} port {port}"),
                super::bring_up(facts),
            )
        });
    }
    if findings.is_empty() {
        let ports: Vec<String> = expected.setup.underlay_ports.iter().map(u16::to_string).collect();
        findings.push(Finding::ok(format!("UDP {own} port {}", ports.join(", "))));
    }
    findings
}
