//! Which of this node's addresses pods hold: a subnet with such addresses is not given up.

use std::error::Error;
use std::fmt::Write as _;
use std::net::IpAddr;

/// Pods that a message names; more are counted.
const NAMED: usize = 5;

/// An address that a pod holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldAddress {
    /// The address.
    pub address: IpAddr,
    /// Id of the pod's container, as the container runtime knows it.
    pub container: String,
    /// The pod as an operator knows it, `namespace/name`, if the source of the table tells.
    pub pod: Option<String>,
}

impl HeldAddress {
    /// An address of which only the container is known.
    #[must_use]
    pub const fn of_container(address: IpAddr, container: String) -> Self {
        Self { address, container, pod: None }
    }
}

/// Whether pods hold addresses cannot be known; a machine then expects that they do.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct PodsUnknown(Box<dyn Error + Send + Sync>);

impl PodsUnknown {
    /// For this reason.
    pub fn new(reason: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(reason.into())
    }
}

/// The pods in words for an operator: each address with the pod's name, or else with the beginning
/// of its container's id.
pub(crate) fn list_pods(held: &[HeldAddress]) -> String {
    let mut text = String::new();
    for HeldAddress { address, container, pod } in held.iter().take(NAMED) {
        let separator = if text.is_empty() { "" } else { ", " };
        // Writing to a string cannot fail.
        let _ = match pod {
            Some(pod) => write!(text, "{separator}{address} of {pod}"),
            None => {
                let id: String = container.chars().take(13).collect();
                write!(text, "{separator}{address} of container {id}")
            }
        };
    }
    match held.len().saturating_sub(NAMED) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_pods_are_named_and_more_are_counted() {
        let held = |number: u8| {
            let address = [10, 244, 1, 2 + number].into();
            HeldAddress::of_container(address, format!("c{number}-of-a-long-name"))
        };
        let mut held: Vec<HeldAddress> = (0..7).map(held).collect();
        assert_eq!(list_pods(&held[..1]), "10.244.1.2 of container c0-of-a-long-");
        let all = list_pods(&held);
        assert!(all.ends_with("10.244.1.6 of container c4-of-a-long- and 2 more"), "{all}");
        held[0].pod = Some("default/web".to_owned());
        assert_eq!(list_pods(&held[..1]), "10.244.1.2 of default/web");
    }
}
