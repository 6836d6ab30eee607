//! What flannel says of a node in its Node: read of nodes that flannel still serves, and written
//! for its nodes by one that it does not.
//!
//! Pure. The annotations are those of flannel's `kube` store with the back end `vxlan`. Nothing in
//! them is believed further than what a node says of itself in ours: they become an entry of the
//! table by the same checks.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use overlay_proto::{Mac, Vni};
use serde::{Deserialize, Serialize};

use super::failure::NodeProblem;

/// What the keys of flannel's annotations begin with.
pub(super) const PREFIX: &str = "flannel.alpha.coreos.com/";

const MANAGED: &str = "flannel.alpha.coreos.com/kube-subnet-manager";
const TYPE: &str = "flannel.alpha.coreos.com/backend-type";
const DATA: &str = "flannel.alpha.coreos.com/backend-data";
const PUBLIC_IP: &str = "flannel.alpha.coreos.com/public-ip";

/// The one back end whose nodes can be spoken to.
const VXLAN: &str = "vxlan";

/// How flannel's nodes reach a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    /// Where they send datagrams.
    pub(super) address: Ipv4Addr,
    /// The hardware address of their frames to it.
    pub(super) mac: Mac,
}

/// The value of `backend-data`.
#[derive(Serialize, Deserialize)]
struct BackendData {
    #[serde(rename = "VNI")]
    vni: u32,
    #[serde(rename = "VtepMAC")]
    vtep_mac: String,
}

impl Lease {
    /// The lease of the node with these annotations; none of one that flannel has never served.
    ///
    /// # Errors
    ///
    /// Nobody can speak with it by VXLAN in the network `vni`.
    pub(super) fn read(
        annotations: &BTreeMap<String, String>,
        vni: Vni,
    ) -> Result<Option<Self>, NodeProblem> {
        let text = |key| annotations.get(key).map(String::as_str).unwrap_or_default();
        if text(MANAGED) != "true" {
            return Ok(None);
        }
        let problem =
            |key, what: String| Err(NodeProblem::Flannel { key, text: text(key).to_owned(), what });
        if text(TYPE) != VXLAN {
            return problem(TYPE, "only flannel's back end vxlan can be spoken with".to_owned());
        }
        let Ok(data) = serde_json::from_str::<BackendData>(text(DATA)) else {
            return problem(DATA, "has no VNI and VtepMAC".to_owned());
        };
        if data.vni != vni.get() {
            return problem(DATA, format!("its VNI is not network.vxlan_vni, {}", vni.get()));
        }
        let Ok(mac) = data.vtep_mac.parse() else {
            return problem(DATA, "its VtepMAC is no hardware address".to_owned());
        };
        let Ok(address) = text(PUBLIC_IP).parse() else {
            return problem(PUBLIC_IP, "is no IPv4 address".to_owned());
        };
        Ok(Some(Self { address, mac }))
    }

    /// The lease of a node that is reached at `address`, if flannel's nodes can reach it there.
    pub(super) fn of(address: IpAddr, mac: Mac) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(Self { address, mac }),
            IpAddr::V6(_) => None,
        }
    }

    /// The annotations that say this of a node in the network `vni`, as flannel writes them.
    pub(super) fn annotations(&self, vni: Vni) -> [(&'static str, String); 4] {
        let data = BackendData { vni: vni.get(), vtep_mac: self.mac.to_string() };
        let data = serde_json::to_string(&data).expect("two plain values are always JSON");
        [
            (MANAGED, "true".to_owned()),
            (TYPE, VXLAN.to_owned()),
            (DATA, data),
            (PUBLIC_IP, self.address.to_string()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA_1: &str = r#"{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:01"}"#;

    fn vni() -> Vni {
        Vni::new(1).unwrap()
    }

    fn read(pairs: &[(&str, &str)]) -> Result<Option<Lease>, String> {
        let annotations =
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Lease::read(&annotations, vni()).map_err(|problem| problem.to_string())
    }

    fn with(key: &str, value: &str) -> Result<Option<Lease>, String> {
        let mut pairs =
            vec![(MANAGED, "true"), (TYPE, VXLAN), (DATA, DATA_1), (PUBLIC_IP, "192.168.1.12")];
        pairs.retain(|(known, _)| *known != key);
        read(&[&pairs[..], &[(key, value)]].concat())
    }

    #[test]
    fn what_is_written_is_as_flannel_writes_it_and_is_read_again() {
        let lease =
            Lease { address: [192, 168, 1, 12].into(), mac: "aa:bb:cc:dd:ee:01".parse().unwrap() };
        let written = lease.annotations(vni());
        assert_eq!(
            written.clone().map(|(key, value)| format!("{key}={value}")),
            [
                "flannel.alpha.coreos.com/kube-subnet-manager=true".to_owned(),
                "flannel.alpha.coreos.com/backend-type=vxlan".to_owned(),
                format!("flannel.alpha.coreos.com/backend-data={DATA_1}"),
                "flannel.alpha.coreos.com/public-ip=192.168.1.12".to_owned(),
            ]
        );
        let pairs: Vec<(&str, &str)> =
            written.iter().map(|(key, value)| (*key, value.as_str())).collect();
        assert_eq!(read(&pairs), Ok(Some(lease)));
    }

    #[test]
    fn a_node_that_flannel_never_served_has_no_lease() {
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(with(MANAGED, "false"), Ok(None));
    }

    #[test]
    fn what_cannot_be_spoken_with_is_named_with_key_and_value() {
        for (key, value, part) in [
            (TYPE, "host-gw", "only flannel's back end vxlan"),
            (TYPE, "udp", "only flannel's back end vxlan"),
            (DATA, "null", "has no VNI and VtepMAC"),
            (DATA, r#"{"VNI":7,"VtepMAC":"aa:bb:cc:dd:ee:01"}"#, "network.vxlan_vni, 1"),
            (DATA, r#"{"VNI":1,"VtepMAC":"aa:bb"}"#, "no hardware address"),
            (PUBLIC_IP, "fd00::1", "no IPv4 address"),
            (PUBLIC_IP, "", "no IPv4 address"),
        ] {
            let problem = with(key, value).unwrap_err();
            assert!(problem.contains(key) && problem.contains(part), "{problem}");
            assert!(problem.contains(value), "{problem}");
        }
    }
}
