//! Which addresses a pod may get: `ipam`, the capabilities `ips` and `ipRanges`, `args.cni.ips` and
//! `CNI_ARGS`.
//!
//! Owns reading and checking what can be checked without knowing the node. Precedence is that of
//! the reference plugin host-local: requests for addresses from all sources add up, and ranges of
//! the runtime come before those of the network.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use overlay_proto::Family;
use serde_json::{Map, Value};

use super::{bad, keys, unsupported};
use crate::environment::Args;
use crate::error::Error;

/// Members of `ipam` that are read here or for DNS and routes.
pub(super) const MEMBERS: [&str; 8] =
    ["type", "subnet", "rangeStart", "rangeEnd", "gateway", "ranges", "routes", "resolvConf"];

/// Names of address plugins whose work this one does.
const TYPES: [&str; 2] = ["host-local", "culvert-cni"];

/// Members of a range.
pub(super) const RANGE_MEMBERS: [&str; 4] = ["subnet", "rangeStart", "rangeEnd", "gateway"];

/// An address and the key that asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestedAddress {
    pub(crate) key: String,
    pub(crate) address: IpAddr,
}

/// A range that one address of the pod is to come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestedRange {
    /// Where it was asked for, for messages.
    pub(crate) key: String,
    pub(crate) subnet: IpNet,
    pub(crate) first: Option<IpAddr>,
    pub(crate) last: Option<IpAddr>,
    pub(crate) gateway: Option<IpAddr>,
}

