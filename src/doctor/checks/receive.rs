//! `receive`: whether the kernel drops datagrams of peers because nobody fetches them.

use culvert_node::words::counted;

use crate::doctor::facts::Facts;
use crate::doctor::finding::Finding;
use crate::doctor::sockets::UdpSocket;

/// Bytes that wait at a socket, in both looks, before it is said that nobody fetches them.
const MUCH: u64 = 256 << 10;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let expected = match super::expected(facts) {
        Ok(expected) => expected,
        Err(skipped) => return skipped,
    };
    let looks = match &facts.sockets {
        Ok(looks) => looks,
        Err(why) => return vec![Finding::skip(why)],
    };
    let setup = &expected.setup;
    let is_ours = |socket: &&UdpSocket| {
        Some(socket.address) == setup.address && setup.underlay_ports.contains(&socket.port)
    };
    let sum = |sockets: &[UdpSocket], of: fn(&UdpSocket) -> u64| -> u64 {
        sockets.iter().filter(is_ours).map(of).sum()
    };
    let [before, after] = looks;
    if !after.iter().any(|socket| is_ours(&socket)) {
        return vec![Finding::skip("there are no sockets of the tunnel")];
    }
    let [dropped, dropped_now] = [before, after].map(|look| sum(look, |it| it.dropped));
    let [waited, waits] = [before, after].map(|look| sum(look, |it| it.queued));
    // What is damaged is dropped at a socket too, and says nothing of who fetches.
    let [had_none, have_none] = facts.overflows.unwrap_or([0, u64::MAX]);
    let new = dropped_now.saturating_sub(dropped).min(have_none.saturating_sub(had_none));
    let late = dropped_now.min(have_none);
    if new > 0 {
        let found =
            format!("{} dropped while this looked: nobody fetched them", counted(new, "datagram"));
        return vec![Finding::fail(found, facts.busy())];
    }
    if waited >= MUCH && waits >= waited {
        let found = format!("{waits} bytes of datagrams wait, and nobody fetches them");
        return vec![Finding::fail(found, facts.busy())];
    }
    if late > 0 {
        let found = format!("{} dropped since the sockets were opened", counted(late, "datagram"));
        return vec![Finding::warn(
            found,
            "nothing, if it does not grow under load; else more room: sysctl -w \
             net.core.rmem_max=16777216 and restart the daemon; or more workers: tun.queues",
        )];
    }
    let waiting = if waits > 0 {
        format!("{waits} bytes wait to be fetched")
    } else {
        "none waits".to_owned()
    };
    vec![Finding::ok(format!("no datagram was dropped for want of room, and {waiting}"))]
}

#[cfg(test)]
mod tests {
    use super::super::tests::said;
    use super::*;

    use crate::doctor::facts::fixture::healthy;
    use crate::doctor::finding::Verdict;

    #[test]
    fn what_grows_fails_and_what_was_is_a_warning() {
        let verdict = |before: (u64, u64), after: (u64, u64)| {
            let socket = |(queued, dropped)| {
                vec![UdpSocket {
                    address: "192.168.1.11".parse().unwrap(),
                    port: 4790,
                    queued,
                    dropped,
                }]
            };
            let sockets = Ok([socket(before), socket(after)]);
            // All that is dropped found no room.
            let overflows = Some([before.1, after.1]);
            let facts = Facts { sockets, overflows, ..healthy() };
            let damaged =
                Facts { sockets: facts.sockets.clone(), overflows: Some([0, 0]), ..healthy() };
            assert!(before.0 > 0 || said("receive", &damaged)[0].verdict == Verdict::Ok);
            said("receive", &facts)[0].verdict
        };
        assert_eq!(verdict((0, 0), (0, 0)), Verdict::Ok);
        assert_eq!(verdict((0, 7), (0, 7)), Verdict::Warn);
        assert_eq!(verdict((0, 7), (0, 8)), Verdict::Fail);
        assert_eq!(verdict((MUCH, 0), (MUCH, 0)), Verdict::Fail);
        assert_eq!(verdict((MUCH, 0), (0, 0)), Verdict::Ok, "it is fetched");
    }

    #[test]
    fn node_without_sockets_is_skipped() {
        let facts = Facts { sockets: Ok([Vec::new(), Vec::new()]), ..healthy() };
        assert_eq!(said("receive", &facts)[0].verdict, Verdict::Skip);
    }
}
