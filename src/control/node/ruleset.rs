//! The node's nftables table: what it says, and whether the kernel still says the same.
//!
//! Owns the text of the table. The tunnel's own datagrams are not tracked, because one entry per flow
//! of every pod would fill the connection table; traffic that leaves the cluster is masqueraded.
//! Pod to pod, and node to pod, is never translated. No pod reaches the tunnel's port of a node:
//! nodes know one another by their addresses, which a pod can write into a packet, or get by
//! masquerade.
//!
//! Not here: accepting forwarded traffic. A `FORWARD` chain elsewhere whose policy is drop, such as
//! Docker's, drops what it drops whatever another table accepts; the administrator has to allow the
//! cluster network there.

use std::fmt::Write as _;

use ipnet::IpNet;

use super::NodeSpec;

/// Name of the table, which is ours alone.
pub(super) const TABLE_NAME: &str = "culvert";

/// The table with its family, as `nft` names it.
pub(super) const TABLE: &str = "inet culvert";

/// Writes the table in the words in which `nft list` shows it.
///
/// An `nft` of a version that lists it in other words costs one needless replacement at start, and
/// nothing later: from then on the listing after that replacement is what counts.
pub(super) fn ruleset(spec: &NodeSpec) -> String {
    let mut text = format!("table {TABLE} {{\n");
    let families = families(spec);
    for ClusterFamily { suffix, translated, local, cluster, .. } in &families {
        if *translated {
            add_set(&mut text, &format!("local_{suffix}"), suffix, local);
        }
        add_set(&mut text, &format!("cluster_{suffix}"), suffix, cluster);
    }
    let NodeSpec { tun, bridge, underlay_ports, .. } = spec;
    let port = any_of(underlay_ports);
    text.push_str(
        "\tchain prerouting {\n\t\ttype filter hook prerouting priority raw; policy accept;\n",
    );
    // Among themselves pods use the port as they like. Accepting ends this chain only.
    for ClusterFamily { suffix, family, .. } in &families {
        let _infallible = writeln!(
            text,
            "\t\tiifname \"{bridge}\" udp dport {port} {family} daddr @cluster_{suffix} accept"
        );
    }
    // What arrives from the tunnel to that port is somebody's payload, not ours.
    let _infallible = write!(
        text,
        "\t\tiifname \"{bridge}\" udp dport {port} drop\n\
         \t\tudp dport {port} iifname != \"{tun}\" notrack\n\
         \t}}\n\n\
         \tchain output {{\n\
         \t\ttype filter hook output priority raw; policy accept;\n\
         \t\tudp dport {port} notrack\n\
         \t}}\n"
    );
    if families.iter().any(|family| family.translated) {
        text.push_str(
            "\n\tchain postrouting {\n\
             \t\ttype nat hook postrouting priority srcnat; policy accept;\n",
        );
        for ClusterFamily { suffix, family, multicast, .. } in
            families.iter().filter(|family| family.translated)
        {
            // Fully random: two flows that race for one source port lose packets (DNS waits 5 s).
            let _infallible = writeln!(
                text,
                "\t\t{family} saddr @local_{suffix} {family} daddr != @cluster_{suffix} \
                 {family} daddr != {multicast} masquerade fully-random"
            );
        }
        text.push_str("\t}\n");
    }
    text.push_str("}\n");
    text
}

/// The transaction that puts `ruleset` in place of whatever the table holds.
pub(super) fn replacement(ruleset: &str) -> String {
    // Declaring it first makes the deletion succeed when there was none.
    format!("table {TABLE} {{}}\ndelete table {TABLE}\n{ruleset}")
}

/// The transaction that removes the table, if there is one.
pub(super) fn removal() -> String {
    format!("table {TABLE} {{}}\ndelete table {TABLE}\n")
}

/// Whether two listings say the same, however they are indented and wrapped.
pub(super) fn same(a: &str, b: &str) -> bool {
    a.split_whitespace().eq(b.split_whitespace())
}

/// One port, or a set of several, as `nft` lists it.
fn any_of(ports: &[u16]) -> String {
    let words: Vec<String> = ports.iter().map(ToString::to_string).collect();
    match words.as_slice() {
        [port] => port.clone(),
        several => format!("{{ {} }}", several.join(", ")),
    }
}

