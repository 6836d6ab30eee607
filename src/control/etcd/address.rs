//! The address by which peers reach this node, where nobody has written it down.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use http::Uri;
use thiserror::Error;

use crate::config::Config;
use crate::control::source::without_login;

/// Addresses that belong to nobody (RFC 5737, RFC 3849): the way to them is the default route.
const ANYWHERE: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), 9),
];

/// How long a resolver may take for the addresses of etcd. They are a better hint than the default
/// route, and no more than that: the session with etcd, whose lease runs, does not wait longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Nothing tells by which address peers reach this node.
#[derive(Debug, Error)]
pub(super) enum NoAddress {
    #[error("etcd.endpoints = \"{}\" is not a URL: {error}", without_login(.url))]
    Url { url: String, error: http::uri::InvalidUri },
    #[error("no route tells which address peers reach this node by; set node.address to it")]
    NoRoute,
}

/// The address to tell the peers: the configured one; or the present one while this machine has it;
/// or the one from which the routes lead to etcd, or else to anywhere.
///
/// # Errors
///
/// There is none.
pub(super) async fn own_address(
    config: &Config,
    present: Option<IpAddr>,
    url: &str,
) -> Result<IpAddr, NoAddress> {
    if let Some(address) = config.node.address.or(config.underlay.address) {
        return Ok(address);
    }
    // Binding a socket asks the kernel whether an address is this machine's, and sends nothing.
    if let Some(address) = present.filter(|address| UdpSocket::bind((*address, 0)).is_ok()) {
        return Ok(address);
    }
    let uri: Uri = url.parse().map_err(|error| NoAddress::Url { url: url.to_owned(), error })?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    found_in(PATIENCE, tokio::net::lookup_host((host, 9)))
        .await
        .into_iter()
        .chain(ANYWHERE)
        .filter_map(source_toward)
        .find(|address| !address.is_loopback())
        .ok_or(NoAddress::NoRoute)
}

/// The addresses that `lookup` finds within `patience`; none, if it fails or takes longer.
async fn found_in<Found: Iterator<Item = SocketAddr>>(
    patience: Duration,
    lookup: impl Future<Output = io::Result<Found>>,
) -> Vec<SocketAddr> {
    let found = tokio::time::timeout(patience, lookup).await;
    found.ok().and_then(Result::ok).map(Iterator::collect).unwrap_or_default()
}

/// The source of what would be sent there. Connecting a UDP socket sends nothing.
fn source_toward(destination: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match destination {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(destination).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn resolver_that_does_not_answer_is_not_waited_for() {
        let never = std::future::pending::<io::Result<std::vec::IntoIter<SocketAddr>>>();
        assert_eq!(found_in(Duration::from_millis(20), never).await, []);
        let at_once = std::future::ready(Ok(ANYWHERE.into_iter()));
        assert_eq!(found_in(Duration::from_secs(60), at_once).await, ANYWHERE);
    }
}
