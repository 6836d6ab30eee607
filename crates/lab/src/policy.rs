//! Pods as objects, for a lab in which network policies are enforced.
//!
//! Owns the part of an API server: an object for each pod, in the directory that the daemons read,
//! at first without addresses and once the pod is attached with them. What is in the directory
//! beside these files is the user's.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::files;

/// The namespace that a lab's pods are in.
pub const POD_NAMESPACE: &str = "default";

/// The policies of a lab.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Policies {
    /// The directory that the daemons read.
    pub(crate) directory: PathBuf,
    /// Labels of single pods beside those that every pod has.
    pub(crate) labels: BTreeMap<String, BTreeMap<String, String>>,
}

impl Policies {
    /// Writes the object of a pod on `node`; without addresses, it is about to be attached.
    pub(super) fn write(
        &self,
        lab: &str,
        node: &str,
        pod: &str,
        addresses: &[IpAddr],
    ) -> Result<()> {
        let mut labels = BTreeMap::from([("node", node), ("pod", pod)]);
        if let Some(own) = self.labels.get(pod) {
            labels.extend(own.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        }
        let mut object = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": pod, "namespace": POD_NAMESPACE, "labels": labels },
            "spec": { "nodeName": node, "containers": [] },
            "status": { "phase": "Pending" },
        });
        if !addresses.is_empty() {
            let list: Vec<_> = addresses.iter().map(|address| json!({ "ip": address })).collect();
            object["status"] = json!({
                "phase": "Running",
                "podIP": addresses[0],
                "podIPs": list,
            });
        }
        files::write(&self.path(lab, pod), &format!("{object:#}\n"))
    }

    /// Removes the object of a pod that is gone.
    pub(super) fn remove(&self, lab: &str, pod: &str) -> Result<()> {
        let path = self.path(lab, pod);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Removes the objects of every pod of the lab.
    pub(super) fn remove_all(&self, lab: &str) -> Result<()> {
        let Ok(entries) = fs::read_dir(&self.directory) else { return Ok(()) };
        let first = prefix(lab);
        for entry in entries.flatten() {
            let name = entry.file_name();
            let pod =
                name.to_str().and_then(|name| name.strip_prefix(&first)?.strip_suffix(".json"));
            if let Some(pod) = pod.filter(|pod| pod.parse::<super::plan::Place>().is_ok()) {
                self.remove(lab, pod)?;
            }
        }
        Ok(())
    }

    fn path(&self, lab: &str, pod: &str) -> PathBuf {
        self.directory.join(format!("{}{pod}.json", prefix(lab)))
    }
}

/// How the names of a lab's files begin.
fn prefix(lab: &str) -> String {
    format!("lab-{lab}-")
}

/// A label for a pod, as the command line has it: `node1-pod1=app=web`.
///
/// # Errors
///
/// It is something else.
pub(super) fn parse_label(text: &str) -> Result<(String, String, String)> {
    let mut parts = text.splitn(3, '=').map(str::to_owned);
    let found = (parts.next(), parts.next(), parts.next());
    let (Some(pod), Some(key), Some(value)) = found else {
        anyhow::bail!("`{text}` is no label of a pod: say `node1-pod1=app=web`");
    };
    ensure!(!pod.is_empty() && !key.is_empty(), "`{text}` names no pod, or no key");
    Ok((pod, key, value))
}

/// The whole path of a directory, which must exist.
pub(super) fn directory(path: &Path) -> Result<PathBuf> {
    let whole = fs::canonicalize(path).with_context(|| format!("open {}", path.display()))?;
    ensure!(whole.is_dir(), "{} is no directory", path.display());
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn object_of_a_pod_gets_its_addresses_when_it_has_them() {
        let directory = tempfile::tempdir().unwrap();
        let own = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        let policies = Policies {
            directory: directory.path().to_owned(),
            labels: BTreeMap::from([("node1-pod1".to_owned(), own)]),
        };
        let read = || -> Value {
            let text = fs::read_to_string(policies.path("lab", "node1-pod1")).unwrap();
            serde_json::from_str(&text).unwrap()
        };
        policies.write("lab", "node1", "node1-pod1", &[]).unwrap();
        assert_eq!(read()["metadata"]["labels"]["app"], "web");
        assert!(read()["status"].get("podIPs").is_none());
        policies.write("lab", "node1", "node1-pod1", &[[10, 244, 1, 2].into()]).unwrap();
        assert_eq!(read()["status"]["podIPs"][0]["ip"], "10.244.1.2");
        fs::write(directory.path().join("lab-lab-mine.json"), "{}").unwrap();
        policies.remove_all("lab").unwrap();
        let left: Vec<_> = fs::read_dir(directory.path()).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn label_names_pod_key_and_value() {
        let label = parse_label("node1-pod1=app=a=b").unwrap();
        assert_eq!(label, ("node1-pod1".into(), "app".into(), "a=b".into()));
        for text in ["", "node1-pod1", "node1-pod1=app", "=app=web", "node1-pod1==web"] {
            assert!(parse_label(text).is_err(), "{text}");
        }
    }
}
