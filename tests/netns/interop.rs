//! One node runs Culvert, the other something else: the kernel's VXLAN-GPE device, its VXLAN device
//! as flannel sets it up, and a program that puts bare IP into UDP as flannel's `udp` backend does.

mod bare;
mod foreign;
mod strict;
mod table;
mod tshark;

use std::net::IpAddr;
use std::time::Duration;

use culvert_lab::probe::{self, Answer, Ping, Transfer};
use culvert_lab::{Netns, POD_INTERFACE, wait_for, wait_until};
use overlay_proto::Family;

use self::foreign::{Far, Kind};
use crate::harness::{FAMILIES, SOON, assert_reaches_within};

const TRANSFER: Transfer = Transfer::of(16 << 20).timeout(Duration::from_secs(60));

/// How long a datagram and its echo may take before they count as lost.
const ECHO: Duration = Duration::from_secs(1);

#[test]
fn the_kernels_vxlan_gpe_device_is_a_peer() {
    carries_everything(&Far::up("nt-kgpe", Kind::Gpe, Family::V4), 1500 - 36);
}

#[test]
fn the_kernels_vxlan_gpe_device_is_a_peer_over_an_ipv6_underlay() {
    carries_everything(&Far::up("nt-kgpe6", Kind::Gpe, Family::V6), 1500 - 56);
}

#[test]
fn the_kernels_vxlan_device_as_flannel_makes_it_is_a_peer() {
    carries_everything(&Far::up("nt-kvxlan", Kind::Flannel, Family::V4), 1500 - 50);
}

#[test]
fn the_kernels_vxlan_device_is_a_peer_over_an_ipv6_underlay() {
    carries_everything(&Far::up("nt-kvxlan6", Kind::Flannel, Family::V6), 1500 - 70);
}

#[test]
fn a_program_that_sends_bare_ip_in_udp_is_a_peer() {
    carries_everything(&Far::up("nt-bare", Kind::Bare, Family::V4), 1500 - 28);
}

#[test]
fn a_program_that_sends_bare_ip_in_udp_is_a_peer_over_an_ipv6_underlay() {
    carries_everything(&Far::up("nt-bare6", Kind::Bare, Family::V6), 1500 - 48);
}

#[test]
fn a_peer_that_knows_no_questions_is_asked_by_icmp_echo() {
    let far = Far::up("nt-echo", Kind::Flannel, Family::V4);
    let asked = || {
        let said = far.lab.node(1).culvert(&["ping", "node2", "--count", "1", "--json"]);
        said.is_ok_and(|said| said.contains("\"by\": \"echo\""))
    };
    wait_until(SOON, "the kernel of the peer to answer", asked).unwrap();
}

/// A datagram and its echo, which is as it was sent. One that is lost is sent again: a busy kernel
/// loses packets between namespaces.
#[track_caller]
fn echo(from: &Netns, to: &Netns, address: IpAddr, len: usize) {
    let try_once = || match probe::udp_echo(from, to, address, len, ECHO) {
        Ok(report) => Ok(Some(report)),
        Err(error) if format!("{error:#}").contains("differs") => Err(error),
        Err(_) => Ok(None),
    };
    wait_for(SOON, &format!("an echo of {len} bytes from {address}"), try_once).unwrap();
}

fn is_answer(answer: &Answer) -> bool {
    !matches!(answer, Answer::Silence)
}

/// Every kind of traffic both ways, its content compared byte by byte, and the edges of the MTU.
fn carries_everything(far: &Far, mtu: u16) {
    let pod = far.lab.pod(1, 1);
    for family in FAMILIES {
        let (near, away) = (pod.address(family), far.pod_address(family));
        assert_reaches_within(SOON, pod.netns(), away);
        assert_reaches_within(SOON, &far.pod, near);
        let ways = [(pod.netns(), &far.pod, away), (&far.pod, pod.netns(), near)];
        for (from, to, address) in ways {
            probe::transfer(from, to, address, &TRANSFER).unwrap();
            // Nothing at all, and fragments made by the pod among others.
            for len in [0, 1, 512, usize::from(mtu) - 48, 4000] {
                echo(from, to, address, len);
            }
        }
    }
    let status = far.lab.node(1).status().unwrap();
    let peer = &status["peers"][0];
    assert_eq!((&peer["codec"], &peer["mtu"]), (&far.kind.codec().into(), &mtu.into()), "{status}");
    assert_eq!(status["offload_refusals"], 0, "{status}");
    for (reason, count) in status["drops"].as_object().unwrap() {
        // The kernel's own reports to groups, and what is sent before a pod has its address.
        let own = ["multicast", "foreign_source", "own_subnet"].contains(&reason.as_str());
        assert!(own || *count == 0, "{reason}: {status}");
    }

    // Pods whose own interfaces would let more pass, so that their nodes have to answer.
    for netns in [pod.netns(), &far.pod] {
        netns.ip(&format!("link set {POD_INTERFACE} mtu {}\n", mtu + 1)).unwrap();
    }
    for family in FAMILIES {
        let ways = [(pod.netns(), far.pod_address(family), 1), (&far.pod, pod.address(family), 2)];
        for (from, to, node) in ways {
            let send = |len| {
                let ping = Ping::default().packet_len(len).timeout(Duration::from_secs(1));
                let answer = || Ok(Some(probe::ping(from, to, &ping)?).filter(is_answer));
                wait_for(SOON, "an answer of any kind", answer).unwrap()
            };
            let exact = send(mtu);
            assert!(exact.is_reply(), "{family} from node{node}: {exact:?}");
            let router = match family {
                Family::V4 => format!("10.244.{node}.1"),
                Family::V6 => format!("fd00:10:244:{node}::1"),
            };
            let told = Answer::TooBig { mtu: u32::from(mtu), from: router.parse().unwrap() };
            assert_eq!(send(mtu + 1), told, "{family} from node{node}");
        }
    }
}
