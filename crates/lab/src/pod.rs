//! A pod, and the plugin call that attaches it.
//!
//! Owns the part of a container runtime: the namespace, its loopback, and the plugin, called as the
//! CNI specification says. What the plugin answers is kept with the node, so that another program
//! finds the pod's addresses.

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};
use ipnet::IpNet;
use overlay_proto::Family;
use serde_json::Value;

use super::files;
use super::netns::Netns;
use super::node::Node;
use super::plan::{MAX_PODS, Place};
use super::policy::POD_NAMESPACE;
use super::render;

/// The interface that a pod gets.
pub const POD_INTERFACE: &str = "eth0";

/// A pod of a lab. A value is a description: dropping it removes nothing.
#[derive(Clone, Debug)]
pub struct Pod {
    node: u16,
    index: u16,
    netns: Netns,
    addresses: Vec<IpNet>,
}

impl Pod {
    /// Name in the lab: `node1-pod1`.
    #[must_use]
    pub fn name(&self) -> String {
        Place::Pod(self.node, self.index).to_string()
    }

    /// Number of its node.
    #[must_use]
    pub const fn node(&self) -> u16 {
        self.node
    }

    /// Its number on the node.
    #[must_use]
    pub const fn index(&self) -> u16 {
        self.index
    }

    /// Its namespace.
    #[must_use]
    pub const fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The addresses that the plugin gave it, with the prefix length of their subnet.
    #[must_use]
    pub fn addresses(&self) -> &[IpNet] {
        &self.addresses
    }

    /// Its address in `family`.
    ///
    /// # Panics
    ///
    /// The pod has none: the lab was built without the family.
    #[must_use]
    #[track_caller]
    pub fn address(&self, family: Family) -> IpAddr {
        let found = self.addresses.iter().map(IpNet::addr).find(|addr| Family::of(*addr) == family);
        let Some(address) = found else {
            panic!("{} has no {family} address, only {:?}", self.name(), self.addresses);
        };
        address
    }

    /// Its IPv4 address.
    ///
    /// # Panics
    ///
    /// The pod has none.
    #[must_use]
    #[track_caller]
    pub fn ipv4(&self) -> IpAddr {
        self.address(Family::V4)
    }

    /// Its IPv6 address.
    ///
    /// # Panics
    ///
    /// The pod has none.
    #[must_use]
    #[track_caller]
    pub fn ipv6(&self) -> IpAddr {
        self.address(Family::V6)
    }
}