/// The sets of ranges, of each of which the pod gets one address; none for the node's own.
pub(super) fn ranges(
    ipam: &Map<String, Value>,
    runtime: &Map<String, Value>,
) -> Result<Vec<Vec<RequestedRange>>, Error> {
    let known_type = keys::text("ipam.", ipam, "type")?.is_none_or(|name| TYPES.contains(&name));
    if !known_type {
        return Err(unsupported(
            "ipam.type",
            &ipam["type"],
            "culvert-cni gives out addresses itself, from the node's subnets in the subnet table; \
             remove it or set it to \"host-local\"",
        ));
    }
    if let Some(value) = ipam.get("dataDir") {
        return Err(unsupported(
            "ipam.dataDir",
            value,
            "addresses are kept under config key stateDir; remove it. `culvert ipam` takes over what \
             host-local has given out",
        ));
    }
    keys::refuse_members("ipam", ipam, &MEMBERS, "the key is unknown; remove it")?;
    let mut sets = sets("runtimeConfig.", runtime, "ipRanges")?;
    let single: Map<String, Value> = ipam
        .iter()
        .filter(|(key, _)| RANGE_MEMBERS.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if !single.is_empty() {
        sets.push(vec![range("ipam", &single)?]);
    }
    sets.extend(self::sets("ipam.", ipam, "ranges")?);
    refuse_overlap(&sets)?;
    Ok(sets)
}

/// The addresses that were asked for.
pub(super) fn addresses(
    args: &Args,
    cni: &Map<String, Value>,
    runtime: &Map<String, Value>,
) -> Result<Vec<RequestedAddress>, Error> {
    // By address: the same one from two sources is requested once.
    let mut by_address: HashMap<IpAddr, RequestedAddress> = HashMap::new();
    let mut order: Vec<IpAddr> = Vec::new();
    let mut add = |requested: RequestedAddress| {
        order.push(requested.address);
        by_address.entry(requested.address).or_insert(requested);
    };
    if let Some(address) = args.ip {
        add(RequestedAddress { key: "CNI_ARGS IP".to_owned(), address });
    }
    for (path, object) in [("args.cni.", cni), ("runtimeConfig.", runtime)] {
        let mut own: HashMap<IpAddr, String> = HashMap::new();
        for (key, value) in keys::list(path, object, "ips")? {
            let address = address(&key, value)?;
            if let Some(first) = own.insert(address, key.clone()) {
                return Err(bad(&key, value, &format!("{first} is the same; remove one of them")));
            }
            add(RequestedAddress { key, address });
        }
    }
    Ok(order.iter().filter_map(|address| by_address.remove(address)).collect())
}

/// An address with or without a prefix length, of which the subnet's counts.
fn address(key: &str, value: &Value) -> Result<IpAddr, Error> {
    let text = value.as_str().unwrap_or_default();
    let address = text.parse().ok().or_else(|| text.parse().ok().map(|net: IpNet| net.addr()));
    address.ok_or_else(|| bad(key, value, "needs to be an address, such as 10.244.1.9"))
}

fn sets(
    path: &str,
    object: &Map<String, Value>,
    key: &str,
) -> Result<Vec<Vec<RequestedRange>>, Error> {
    let mut sets = Vec::new();
    for (key, value) in keys::list(path, object, key)? {
        let Some(members) = value.as_array().filter(|members| !members.is_empty()) else {
            return Err(bad(&key, value, "needs to be a list of ranges"));
        };
        let mut set = Vec::new();
        for (place, member) in members.iter().enumerate() {
            let key = format!("{key}[{place}]");
            let Value::Object(member) = member else {
                return Err(bad(&key, member, "needs to be an object with subnet"));
            };
            keys::refuse_members(&key, member, &RANGE_MEMBERS, "a range has no such member")?;
            set.push(range(&key, member)?);
        }
        let family = |range: &RequestedRange| Family::of(range.subnet.addr());
        if set.iter().any(|range| Some(family(range)) != set.first().map(family)) {
            return Err(bad(&key, value, "the ranges of one set need to be of one family"));
        }
        sets.push(set);
    }
    Ok(sets)
}

fn range(key: &str, object: &Map<String, Value>) -> Result<RequestedRange, Error> {
    let path = format!("{key}.");
    let subnet_key = format!("{path}subnet");
    let text = keys::text(&path, object, "subnet")?
        .ok_or_else(|| bad(&subnet_key, &Value::Null, "a range needs its subnet"))?;
    let value = Value::String(text.to_owned());
    let subnet: IpNet = text
        .parse()
        .map_err(|_| bad(&subnet_key, &value, "needs to be a prefix, such as 10.244.1.0/24"))?;
    if subnet != subnet.trunc() {
        return Err(bad(&subnet_key, &value, &format!("needs to be {}", subnet.trunc())));
    }
    let address = |name: &str| -> Result<Option<IpAddr>, Error> {
        let Some(text) = keys::text(&path, object, name)? else {
            return Ok(None);
        };
        let found: Option<IpAddr> = text.parse().ok();
        match found.filter(|address| subnet.contains(address)) {
            Some(address) => Ok(Some(address)),
            None => {
                let value = Value::String(text.to_owned());
                Err(bad(&format!("{path}{name}"), &value, &format!("needs an address of {subnet}")))
            }
        }
    };
    let requested = RequestedRange {
        key: key.to_owned(),
        subnet,
        first: address("rangeStart")?,
        last: address("rangeEnd")?,
        gateway: address("gateway")?,
    };
    if let (Some(first), Some(last)) = (requested.first, requested.last)
        && first > last
    {
        let value = Value::String(last.to_string());
        let remedy = format!("needs to be {first} or above, which is rangeStart");
        return Err(bad(&format!("{path}rangeEnd"), &value, &remedy));
    }
    Ok(requested)
}

/// Two ranges that share addresses would make it a matter of chance which limit counts.
fn refuse_overlap(sets: &[Vec<RequestedRange>]) -> Result<(), Error> {
    let bounds = |range: &RequestedRange| {
        let first = range.first.unwrap_or_else(|| range.subnet.network());
        (first, range.last.unwrap_or_else(|| range.subnet.broadcast()))
    };
    let ranges: Vec<&RequestedRange> = sets.iter().flatten().collect();
    for (place, range) in ranges.iter().enumerate() {
        let (first, last) = bounds(range);
        for other in ranges.iter().take(place) {
            let (other_first, other_last) = bounds(other);
            let same_family = first.is_ipv6() == other_first.is_ipv6();
            if same_family && first <= other_last && other_first <= last {
                let value = Value::String(range.subnet.to_string());
                let remedy = format!("it overlaps {}: remove one of them", other.key);
                return Err(bad(&range.key, &value, &remedy));
            }
        }
    }
    Ok(())
}
