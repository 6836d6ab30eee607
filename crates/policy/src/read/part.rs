//! Of a long document only what policies ask for.
//!
//! A node of a cluster tells of fifty images, and a pod of every volume and of who wrote which
//! field. While a large cluster is listed, what nobody reads would take more memory, and more of a
//! processor, than all that is kept.

use std::borrow::Cow;
use std::fmt;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::Number;

use super::document::Document;
use super::kinds::MIRROR;
use crate::object::Kind;

/// An object, or the part of a pod, a namespace or a node that is read here. What a policy says is
/// never read in part: whatever is not understood of it has to be seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Part(pub(super) Document<'static>);

/// All of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Whole(Part);

impl Part {
    /// The version of the object, if it has one.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.0["metadata"]["resourceVersion"].text()
    }
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        OBJECT.deserialize(deserializer).map(|document| Self(document.into_owned()))
    }
}

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ALL.deserialize(deserializer).map(|document| Self(Part(document.into_owned())))
    }
}

impl From<Whole> for Part {
    fn from(whole: Whole) -> Self {
        whole.0
    }
}

/// The fields of an object that are read, each with those below it; none are all.
#[derive(Clone, Copy)]
pub(super) struct Fields(&'static [(&'static str, Self)]);

const ALL: Fields = Fields(&[]);

const CONTAINERS: Fields = Fields(&[("ports", ALL), ("restartPolicy", ALL)]);

const METADATA: Fields = Fields(&[
    ("name", ALL),
    ("namespace", ALL),
    ("uid", ALL),
    ("resourceVersion", ALL),
    ("creationTimestamp", ALL),
    ("deletionTimestamp", ALL),
    ("labels", ALL),
    ("annotations", Fields(&[(MIRROR, ALL)])),
]);

const SPEC: Fields = Fields(&[
    ("nodeName", ALL),
    ("hostNetwork", ALL),
    ("containers", CONTAINERS),
    ("initContainers", CONTAINERS),
]);

const STATUS: Fields =
    Fields(&[("phase", ALL), ("podIP", ALL), ("podIPs", ALL), ("addresses", ALL)]);

const OBJECT: Fields = Fields(&[("metadata", METADATA), ("spec", SPEC), ("status", STATUS)]);

impl Fields {
    /// What is read of an object of this kind.
    pub(super) const fn of(kind: Kind) -> Self {
        match kind {
            Kind::Namespace | Kind::Pod | Kind::Node => OBJECT,
            Kind::NetworkPolicy | Kind::ClusterNetworkPolicy => ALL,
        }
    }

    /// The fields below the one called `name`, if that is read.
    fn below(self, name: &str) -> Option<Self> {
        if self.0.is_empty() {
            return Some(ALL);
        }
        self.0.iter().find(|(field, _)| *field == name).map(|(_, below)| *below)
    }
}

impl<'de> DeserializeSeed<'de> for Fields {
    type Value = Document<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Fields {
    type Value = Document<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut read = Vec::new();
        while let Some(field) = map.next_key_seed(Name(self))? {
            match field {
                Some((name, below)) => read.push((name, map.next_value_seed(below)?)),
                None => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(Document::object(read))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut read = Vec::new();
        while let Some(item) = list.next_element_seed(self)? {
            read.push(item);
        }
        Ok(Document::List(read))
    }

    // What should be an object and is none is for whoever reads it to say.

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Document::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Document::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Document::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Number::from_f64(value).map_or(Document::Null, Document::Number))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(Document::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Document::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Document::Null)
    }
}

