//! What Culvert sends, as tshark reads it: every header of every packet, checksums included.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use culvert_lab::probe::{self, Transfer};
use culvert_lab::wait_until;
use etherparse::{Ipv4Header, UdpHeader};
use overlay_proto::Family;

use super::echo;
use super::foreign::{Far, Kind, device_mac};
use crate::capture::{Capture, pcap};
use crate::harness::{FAMILIES, SOON, assert_reaches_within, offload};

/// Enough for super-packets in both families.
const TRANSFER: Transfer = Transfer::of(1 << 20);

/// What tshark is asked for. A field that occurs in outer and inner header has two values.
const FIELDS: [&str; 20] = [
    "ip.src",
    "ip.dst",
    "ip.checksum.status",
    "ipv6.src",
    "ipv6.dst",
    "udp.srcport",
    "udp.dstport",
    "udp.checksum.status",
    "tcp.checksum.status",
    "icmp.checksum.status",
    "icmpv6.checksum.status",
    "vxlan.flags",
    "vxlan.gbp",
    "vxlan.vni",
    "vxlan.next_proto",
    "vxlan.reserved8",
    "vxlan.reserved_16",
    "eth.src",
    "eth.dst",
    "eth.type",
];

/// The values of each field in one packet, outermost first.
type Row = BTreeMap<&'static str, Vec<String>>;

#[test]
fn tshark_reads_what_culvert_sends_as_it_was_meant() {
    for kind in Kind::ALL {
        let far = Far::up(&format!("nt-tshark-{}", kind.codec()), kind, Family::V4);
        let sent = send_all_kinds(&far);
        let mac =
            if kind == Kind::Flannel { device_mac(far.lab.node(2).netns()) } else { "".into() };
        let file = far.lab.node(2).log_path().with_file_name("sent.pcap");

        let rows = tshark(&file, &sent);
        assert_eq!(rows.len(), sent.len());
        for (row, packet) in rows.iter().zip(&sent) {
            assert_eq!(row, &meant(&far, &mac, packet), "{kind:?}: {packet:02x?}");
        }
        for (name, protocol) in [("TCP", 6), ("UDP", 17), ("ICMP", 1), ("ICMPv6", 58)] {
            assert!(sent.iter().any(|sent| inner(&far, sent).protocol == protocol), "{name}");
        }
        let ports: BTreeSet<&String> = rows.iter().map(|row| &row["udp.srcport"][0]).collect();
        assert!(ports.len() > 1, "flows leave by several ports: {ports:?}");

        // The comparison sees any byte of any header that is not as it should be.
        let header = 20 + 8..20 + 8 + usize::from(far.kind.header_len()) + 20;
        let mutants: Vec<Vec<u8>> = header.map(|at| mutant(&sent[0], at)).collect();
        for (at, row) in tshark(&file, &mutants).iter().enumerate() {
            assert_ne!(row, &meant(&far, &mac, &sent[0]), "{kind:?}: header byte {at}");
        }
    }
}

/// The packet with another byte at `at`, and an outer checksum that agrees with it.
fn mutant(packet: &[u8], at: usize) -> Vec<u8> {
    let mut mutant = packet.to_vec();
    mutant[at] ^= 0x11;
    let (ip, rest) = Ipv4Header::from_slice(&mutant).unwrap();
    let (udp, payload) = UdpHeader::from_slice(rest).unwrap();
    let checksum = udp.calc_checksum_ipv4(&ip, payload).unwrap();
    mutant[26..28].copy_from_slice(&checksum.to_be_bytes());
    mutant
}

/// Lets the pod send every kind of packet, and returns what came out of its node, each from its
/// outer IP header on.
fn send_all_kinds(far: &Far) -> Vec<Vec<u8>> {
    let pod = far.lab.pod(1, 1);
    // What does not fit into its buffer is not seen, which is why it is emptied again and again.
    let mut wire = Capture::start(far.lab.node(2).netns());
    for family in FAMILIES {
        let (own, away) = (pod.address(family), far.pod_address(family));
        assert_reaches_within(SOON, pod.netns(), away);
        wire.packets();
        probe::transfer(pod.netns(), &far.pod, away, &TRANSFER).unwrap();
        wire.packets();
        probe::transfer(&far.pod, pod.netns(), own, &TRANSFER).unwrap();
        wire.packets();
        echo(pod.netns(), &far.pod, away, 1000);
        wire.packets();
    }
    // The last thing sent is in the capture: so is everything before it.
    let last = b"the last that was sent";
    let packet = crate::packets::Udp::new(pod.ipv4(), far.pod_address(Family::V4), last);
    let seen = || {
        probe::send_packet(pod.netns(), &packet.bytes()).unwrap();
        wire.has(last)
    };
    wait_until(SOON, "the last packet", seen).unwrap();
    let port = far.kind.port().to_be_bytes();
    let from = [192, 168, 1, 11];
    let sent = |packet: &&Vec<u8>| {
        packet.get(..24).is_some_and(|packet| {
            packet[0] == 0x45 && packet[9] == 17 && packet[12..16] == from && packet[22..24] == port
        })
    };
    wire.packets().iter().filter(sent).cloned().collect()
}