fn add_set(text: &mut String, name: &str, suffix: &str, networks: &[IpNet]) {
    let networks: Vec<String> = networks.iter().map(IpNet::to_string).collect();
    let _infallible = write!(
        text,
        "\tset {name} {{\n\t\ttype ip{suffix}_addr\n\t\tflags interval\n\
         \t\telements = {{ {} }}\n\t}}\n\n",
        networks.join(", ")
    );
}

/// One address family that the cluster has a network of.
struct ClusterFamily {
    /// What the names of its sets end in.
    suffix: &'static str,
    /// What `nft` calls it.
    family: &'static str,
    /// Destinations that have no single answering host.
    multicast: &'static str,
    /// Whether what local pods send to the outside is masqueraded.
    translated: bool,
    local: Vec<IpNet>,
    cluster: Vec<IpNet>,
}

/// The families of the cluster, IPv4 first.
fn families(spec: &NodeSpec) -> Vec<ClusterFamily> {
    [(true, "v4", "ip", "224.0.0.0/4"), (false, "v6", "ip6", "ff00::/8")]
        .into_iter()
        .map(|(ipv4, suffix, family, multicast)| {
            let of = |networks: &[IpNet]| {
                let networks: Vec<IpNet> = networks
                    .iter()
                    .filter(|network| network.addr().is_ipv4() == ipv4)
                    .map(IpNet::trunc)
                    .collect();
                // An interval set refuses elements that overlap, and lists them in order.
                let mut networks = IpNet::aggregate(&networks);
                networks.sort();
                networks
            };
            let local = of(&spec.local_subnets);
            ClusterFamily {
                suffix,
                family,
                multicast,
                translated: spec.masquerade && !local.is_empty(),
                local,
                cluster: of(&spec.cluster_networks),
            }
        })
        .filter(|family| !family.cluster.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> NodeSpec {
        NodeSpec {
            tun: "culvert0".into(),
            bridge: "v-net-0".into(),
            cluster_networks: vec!["10.244.0.0/16".parse().unwrap()],
            local_subnets: vec!["10.244.1.0/24".parse().unwrap()],
            mtu: 1464,
            underlay_ports: vec![4790],
            masquerade: true,
        }
    }

    #[test]
    fn table_of_one_subnet_reads_as_written_in_the_docs() {
        let expected = r#"
            table inet culvert {
                set local_v4 { type ipv4_addr flags interval elements = { 10.244.1.0/24 } }
                set cluster_v4 { type ipv4_addr flags interval elements = { 10.244.0.0/16 } }
                chain prerouting {
                    type filter hook prerouting priority raw; policy accept;
                    iifname "v-net-0" udp dport 4790 ip daddr @cluster_v4 accept
                    iifname "v-net-0" udp dport 4790 drop
                    udp dport 4790 iifname != "culvert0" notrack
                }
                chain output {
                    type filter hook output priority raw; policy accept;
                    udp dport 4790 notrack
                }
                chain postrouting {
                    type nat hook postrouting priority srcnat; policy accept;
                    ip saddr @local_v4 ip daddr != @cluster_v4 ip daddr != 224.0.0.0/4
                        masquerade fully-random
                }
            }"#;
        let actual = ruleset(&spec());
        assert!(same(&actual, expected), "{actual}");
    }

    #[test]
    fn without_masquerade_nothing_is_translated() {
        let text = ruleset(&NodeSpec { masquerade: false, ..spec() });
        assert!(text.contains("notrack"));
        assert!(!text.contains("nat"), "{text}");
        assert!(!text.contains("local_"), "{text}");
        assert!(text.contains("iifname \"v-net-0\" udp dport 4790 drop"), "{text}");
    }

    #[test]
    fn each_rule_is_for_every_port() {
        let one = ruleset(&spec());
        let several = ruleset(&NodeSpec { underlay_ports: vec![4790, 8285, 8472], ..spec() });
        assert_eq!(several, one.replace("dport 4790", "dport { 4790, 8285, 8472 }"));
    }

    #[test]
    fn overlapping_and_adjacent_subnets_are_joined() {
        let text = ruleset(&NodeSpec {
            local_subnets: ["10.244.3.0/24", "10.244.2.0/24", "10.244.2.128/25"]
                .iter()
                .map(|net| net.parse().unwrap())
                .collect(),
            ..spec()
        });
        assert!(text.contains("elements = { 10.244.2.0/23 }"), "{text}");
    }
}