impl Node {
    /// The pods that are attached, in their order.
    #[must_use]
    pub fn pods(&self) -> Vec<Pod> {
        let Ok(entries) = fs::read_dir(self.pods_dir()) else {
            return Vec::new();
        };
        let mut pods: Vec<Pod> = entries
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let complete = path.extension()? == "json";
                complete.then(|| path.file_stem()?.to_str()?.parse().ok()).flatten()
            })
            .filter_map(|index| self.pod(index))
            .collect();
        pods.sort_by_key(|pod| pod.index);
        pods
    }

    /// Attaches one more pod: a namespace, and what the plugin makes of it.
    ///
    /// # Errors
    ///
    /// The node has no number left, or namespace or plugin failed; nothing of the pod stays.
    pub fn add_pod(&self) -> Result<Pod> {
        let taken: Vec<u16> = self.pods().iter().map(|pod| pod.index).collect();
        let index = (1..=MAX_PODS)
            .find(|index| !taken.contains(index))
            .with_context(|| format!("{} has {MAX_PODS} pods already", self.name()))?;
        let pod = self.unattached(index);
        Netns::create_all(std::slice::from_ref(&pod.netns))?;
        self.attach(index).inspect_err(|_| {
            let _ = pod.netns.delete();
            if let Some(policies) = &self.lab.policies {
                let _ = policies.remove(&self.lab.plan.name, &pod.name());
            }
        })
    }

    /// Detaches pod `index` with the plugin's DEL and removes its namespace.
    ///
    /// # Errors
    ///
    /// There is no such pod, the plugin failed, or the namespace could not be removed.
    pub fn remove_pod(&self, index: u16) -> Result<()> {
        let pod = self.pod(index).with_context(|| format!("{} has no pod {index}", self.name()))?;
        self.cni("DEL", &pod)?;
        pod.netns.delete()?;
        if let Some(policies) = &self.lab.policies {
            policies.remove(&self.lab.plan.name, &pod.name())?;
        }
        fs::remove_file(self.answer_path(index)).context("forget the pod")
    }

    /// Calls the plugin for `pod` with `verb`, as a runtime on this node would: CHECK and DEL also
    /// get the answer to ADD. Returns what the plugin printed, null for nothing.
    ///
    /// # Errors
    ///
    /// The plugin failed; its message is part of the error.
    pub fn cni(&self, verb: &str, pod: &Pod) -> Result<Value> {
        self.cni_with(verb, pod, &Value::Null)
    }

    /// The same with a `runtimeConfig`, which is what the runtime wants for this one pod.
    ///
    /// # Errors
    ///
    /// As [`Node::cni`].
    pub fn cni_with(&self, verb: &str, pod: &Pod, runtime: &Value) -> Result<Value> {
        let mut config = self.cni_config();
        config["runtimeConfig"] = runtime.clone();
        if verb != "ADD"
            && let Ok(text) = fs::read_to_string(self.answer_path(pod.index))
        {
            config["prevResult"] = serde_json::from_str(&text).context("read the answer to ADD")?;
        }
        self.call_plugin(verb, pod, &config)
    }

    /// The network configuration that a runtime on this node hands to the plugin.
    #[must_use]
    pub fn cni_config(&self) -> Value {
        render::cni_config(&self.run_dir(), &self.state_dir())
    }

    /// Attaches pod `index`, whose namespace exists.
    pub(super) fn attach(&self, index: u16) -> Result<Pod> {
        let mut pod = self.unattached(index);
        let attach = || {
            pod.netns.set_sysctl("ipv4/ip_forward", "0")?;
            // A runtime brings up the loopback; the plugin owns the other interface only.
            pod.netns.ip("link set lo up\n")?;
            self.write_object(&pod)?;
            self.cni("ADD", &pod)
        };
        let answer = attach().with_context(|| format!("attach {}", pod.name()))?;
        pod.addresses = addresses(&answer).with_context(|| {
            format!("read what the plugin answered for {}: {answer}", pod.name())
        })?;
        ensure!(!pod.addresses.is_empty(), "the plugin gave {} no address", pod.name());
        fs::create_dir_all(self.pods_dir()).context("create the directory of pods")?;
        files::write(&self.answer_path(index), &answer.to_string())?;
        self.write_object(&pod)?;
        Ok(pod)
    }

    /// Tells whoever enforces policies of the pod.
    fn write_object(&self, pod: &Pod) -> Result<()> {
        let Some(policies) = &self.lab.policies else { return Ok(()) };
        let addresses: Vec<_> = pod.addresses.iter().map(IpNet::addr).collect();
        policies.write(&self.lab.plan.name, self.name(), &pod.name(), &addresses)
    }

    /// Pod `index`, if it is attached.
    pub(super) fn pod(&self, index: u16) -> Option<Pod> {
        let text = fs::read_to_string(self.answer_path(index)).ok()?;
        let answer = serde_json::from_str(&text).ok()?;
        Some(Pod { addresses: addresses(&answer).ok()?, ..self.unattached(index) })
    }

    /// Pod `index` before it has addresses.
    pub(super) fn unattached(&self, index: u16) -> Pod {
        let netns = Netns::named(self.lab.plan.namespace(Place::Pod(self.index, index)));
        Pod { node: self.index, index, netns, addresses: Vec::new() }
    }

    fn call_plugin(&self, verb: &str, pod: &Pod, config: &Value) -> Result<Value> {
        let plugin = &self.lab.plugin;
        let mut child = self
            .netns()
            .command(plugin)
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", pod.netns.name())
            .env("CNI_NETNS", pod.netns.path())
            .env("CNI_IFNAME", POD_INTERFACE)
            .env("CNI_ARGS", cni_args(pod))
            .env("CNI_PATH", plugin.parent().unwrap_or_else(|| Path::new("/")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("run {}", plugin.display()))?;
        let mut stdin = child.stdin.take().context("open a pipe")?;
        // A plugin that did not read its configuration says why; that is the error to report.
        let written = stdin.write_all(config.to_string().as_bytes());
        drop(stdin);
        let output = child.wait_with_output().context("wait for the plugin")?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let said = format!("{} {}", stdout.trim(), stderr.trim());
            let said = if said == " " { "it said nothing" } else { said.trim() };
            bail!("culvert-cni {verb}: {}, {said}", output.status);
        }
        written.context("write to the plugin")?;
        if stdout.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&stdout).with_context(|| format!("read `{stdout}`"))
    }

    fn pods_dir(&self) -> PathBuf {
        self.dir().join("pods")
    }

    fn answer_path(&self, index: u16) -> PathBuf {
        self.pods_dir().join(format!("{index}.json"))
    }
}

/// What a runtime of Kubernetes tells of the pod.
fn cni_args(pod: &Pod) -> String {
    let name = pod.name();
    format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={POD_NAMESPACE};K8S_POD_NAME={name}")
}

/// The addresses in a plugin's answer to ADD.
fn addresses(answer: &Value) -> Result<Vec<IpNet>> {
    let ips = answer["ips"].as_array().context("it lists no `ips`")?;
    ips.iter()
        .map(|ip| {
            let text = ip["address"].as_str().context("an entry of `ips` has no `address`")?;
            text.parse().with_context(|| format!("`{text}` is no address with prefix length"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_come_from_the_answer() {
        let answer = json!({"cniVersion": "1.0.0", "ips": [
            {"address": "10.244.1.2/24", "gateway": "10.244.1.1"},
            {"address": "fd00:10:244:1::2/64"},
        ]});
        let found: Vec<String> =
            addresses(&answer).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.244.1.2/24", "fd00:10:244:1::2/64"]);
        assert!(addresses(&json!({})).is_err());
        assert!(addresses(&json!({"ips": [{"address": "10.244.1.2"}]})).is_err());
    }
}