/// What a packet of a pod says of itself, as far as it is compared.
struct Inner {
    family: Family,
    protocol: u8,
    ports: [u16; 2],
    /// Where TCP has it.
    checksum: Option<u16>,
}

fn inner(far: &Far, packet: &[u8]) -> Inner {
    let inner = &packet[20 + 8 + usize::from(far.kind.header_len())..];
    let number = |at: usize| u16::from_be_bytes([inner[at], inner[at + 1]]);
    match inner[0] >> 4 {
        4 => Inner {
            family: Family::V4,
            protocol: inner[9],
            ports: [number(20), number(22)],
            checksum: (inner[9] == 6).then(|| number(36)),
        },
        6 => Inner {
            family: Family::V6,
            protocol: inner[6],
            ports: [number(40), number(42)],
            checksum: (inner[6] == 6).then(|| number(56)),
        },
        version => panic!("an inner packet of version {version}: {packet:02x?}"),
    }
}

/// What tshark must find: all from the plan of the lab and `docs/wire-format.md`, but for the
/// ports.
fn meant(far: &Far, mac: &str, packet: &[u8]) -> Row {
    let Inner { family, protocol, ports, checksum } = inner(far, packet);
    let mut row: Row = FIELDS.into_iter().map(|field| (field, Vec::new())).collect();
    let mut add = |field: &'static str, value: &dyn ToString| {
        row.get_mut(field).unwrap().push(value.to_string());
    };
    const GOOD: u8 = 1;
    add("ip.src", &"192.168.1.11");
    add("ip.dst", &"192.168.1.12");
    add("ip.checksum.status", &GOOD);
    add("udp.srcport", &u16::from_be_bytes([packet[20], packet[21]]));
    add("udp.dstport", &far.kind.port());
    add("udp.checksum.status", &GOOD);
    match far.kind {
        Kind::Gpe => {
            add("vxlan.flags", &"0x0c");
            add("vxlan.vni", &1);
            add("vxlan.next_proto", if family == Family::V4 { &1 } else { &2 });
            add("vxlan.reserved8", &0);
            add("vxlan.reserved_16", &0);
        }
        Kind::Flannel => {
            add("vxlan.flags", &"0x0800");
            add("vxlan.gbp", &0);
            add("vxlan.vni", &1);
            add("vxlan.reserved8", &0);
            add("eth.src", &"02:ce:c0:a8:01:0b");
            add("eth.dst", &mac);
            add("eth.type", if family == Family::V4 { &"0x0800" } else { &"0x86dd" });
        }
        Kind::Bare => {}
    }
    match family {
        Family::V4 => {
            add("ip.src", &"10.244.1.2");
            add("ip.dst", &"10.244.2.2");
            add("ip.checksum.status", &GOOD);
        }
        Family::V6 => {
            add("ipv6.src", &"fd00:10:244:1::2");
            add("ipv6.dst", &"fd00:10:244:2::2");
        }
    }
    match protocol {
        1 => add("icmp.checksum.status", &GOOD),
        // kernel: where it finishes a checksum itself, it writes 0xffff for 0, as only UDP wants it
        // (skb_checksum_help, 6.18). Both are right (RFC 1624 §3), but tshark insists on 0.
        6 if !offload() && checksum == Some(0xffff) => add("tcp.checksum.status", &0),
        6 => add("tcp.checksum.status", &GOOD),
        17 => {
            add("udp.srcport", &ports[0]);
            add("udp.dstport", &ports[1]);
            add("udp.checksum.status", &GOOD);
        }
        58 => add("icmpv6.checksum.status", &GOOD),
        other => panic!("nothing of protocol {other} was sent"),
    }
    row
}

/// What tshark reads in `packets`, each from its IP header on.
fn tshark(file: &Path, packets: &[Vec<u8>]) -> Vec<Row> {
    fs::write(file, pcap(packets)).unwrap();
    let mut command = Command::new("tshark");
    command.arg("-n").arg("-r").arg(file);
    // Two of the ports are not registered for what is spoken there.
    command.args(["-d", "udp.port==8472,vxlan", "-d", "udp.port==8285,ip"]);
    for protocol in ["ip", "udp", "tcp"] {
        command.args(["-o", &format!("{protocol}.check_checksum:TRUE")]);
    }
    command.args(["-T", "fields", "-E", "separator=|", "-E", "occurrence=a"]);
    command.args(FIELDS.iter().flat_map(|field| ["-e", field]));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let values = |text: &str| -> Vec<String> {
        text.split(',').filter(|value| !value.is_empty()).map(str::to_owned).collect()
    };
    text.lines().map(|line| FIELDS.into_iter().zip(line.split('|').map(values)).collect()).collect()
}
