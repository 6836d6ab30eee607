//! What a node's container runtime and its kernel have of one network or the other.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use culvert_dataplane::platform::clock;
use culvert_node::ipam::{Store, live_pods, to_host_local};
use culvert_node::{bounded_file, readiness};
use ipnet::IpNet;
use overlay_proto::{CodecKind, Vni};
use serde_json::Value;

use super::NodeArgs;
use super::plan::Plan;
use crate::{app, ipam, observe};

/// What is behind the name of flannel's network configuration while it is set aside. Runtimes read
/// files that end in .conf, .conflist or .json.
const ASIDE: &str = "before-culvert";

/// Our network configuration, and the network's name in it, which is that of attachments.
const OUR_LIST: &str = "10-culvert.conflist";
const OUR_NETWORK: &str = "culvert";

/// The bridge of flannel's pods, unless its configuration says otherwise.
const BRIDGE: &str = "cni0";

/// What flannel's daemon, its plugin and ours are called.
const FLANNELD: &str = "flanneld";
const PLUGIN: &str = "flannel";
const OUR_PLUGIN: &str = "culvert-cni";

/// How long calls of a plugin may go on that began before its configuration was taken away.
const CALL: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);

/// Flannel's network configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
struct List {
    /// Where it is in force.
    path: PathBuf,
    is_aside: bool,
    network: String,
    bridge: String,
}

impl List {
    /// Where it is while it is set aside.
    fn aside(&self) -> PathBuf {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        self.path.with_file_name(format!("{name}.{ASIDE}"))
    }

    /// Has `plan` set it aside if it is in force.
    fn set_aside(&self, plan: &mut Plan) {
        if self.is_aside {
            return;
        }
        let (from, to) = (self.path.clone(), self.aside());
        plan.then(format!("set {} aside as {}", from.display(), to.display()), move || {
            Ok(fs::rename(from, to)?)
        });
    }

    /// The one in `conf_dir`.
    fn find(conf_dir: &Path) -> Result<Self> {
        let entries = fs::read_dir(conf_dir)
            .with_context(|| format!("reading {}; name it with --conf-dir", conf_dir.display()))?;
        let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        paths.sort();
        for path in paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let aside = name.strip_suffix(ASIDE).and_then(|name| name.strip_suffix('.'));
            let Ok(text) = bounded_file::read_text(&path, bounded_file::SMALL) else { continue };
            let list: Value = serde_json::from_str(&text).unwrap_or_default();
            let plugins = list["plugins"].as_array();
            let flannel = plugins.into_iter().flatten().find(|it| it["type"] == "flannel");
            let (Some(flannel), Some(network)) = (flannel, list["name"].as_str()) else { continue };
            return Ok(Self {
                path: aside.map_or_else(|| path.clone(), |name| path.with_file_name(name)),
                is_aside: aside.is_some(),
                network: network.to_owned(),
                bridge: flannel["delegate"]["bridge"].as_str().unwrap_or(BRIDGE).to_owned(),
            });
        }
        bail!(
            "{} has no network configuration with the plugin flannel: this is no node of flannel's, or \
             its runtime has them elsewhere (--conf-dir)",
            conf_dir.display()
        )
    }
}

/// This node's subnet, as flanneld told its plugin in `path`.
fn subnet(path: &Path) -> Result<IpNet> {
    const KEY: &str = "FLANNEL_SUBNET=";
    let text = bounded_file::read_text(path, bounded_file::SMALL)
        .with_context(|| format!("reading {}; name it with --subnet-env", path.display()))?;
    let value = text.lines().find_map(|line| line.strip_prefix(KEY));
    let value = value.with_context(|| format!("{} has no {KEY}", path.display()))?;
    let net: IpNet =
        value.trim().parse().with_context(|| format!("{}: {KEY}{value}", path.display()))?;
    Ok(net.trunc())
}

