//! The source check: a pod sends from its own MAC and IP addresses, and from no other.
//!
//! Owns the nftables table that enforces it, and what of it belongs to one pod. The plugin enters a
//! pod before its port goes up and takes it out when the port is gone; the daemon puts back
//! whatever is missing. Both find what should be there in the kernel itself: in the note on the
//! port, see [`PodPort`]. Never needs the daemon, the program `nft`, or a file.

use std::net::{IpAddr, Ipv6Addr};

use culvert_nft::{
    Base, Batch, Chain, ChainKind, Comparison, Element, Expression, Field, Hook, KeyPart, Listing,
    Membership, Meta, Register, Set, Socket, Table, TableFamily, Verdict, kernel,
};
use ipnet::IpNet;
use overlay_proto::Mac;

use crate::pod_port::PodPort;

/// Family of the table: it sees the frames of a bridge, before the bridge learns from them.
pub const FAMILY: TableFamily = TableFamily::Bridge;

/// Name of the table.
pub const TABLE: &str = "culvert";

/// `NF_BR_PRI_NAT_DST_BRIDGED`: before everything else that looks at bridged frames.
const PRIORITY: i32 = -300;

/// How often a change is tried again that somebody else's change came before.
const ATTEMPTS: usize = 20;

/// The sets: ports that are checked, and what each may send from.
const PORTS: &str = "ports";
const MACS: &str = "macs";
const IPV4: &str = "ipv4";
const IPV6: &str = "ipv6";

/// Fields of frames. EtherType with a tag is that of the tag, so tagged frames match nothing here.
const SOURCE_MAC: Field = Field { base: Base::Link, offset: 6, len: 6 };
const ETHER_TYPE: Field = Field { base: Base::Link, offset: 12, len: 2 };
/// RFC 826, for Ethernet and IPv4.
const ARP_SENDER_MAC: Field = Field { base: Base::Network, offset: 8, len: 6 };
const ARP_SENDER_IP: Field = Field { base: Base::Network, offset: 14, len: 4 };
const IPV4_SOURCE: Field = Field { base: Base::Network, offset: 12, len: 4 };
const IPV6_SOURCE: Field = Field { base: Base::Network, offset: 8, len: 16 };
/// How much comes after the IPv6 header, and what comes first.
const IPV6_LENGTH_AND_NEXT: Field = Field { base: Base::Network, offset: 4, len: 3 };
/// RFC 4861, sections 4.3 and 4.4: solicitations and advertisements have it at the same place.
const ICMPV6_TYPE: Field = Field { base: Base::Transport, offset: 0, len: 1 };
const ND_TARGET: Field = Field { base: Base::Transport, offset: 8, len: 16 };

const ETHER_TYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHER_TYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHER_TYPE_IPV6: [u8; 2] = [0x86, 0xdd];

/// `IPPROTO_ICMPV6` and types of RFC 4861.
const ICMPV6: u8 = 58;
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// Bytes of these messages before their options (RFC 4861, sections 4.1, 4.3 and 4.4).
const ROUTER_SOLICITATION_BYTES: u16 = 8;
const NEIGHBOUR_BYTES: u16 = 24;

/// Options as they begin, with their length in units of eight bytes, which all of ours have once:
/// link-layer addresses (RFC 4861, section 4.6.1) and the nonce by which a pod that asks whether
/// somebody has its address knows its own question again (RFC 7527).
const SOURCE_LINK_ADDRESS: [u8; 2] = [1, 1];
const TARGET_LINK_ADDRESS: [u8; 2] = [2, 1];
const NONCE: [u8; 2] = [14, 1];
const OPTION_BYTES: u16 = 8;

/// What the sets have about this pod.
fn elements(port: &PodPort) -> Vec<(&'static str, Element)> {
    if !port.is_checked {
        return Vec::new();
    }
    let name = device_key(&port.device);
    let mut elements =
        vec![(PORTS, Element::of(&[&name])), (MACS, Element::of(&[&name, &port.mac.octets()]))];
    for address in &port.addresses {
        elements.push(match address.addr() {
            IpAddr::V4(address) => (IPV4, Element::of(&[&name, &address.octets()])),
            IpAddr::V6(address) => (IPV6, Element::of(&[&name, &address.octets()])),
        });
    }
    if port.addresses.iter().any(|address| address.addr().is_ipv6()) {
        let link_local = link_local(port.mac).octets();
        elements.push((IPV6, Element::of(&[&name, &link_local])));
    }
    elements
}

