//! ADD: plug a pod into the node's bridge.
//!
//! The order is: read and check everything, allocate the addresses, make the devices, configure
//! them. What a failed ADD has done it undoes, newest first; the first error is the one reported.

use std::io;

use culvert_nft::Socket as Nftables;
use serde_json::Value;

use super::Call;
use super::del::nftables;
use super::plug::Plug;
use crate::config::bad;
use crate::error::{Error, Failure};
use crate::fault::Step;
use crate::netlink::{self, Socket};
use crate::plan::Plan;
use crate::result::CniResult;
use culvert_node::ipam::{Store, Surveyor};
use culvert_node::netns::{Netns, OwnNetns};
use culvert_node::node_file::NodeFile;

pub(super) fn add(call: &Call<'_>) -> Result<Value, Failure> {
    let settings = call.settings()?;
    let version = call.config.version;
    let prev_result = call.config.prev_result.as_ref();
    let mut result = prev_result.map_or_else(|| Ok(CniResult::default()), CniResult::parse)?;
    let netns = Netns::open(call.netns()?)?;
    let node = read_node_file(call)?;
    if node.policy && !settings.source_check {
        return Err(Failure::from(Error::PolicyUnchecked));
    }
    let plan = Plan::new(&settings, &node)?;
    let coming = plan.coming();
    if !result.has_room(version, &coming) {
        let remedy = "a result of this version has room for one address of each family, and the pod \
                      gets more; use 0.3.0 or later";
        return Err(Failure::from(bad("cniVersion", &Value::from(version.as_str()), remedy)));
    }
    let mut host = Socket::open()?;
    let Some(bridge) = host.link(&node.bridge)? else {
        return Err(Failure::from(Error::BridgeMissing {
            bridge: node.bridge,
            path: NodeFile::path(&call.config.run_dir),
        }));
    };
    // Like the other socket it belongs to the namespace that it is opened in.
    let nftables = if settings.source_check {
        Some(Nftables::open().map_err(Error::source_check)?)
    } else {
        nftables()?
    };
    let mut surveyor = Surveyor::open()?;
    // What is left to do on the host goes through the sockets; only a parameter has to come back.
    let host_netns = OwnNetns::open()?;
    netns.enter()?;
    let pod = Socket::open()?;
    let ifname = call.attachment.ifname();
    if netlink::index_of(&pod, ifname)?.is_some() {
        return Err(Failure::from(Error::InterfaceTaken {
            ifname: ifname.to_owned(),
            netns: netns.path().to_owned(),
        }));
    }
    call.reached(Step::Checked);
    let mut store = Store::open_or_create(&call.config.state_dir, &mut surveyor)?;
    store.follow(&call.config.run_dir);
    let mut plug = Plug {
        store,
        surveyor,
        host_device: call.attachment.host_device(),
        call,
        settings: &settings,
        plan: &plan,
        netns: &netns,
        node: &node,
        bridge: &bridge,
        host,
        host_netns,
        nftables,
        pod,
        has_addresses: false,
        has_devices: false,
        admitted: Vec::new(),
    };
    let plugged =
        plug.run().map_err(|first| Failure { first: Box::new(first), later: plug.undo() });
    if let Some(restored) = plug.store.restored() {
        call.warnings.add(restored);
    }
    let plugged = plugged?;
    result.append(version, plugged);
    result.set_dns(settings.dns.as_ref());
    Ok(result.into_document(version))
}

fn read_node_file(call: &Call<'_>) -> Result<NodeFile, Error> {
    let run_dir = &call.config.run_dir;
    NodeFile::read(run_dir).map_err(|source| {
        let path = NodeFile::path(run_dir);
        if source.kind() == io::ErrorKind::NotFound {
            Error::NodeNotReady { path }
        } else {
            Error::NodeFile { path, source }
        }
    })
}