/// The name of a field, if that is one of these.
struct Name(Fields);

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Option<(Cow<'de, str>, Fields)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Option<(Cow<'de, str>, Fields)>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the name of a field")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(self.0.below(name).map(|below| (Cow::Borrowed(name), below)))
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.below(name).map(|below| (Cow::Owned(name.to_owned()), below)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::read;

    fn part(document: &Value) -> Part {
        serde_json::from_str(&document.to_string()).unwrap()
    }

    #[test]
    fn what_is_read_of_the_part_is_what_is_read_of_the_whole() {
        let pod = json!({
            "metadata": {
                "namespace": "shop", "name": "web-1", "uid": "1", "labels": { "app": "web" },
                "annotations": { MIRROR: "2", "other": "3" },
                "creationTimestamp": "2026-01-02T03:04:05Z",
                "deletionTimestamp": "2026-01-02T03:04:06Z",
                "managedFields": [{ "manager": "kubelet", "fieldsV1": { "f:status": {} } }],
            },
            "spec": {
                "nodeName": "node1", "hostNetwork": false, "volumes": [{ "name": "data" }],
                "containers": [
                    { "name": "a", "image": "x", "ports": [{ "name": "http", "containerPort": 80 }] },
                    { "name": "b", "env": [{ "name": "A", "value": "B" }] },
                ],
                "initContainers": [
                    { "restartPolicy": "Always", "ports": [{ "name": "s", "containerPort": 1 }] },
                    { "ports": [{ "name": "t", "containerPort": 2 }] },
                ],
            },
            "status": {
                "phase": "Running", "podIP": "10.0.0.1",
                "podIPs": [{ "ip": "10.0.0.1" }, { "ip": "fd00::1" }, { "ip": "nonsense" }],
                "conditions": [{ "type": "Ready", "status": "True" }],
            },
        });
        let node = json!({
            "metadata": { "name": "node1", "labels": { "zone": "a" }, "annotations": { "a": "b" } },
            "spec": { "podCIDR": "10.0.0.0/24" },
            "status": {
                "addresses": [{ "type": "InternalIP", "address": "192.0.2.1" }],
                "images": [{ "names": ["x"], "sizeBytes": 1 }],
            },
        });
        let strange = json!({ "metadata": [], "spec": 1.5, "status": { "podIPs": "none" } });
        for document in [pod, node, strange, json!(null), json!("text"), json!([{}, -1, true])] {
            let part = part(&document);
            for kind in [Kind::Pod, Kind::Namespace, Kind::Node] {
                let whole = read::item(kind, &document);
                assert_eq!(read::part(kind, &part), whole, "{document}");
                let page = json!({ "metadata": {}, "items": [document] }).to_string();
                let mut listed = read::Read::default();
                read::page(kind, page.as_bytes(), &mut |read| listed = read).unwrap();
                assert_eq!(listed, whole, "{document}");
            }
        }
    }

    #[test]
    fn document_is_what_any_reader_of_json_reads() {
        let read = |text: &[u8]| {
            let mut deserializer = serde_json::Deserializer::from_slice(text);
            ALL.deserialize(&mut deserializer).map(|document| Value::from(&document)).ok()
        };
        let deep = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth)).into_bytes();
        let texts: [&[u8]; 11] = [
            br#""\u0061\n\ud83d\ude00\"\\""#,
            br#"{"a":1,"b":2,"\u0061":3,"c":{"a":[]},"a":4,"":null}"#,
            b"[0,-0,-1,1.5,1e3,9223372036854775808,18446744073709551616,-9223372036854775809]",
            b"[1e999]",
            br#""\ud83d""#,
            br#"{"\ud83d":1}"#,
            b"\"\xff\"",
            b"{\"\xff\":1}",
            br#"{"a":1"#,
            &deep(100),
            &deep(10_000),
        ];
        for text in texts {
            assert_eq!(read(text), serde_json::from_slice(text).ok(), "{text:?}");
        }
    }

    #[test]
    fn what_nobody_reads_is_not_kept() {
        let node = json!({
            "metadata": { "name": "node1", "managedFields": [] },
            "status": { "images": [{ "names": ["x"] }] },
        });
        let kept = json!({ "metadata": { "name": "node1" }, "status": {} });
        assert_eq!(Value::from(&part(&node).0), kept);
    }
}
