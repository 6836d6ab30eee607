//! The result of ADD, in the shape of the request's version.
//!
//! Owns the document and joining it to the result of the plugin before this one. Parts of a previous
//! result that this plugin does not know pass through unchanged.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::Error;
use crate::version::CniVersion;

/// A result, ours or a previous one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CniResult {
    #[serde(default)]
    cni_version: String,
    #[serde(default)]
    pub(crate) interfaces: Vec<Interface>,
    #[serde(default)]
    pub(crate) ips: Vec<Ip>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) routes: Vec<Route>,
    #[serde(default)]
    dns: Value,
    #[serde(flatten)]
    other: Map<String, Value>,
}

/// A network device on the host or in a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Interface {
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mac: Option<String>,
    /// Path of the pod's network namespace; absent on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sandbox: Option<String>,
    #[serde(flatten)]
    pub(crate) other: Map<String, Value>,
}

/// An address of one of the interfaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ip {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    pub(crate) address: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gateway: Option<IpAddr>,
    /// Position of the interface in the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) interface: Option<usize>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

/// A route inside the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Route {
    pub(crate) dst: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gw: Option<IpAddr>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

/// What one ADD has set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plugged {
    /// On the host first; the last one is the pod's, and has the addresses.
    pub(crate) interfaces: Vec<Interface>,
    /// Each address with its gateway.
    pub(crate) addresses: Vec<(IpNet, IpAddr)>,
}

impl CniResult {
    /// Reads the result of the plugin before this one.
    pub(crate) fn parse(prev_result: &Value) -> Result<Self, Error> {
        Self::deserialize(prev_result).map_err(|error| Error::BadConfig {
            key: "prevResult".to_owned(),
            value: prev_result.to_string(),
            remedy: format!("needs to be a result of this cniVersion ({error})"),
        })
    }

    /// Appends what this plugin has set up.
    pub(crate) fn append(&mut self, version: CniVersion, plugged: Plugged) {
        self.cni_version = version.to_string();
        self.interfaces.extend(plugged.interfaces);
        let pod_interface = self.interfaces.len() - 1;
        for (address, gateway) in plugged.addresses {
            let family = if gateway.is_ipv6() { "6" } else { "4" };
            self.ips.push(Ip {
                version: version.ips_have_version().then(|| family.to_owned()),
                address,
                gateway: Some(gateway),
                interface: Some(pod_interface),
                other: Map::new(),
            });
            self.routes.push(Route {
                dst: everywhere(gateway),
                gw: Some(gateway),
                other: Map::new(),
            });
        }
    }

    /// The document that goes to the container runtime.
    pub(crate) fn into_document(self) -> Value {
        serde_json::to_value(self).expect("a result has text keys and plain values only")
    }

    /// Sets the DNS settings, unless the network's configuration has none.
    pub(crate) fn set_dns(&mut self, dns: Option<&Value>) {
        if let Some(dns) = dns {
            self.dns = dns.clone();
        }
        if self.dns.is_null() {
            self.dns = Value::Object(Map::new());
        }
    }
}

/// The whole address space of the gateway's family.
fn everywhere(gateway: IpAddr) -> IpNet {
    IpNet::new_assert(gateway, 0).trunc()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plugged() -> Plugged {
        let interface = |name: &str, mac: &str, sandbox: Option<&str>| Interface {
            name: name.to_owned(),
            mac: Some(mac.to_owned()),
            sandbox: sandbox.map(str::to_owned),
            other: Map::new(),
        };
        Plugged {
            interfaces: vec![
                interface("v-net-0", "02:00:00:00:00:01", None),
                interface("culv0123456789a", "02:00:00:00:00:02", None),
                interface("eth0", "0a:58:0a:f4:01:02", Some("/run/netns/pod")),
            ],
            addresses: vec![
                ("10.244.1.2/24".parse().unwrap(), "10.244.1.1".parse().unwrap()),
                ("fd00:1::2/64".parse().unwrap(), "fd00:1::1".parse().unwrap()),
            ],
        }
    }

    fn result(version: CniVersion) -> Value {
        let mut result = CniResult::default();
        result.append(version, plugged());
        result.set_dns(None);
        result.into_document()
    }

    fn golden(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn result_has_the_shape_of_its_version() {
        let cases = [
            (CniVersion::V0_3_1, include_str!("../tests/fixtures/result-0.3.1.json")),
            (CniVersion::V0_4_0, include_str!("../tests/fixtures/result-0.4.0.json")),
            (CniVersion::V1_0_0, include_str!("../tests/fixtures/result-1.0.0.json")),
        ];
        for (version, text) in cases {
            assert_eq!(result(version), golden(text), "{version}");
        }
    }

    #[test]
    fn previous_result_passes_through_with_ours_appended() {
        let previous = golden(include_str!("../tests/fixtures/prev-result-1.0.0.json"));
        let mut result = CniResult::parse(&previous).unwrap();
        result.append(CniVersion::V1_0_0, plugged());
        result.set_dns(None);
        assert_eq!(
            result.into_document(),
            golden(include_str!("../tests/fixtures/appended-result-1.0.0.json"))
        );
    }

    #[test]
    fn dns_of_the_configuration_is_copied() {
        let mut result = CniResult::default();
        result.set_dns(Some(&json!({"nameservers": ["10.96.0.10"]})));
        assert_eq!(result.dns, json!({"nameservers": ["10.96.0.10"]}));
    }

    #[test]
    fn previous_result_of_another_shape_is_refused() {
        let error = CniResult::parse(&json!({"ips": [{"address": "nowhere"}]})).unwrap_err();
        assert_eq!(error.code(), 7);
        assert!(error.to_string().contains("prevResult"), "{error}");
    }
}
