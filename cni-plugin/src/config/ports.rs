//! The capability `portMappings`: ports of the node that are to lead to the pod.
//!
//! Owns reading and checking what can be checked without knowing the pod's addresses. The members
//! are those of the CNI conventions.

use std::collections::BTreeMap;
use std::net::IpAddr;

use culvert_node::host_ports::{HostPort, MAX_PORTS};
use overlay_proto::Protocol;
use serde_json::{Map, Value};

use super::{bad, keys, unsupported};
use crate::error::Error;

/// The member of `runtimeConfig`.
pub(super) const KEY: &str = "portMappings";

pub(super) const MEMBERS: [&str; 4] = ["hostPort", "containerPort", "protocol", "hostIP"];

/// The ports, in their order and each once.
pub(super) fn read(runtime: &Map<String, Value>) -> Result<Vec<HostPort>, Error> {
    let list = keys::list("runtimeConfig.", runtime, KEY)?;
    if list.len() > MAX_PORTS {
        let remedy = format!("a pod may have {MAX_PORTS} of them");
        return Err(bad(&format!("runtimeConfig.{KEY}"), &Value::from(list.len()), &remedy));
    }
    let mut ports = BTreeMap::new();
    for (key, value) in list {
        let port = read_one(&key, value)?;
        let (end, leads_to) = ((port.protocol, port.host_ip, port.host_port), port.container_port);
        if ports.insert(end, leads_to).is_some_and(|other| other != leads_to) {
            let remedy = "another one leads the same port elsewhere; remove one of them";
            return Err(bad(&key, value, remedy));
        }
    }
    let port = |((protocol, host_ip, host_port), container_port)| HostPort {
        protocol,
        host_ip,
        host_port,
        container_port,
    };
    Ok(ports.into_iter().map(port).collect())
}

fn read_one(key: &str, value: &Value) -> Result<HostPort, Error> {
    let members = value.as_object().ok_or_else(|| bad(key, value, "needs to be an object"))?;
    keys::refuse_members(key, members, &MEMBERS, "the key is unknown; remove it")?;
    let path = format!("{key}.");
    let number = |name: &str| {
        let found = members.get(name).unwrap_or(&Value::Null);
        let port = found.as_u64().and_then(|number| u16::try_from(number).ok());
        port.filter(|port| *port != 0)
            .ok_or_else(|| bad(&format!("{path}{name}"), found, "needs a port, from 1 to 65535"))
    };
    let protocol = keys::text(&path, members, "protocol")?.unwrap_or("tcp");
    let known = Protocol::of_name(protocol);
    let protocol = known.ok_or_else(|| {
        let value = Value::from(protocol);
        bad(&format!("{path}protocol"), &value, "needs to be tcp, udp or sctp")
    })?;
    let host_ip = match keys::text(&path, members, "hostIP")? {
        None => None,
        Some(text) => Some(read_address(&format!("{path}hostIP"), text)?),
    };
    Ok(HostPort {
        protocol,
        host_ip,
        host_port: number("hostPort")?,
        container_port: number("containerPort")?,
    })
}

fn read_address(key: &str, text: &str) -> Result<IpAddr, Error> {
    let value = Value::from(text);
    let none = || bad(key, &value, "needs an address of the node");
    let address: IpAddr = text.parse().map_err(|_| none())?;
    if address.is_multicast() {
        return Err(none());
    }
    if let IpAddr::V6(v6) = address {
        // kernel: IPv6 has no `route_localnet`, so no packet from ::1 gets to a pod.
        if v6.is_loopback() {
            let remedy = "the kernel lets nothing from ::1 leave the loopback device; use 127.0.0.1 or \
                          another address of the node";
            return Err(unsupported(key, &value, remedy));
        }
        if v6.to_ipv4_mapped().is_some() {
            return Err(bad(key, &value, "write it as an IPv4 address"));
        }
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(list: Value) -> Result<Vec<HostPort>, Error> {
        let Value::Object(runtime) = json!({ KEY: list }) else { unreachable!("it is one") };
        read(&runtime)
    }

    #[test]
    fn ports_are_read_as_runtimes_write_them() {
        assert_eq!(read(&Map::new()).unwrap(), []);
        assert_eq!(of(Value::Null).unwrap(), []);
        let found = of(json!([
            {"hostPort": 8080, "containerPort": 80, "protocol": "TCP", "hostIP": ""},
            {"hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": "192.168.1.11"},
            {"hostPort": 8080, "containerPort": 80},
            {"hostPort": 8080, "containerPort": 81, "protocol": "sctp"},
        ]));
        let shown: Vec<String> = found.unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["8080/tcp", "192.168.1.11:53/udp", "8080/sctp"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let good = json!({"hostPort": 8080, "containerPort": 80});
        let with = |key: &str, value: Value| {
            let mut port = good.clone();
            port[key] = value;
            json!([port])
        };
        for (list, named) in [
            (json!({}), "runtimeConfig.portMappings"),
            (json!([1]), "portMappings[0]"),
            (with("hostPort", json!(0)), "portMappings[0].hostPort"),
            (with("hostPort", json!(65536)), "portMappings[0].hostPort"),
            (with("containerPort", Value::Null), "portMappings[0].containerPort"),
            (with("containerPort", json!("80")), "portMappings[0].containerPort"),
            (with("protocol", json!("icmp")), "portMappings[0].protocol"),
            (with("hostIP", json!("node1")), "portMappings[0].hostIP"),
            (with("hostIP", json!("::1")), "portMappings[0].hostIP"),
            (with("hostIP", json!("::ffff:10.0.0.1")), "portMappings[0].hostIP"),
            (with("hostIP", json!("224.0.0.1")), "portMappings[0].hostIP"),
            (with("hostPorts", json!(1)), "portMappings[0].hostPorts"),
            (json!([good, {"hostPort": 8080, "containerPort": 81}]), "portMappings[1]"),
            (Value::from(vec![good.clone(); MAX_PORTS + 1]), "runtimeConfig.portMappings"),
        ] {
            let error = of(list).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
