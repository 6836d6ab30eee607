//! Pods, namespaces and nodes: as much of them as policies ask for. What else they have is of no
//! interest here.

use std::net::IpAddr;
use std::sync::Arc;

use overlay_proto::Protocol;

use super::DEFAULT_NAMESPACE;
use super::document::Document;
use super::field::At;
use super::network::protocol;
use super::syntax::{is_name, is_namespace};
use crate::object::{ContainerPort, Labels, Namespace, Node, Pod};

/// The label that every namespace has, with its name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// The annotation of an object that shows a static pod, with the uid by which the kubelet knows it.
pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";

/// What all objects have.
pub(super) struct Metadata {
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) labels: Labels,
}

/// What all objects have; none if the object has no name by which it could be known.
pub(super) fn metadata(at: &At<'_>, is_namespaced: bool) -> Option<Metadata> {
    const NAME: &str = "write metadata.name: small letters, digits, '-' and '.'";
    const NAMESPACE: &str = "write up to 63 small letters, digits and '-'";
    let Some(metadata) = at.field("metadata") else {
        at.lacks("metadata", NAME);
        return None;
    };
    let Some(name) = metadata.field("name") else {
        metadata.lacks("name", NAME);
        return None;
    };
    let text = name.text()?;
    if !is_name(text) {
        name.wrong("not a name", NAME);
        return None;
    }
    let namespace = match metadata.field("namespace").filter(|_| is_namespaced) {
        None => DEFAULT_NAMESPACE,
        Some(namespace) => {
            let text = namespace.text()?;
            if !is_namespace(text) {
                namespace.wrong("not the name of a namespace", NAMESPACE);
                return None;
            }
            text
        }
    };
    let labels = match metadata.field("labels") {
        None => Labels::default(),
        Some(labels) => read_labels(&labels),
    };
    Some(Metadata { namespace: namespace.into(), name: text.into(), labels })
}

fn read_labels(at: &At<'_>) -> Labels {
    let Some(labels) = at.value().fields() else {
        at.wrong("not an object", "write keys with their values");
        return Labels::default();
    };
    if labels.iter().any(|(_, value)| value.text().is_none()) {
        at.wrong("not all values are texts", "write values in quotation marks");
    }
    let texts = labels.iter().filter_map(|(key, value)| Some((key.as_ref(), value.text()?)));
    texts.collect()
}

pub(super) fn namespace(at: &At<'_>) -> Option<Namespace> {
    let Metadata { name, labels, .. } = metadata(at, false)?;
    Some(Namespace { labels: with_name(&labels, &name), name })
}

/// A namespace's labels with the one that an API server adds.
fn with_name(labels: &Labels, name: &str) -> Labels {
    let own = [(Arc::from(NAME_LABEL), Arc::from(name))];
    labels.iter().map(|(key, value)| (key.clone(), value.clone())).chain(own).collect()
}

impl Namespace {
    /// A namespace of which nothing but its name is known.
    #[must_use]
    pub fn without_labels(name: &str) -> Self {
        Self { name: name.into(), labels: with_name(&Labels::default(), name) }
    }
}

pub(super) fn pod(at: &At<'_>) -> Option<Pod> {
    let Metadata { namespace, name, labels } = metadata(at, true)?;
    let object = at.value();
    let (spec, status) = (&object["spec"], &object["status"]);
    let ended = matches!(status["phase"].text(), Some("Succeeded" | "Failed"));
    Some(Pod {
        namespace,
        name,
        uid: uid(&object["metadata"]).map(Into::into),
        labels,
        addresses: addresses(at).into_iter().collect(),
        ports: ports(spec).into(),
        node: spec["nodeName"].text().map(Into::into),
        created: object["metadata"]["creationTimestamp"].text().map_or(0, seconds),
        host_network: spec["hostNetwork"].bool().unwrap_or(false),
        has_ended: ended,
        is_terminating: object["metadata"]["deletionTimestamp"].text().is_some(),
    })
}

/// What tells a pod from another that had its name before, to the runtime too. To that a static
/// pod is the one of a file on the node: the object that shows it has a uid of its own, which the
/// runtime never hears of.
fn uid<'a>(metadata: &'a Document<'_>) -> Option<&'a str> {
    metadata["annotations"][MIRROR].text().or_else(|| metadata["uid"].text())
}

fn addresses(at: &At<'_>) -> Vec<IpAddr> {
    let Some(status) = at.field("status") else { return Vec::new() };
    let mut places = Vec::new();
    places.extend(status.field("podIP"));
    if let Some(list) = status.field("podIPs") {
        for item in list.items().unwrap_or_default() {
            places.extend(item.field("ip"));
        }
    }
    let mut found = Vec::new();
    for place in places {
        match place.value().text().and_then(|text| text.parse().ok()) {
            Some(address) => found.push(address),
            // An address that is yet to come is an empty text.
            None if place.value().text() == Some("") => {}
            None => place.wrong("not an address", "write an IPv4 or IPv6 address"),
        }
    }
    found
}

fn ports(spec: &Document<'_>) -> Vec<ContainerPort> {
    // Containers that start before the others and stay.
    let stays = |container: &&Document<'_>| container["restartPolicy"].text() == Some("Always");
    let first = spec["initContainers"].items().iter().filter(stays);
    let containers = spec["containers"].items().iter().chain(first);
    let mut ports: Vec<ContainerPort> = containers
        .flat_map(|container| container["ports"].items())
        .filter_map(|port| {
            let written = &port["protocol"];
            Some(ContainerPort {
                name: port["name"].text()?.into(),
                protocol: if written.is_null() { Protocol::Tcp } else { protocol(written)? },
                port: port["containerPort"].number().and_then(|port| u16::try_from(port).ok())?,
            })
        })
        .collect();
    ports.sort();
    ports.dedup();
    ports
}

pub(super) fn node(at: &At<'_>) -> Option<Node> {
    let Metadata { name, labels, .. } = metadata(at, false)?;
    let (mut internal, mut external) = (Vec::new(), Vec::new());
    for item in at.value()["status"]["addresses"].items() {
        let Some(address) = item["address"].text().and_then(|text| text.parse().ok()) else {
            continue;
        };
        if item["type"].text() == Some("InternalIP") {
            internal.push(address)
        } else {
            external.push(address)
        }
    }
    Some(Node { name, labels, internal: internal.into(), external: external.into() })
}

/// Seconds since 1970 of a time as an API server writes it, `2026-01-31T12:00:00Z`; 0 if it is
/// written in another way.
fn seconds(time: &str) -> u32 {
    let number = |range: std::ops::Range<usize>| time.get(range)?.parse::<i64>().ok();
    let parse = || {
        let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
        let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
        // Days since 1970, with years that begin in March, so that the leap day is the last.
        let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day;
        let days = days - 719_469;
        u32::try_from(((days * 24 + hour) * 60 + minute) * 60 + second).ok()
    };
    parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn times_are_seconds_since_1970() {
        assert_eq!(seconds("1970-01-01T00:00:00Z"), 0);
        assert_eq!(seconds("2000-02-29T12:34:56Z"), 951_827_696);
        assert_eq!(seconds("2026-11-27T01:39:36Z"), 1_795_743_576);
        assert_eq!(seconds("yesterday"), 0);
    }
}
