//! The node that does not run Culvert: its tunnel, and a pod behind it.

use std::net::IpAddr;

use culvert_lab::{Lab, NODE_INTERFACE, Netns, Place};
use overlay_proto::Family;

use super::bare::Bare;
use crate::harness::{lab, run};

/// What the second node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The kernel's VXLAN-GPE device with a route that encapsulates.
    Gpe,
    /// The kernel's VXLAN device with the entries that flannel makes.
    Flannel,
    /// A program that moves packets between a TUN device and UDP, one by one.
    Bare,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Gpe, Self::Flannel, Self::Bare];

    /// As the subnet table calls it.
    pub(super) const fn codec(self) -> &'static str {
        match self {
            Self::Gpe => "vxlan-gpe",
            Self::Flannel => "vxlan",
            Self::Bare => "ip-udp",
        }
    }

    pub(super) const fn port(self) -> u16 {
        match self {
            Self::Gpe => 4790,
            Self::Flannel => 8472,
            Self::Bare => 8285,
        }
    }

    /// Bytes that the codec adds to a packet of a pod, outer headers included.
    const fn overhead(self, underlay: Family) -> u16 {
        match underlay {
            Family::V4 => 20 + 8 + self.header_len(),
            Family::V6 => 40 + 8 + self.header_len(),
        }
    }

    /// Bytes between the UDP header and a packet of a pod.
    pub(super) const fn header_len(self) -> u16 {
        match self {
            Self::Gpe => 8,
            Self::Flannel => 22,
            Self::Bare => 0,
        }
    }
}

/// A lab whose first node runs Culvert and whose second does not.
pub(super) struct Far {
    pub(super) lab: Lab,
    pub(super) kind: Kind,
    /// The namespace of the second node's pod.
    pub(super) pod: Netns,
    _bare: Option<Bare>,
}

impl Far {
    #[track_caller]
    pub(super) fn up(name: &str, kind: Kind, underlay: Family) -> Self {
        // What the daemon asks of peers would stand between the packets that are looked at.
        let quiet = "[probe]\ninterval = 0";
        let lab = lab(name).underlay(underlay).config(quiet).without_daemons().up().unwrap();
        like_a_wire(&lab);
        let mtu = 1500 - kind.overhead(underlay);
        let pod = far_pod(&lab, mtu);
        let mac = tunnel_end(underlay).to_owned();
        let (own, node) = (lab.node(2).address(), lab.node(1).address());
        let netns = lab.node(2).netns();
        let mut entry = format!("codec = \"{}\"\n", kind.codec());
        let mut bare = None;
        match kind {
            Kind::Gpe => netns.ip(&gpe(own, node, mtu)).unwrap(),
            Kind::Flannel => {
                netns.ip(&flannel(own, mtu, &mac)).unwrap();
                let fdb = ["fdb", "append", &mac, "dev", "flannel.1", "dst", &node.to_string()];
                run(netns, "bridge", &fdb);
                entry += &format!("mac = \"{}\"\n", device_mac(netns));
            }
            Kind::Bare => bare = Some(Bare::start(netns, own, node, mtu)),
        }
        lab.write_table(&(lab.table().to_toml() + &entry)).unwrap();
        lab.node(1).start().unwrap();
        lab.add_pod(1).unwrap();
        assert_eq!(lab.node(1).status().unwrap()["underlay"]["mac"], *mac);
        Self { lab, kind, pod, _bare: bare }
    }

    pub(super) fn pod_address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => [10, 244, 2, 2].into(),
            Family::V6 => "fd00:10:244:2::2".parse().unwrap(),
        }
    }
}

/// The address of the first node's tunnel end, worked out by hand from `docs/wire-format.md`.
const fn tunnel_end(underlay: Family) -> &'static str {
    match underlay {
        Family::V4 => "02:ce:c0:a8:01:0b",
        Family::V6 => "02:ce:a0:c9:7a:94",
    }
}