/// The link-local address that the kernel gives a device by its MAC address (RFC 4291, appendix A).
fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.octets();
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// The name of a device as part of a key.
fn device_key(device: &str) -> [u8; 16] {
    let mut key = [0; 16];
    for (byte, letter) in key.iter_mut().zip(device.bytes()) {
        *byte = letter;
    }
    key
}

/// The whole table for these pods.
#[must_use]
pub fn table(ports: &[PodPort]) -> Table {
    let keys: [(&str, &[KeyPart]); 4] = [
        (PORTS, &[KeyPart::InterfaceName]),
        (MACS, &[KeyPart::InterfaceName, KeyPart::EtherAddress]),
        (IPV4, &[KeyPart::InterfaceName, KeyPart::Ipv4Address]),
        (IPV6, &[KeyPart::InterfaceName, KeyPart::Ipv6Address]),
    ];
    let elements: Vec<_> = ports.iter().flat_map(elements).collect();
    let sets = keys.map(|(name, key)| Set {
        name: name.to_owned(),
        key: key.to_vec(),
        is_interval: false,
        can_expire: true,
        decides: false,
        elements: elements
            .iter()
            .filter(|(set, _element)| *set == name)
            .map(|(_set, element)| element.clone())
            .collect(),
    });
    Table {
        family: FAMILY,
        name: TABLE,
        sets: sets.into(),
        chains: vec![Chain {
            name: "prerouting",
            kind: ChainKind::Filter,
            hook: Hook::Prerouting,
            priority: PRIORITY,
            rules: rules(),
        }],
        led_to: Vec::new(),
    }
}

/// The rules: what is not a pod's is let through, then only what is known to be right.
///
/// Whoever hears a message of neighbour discovery goes by the options in it, wherever in it they
/// are, so a pod's has none or one, at the one place where it can be looked at, and no header
/// between IPv6 and it. Systems send them so.
fn rules() -> Vec<Vec<Expression>> {
    let own = |field, set| Expression::input_and_field_in(field, Membership::Inside, set);
    let ether_type = |value: [u8; 2]| Expression::field_is(ETHER_TYPE, &value);
    let icmpv6 = |kind: u8| {
        let [family, is_ipv6] = ether_type(ETHER_TYPE_IPV6);
        let [upper, is_icmpv6] = Expression::upper_protocol_is(ICMPV6);
        let [field, is_kind] = Expression::field_is(ICMPV6_TYPE, &[kind]);
        [family, is_ipv6, upper, is_icmpv6, field, is_kind]
    };
    let accept = [Expression::Verdict(Verdict::Accept)];
    let drop = [Expression::Counter, Expression::Verdict(Verdict::Drop)];
    let not_checked = [
        Expression::Meta(Meta::InputName, Register::One),
        Expression::Lookup(Membership::Outside, PORTS.to_owned()),
    ];
    let foreign_mac = Expression::input_and_field_in(SOURCE_MAC, Membership::Outside, MACS);
    let [family, is_ipv6] = ether_type(ETHER_TYPE_IPV6);
    let [upper, is_other] = Expression::upper_protocol(Comparison::NotEqual, ICMPV6);
    let not_icmpv6 = [family, is_ipv6, upper, is_other];
    let with_own_mac = |header: u16, option: [u8; 2]| {
        let mac = Field { base: Base::Transport, offset: u32::from(header) + 2, len: 6 };
        [&with_option(header, option)[..], &own(mac, MACS)].concat()
    };
    let advertises = |options: &[Expression]| {
        let of_itself = [own(IPV6_SOURCE, IPV6), own(ND_TARGET, IPV6)].concat();
        rule([&icmpv6(NEIGHBOUR_ADVERTISEMENT)[..], &of_itself, options, &accept])
    };
    let asks_for_itself = |options: &[Expression]| {
        let from_nobody = Expression::field_is(IPV6_SOURCE, &[0; 16]);
        let target = own(ND_TARGET, IPV6);
        rule([&icmpv6(NEIGHBOUR_SOLICITATION)[..], &from_nobody, &target, options, &accept])
    };
    let solicits = |kind: u8, options: &[Expression]| {
        rule([&icmpv6(kind)[..], &own(IPV6_SOURCE, IPV6), options, &accept])
    };
    vec![
        rule([&not_checked[..], &accept]),
        rule([&foreign_mac[..], &drop]),
        rule([&ether_type(ETHER_TYPE_IPV4)[..], &own(IPV4_SOURCE, IPV4), &accept]),
        rule([
            &ether_type(ETHER_TYPE_ARP)[..],
            &own(ARP_SENDER_IP, IPV4),
            &own(ARP_SENDER_MAC, MACS),
            &accept,
        ]),
        rule([&not_icmpv6[..], &own(IPV6_SOURCE, IPV6), &accept]),
        // No pod is a router, nor tells another which one to use.
        rule([&icmpv6(ROUTER_ADVERTISEMENT)[..], &drop]),
        rule([&icmpv6(REDIRECT)[..], &drop]),
        advertises(&without_options(NEIGHBOUR_BYTES)),
        advertises(&with_own_mac(NEIGHBOUR_BYTES, TARGET_LINK_ADDRESS)),
        rule([&icmpv6(NEIGHBOUR_ADVERTISEMENT)[..], &drop]),
        // Before it may use an address of its own, a pod asks whether somebody has it.
        asks_for_itself(&without_options(NEIGHBOUR_BYTES)),
        asks_for_itself(&with_option(NEIGHBOUR_BYTES, NONCE)),
        solicits(NEIGHBOUR_SOLICITATION, &without_options(NEIGHBOUR_BYTES)),
        solicits(NEIGHBOUR_SOLICITATION, &with_own_mac(NEIGHBOUR_BYTES, SOURCE_LINK_ADDRESS)),
        rule([&icmpv6(NEIGHBOUR_SOLICITATION)[..], &drop]),
        solicits(ROUTER_SOLICITATION, &without_options(ROUTER_SOLICITATION_BYTES)),
        solicits(
            ROUTER_SOLICITATION,
            &with_own_mac(ROUTER_SOLICITATION_BYTES, SOURCE_LINK_ADDRESS),
        ),
        rule([&icmpv6(ROUTER_SOLICITATION)[..], &drop]),
        rule([&ether_type(ETHER_TYPE_IPV6)[..], &own(IPV6_SOURCE, IPV6), &accept]),
        // A foreign address, a VLAN tag, or a protocol that pods have no use for.
        rule([&drop[..]]),
    ]
}

