//! Objects back into documents, so that they can be kept.
//!
//! [`crate::read`] makes the same object of the document again, also where a part of it was not
//! understood: such a part is written as one that nobody understands. A document has no more than
//! what policies ask for, and is not meant for an API server.

mod cluster;
mod network;
mod selector;

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::object::{Kind, Labels, Namespace, Node, Object, Pod};

/// The document of an object.
#[must_use]
pub fn value(object: &Object) -> Value {
    match object {
        Object::Namespace(it) => namespace(it),
        Object::Pod(it) => pod(it),
        Object::Node(it) => node(it),
        Object::NetworkPolicy(it) => network::policy(it),
        Object::ClusterNetworkPolicy(it) => cluster::policy(it),
    }
}

/// A document of a kind with a name.
fn document(kind: Kind, name: &str) -> Value {
    json!({
        "apiVersion": kind.api_version(), "kind": kind.as_str(), "metadata": { "name": name },
    })
}

fn labels(labels: &Labels) -> Value {
    let text = |(key, value): (&Arc<str>, &Arc<str>)| (key.to_string(), Value::from(&**value));
    Value::Object(labels.iter().map(text).collect::<Map<_, _>>())
}

fn namespace(namespace: &Namespace) -> Value {
    let mut document = document(Kind::Namespace, &namespace.name);
    document["metadata"]["labels"] = labels(&namespace.labels);
    document
}

fn pod(pod: &Pod) -> Value {
    let mut document = document(Kind::Pod, &pod.name);
    let metadata = &mut document["metadata"];
    metadata["namespace"] = Value::from(&*pod.namespace);
    if !pod.labels.is_empty() {
        metadata["labels"] = labels(&pod.labels);
    }
    if let Some(uid) = &pod.uid {
        metadata["uid"] = Value::from(&**uid);
    }
    if pod.created > 0 {
        metadata["creationTimestamp"] = time(pod.created).into();
    }
    if pod.is_terminating {
        // Only that there is one is asked for.
        metadata["deletionTimestamp"] = time(pod.created).into();
    }
    let mut spec = json!({});
    if let Some(node) = &pod.node {
        spec["nodeName"] = Value::from(&**node);
    }
    if pod.host_network {
        spec["hostNetwork"] = true.into();
    }
    if !pod.ports.is_empty() {
        let ports = pod.ports.iter().map(|port| {
            let protocol = port.protocol.as_str().to_uppercase();
            json!({ "name": &*port.name, "protocol": protocol, "containerPort": port.port })
        });
        spec["containers"] = json!([{ "ports": ports.collect::<Vec<_>>() }]);
    }
    document["spec"] = spec;
    let ips = pod.addresses.iter().map(|address| json!({ "ip": address }));
    document["status"] = json!({ "podIPs": ips.collect::<Vec<_>>() });
    if pod.has_ended {
        document["status"]["phase"] = "Failed".into();
    }
    document
}

fn node(node: &Node) -> Value {
    let mut document = document(Kind::Node, &node.name);
    document["metadata"]["labels"] = labels(&node.labels);
    let internal = node.internal.iter().map(|address| ("InternalIP", address));
    let external = node.external.iter().map(|address| ("ExternalIP", address));
    let addresses =
        internal.chain(external).map(|(kind, address)| json!({ "type": kind, "address": address }));
    document["status"] = json!({ "addresses": addresses.collect::<Vec<_>>() });
    document
}

/// A time as an API server writes it, of seconds since 1970.
fn time(seconds: u32) -> String {
    let (days, rest) = (i64::from(seconds / 86_400), seconds % 86_400);
    // Years that begin in March, so that the leap day is the last; 1970 is in the fifth era of 400.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (year, month + 3) } else { (year + 1, month - 9) };
    let year = year + era * 400;
    let (hour, minute, second) = (rest / 3600, rest % 3600 / 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests;
