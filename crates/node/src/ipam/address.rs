//! Arithmetic on addresses: which of a subnet are for pods, and how the store sorts them.

use std::net::IpAddr;

use ipnet::IpNet;

/// First bytes of a key, so that keys sort by family first.
const KEY_V4: u8 = 4;
const KEY_V6: u8 = 6;

/// First address of `subnet` that a pod or the gateway may have, if there can be one at all.
pub(super) fn first(subnet: &IpNet) -> Option<IpAddr> {
    successor(subnet.network()).filter(|first| subnet.contains(first))
}

/// Last pod address of `subnet`; IPv4 keeps the highest one for broadcast.
pub(super) fn last(subnet: &IpNet) -> IpAddr {
    match subnet {
        IpNet::V4(net) => u32::from(net.broadcast()).saturating_sub(1).to_be_bytes().into(),
        IpNet::V6(net) => net.broadcast().into(),
    }
}

/// The address after `address`, unless it is the last of its family.
pub(super) fn successor(address: IpAddr) -> Option<IpAddr> {
    Some(match address {
        IpAddr::V4(v4) => u32::from(v4).checked_add(1)?.to_be_bytes().into(),
        IpAddr::V6(v6) => u128::from(v6).checked_add(1)?.to_be_bytes().into(),
    })
}

/// The key of `address` in the store: a byte for the family, then the address in network order.
pub(super) fn to_key(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => [&[KEY_V4][..], &v4.octets()].concat(),
        IpAddr::V6(v6) => [&[KEY_V6][..], &v6.octets()].concat(),
    }
}

/// The address of a key, or `None` if the key is none of ours.
pub(super) fn from_key(key: &[u8]) -> Option<IpAddr> {
    match key.split_first()? {
        (&KEY_V4, rest) => Some(<[u8; 4]>::try_from(rest).ok()?.into()),
        (&KEY_V6, rest) => Some(<[u8; 16]>::try_from(rest).ok()?.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(subnet: &str) -> Option<(String, String)> {
        let subnet = subnet.parse().unwrap();
        first(&subnet).map(|first| (first.to_string(), last(&subnet).to_string()))
    }

    fn pair(first: &str, last: &str) -> Option<(String, String)> {
        Some((first.to_owned(), last.to_owned()))
    }

    #[test]
    fn network_and_broadcast_are_left_out() {
        assert_eq!(range("10.244.1.0/24"), pair("10.244.1.1", "10.244.1.254"));
        assert_eq!(range("10.244.1.4/30"), pair("10.244.1.5", "10.244.1.6"));
        assert_eq!(range("fd00:1::/64"), pair("fd00:1::1", "fd00:1::ffff:ffff:ffff:ffff"));
        assert_eq!(range("255.255.255.248/29"), pair("255.255.255.249", "255.255.255.254"));
    }

    #[test]
    fn a_single_address_has_no_successor_within() {
        for subnet in ["10.0.0.9/32", "fd00::1/128", "255.255.255.255/32"] {
            assert_eq!(range(subnet), None, "{subnet}");
        }
    }

    #[test]
    fn keys_round_trip_and_sort_by_family() {
        let v4: IpAddr = "255.0.0.1".parse().unwrap();
        let v6: IpAddr = "::1".parse().unwrap();
        assert!(to_key(v4) < to_key(v6));
        assert_eq!(from_key(&to_key(v4)), Some(v4));
        assert_eq!(from_key(&to_key(v6)), Some(v6));
        for key in [&[][..], &[4, 1, 2, 3], &[6; 5], &[7, 1, 2, 3, 4]] {
            assert_eq!(from_key(key), None);
        }
    }
}