/// A message of neighbour discovery that ends with its `header`.
fn without_options(header: u16) -> Vec<Expression> {
    let [high, low] = header.to_be_bytes();
    Expression::field_is(IPV6_LENGTH_AND_NEXT, &[high, low, ICMPV6]).into()
}

/// One that has a single option after its `header`, which begins so.
fn with_option(header: u16, option: [u8; 2]) -> Vec<Expression> {
    let begin = Field { base: Base::Transport, offset: header.into(), len: 2 };
    [&without_options(header + OPTION_BYTES)[..], &Expression::field_is(begin, &option)].concat()
}

fn rule<const N: usize>(parts: [&[Expression]; N]) -> Vec<Expression> {
    parts.concat()
}

/// What has to change for the kernel's table, `actual`, to be that of `ports`; none, if nothing has
/// to.
///
/// `accepted` is how the kernel lists the table without elements, where that is not how we do. What
/// is returned must be bound to the generation from before the look at ports and table.
#[must_use]
pub fn repair(
    ports: &[PodPort],
    actual: Option<&Listing>,
    accepted: Option<&Listing>,
) -> Option<Batch> {
    Batch::difference(&table(ports), actual, accepted)
}

/// What the kernel's table, `actual`, says of the pod behind `device`, whose note is gone: as much
/// as the shortest note does, but for the options of the port. `None` if the pod is not checked.
#[must_use]
pub fn remembered(actual: &Listing, device: &str) -> Option<PodPort> {
    let key = device_key(device);
    let of = |set: &str| {
        let elements = actual.sets.get(set).into_iter().flat_map(|set| &set.elements);
        elements.filter_map(|element| element.key.strip_prefix(&key[..]).map(<[u8]>::to_vec))
    };
    // Padded to eight bytes.
    let mac = Mac::new(of(MACS).next()?.first_chunk().copied()?);
    let ipv4 = of(IPV4).filter_map(|key| <[u8; 4]>::try_from(key).ok()).map(IpAddr::from);
    let ipv6 = of(IPV6).filter_map(|key| <[u8; 16]>::try_from(key).ok()).map(IpAddr::from);
    let addresses = ipv4.chain(ipv6).filter(|address| *address != link_local(mac));
    Some(PodPort {
        device: device.to_owned(),
        attachment: None,
        mac,
        addresses: addresses.map(IpNet::from).collect(),
        is_checked: true,
        hairpin: false,
        isolated: false,
    })
}

