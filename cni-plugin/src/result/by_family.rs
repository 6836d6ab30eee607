//! The result of CNI 0.1.0 and 0.2.0: `ip4` and `ip6`, each with its routes, and no interfaces.

use std::net::IpAddr;

use ipnet::IpNet;
use overlay_proto::Family;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{CniResult, Ip, Route};
use crate::config::bad;
use crate::error::{Error, shorten};

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    cni_version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ip4: Option<OfFamily>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ip6: Option<OfFamily>,
    #[serde(default)]
    dns: Value,
}

/// What the pod has of one family.
#[derive(Serialize, Deserialize)]
struct OfFamily {
    ip: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    routes: Vec<Route>,
}

/// Whether `result` has this shape.
pub(super) fn is_one(result: &Value) -> bool {
    result.get("ip4").is_some() || result.get("ip6").is_some()
}

/// Whether a document has room for `addresses`.
pub(super) fn fits(addresses: &[IpNet]) -> bool {
    let of = |family| addresses.iter().filter(|net| Family::of(net.addr()) == family).count();
    Family::BOTH.into_iter().all(|family| of(family) <= 1)
}

/// Reads a result.
pub(super) fn parse(result: &Value) -> Result<CniResult, Error> {
    let document = Document::deserialize(result).map_err(|error| {
        let fault = shorten(&error.to_string());
        bad("prevResult", result, &format!("needs to be a result of CNI ({fault})"))
    })?;
    let mut parsed = CniResult { dns: document.dns, ..CniResult::default() };
    for family in [document.ip4, document.ip6].into_iter().flatten() {
        parsed.ips.push(Ip {
            version: None,
            address: family.ip,
            gateway: family.gateway,
            interface: None,
            other: Map::new(),
        });
        parsed.routes.extend(family.routes);
    }
    Ok(parsed)
}

/// Writes a result that [`fits`].
pub(super) fn document(result: CniResult) -> Value {
    let (routes_v6, routes_v4): (Vec<_>, Vec<_>) =
        result.routes.into_iter().partition(|route| route.dst.addr().is_ipv6());
    let of = |family, routes| {
        let ip = result.ips.iter().find(|ip| Family::of(ip.address.addr()) == family)?;
        Some(OfFamily { ip: ip.address, gateway: ip.gateway, routes })
    };
    let document = Document {
        cni_version: result.cni_version.clone(),
        ip4: of(Family::V4, routes_v4),
        ip6: of(Family::V6, routes_v6),
        dns: result.dns.clone(),
    };
    serde_json::to_value(document).expect("a result has text keys and plain values only")
}
