//! Of a long document only what policies ask for.
//!
//! A node of a cluster tells of fifty images, and a pod of every volume and of who wrote which
//! field. While a large cluster is listed, what nobody reads would take more memory, and more of a
//! processor, than all that is kept.

use std::fmt;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Value};

use super::kinds::MIRROR;

/// The part of a pod, a namespace or a node that is read here. What a policy says is never read in
/// part: whatever is not understood of it has to be seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part(pub Value);

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        OBJECT.deserialize(deserializer).map(Self)
    }
}

impl From<Part> for Value {
    fn from(part: Part) -> Self {
        part.0
    }
}

/// The fields of an object that are read, each with those below it; none are all.
#[derive(Clone, Copy)]
struct Fields(&'static [(&'static str, Self)]);

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
    /// The fields below the one called `name`, if that is read.
    fn below(self, name: &str) -> Option<Self> {
        if self.0.is_empty() {
            return Some(ALL);
        }
        self.0.iter().find(|(field, _)| *field == name).map(|(_, below)| *below)
    }
}

impl<'de> DeserializeSeed<'de> for Fields {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.0.is_empty() {
            return Value::deserialize(deserializer);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Fields {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut read = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            match self.below(&name) {
                Some(below) => {
                    let value = map.next_value_seed(below)?;
                    read.insert(name, value);
                }
                None => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(Value::Object(read))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut read = Vec::new();
        while let Some(item) = list.next_element_seed(self)? {
            read.push(item);
        }
        Ok(Value::Array(read))
    }

    // What should be an object and is none is for whoever reads it to say.

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::object::Kind;
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
                assert_eq!(read::item(kind, &part.0), read::item(kind, &document), "{document}");
            }
        }
    }

    #[test]
    fn what_nobody_reads_is_not_kept() {
        let node = json!({
            "metadata": { "name": "node1", "managedFields": [] },
            "status": { "images": [{ "names": ["x"] }] },
        });
        assert_eq!(part(&node).0, json!({ "metadata": { "name": "node1" }, "status": {} }));
    }
}
