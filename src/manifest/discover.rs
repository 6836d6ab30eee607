//! What a cluster says of its networks: kubeadm's configuration, the ServiceCIDRs, the Nodes.
//!
//! No API tells the pod network of every cluster. Where kubeadm has written it down it is taken;
//! where nobody has, whoever installs has to say it, and is told what the Nodes have.

use std::process::Command;

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use serde_json::Value;

use super::values::Values;

/// Asks a question of `kubectl`; none, if the cluster has nothing of the kind.
pub(super) type Ask<'a> = &'a mut dyn FnMut(&[&str]) -> Result<Option<Value>>;

const NODES: &[&str] = &["get", "nodes"];
const KUBEADM: &[&str] = &["--namespace", "kube-system", "get", "configmap", "kubeadm-config"];
const SERVICES: &[&str] = &["get", "servicecidrs.networking.k8s.io"];

/// Networks that whoever installs has named: the cluster need not say these.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Named {
    pub(super) cidrs: bool,
    pub(super) service_cidrs: bool,
}

/// Puts what the cluster says into `values`, in which is already what was named.
pub(super) fn put(values: &mut Values, named: Named, ask: Ask<'_>) -> Result<()> {
    let nodes = ask(NODES)?.context("the cluster does not tell its nodes")?;
    let assigned: Vec<IpNet> = items(&nodes)
        .flat_map(|node| node["spec"]["podCIDRs"].as_array().into_iter().flatten())
        .filter_map(|cidr| cidr.as_str()?.parse().ok())
        .collect();
    let kubeadm = ask(KUBEADM)?.unwrap_or_default();
    let text = kubeadm["data"]["ClusterConfiguration"].as_str().unwrap_or_default();
    let who = if named.cidrs {
        "--set cidrs says"
    } else {
        let Some(cidrs) = word(text, "podSubnet") else {
            let some: Vec<String> = assigned.iter().take(3).map(ToString::to_string).collect();
            bail!(
                "the cluster does not say what its pod network is (there is no podSubnet of kubeadm); \
                 its nodes have {}: say --set cidrs=NETWORK, the --cluster-cidr of \
                 kube-controller-manager",
                if some.is_empty() { "no podCIDR either".to_owned() } else { some.join(", ") }
            );
        };
        values.cidrs = networks(cidrs);
        "kubeadm says"
    };
    let is_inside = |net: &IpNet| {
        let known = values.cidrs.iter().filter_map(|cidr| cidr.parse::<IpNet>().ok());
        known.into_iter().any(|cidr| cidr.contains(net))
    };
    if let Some(stray) = assigned.iter().find(|net| !is_inside(net)) {
        bail!(
            "{who} that the pod network is {}, and a node has {stray}: say --set cidrs=…",
            values.cidrs.join(",")
        );
    }
    if named.service_cidrs {
        return Ok(());
    }
    let services = ask(SERVICES)?.unwrap_or_default();
    let told: Vec<String> = items(&services)
        .flat_map(|it| it["spec"]["cidrs"].as_array().into_iter().flatten())
        .filter_map(|cidr| cidr.as_str().map(str::to_owned))
        .collect();
    values.service_cidrs = if !told.is_empty() {
        told
    } else if let Some(subnet) = word(text, "serviceSubnet") {
        networks(subnet)
    } else {
        bail!(
            "the cluster does not say what its service network is (there are neither ServiceCIDRs nor a \
             serviceSubnet of kubeadm): say --set serviceCidrs=NETWORK, the --service-cluster-ip-range \
             of kube-apiserver"
        );
    };
    Ok(())
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

fn networks(text: &str) -> Vec<String> {
    text.split(',').map(|network| network.trim().to_owned()).collect()
}

/// The value of `key` in what kubeadm writes: YAML, with each of these on a line of its own.
fn word<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut lines = text.lines().filter_map(|line| line.trim().split_once(':'));
    let (_key, value) = lines.find(|(found, _value)| *found == key)?;
    Some(value.trim().trim_matches('"')).filter(|value| !value.is_empty())
}

/// Asks the cluster of the current kubeconfig.
pub(super) fn kubectl(question: &[&str]) -> Result<Option<Value>> {
    let output = Command::new("kubectl")
        .args(question)
        .args(["--output", "json"])
        .output()
        .context("calling kubectl")?;
    if output.status.success() {
        return Ok(Some(
            serde_json::from_slice(&output.stdout).context("reading what kubectl said")?,
        ));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let is_absent = ["(NotFound)", "doesn't have a resource type", "could not find the requested"];
    if is_absent.iter().any(|words| said.contains(words)) {
        return Ok(None);
    }
    bail!("kubectl {}: {}", question.join(" "), said.trim())
}
