//! The result of ADD, in the shape of the request's version.
//!
//! Owns the document and joining it to the result of the plugin before this one. Parts of a
//! previous result that this plugin does not know pass through unchanged. [`by_family`] is the
//! shape of the oldest versions.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::{RouteSpec, bad, check_dns};
use crate::error::{Error, shorten};
use crate::version::CniVersion;

mod by_family;

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
    /// In bytes; results have it since 1.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mtu: Option<u32>,
    /// Path of the pod's network namespace; absent on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sandbox: Option<String>,
    /// Path of a socket that leads to the interface, in place of a namespace.
    #[serde(default, rename = "socketPath", skip_serializing_if = "Option::is_none")]
    pub(crate) socket_path: Option<String>,
    /// Place of the device on the PCI bus.
    #[serde(default, rename = "pciID", skip_serializing_if = "Option::is_none")]
    pub(crate) pci_id: Option<String>,
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

/// A route inside the pod. Results have more than `dst` and `gw` since 1.1.0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Route {
    pub(crate) dst: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gw: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    advmss: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    priority: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    table: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scope: Option<u8>,
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
    pub(crate) routes: Vec<RouteSpec>,
}

impl CniResult {
    /// That of a pod's loopback device.
    pub(crate) fn of_loopback(version: CniVersion, device: &str, sandbox: &str) -> Self {
        let interface = Interface {
            name: device.to_owned(),
            mac: Some("00:00:00:00:00:00".to_owned()),
            sandbox: Some(sandbox.to_owned()),
            ..Interface::default()
        };
        let own = |address: IpAddr, prefix_len, family: &str| Ip {
            version: version.ips_have_version().then(|| family.to_owned()),
            address: IpNet::new_assert(address, prefix_len),
            gateway: None,
            interface: Some(0),
            other: Map::new(),
        };
        Self {
            interfaces: vec![interface],
            ips: vec![
                own(Ipv4Addr::LOCALHOST.into(), 8, "4"),
                own(Ipv6Addr::LOCALHOST.into(), 128, "6"),
            ],
            ..Self::default()
        }
    }
}

impl Route {
    fn new(spec: RouteSpec, version: CniVersion) -> Self {
        let mut route = Self {
            dst: spec.dst,
            gw: spec.gateway,
            mtu: None,
            advmss: None,
            priority: None,
            table: None,
            scope: None,
            other: Map::new(),
        };
        if version.result_is_detailed() {
            route.mtu = spec.mtu;
            route.advmss = spec.advmss;
            route.priority = spec.priority;
            route.table = spec.table;
            route.scope = spec.scope;
        }
        route
    }
}

impl CniResult {
    /// Reads the result of the plugin before this one.
    pub(crate) fn parse(prev_result: &Value) -> Result<Self, Error> {
        let result = if by_family::is_one(prev_result) {
            by_family::parse(prev_result)?
        } else {
            Self::deserialize(prev_result).map_err(|error| {
                let fault = shorten(&error.to_string());
                bad("prevResult", prev_result, &format!("needs to be a result of CNI ({fault})"))
            })?
        };
        if let Some(dns) = result.dns.as_object() {
            check_dns("prevResult.dns", dns)?;
        } else if !result.dns.is_null() {
            return Err(bad("prevResult.dns", &result.dns, "needs to be an object"));
        }
        let count = result.interfaces.len();
        for (place, ip) in result.ips.iter().enumerate() {
            if let Some(interface) = ip.interface.filter(|interface| *interface >= count) {
                let key = format!("prevResult.ips[{place}].interface");
                let remedy = format!("there are {count} interfaces, counted from 0");
                return Err(bad(&key, &Value::from(interface), &remedy));
            }
        }
        Ok(result)
    }

