//! The names of pods that hold addresses, for an operator who is to delete them.
//!
//! The API server is asked when another pod is among them, and not with each look: in a cluster
//! that is numbered anew every node looks.

use std::collections::BTreeMap;
use std::net::IpAddr;

use culvert_claims::HeldAddress;
use serde_json::Value;

use super::client::{Api, Page};

/// What is known of the pods of this node.
#[derive(Debug, Default)]
pub(super) struct Names {
    by_address: BTreeMap<IpAddr, String>,
    /// The containers about which was asked.
    asked: Vec<String>,
}

impl Names {
    /// Gives those of `held` their names that the API server knows of on the node called `node`.
    pub(super) async fn put(
        &mut self,
        api: &Api,
        node: &str,
        held: Vec<HeldAddress>,
    ) -> Vec<HeldAddress> {
        let is_new = |held: &HeldAddress| !self.asked.contains(&held.container);
        if held.iter().any(is_new) {
            let mut found = BTreeMap::new();
            let read = |text: &[u8]| {
                let page: Page<Value> = serde_json::from_slice(text)?;
                found.extend(names(&page.items));
                Ok(page.metadata)
            };
            match api.pods_of(node, read).await {
                Ok(_version) => self.by_address = found,
                // The container's id is a name, too.
                Err(error) => tracing::debug!(%error, "which pods hold addresses is not known"),
            }
            self.asked = held.iter().map(|held| held.container.clone()).collect();
        }
        let named = |held: HeldAddress| HeldAddress {
            pod: self.by_address.get(&held.address).cloned(),
            ..held
        };
        held.into_iter().map(named).collect()
    }
}

/// The name of each pod that runs, by its addresses.
fn names(pods: &[Value]) -> BTreeMap<IpAddr, String> {
    let mut names = BTreeMap::new();
    for pod in pods {
        let (metadata, status) = (&pod["metadata"], &pod["status"]);
        // A pod that has ended keeps its address in its status only.
        if ["Succeeded", "Failed"].iter().any(|phase| status["phase"] == *phase) {
            continue;
        }
        let text = |key: &str| metadata[key].as_str().unwrap_or_default();
        let name = format!("{}/{}", text("namespace"), text("name"));
        let listed = status["podIPs"].as_array().into_iter().flatten().map(|ip| &ip["ip"]);
        for address in listed.chain([&status["podIP"]]) {
            if let Some(Ok(address)) = address.as_str().map(str::parse) {
                names.insert(address, name.clone());
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_that_run_are_named_by_each_of_their_addresses() {
        let pod = |name: &str, status: Value| json!({"metadata": {"namespace": "a", "name": name}, "status": status});
        let names = names(&[
            pod(
                "one",
                json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}),
            ),
            pod("old", json!({"podIP": "10.0.0.2", "phase": "Succeeded"})),
            pod("new", json!({"podIP": "10.0.0.3"})),
            pod("none", json!({"podIP": "nonsense"})),
        ]);
        let shown: Vec<String> =
            names.iter().map(|(address, name)| format!("{address} {name}")).collect();
        assert_eq!(shown, ["10.0.0.1 a/one", "10.0.0.3 a/new", "fd00::1 a/one"]);
    }
}
