//! The kernel's own tables of sockets and devices, as text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A UDP socket, whosever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UdpSocket {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    /// Memory of what waits to be fetched, in bytes.
    pub(super) queued: u64,
    /// Datagrams that there was no room for.
    pub(super) dropped: u64,
}

/// Reads what `/proc/net/udp` or `/proc/net/udp6` says.
pub(super) fn udp_sockets(text: &str) -> Vec<UdpSocket> {
    text.lines().skip(1).filter_map(udp_socket).collect()
}

fn udp_socket(line: &str) -> Option<UdpSocket> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (address, port) = words.get(1)?.split_once(':')?;
    let (_sending, queued) = words.get(4)?.split_once(':')?;
    Some(UdpSocket {
        address: parse_address(address)?,
        port: u16::from_str_radix(port, 16).ok()?,
        queued: u64::from_str_radix(queued, 16).ok()?,
        dropped: words.last()?.parse().ok()?,
    })
}

/// An address in hexadecimal: words of four bytes, each in the order of the machine.
fn parse_address(text: &str) -> Option<IpAddr> {
    let mut bytes = Vec::new();
    for start in (0..text.len()).step_by(8) {
        let word = u32::from_str_radix(text.get(start..start + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let four = <[u8; 4]>::try_from(bytes.as_slice()).ok().map(|it| Ipv4Addr::from(it).into());
    four.or_else(|| <[u8; 16]>::try_from(bytes.as_slice()).ok().map(|it| Ipv6Addr::from(it).into()))
}

/// Packets that were dropped on the way out by `device`, as `/proc/net/dev` says.
pub(super) fn transmit_drops(text: &str, device: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let (_, counters) = lines.find(|(name, _)| name.trim() == device)?;
    // Eight of reception; then bytes, packets, errors and drops of sending.
    counters.split_whitespace().nth(8 + 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn sockets_are_read_with_what_waits_and_what_was_dropped() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   \
                    uid  timeout inode ref pointer drops\n  123: 0B01A8C0:12B6 00000000:0000 07 \
                    00000000:00000300 00:00000000 00000000     0        0 4711 2 0000000000000000 7";
        let expected = UdpSocket {
            address: "192.168.1.11".parse().unwrap(),
            port: 4790,
            queued: 768,
            dropped: 7,
        };
        assert_eq!(udp_sockets(text), [expected]);
        let text = text.replace("0B01A8C0", "000000FD000000000000000011000000");
        assert_eq!(udp_sockets(&text)[0].address, "fd00::11".parse::<IpAddr>().unwrap());
        assert_eq!(udp_sockets("sl\nwhat is this"), []);
    }

    #[test]
    fn drops_of_a_device_are_read() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets\n  eth0: 1 2 3 4 5 6 7 8 9 \
                    10 11 12 13 14 15 16\nculvert0: 0 0 0 0 0 0 0 0 0 0 0 99 0 0 0 0";
        assert_eq!(transmit_drops(text, "culvert0"), Some(99));
        assert_eq!(transmit_drops(text, "eth0"), Some(12));
        assert_eq!(transmit_drops(text, "eth1"), None);
    }
}
