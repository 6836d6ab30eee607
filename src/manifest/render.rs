//! The objects as text: the files of `deploy/kubernetes` with some of their lines changed.
//!
//! Every change names the text that it replaces, and fails if that is not there as often as it
//! should be, so that no value is lost when a file changes.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::values::{BIN_DIR, CONF_DIR, Values};
use crate::config::{Config, Overrides};

const NAMESPACE: &str = include_str!("../../deploy/kubernetes/namespace.yaml");
const RBAC: &str = include_str!("../../deploy/kubernetes/rbac.yaml");
const OWN_NODE: &str = include_str!("../../deploy/kubernetes/own-node.yaml");
const OWN_EVENTS: &str = include_str!("../../deploy/kubernetes/own-events.yaml");
const DAEMONSET: &str = include_str!("../../deploy/kubernetes/daemonset.yaml");
const CONFIG: &str = include_str!("../../deploy/kubernetes/config.toml");
const REMOVE: &str = include_str!("../../deploy/kubernetes/remove/daemonset.yaml");

/// Everything, as documents of one file.
pub(super) fn manifest(values: &Values) -> Result<String> {
    let config = config(values)?;
    let mut documents = vec![NAMESPACE.to_owned(), RBAC.to_owned()];
    if values.own_node {
        documents.extend([OWN_NODE, OWN_EVENTS].map(str::to_owned));
    }
    documents.push(config_map(&config));
    documents.push(daemonset(values, &config)?);
    let text: Vec<&str> = documents.iter().map(|document| document.trim_end()).collect();
    Ok(text.join("\n---\n") + "\n")
}

/// What takes all of it off the nodes again, in the place of the daemons.
pub(super) fn removal(values: &Values) -> Result<String> {
    let mut text = REMOVE.to_owned();
    place(&mut text, values)?;
    Ok(text)
}

/// The daemon's configuration, which it would take.
pub(super) fn config(values: &Values) -> Result<String> {
    let mut text = CONFIG.to_owned();
    change(
        &mut text,
        1,
        "\ncidrs = [\"10.244.0.0/16\"]",
        &format!("\ncidrs = {}", list(&values.cidrs)),
    )?;
    change(
        &mut text,
        1,
        "\nservice_cidrs = [\"10.96.0.0/12\"]",
        &format!("\nservice_cidrs = {}", list(&values.service_cidrs)),
    )?;
    change(&mut text, 1, "stand_by = true", &format!("stand_by = {}", values.surge))?;
    change(&mut text, 1, "\nmode = \"prefer\"", &format!("\nmode = \"{}\"", values.sealed))?;
    // What the node's name is, each daemon is told by its pod.
    let overrides = Overrides { node_name: Some("node".to_owned()), ..Overrides::default() };
    Config::parse(Path::new("config.toml"), &text, &overrides)
        .context("the configuration that comes of the values")?;
    Ok(text)
}

fn config_map(config: &str) -> String {
    let indented: Vec<String> = config
        .lines()
        .map(|line| if line.is_empty() { String::new() } else { format!("    {line}") })
        .collect();
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: culvert\n  namespace: culvert\ndata:\n  \
         config.toml: |\n{}\n",
        indented.join("\n")
    )
}

fn daemonset(values: &Values, config: &str) -> Result<String> {
    let mut text = DAEMONSET.to_owned();
    place(&mut text, values)?;
    if !values.surge {
        change(
            &mut text,
            1,
            "      maxSurge: 1\n      maxUnavailable: 0\n",
            "      maxUnavailable: 1\n",
        )?;
    }
    // Another configuration is rolled out like another version: kustomize names the map after it.
    let annotated = format!(
        "\n  template:\n    metadata:\n      annotations:\n        culvert.dev/config: \"{:016x}\"\n",
        digest(config)
    );
    change(&mut text, 1, "\n  template:\n    metadata:\n", &annotated)?;
    Ok(text)
}

/// Says which image it is, and where the nodes have plugins.
fn place(text: &mut String, values: &Values) -> Result<()> {
    change(text, 2, "image: culvert\n", &format!("image: \"{}\"\n", values.image))?;
    change(text, 1, " path: /opt/cni/bin\n", &path(BIN_DIR, &values.cni_bin_dir))?;
    change(text, 1, " path: /etc/cni/net.d\n", &path(CONF_DIR, &values.cni_conf_dir))
}

fn path(known: &str, wanted: &str) -> String {
    if known == wanted { format!(" path: {known}\n") } else { format!(" path: \"{wanted}\"\n") }
}

/// Replaces `from` by `to`, as often as it is there.
fn change(text: &mut String, times: usize, from: &str, to: &str) -> Result<()> {
    let found = text.matches(from).count();
    ensure!(found == times, "{from:?} is there {found} times instead of {times}; this is a bug");
    *text = text.replace(from, to);
    Ok(())
}

fn list(items: &[String]) -> String {
    let quoted: Vec<String> = items.iter().map(|item| format!("\"{item}\"")).collect();
    format!("[{}]", quoted.join(", "))
}

/// FNV-1a: only that it changes with the text matters.
fn digest(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
