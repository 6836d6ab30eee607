//! What ADD sets up, as the configuration and the runtime want it.
//!
//! Owns the precedence among the places that may ask for the same thing. What depends on the node
//! is decided in [`Plan`](crate::plan::Plan).

use culvert_node::host_ports::HostPort;
use culvert_node::pod_mac;
use overlay_proto::Mac;
use serde_json::{Map, Value};

use super::{
    Config, RequestedAddress, RequestedRange, RouteSpec, bad, dns, ipam, keys, ports, spelling,
};
use crate::environment::Args;
use crate::error::Error;

/// Capabilities that this plugin has.
const CAPABILITIES: [&str; 5] = ["ips", "mac", "ipRanges", "dns", "portMappings"];

/// What ADD sets up.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Settings {
    /// The bridge that the configuration expects.
    pub(crate) bridge: Option<String>,
    /// MTU of the pod's interface, if it is not to be the node's.
    pub(crate) mtu: Option<u64>,
    pub(crate) hairpin: bool,
    pub(crate) isolated: bool,
    /// Whether the pod may send from its own MAC and IP addresses only.
    pub(crate) source_check: bool,
    /// Whether IPv6 addresses are used only after nobody answered for them.
    pub(crate) duplicate_detection: bool,
    /// Whether the configuration expects what leaves the cluster to be masqueraded.
    pub(crate) masquerade: Option<bool>,
    /// Whether everything goes through the bridge, or only what is for the cluster.
    pub(crate) default_gateway: bool,
    pub(crate) mac: Option<Mac>,
    /// Sets of ranges, of each of which the pod gets one address; none for the node's own.
    pub(crate) ranges: Vec<Vec<RequestedRange>>,
    /// Addresses that the pod has to get.
    pub(crate) addresses: Vec<RequestedAddress>,
    pub(crate) routes: Vec<RouteSpec>,
    /// Ports of the node that lead to the pod.
    pub(crate) ports: Vec<HostPort>,
    /// For the result.
    pub(crate) dns: Option<Value>,
}

impl Settings {
    /// Reads the configuration; every key is understood, or refused.
    pub(crate) fn read(config: &Config, args: &Args) -> Result<Self, Error> {
        let rest = &config.rest;
        keys::refuse_others(rest)?;
        let nothing = Map::new();
        let args_cni = keys::object("", rest, "args")?.unwrap_or(&nothing);
        let cni = keys::object("args.", args_cni, "cni")?.unwrap_or(&nothing);
        let ipam = keys::object("", rest, "ipam")?.unwrap_or(&nothing);
        let runtime = keys::object("", rest, "runtimeConfig")?.unwrap_or(&nothing);
        let runtime = &spelling::known_as(runtime, &members());
        keys::refuse_members(
            "runtimeConfig",
            runtime,
            &CAPABILITIES,
            "culvert-cni does not have the capability; take it out of this plugin's capabilities \
             and give it to the plugin that has it, such as bandwidth",
        )?;
        let routes = keys::list("ipam.", ipam, "routes")?;
        let routes = routes.iter().map(|(key, value)| RouteSpec::read(key, value));
        Ok(Self {
            bridge: keys::text("", rest, "bridge")?.map(str::to_owned),
            mtu: mtu(rest)?,
            hairpin: keys::boolean(rest, "hairpinMode")?.unwrap_or(true),
            isolated: keys::boolean(rest, "portIsolation")?.unwrap_or(false),
            source_check: keys::boolean(rest, "macspoofchk")?.unwrap_or(true),
            duplicate_detection: keys::boolean(rest, "enabledad")?.unwrap_or(false),
            masquerade: keys::boolean(rest, "ipMasq")?,
            default_gateway: keys::boolean(rest, "isDefaultGateway")?.unwrap_or(true),
            mac: mac(args, cni, runtime)?,
            ranges: ipam::ranges(ipam, runtime)?,
            addresses: ipam::addresses(args, cni, runtime)?,
            routes: routes.collect::<Result<_, _>>()?,
            ports: ports::read(runtime)?,
            dns: dns::read(rest, runtime, ipam)?,
        })
    }
}

/// Every name that `runtimeConfig` may have, at any depth.
fn members() -> Vec<&'static str> {
    let dns = dns::CAPABILITY_MEMBERS.map(|(member, _)| member);
    [&CAPABILITIES[..], &ports::MEMBERS, &ipam::RANGE_MEMBERS, &dns].concat()
}

fn mtu(rest: &Map<String, Value>) -> Result<Option<u64>, Error> {
    match rest.get("mtu") {
        None => Ok(None),
        Some(value) => match value.as_u64() {
            // What the reference plugin takes for "as the bridge has it".
            Some(0) => Ok(None),
            Some(mtu) => Ok(Some(mtu)),
            None => Err(bad("mtu", value, "needs to be a number of bytes")),
        },
    }
}

/// The MAC address that was asked for: by the runtime, else by `args.cni`, else by `CNI_ARGS`.
fn mac(
    args: &Args,
    cni: &Map<String, Value>,
    runtime: &Map<String, Value>,
) -> Result<Option<Mac>, Error> {
    let mut found = args.mac;
    for (path, object) in [("args.cni.", cni), ("runtimeConfig.", runtime)] {
        if let Some(text) = keys::text(path, object, "mac")? {
            let mac = pod_mac::parse(text).ok_or_else(|| {
                let value = Value::String(text.to_owned());
                let remedy = "needs to be the address of one device, such as 0a:58:00:00:00:09";
                bad(&format!("{path}mac"), &value, remedy)
            })?;
            found = Some(mac);
        }
    }
    Ok(found)
}
