//! The node's nftables table: what it says, as a value.
//!
//! Nodes know one another by their addresses, so nobody but a node's daemon may send to a tunnel's
//! port under an address of the node. A pod can write any address into a packet or get the node's
//! by masquerade, an unprivileged process has the node's anyway, and a service address can turn a
//! harmless packet into one for a tunnel. The table stops all of these: pods by the device that
//! they come by, processes by the mark that only the daemon's sockets have, translated packets by
//! the connection that a tunnel's own datagrams never have.
//!
//! Those datagrams are not tracked, because one entry per flow of every pod would fill the
//! connection table. Traffic that leaves the cluster is masqueraded; what cannot be is dropped. Pod
//! to pod, and node to pod, is never translated.
//!
//! Not here: accepting forwarded traffic. A `FORWARD` chain elsewhere whose policy is drop, such as
//! Docker's, drops what it drops whatever another table accepts; the administrator has to allow the
//! cluster network there.

mod arriving;
mod family;
mod leaving;
mod path_errors;
mod ports;
mod sources;
#[cfg(test)]
mod tests;

use culvert_nft::{Expression, Table, TableFamily, Verdict};
use overlay_proto::Family;

use super::NodeSpec;

/// Name of the table, which is ours alone.
pub(super) const TABLE_NAME: &str = "culvert";

/// Its family: one table for IPv4 and IPv6.
pub(super) const FAMILY: TableFamily = TableFamily::Inet;

/// The table with its family, as the program `nft` names it.
pub(super) const TABLE: &str = "inet culvert";

/// `NF_IP_PRI_RAW`: before connections are tracked.
const RAW: i32 = -300;

/// `NF_IP_PRI_FILTER`.
const FILTER: i32 = 0;

const ACCEPT: [Expression; 1] = [Expression::Verdict(Verdict::Accept)];
const DROP: [Expression; 2] = [Expression::Counter, Expression::Verdict(Verdict::Drop)];

/// The table of the node that `spec` describes.
pub(super) fn ruleset(spec: &NodeSpec) -> Table {
    let families = family::families(spec);
    let ipv6 = families.iter().find(|cluster| cluster.family == Family::V6);
    let mut sets: Vec<_> = families.iter().flat_map(|family| family.sets()).collect();
    sets.extend(ports::sets(spec));
    sets.extend(ipv6.map(|_| sources::own_addresses(spec)));
    let mut chains = vec![
        arriving::prerouting(spec, &families),
        arriving::input(),
        path_errors::chain(spec, &families),
        leaving::output(spec, &families),
        arriving::arrivals(spec, &families),
        sources::chain(spec, ipv6),
    ];
    chains.extend(leaving::postrouting(&families));
    chains.push(leaving::after_translation(spec, &families));
    Table { family: FAMILY, name: TABLE_NAME, sets, chains, led_to: Vec::new() }
}

/// The device beside ours that carries yet.
fn predecessor(spec: &NodeSpec) -> Option<&String> {
    spec.predecessor.as_ref().filter(|before| before.carries).map(|before| &before.device)
}
