//! What a datagram costs between two pods of one node: the first of a flow, and a later one.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result};
use culvert_lab::{clock, wait_until};
use serde_json::json;

use super::objects::own_policy;
use super::stage::Stage;
use crate::traffic::{Pod, pause};

/// Datagrams of one measurement.
const COUNT: u16 = 4_000;

/// Policies that are about the pod.
const POLICIES: usize = 5;

/// Nanoseconds by round: policies off; on, but none on the pod; on, and five on the pod.
type Rounds = [Vec<f64>; 3];

/// What a new flow, and an old one, costs in `rounds` rounds.
pub(super) fn measure(off: &Stage, on: &Stage, rounds: usize) -> Result<(Rounds, Rounds)> {
    let (mut new, mut old) = (Rounds::default(), Rounds::default());
    // The pod of the lab to which the policies are, and one like it to which none is.
    for number in 0..POLICIES {
        let rules = if number + 1 == POLICIES { json!([{}]) } else { other_rules(number) };
        let name = format!("five-{number}");
        on.put_policy(own_policy(&name, ("pod", "node1-pod1"), &rules));
    }
    wait_until(Duration::from_secs(10), "five policies", || {
        on.lab.node(1).status().is_ok_and(|status| {
            let hits = status["policy"]["policies"].as_u64();
            hits.is_some_and(|count| count >= POLICIES as u64)
        })
    })?;
    pause(Duration::from_secs(1))?;
    let ends: [(&Pod, &Pod); 3] = [
        (off.client(), off.server_pod()),
        (on.server_pod(), on.client()),
        (on.client(), on.server_pod()),
    ];
    for round in 0..rounds {
        for turn in 0..ends.len() {
            let which = (turn + round) % ends.len();
            let (from, to) = ends[which];
            let first = 10_000 + COUNT * u16::try_from(round % 10).unwrap_or_default();
            new[which].push(per_datagram(from, to, |at| first + at)?);
            old[which].push(per_datagram(from, to, |_| first)?);
        }
    }
    for number in 0..POLICIES {
        on.server.delete_other(
            source_servers::api_server::NETWORK_POLICIES,
            &format!("default/five-{number}"),
        );
    }
    Ok((new, old))
}

/// Rules that do not match, as most of a pod's do not.
fn other_rules(number: usize) -> serde_json::Value {
    json!([{
        "from": [{ "namespaceSelector": { "matchLabels": { "team": format!("team-{number}") } } }],
        "ports": [{ "port": 80 }],
    }])
}

/// Nanoseconds to send one datagram, which includes its whole way to the receiver's socket.
fn per_datagram(from: &Pod, to: &Pod, port: impl Fn(u16) -> u16) -> Result<f64> {
    let address = to.address;
    let source = from.address;
    // Nobody listens there. Of errors about that a pod sends one a second to another, after six
    // (`icmp_ratelimit`), which makes no difference here.
    let socket = from.netns.run(|| UdpSocket::bind(SocketAddr::new(source, 0)))?.context("bind")?;
    let ports: Vec<SocketAddr> = (0..COUNT).map(|at| SocketAddr::new(address, port(at))).collect();
    // Neighbours are known and caches warm after the first.
    let _sent = socket.send_to(&[0; 64], SocketAddr::new(address, 9));
    let start = clock::now();
    for port in &ports {
        // An error that an earlier one has provoked is told here, and the datagram goes with the
        // next call.
        if socket.send_to(&[0; 64], port).is_err() {
            let _sent = socket.send_to(&[0; 64], port);
        }
    }
    Ok(start.elapsed().as_secs_f64() * 1e9 / f64::from(COUNT))
}
