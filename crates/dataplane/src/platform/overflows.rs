//! How often the kernel had no room at a UDP socket of this network namespace.
//!
//! What the kernel counts at a socket is every datagram that it dropped there, those with a wrong
//! checksum among them. These counters are of all sockets, and of that reason only.

use std::fs;

/// Datagrams that found no room since the namespace was made; none where the kernel does not tell.
pub fn overflows() -> Option<u64> {
    let ipv4 = of_ipv4(&fs::read_to_string("/proc/thread-self/net/snmp").ok()?)?;
    // There where the kernel has IPv6.
    let ipv6 = fs::read_to_string("/proc/thread-self/net/snmp6").unwrap_or_default();
    Some(ipv4 + of_ipv6(&ipv6))
}

/// Two lines of UDP, names and values.
fn of_ipv4(snmp: &str) -> Option<u64> {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (lines.next()?.split(' '), lines.next()?.split(' '));
    let found = names.zip(values).filter(|(name, _)| is_overflow(name));
    found.map(|(_, value)| value.parse::<u64>().ok()).sum()
}

/// A line for each counter.
fn of_ipv6(snmp6: &str) -> u64 {
    let found = snmp6.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        is_overflow(words.next()?.strip_prefix("Udp6")?)
            .then(|| words.next()?.parse::<u64>().ok())?
    });
    found.sum()
}

/// Whether the socket's own buffer was full, or all that UDP may have.
fn is_overflow(name: &str) -> bool {
    matches!(name, "RcvbufErrors" | "MemErrors")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_found_no_room_is_counted() {
        let snmp = "Tcp: A\nTcp: 9\n\
                    Udp: InDatagrams NoPorts InErrors RcvbufErrors SndbufErrors InCsumErrors MemErrors\n\
                    Udp: 100 2 30 20 5 7 3\n\
                    UdpLite: InDatagrams RcvbufErrors\nUdpLite: 4 4\n";
        assert_eq!(of_ipv4(snmp), Some(23));
        assert_eq!(of_ipv4("Udp: RcvbufErrors\n"), None);
        let snmp6 = "Udp6InErrors  \t9\nUdp6RcvbufErrors \t4\nUdp6InCsumErrors\t8\n\
                     Udp6MemErrors\t1\nUdpLite6RcvbufErrors\t70\n";
        assert_eq!(of_ipv6(snmp6), 5);
        assert_eq!(of_ipv6(""), 0);
        assert!(overflows().is_some());
    }
}