/// Processes of this machine that are called so.
fn processes(name: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let is_it = |entry: &fs::DirEntry| {
        let comm = fs::read(entry.path().join("comm"));
        comm.is_ok_and(|comm| comm.trim_ascii() == name.as_bytes())
    };
    let ids = entries.filter(is_it);
    ids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Waits for calls of a plugin that began before its configuration was taken away: none is to give
/// an address when the addresses have been read. Whoever reads them waits himself, because the
/// command that took the configuration away may have been killed before it waited.
fn wait_for_calls(plugin: &str) -> Result<()> {
    let end = clock::now() + CALL;
    let mut calls = processes(plugin);
    while let Some(call) = calls.first() {
        ensure!(clock::now() < end, "a call of the plugin {plugin} (process {call}) does not end");
        thread::sleep(LOOK);
        let running = processes(plugin);
        calls.retain(|call| running.contains(call));
    }
    Ok(())
}

/// The network identifier that was named.
fn vni(args: &NodeArgs) -> Result<Vni> {
    Vni::new(args.vni).with_context(|| format!("--vni {}", args.vni))
}

/// What makes this node ready for Culvert's daemon.
pub(super) fn over(args: &NodeArgs) -> Result<Plan> {
    let running = processes(FLANNELD);
    ensure!(
        running.is_empty(),
        "flanneld runs here (process {}), and would set its device up again: keep its DaemonSet off \
         this node (`kubectl label node NAME culvert.dev/network=changing`, docs/kubernetes.md), or stop \
         its service",
        running.first().copied().unwrap_or_default()
    );
    ensure!(
        observe::query(&args.run_dir).is_err(),
        "Culvert's daemon serves this node, and its pods may have got addresses that are to be \
         imported: end it here first (`kubectl label --overwrite node NODE \
         culvert.dev/network=changing`)"
    );
    let list = List::find(&args.conf_dir)?;
    let subnet = subnet(&args.subnet_env)?;
    let mut plan = Plan::new(format!(
        "start Culvert's daemon (`kubectl label --overwrite node NAME culvert.dev/network=culvert`) with \
         kubernetes.migrate_from = \"flannel\" and bridge.name = \"{}\"; then \
         `culvert cni install`, unless its DaemonSet does that",
        list.bridge
    ));
    list.set_aside(&mut plan);
    let directory = args.host_local_dir.join(&list.network);
    let (state_dir, run_dir) = (args.state_dir.clone(), args.run_dir.clone());
    // A call that is under way may be the first to make it.
    if directory.exists() || !processes(PLUGIN).is_empty() {
        let what = format!(
            "import the addresses of {} in {subnet} into the store under {}",
            directory.display(),
            state_dir.display()
        );
        plan.then(what, move || {
            wait_for_calls(PLUGIN)?;
            let directories = (state_dir.as_path(), run_dir.as_path());
            ipam::import(&directory, Some(OUR_NETWORK), directories, &[subnet], false).map(drop)
        });
    }
    Ok(plan)
}

/// What gives this node back to flannel.
pub(super) fn back(args: &NodeArgs) -> Result<Plan> {
    let (list, vni) = (List::find(&args.conf_dir)?, vni(args)?);
    app::ensure_no_daemon()?;
    let mut plan = Plan::new(
        "`kubectl annotate node NAME culvert.dev/codec- culvert.dev/port- culvert.dev/address- \
         culvert.dev/public-key-`"
            .to_owned(),
    );
    // From here on the runtime has no network configuration, so that neither plugin gives addresses
    // until the last step. Flannel's DaemonSet puts its own beside ours when it starts.
    list.set_aside(&mut plan);
    let ours = args.conf_dir.join(OUR_LIST);
    if ours.exists() {
        plan.then(format!("remove {}", ours.display()), move || Ok(fs::remove_file(ours)?));
    }
    let device = app::flannel_device(vni);
    plan.then(
        format!("set {device} up, and remove Culvert's devices, routes and rules"),
        move || {
            // It would plug a pod into what is taken away.
            wait_for_calls(OUR_PLUGIN)?;
            app::give_back(vni)
        },
    );
    let directory = args.host_local_dir.join(&list.network);
    let state_dir = args.state_dir.clone();
    let what = format!(
        "hand the addresses of the store under {} to host-local in {}",
        state_dir.display(),
        directory.display()
    );
    plan.then(what, move || {
        wait_for_calls(OUR_PLUGIN)?;
        wait_for_calls(PLUGIN)?;
        hand_over(&state_dir, &directory)
    });
    let (from, to) = (list.aside(), list.path.clone());
    plan.then(format!("put {} in its place", to.display()), move || Ok(fs::rename(from, to)?));
    Ok(plan)
}

/// Empties the store under `state_dir` into host-local's `directory`.
///
/// What host-local has had since the import, and no pod has any more, goes; nothing goes while
/// there are pods whose addresses cannot be seen.
fn hand_over(state_dir: &Path, directory: &Path) -> Result<()> {
    let Some(mut store) = Store::open(state_dir)? else { return Ok(()) };
    let records = store.records()?;
    let living = live_pods()?;
    let nets = living.pods.iter().flat_map(|pod| &pod.addresses);
    let in_use: BTreeSet<IpAddr> = nets.map(IpNet::addr).collect();
    let is_free = |address| living.unseen.is_empty() && !in_use.contains(&address);
    to_host_local(directory, &records, is_free)?;
    store.release_unchanged(&records)?;
    Ok(())
}

/// What removes the rest of flannel from this node.
pub(super) fn finish(args: &NodeArgs) -> Result<Plan> {
    let vni = vni(args)?;
    ensure!(
        processes(FLANNELD).is_empty(),
        "flanneld runs here: this node has not come over (`culvert migrate flannel check`)"
    );
    ensure!(
        readiness::check(&args.run_dir, &args.state_dir).is_ok(),
        "Culvert's daemon is not ready here: this node has not come over, or `culvert status` says what \
         it lacks"
    );
    let served = served_by_flannel(&args.run_dir)?;
    ensure!(
        served.is_empty(),
        "flannel serves other nodes yet, by this node's table ({}): have them come over first",
        served.join(", ")
    );
    let mut plan = Plan::new(
        "once this is done on every node: remove kubernetes.migrate_from from Culvert's configuration, \
         and flannel's DaemonSet, ConfigMap and annotations from the cluster (docs/kubernetes.md)"
            .to_owned(),
    );
    let device = app::flannel_device(vni);
    if app::has_flannel_device(vni)? {
        plan.then(format!("delete {device}"), move || app::delete_flannel_device(vni));
    }
    if let Ok(list) = List::find(&args.conf_dir) {
        // Both, if flannel's DaemonSet has started here again since.
        for path in [list.path.clone(), list.aside()].into_iter().filter(|path| path.exists()) {
            plan.then(format!("remove {}", path.display()), move || Ok(fs::remove_file(path)?));
        }
        let directory = args.host_local_dir.join(&list.network);
        if directory.exists() {
            plan.then(format!("remove {}", directory.display()), move || {
                Ok(fs::remove_dir_all(directory)?)
            });
        }
    }
    let file = args.subnet_env.clone();
    if file.exists() {
        plan.then(format!("remove {}", file.display()), move || Ok(fs::remove_file(file)?));
    }
    Ok(plan)
}

/// The peers that this node's daemon speaks VXLAN with.
fn served_by_flannel(run_dir: &Path) -> Result<Vec<String>> {
    let peers = observe::query(run_dir)?.peers.into_iter();
    let is_flannels = |codec| codec == observe::Spoken::Plain(CodecKind::Vxlan);
    Ok(peers.filter(|peer| is_flannels(peer.codec)).map(|peer| peer.name).collect())
}
