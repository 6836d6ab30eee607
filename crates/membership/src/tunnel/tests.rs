//! What two nodes have in common, seen from either, and what is refused.

use super::*;
use crate::Membership;

fn overlay() -> Overlay {
    Overlay {
        vni: Vni::new(7).unwrap(),
        networks: vec!["10.0.0.0/8".parse().unwrap()],
        port: 4790,
        foreign: Foreign::default(),
    }
}

fn mac(last: u8) -> Mac {
    Mac::new([2, 0, 0, 0, 0, last])
}

fn speaks(codec: CodecKind, port: Option<u16>) -> TunnelOptions {
    let mac = (codec == CodecKind::Vxlan).then(|| mac(1));
    TunnelOptions { codec: Some(codec), port, mac, ..TunnelOptions::default() }
}

/// Nodes with these speeches, the first of them this one.
fn members(speeches: &[TunnelOptions]) -> Result<Membership, TableError> {
    let nodes = speeches.iter().zip(0..).map(|(tunnel_options, index): (_, u8)| NodeEntry {
        name: format!("node{index}"),
        address: IpAddr::from([192, 168, 0, index + 1]),
        subnets: vec![format!("10.1.{index}.0/24").parse().unwrap()],
        tunnel_options: *tunnel_options,
    });
    Membership::check(overlay(), "node0", nodes.collect())
}

fn fault(speeches: &[TunnelOptions]) -> (Place, Fault) {
    let error = members(speeches).expect_err("it is refused");
    assert!(!error.remedy().is_empty() && !error.to_string().is_empty());
    (error.place, error.fault)
}

#[test]
fn both_ends_come_to_the_same_tunnel() {
    let overlay = overlay();
    let speeches = [
        TunnelOptions::default(),
        speaks(CodecKind::VxlanGpe, None),
        speaks(CodecKind::VxlanGpe, Some(4791)),
        speaks(CodecKind::Vxlan, None),
        speaks(CodecKind::Vxlan, Some(4789)),
        speaks(CodecKind::IpUdp, None),
    ];
    let own: Vec<Tunnel> =
        speeches.iter().map(|tunnel_options| overlay.tunnel_of(tunnel_options)).collect();
    let ports: Vec<u16> = own.iter().map(|tunnel| tunnel.port).collect();
    assert_eq!(ports, [4790, 4790, 4791, 8472, 4789, 8285]);
    for (one, tunnel) in speeches.iter().zip(&own) {
        assert_eq!(overlay.tunnel_between(&TunnelOptions::default(), one), Some(*tunnel));
        for (other, others) in speeches.iter().zip(&own) {
            let between = overlay.tunnel_between(one, other);
            assert_eq!(between, overlay.tunnel_between(other, one));
            if one.codec.is_some() && other.codec.is_some() {
                assert_eq!(between, (tunnel == others).then_some(*tunnel));
            }
        }
    }
}

#[test]
fn a_node_alone_listens_for_its_own_codec() {
    for (tunnel_options, port) in
        [(TunnelOptions::default(), 4790), (speaks(CodecKind::IpUdp, None), 8285)]
    {
        let tunnels = members(&[tunnel_options]).unwrap().tunnels();
        assert_eq!(tunnels.iter().map(|tunnel| tunnel.port).collect::<Vec<_>>(), [port]);
    }
}

#[test]
fn impossible_entries_are_refused() {
    let plain = TunnelOptions::default();
    let vxlan = speaks(CodecKind::Vxlan, None);
    let with = |tunnel_options| [plain, tunnel_options];
    for (tunnel_options, place, expected) in [
        (TunnelOptions { port: Some(9), ..plain }, Place::Port(1), Fault::PortWithoutCodec),
        (TunnelOptions { port: Some(0), ..vxlan }, Place::Port(1), Fault::BadPort),
        (TunnelOptions { mac: None, ..vxlan }, Place::Codec(1), Fault::MacMissing),
        (TunnelOptions { mac: Some(Mac::new([0xff; 6])), ..vxlan }, Place::Mac(1), Fault::BadMac),
        (
            TunnelOptions { mac: Some(mac(1)), ..speaks(CodecKind::IpUdp, None) },
            Place::Mac(1),
            Fault::MacUnused(CodecKind::IpUdp),
        ),
        (
            TunnelOptions { port: Some(4790), ..vxlan },
            Place::Port(1),
            Fault::PortTwice(CodecKind::VxlanGpe),
        ),
    ] {
        assert_eq!(fault(&with(tunnel_options)), (place, expected));
    }
    let duplicate = fault(&[plain, vxlan, vxlan]);
    assert_eq!(duplicate, (Place::Mac(2), Fault::DuplicateMac("node1".into())));
    let own = overlay().tunnel_of(&vxlan);
    let other = speaks(CodecKind::IpUdp, None);
    assert_eq!(fault(&[vxlan, other]), (Place::Codec(1), Fault::NothingInCommon(own)));
    // To two peers that cannot talk with one another this node can.
    assert!(members(&[plain, vxlan, other]).is_ok());
}

#[test]
fn ports_are_bounded() {
    let peers = |count: u16| -> Vec<TunnelOptions> {
        let ports = (1..=count).map(|port| speaks(CodecKind::IpUdp, Some(9000 + port)));
        std::iter::once(TunnelOptions::default()).chain(ports).collect()
    };
    assert!(members(&peers(7)).is_ok());
    assert_eq!(fault(&peers(8)), (Place::Port(8), Fault::TooManyPorts));
}