/// Has the kernel check what comes in by `port`, from its first frame on if the port is still down.
///
/// # Errors
///
/// When the kernel refuses, or lacks nftables for bridges.
pub fn enter(socket: &mut Socket, port: &PodPort) -> culvert_nft::Result<()> {
    let own = elements(port);
    if own.is_empty() {
        return Ok(());
    }
    let mut batch = Batch::new(FAMILY);
    for (set, element) in &own {
        batch.add_elements(TABLE, set, std::slice::from_ref(element));
    }
    let mut attempts = ATTEMPTS;
    loop {
        match socket.commit(&batch) {
            // No daemon has made the table, or somebody removed it.
            Err(error) if error.is_not_found() => {}
            outcome => return outcome,
        }
        let mut whole = Batch::new(FAMILY);
        whole.create(&table(std::slice::from_ref(port)));
        match socket.commit(&whole) {
            // Another plugin or the daemon was faster, so the elements can go in.
            Err(error) if error.is_exists() && attempts > 0 => attempts -= 1,
            outcome => return outcome,
        }
    }
}

/// Forgets what the sets have about `port`, whose device is gone.
///
/// # Errors
///
/// When the kernel refuses.
pub fn leave(socket: &mut Socket, port: &PodPort) -> culvert_nft::Result<()> {
    let own = elements(port);
    if own.is_empty() {
        return Ok(());
    }
    let can_expire = kernel::expires_elements();
    let mut batch = Batch::new(FAMILY);
    for (set, element) in &own {
        let element = std::slice::from_ref(element);
        if can_expire {
            batch.expire_elements(TABLE, set, element);
        } else {
            batch.remove_elements(TABLE, set, element);
        }
    }
    match socket.commit(&batch) {
        // The daemon removes stale elements too.
        Err(error) if error.is_not_found() => leave_unknown(socket, &port.device),
        outcome => outcome,
    }
}

/// Forgets whatever the sets have about a device that is gone together with the note on it.
///
/// Costs a look at the whole table, unlike [`leave`].
///
/// # Errors
///
/// When the kernel refuses.
pub fn leave_unknown(socket: &mut Socket, device: &str) -> culvert_nft::Result<()> {
    let key = device_key(device);
    let removal = |socket: &mut Socket| {
        let listing = match socket.listing(FAMILY, TABLE) {
            // A kernel without bridge tables knows nothing of any device.
            Err(error) if error.is_unsupported() => None,
            listing => listing?,
        };
        let mut batch = Batch::new(FAMILY);
        for (set, found) in listing.iter().flat_map(|listing| &listing.sets) {
            let elements = found.elements.iter();
            let stale = elements.filter(|element| element.key.starts_with(&key));
            batch.remove_elements(TABLE, set, &stale.cloned().collect::<Vec<_>>());
        }
        Ok((!batch.is_empty()).then_some(batch))
    };
    socket.commit_seen(removal).map(|_was_there| ())
}

#[cfg(test)]
mod frames;
#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod_port::example;

    #[test]
    fn pod_owns_its_addresses_and_the_link_local_one_of_its_mac() {
        let found = elements(&example());
        let of = |set| found.iter().filter(|(name, _)| *name == set).count();
        assert_eq!([PORTS, MACS, IPV4, IPV6].map(of), [1, 1, 1, 2]);
        assert_eq!(link_local(example().mac).to_string(), "fe80::858:aff:fef4:102");
        assert_eq!(elements(&PodPort { is_checked: false, ..example() }), []);
    }

    #[test]
    fn what_the_table_has_of_a_pod_is_as_much_as_its_shortest_note() {
        let other = PodPort { device: "culv0".to_owned(), ..example() };
        let unchecked = PodPort { device: "culv1".to_owned(), is_checked: false, ..example() };
        let actual = Listing::of(&table(&[other, example(), unchecked]));
        let addresses = example().addresses.iter().map(|net| net.addr().into()).collect();
        let expected = PodPort { attachment: None, addresses, hairpin: false, ..example() };
        assert_eq!(remembered(&actual, &example().device), Some(expected));
        assert_eq!(remembered(&actual, "culv1"), None);
        assert_eq!(remembered(&Listing::default(), "culv0"), None);
    }

    #[test]
    fn nothing_is_repaired_where_nothing_differs() {
        let actual = Listing::of(&table(&[example()]));
        assert!(repair(&[example()], Some(&actual), None).is_none());
        let other = PodPort { device: "culv0".to_owned(), ..example() };
        assert!(repair(&[example(), other], Some(&actual), None).is_some());
        assert!(repair(&[], Some(&actual), None).is_some());
        assert!(repair(&[example()], None, None).is_some());
    }
}
