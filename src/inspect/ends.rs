//! The two ends of a packet, as people name them.

use std::net::IpAddr;
use std::path::Path;

use anyhow::Context as _;

use crate::observe;

/// The addresses of both ends, of one family where there is a choice. Whoever is named is looked
/// for by the daemon of `run_dir`, if there is one to ask.
///
/// # Errors
///
/// Nobody is called so, or nobody can be asked.
pub(super) fn ends(
    source: &str,
    destination: &str,
    run_dir: Option<&Path>,
) -> anyhow::Result<(IpAddr, IpAddr)> {
    let (sources, destinations) = (find(source, run_dir)?, find(destination, run_dir)?);
    let pairs = sources.iter().flat_map(|source| {
        let of_family = destinations.iter().filter(|it| it.is_ipv4() == source.is_ipv4());
        of_family.map(|destination| (*source, *destination))
    });
    // Two addresses of two families are refused with the reason by whoever makes the packet.
    let first = || Some((*sources.first()?, *destinations.first()?));
    let pair = pairs.into_iter().next().or_else(first);
    pair.context("a pod that is named has no address: `culvert ipam list` shows all")
}

fn find(end: &str, run_dir: Option<&Path>) -> anyhow::Result<Vec<IpAddr>> {
    match (end.parse(), run_dir) {
        (Ok(address), _) => Ok(vec![address]),
        (Err(_), Some(run_dir)) => observe::find(run_dir, end),
        (Err(_), None) => {
            anyhow::bail!("{end} is no address, and with --table no daemon is asked for pods")
        }
    }
}
