//! This node's pods, as the notes on their ports say.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// One pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodStatus {
    /// The network that it is attached to.
    pub network: String,
    /// The container's id.
    pub container: String,
    /// The interface in the container.
    pub interface: String,
    /// The node's end of its cable.
    pub device: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

impl PodStatus {
    /// What people call it: a container seldom has a second interface.
    pub(crate) fn name(&self) -> String {
        match self.interface.as_str() {
            "eth0" => self.container.clone(),
            other => format!("{}/{other}", self.container),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_interface_of_a_container_has_a_name_of_its_own() {
        let pod = PodStatus {
            network: "pods".to_owned(),
            container: "4f1d2c".to_owned(),
            interface: "eth0".to_owned(),
            device: "culv1a2b3c4d".to_owned(),
            addresses: Vec::new(),
        };
        assert_eq!(pod.name(), "4f1d2c");
        let second = PodStatus { interface: "net1".to_owned(), ..pod };
        assert_eq!(second.name(), "4f1d2c/net1");
    }
}