/// Lets the underlay's switch send what a cable would carry: whole datagrams with whole checksums.
///
/// kernel: veth pairs pass packets on as they are (6.18), so that a datagram of the kernel's
/// tunnels would reach a program uncut and with the inner checksum still to be made; a network
/// card, or the kernel before it, finishes both.
pub(super) fn like_a_wire(lab: &Lab) {
    for node in lab.nodes() {
        let off = ["tx", "tx-udp-segmentation", "tx-udp_tnl-segmentation"];
        let off = off.iter().chain(&["tx-udp_tnl-csum-segmentation"]).flat_map(|key| [*key, "off"]);
        let arguments: Vec<&str> = ["-K", node.name()].into_iter().chain(off).collect();
        run(lab.switch(), "ethtool", &arguments);
    }
}

/// A pod of the second node, by hand: there is no bridge and no plugin.
fn far_pod(lab: &Lab, mtu: u16) -> Netns {
    let pod = Netns::create(lab.plan().namespace(Place::Pod(2, 1))).unwrap();
    let node = lab.node(2).netns();
    for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        node.set_sysctl(key, "1").unwrap();
    }
    // kernel: while a link-local address is tentative, a node looks for no neighbour on behalf of
    // what it forwards (6.18).
    for netns in [node, &pod] {
        netns.set_sysctl("ipv6/conf/default/accept_dad", "0").unwrap();
    }
    node.ip(&format!(
        "link add pod0 type veth peer name eth0 mtu {mtu} netns {}\n\
         address add 10.244.2.1/24 dev pod0\n\
         address add fd00:10:244:2::1/64 dev pod0 nodad\n\
         link set pod0 up\n",
        pod.name()
    ))
    .unwrap();
    pod.ip("link set lo up\n\
            address add 10.244.2.2/24 dev eth0\n\
            address add fd00:10:244:2::2/64 dev eth0 nodad\n\
            link set eth0 up\n\
            route add default via 10.244.2.1\n\
            route add default via fd00:10:244:2::1\n")
        .unwrap();
    pod
}

fn gpe(own: IpAddr, node: IpAddr, mtu: u16) -> String {
    // kernel: a route sends datagrams without checksums unless told otherwise, and no IPv6 socket
    // takes those (RFC 8200 §8.1).
    let (encap, checksum) = if own.is_ipv4() { ("ip", "") } else { ("ip6", "csum") };
    let route = |network: &str| {
        format!(
            "route add {network} encap {encap} id 1 src {own} dst {node} {checksum} \
             dev gpe0 mtu {mtu}\n"
        )
    };
    format!("link add gpe0 mtu {mtu} type vxlan dstport 4790 external gpe\nlink set gpe0 up\n")
        + &route("10.244.1.0/24")
        + &route("fd00:10:244:1::/64")
}

/// What flannel does for a node with the subnets of the first one; `mac` is that of its tunnel end.
fn flannel(own: IpAddr, mtu: u16, mac: &str) -> String {
    format!(
        "link add flannel.1 mtu {mtu} type vxlan id 1 dev {NODE_INTERFACE} local {own} \
         dstport 8472 nolearning\n\
         address add 10.244.2.0/32 dev flannel.1\n\
         address add fd00:10:244:2::/128 dev flannel.1 nodad\n\
         link set flannel.1 up\n\
         neighbour replace 10.244.1.0 lladdr {mac} dev flannel.1 nud permanent\n\
         neighbour replace fd00:10:244:1:: lladdr {mac} dev flannel.1 nud permanent\n\
         route replace 10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink\n\
         route replace fd00:10:244:1::/64 via fd00:10:244:1:: dev flannel.1 onlink\n"
    )
}

/// The address of flannel's device.
pub(super) fn device_mac(netns: &Netns) -> String {
    let text = netns.ip_output(&["-json", "link", "show", "flannel.1"]).unwrap();
    let links: serde_json::Value = serde_json::from_str(&text).unwrap();
    links[0]["address"].as_str().unwrap().to_owned()
}