    /// Appends what this plugin has set up.
    pub(crate) fn append(&mut self, version: CniVersion, plugged: Plugged) {
        for mut interface in plugged.interfaces {
            interface.mtu = interface.mtu.filter(|_| version.result_is_detailed());
            self.interfaces.push(interface);
        }
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
        }
        self.routes.extend(plugged.routes.into_iter().map(|spec| Route::new(spec, version)));
    }

    /// The document that goes to the container runtime.
    pub(crate) fn into_document(mut self, version: CniVersion) -> Value {
        self.cni_version = version.to_string();
        if version.result_is_by_family() {
            return by_family::document(self);
        }
        serde_json::to_value(self).expect("a result has text keys and plain values only")
    }

    /// Whether the shape of `version` has room for `addresses` beside those of this result.
    pub(crate) fn has_room(&self, version: CniVersion, addresses: &[IpNet]) -> bool {
        let ours = self.ips.iter().map(|ip| ip.address);
        !version.result_is_by_family()
            || by_family::fits(&ours.chain(addresses.iter().copied()).collect::<Vec<_>>())
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plugged() -> Plugged {
        let interface = |name: &str, mac: &str, sandbox: Option<&str>| Interface {
            name: name.to_owned(),
            mac: Some(mac.to_owned()),
            mtu: Some(1400),
            sandbox: sandbox.map(str::to_owned),
            ..Interface::default()
        };
        let route = |dst: &str, gateway: &str| {
            RouteSpec::new(dst.parse().unwrap(), gateway.parse().unwrap())
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
            routes: vec![
                RouteSpec { mtu: Some(1300), ..route("0.0.0.0/0", "10.244.1.1") },
                route("::/0", "fd00:1::1"),
            ],
        }
    }

    fn result(version: CniVersion) -> Value {
        let mut result = CniResult::default();
        result.append(version, plugged());
        result.set_dns(None);
        result.into_document(version)
    }

    fn golden(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn result_has_the_shape_of_its_version() {
        let cases = [
            (CniVersion::V0_1_0, include_str!("../../tests/fixtures/result-0.1.0.json")),
            (CniVersion::V0_2_0, include_str!("../../tests/fixtures/result-0.2.0.json")),
            (CniVersion::V0_3_0, include_str!("../../tests/fixtures/result-0.3.0.json")),
            (CniVersion::V0_3_1, include_str!("../../tests/fixtures/result-0.3.1.json")),
            (CniVersion::V0_4_0, include_str!("../../tests/fixtures/result-0.4.0.json")),
            (CniVersion::V1_0_0, include_str!("../../tests/fixtures/result-1.0.0.json")),
            (CniVersion::V1_1_0, include_str!("../../tests/fixtures/result-1.1.0.json")),
        ];
        assert_eq!(cases.map(|(version, _)| version), CniVersion::ALL);
        for (version, text) in cases {
            assert_eq!(result(version), golden(text), "{version}");
        }
    }

    #[test]
    fn results_of_every_version_are_read_back() {
        for version in CniVersion::ALL {
            let read = CniResult::parse(&result(version)).unwrap();
            let addresses: Vec<_> = read.ips.iter().map(|ip| ip.address.to_string()).collect();
            assert_eq!(addresses, ["10.244.1.2/24", "fd00:1::2/64"], "{version}");
            assert_eq!(read.routes.len(), 2, "{version}");
            assert_eq!(read.into_document(version), result(version), "{version}");
        }
    }

    #[test]
    fn oldest_shape_has_room_for_one_address_of_each_family() {
        let read = CniResult::parse(&result(CniVersion::V0_2_0)).unwrap();
        let another = ["10.244.2.2/24".parse().unwrap()];
        assert!(!read.has_room(CniVersion::V0_2_0, &another));
        assert!(read.has_room(CniVersion::V0_3_0, &another));
        assert!(CniResult::default().has_room(CniVersion::V0_1_0, &another));
    }

    #[test]
    fn previous_result_passes_through_with_ours_appended() {
        let previous = golden(include_str!("../../tests/fixtures/prev-result-1.0.0.json"));
        let mut result = CniResult::parse(&previous).unwrap();
        result.append(CniVersion::V1_0_0, plugged());
        result.set_dns(None);
        assert_eq!(
            result.into_document(CniVersion::V1_0_0),
            golden(include_str!("../../tests/fixtures/appended-result-1.0.0.json"))
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
        for previous in [
            json!({"ips": [{"address": "nowhere"}]}),
            json!({"ip4": 7}),
            json!([]),
            json!({"dns": 7}),
            json!({"dns": {"nameservers": [1]}}),
            json!({"ip4": {"ip": "10.0.0.2/24"}, "dns": {"domain": 7}}),
            json!({"interfaces": [{"name": "eth0", "pciID": 7}]}),
            json!({"ips": [{"address": "10.0.0.2/24", "interface": 0}]}),
        ] {
            let error = CniResult::parse(&previous).unwrap_err();
            assert_eq!(error.code(), 7);
            assert!(error.to_string().contains("prevResult"), "{error}");
        }
    }
}
