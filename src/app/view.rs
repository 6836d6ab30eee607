//! What the daemon shows of itself, gathered when somebody asks.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::config::{Config, TableSource};
use crate::dataplane::DataPlane;
use crate::engine::{DropReason, Peer, Table};
use crate::explain::{Devices, explain};
use crate::lifecycle::{Readiness, State};
use crate::observe::{
    ExplainSource, PeerStatus, Status, StatusSource, TableStatus, TunnelStatus, UnderlayStatus,
};
use crate::platform::clock;

/// Facts that the daemon's main loop knows and others may look at.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) repairs: AtomicU64,
    pub(super) generation: AtomicU64,
    pub(super) table_error: Mutex<Option<String>>,
    pub(super) mtu: Mutex<u16>,
}

impl Facts {
    pub(super) fn set_table_error(&self, error: Option<String>) {
        *self.table_error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    pub(super) fn set_mtu(&self, mtu: u16) {
        *self.mtu.lock().unwrap_or_else(PoisonError::into_inner) = mtu;
    }
}

/// Makes the function that gathers a [`Status`].
pub(super) fn status_source(
    config: &Config,
    plane: Arc<DataPlane>,
    facts: Arc<Facts>,
    readiness: Readiness,
    started: Instant,
) -> StatusSource {
    let address = config.underlay.address;
    let source = match &config.table {
        TableSource::File { path } => format!("file {}", path.display()),
    };
    Arc::new(move || {
        let table = plane.table();
        let age = clock::now().saturating_duration_since(started);
        let not_ready_because = match readiness.state() {
            State::Ready => None,
            State::NotReady(reason) => Some(reason),
        };
        Status {
            node: table.local().name.clone(),
            ready: not_ready_because.is_none(),
            not_ready_because,
            uptime_seconds: age.as_secs_f64(),
            mtu: *facts.mtu.lock().unwrap_or_else(PoisonError::into_inner),
            vni: table.vni().get(),
            subnets: table.local().subnets.clone(),
            underlay: underlay_status(&table, address),
            table: TableStatus {
                source: source.clone(),
                generation: facts.generation.load(Ordering::Relaxed),
                nodes: table.peers().len() + 1,
                error: facts.table_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            },
            offload: plane.offload().as_str().to_owned(),
            workers: plane.workers(),
            peers: table.peers().iter().map(|peer| peer_status(peer, age.as_secs_f64())).collect(),
            drops: DropReason::ALL
                .into_iter()
                .map(|reason| (reason.as_str().to_owned(), plane.drops(reason)))
                .collect(),
            icmp_replies: plane.replies(),
            offload_refusals: plane.degraded(),
            repairs: facts.repairs.load(Ordering::Relaxed),
        }
    })
}

fn underlay_status(table: &Table, address: Option<IpAddr>) -> UnderlayStatus {
    let local = table.local();
    let tunnels = local.tunnels.iter();
    UnderlayStatus {
        address: address.unwrap_or(local.address),
        port: local.tunnels.first().map_or(0, |tunnel| tunnel.port),
        tunnels: tunnels
            .map(|tunnel| TunnelStatus { codec: tunnel.codec.to_string(), port: tunnel.port })
            .collect(),
        mac: local.mac.to_string(),
    }
}

/// Makes the function that answers questions about packets by the table that workers have.
pub(super) fn explain_source(config: &Config, plane: Arc<DataPlane>) -> ExplainSource {
    let devices = Devices { bridge: config.bridge.name.clone(), tun: config.tun.name.clone() };
    Arc::new(move |question| Ok(explain(&plane.table(), &devices, question)?))
}

fn peer_status(peer: &Peer, age_seconds: f64) -> PeerStatus {
    PeerStatus {
        name: peer.name.clone(),
        address: peer.address(),
        subnets: peer.subnets.clone(),
        codec: peer.codec.to_string(),
        port: peer.endpoint.port(),
        mtu: peer.mtu.get(),
        egress: peer.counters.egress(),
        ingress: peer.counters.ingress(),
        last_heard_seconds: peer.counters.last_heard_ms().map(|ms| {
            let heard = std::time::Duration::from_millis(ms).as_secs_f64();
            (age_seconds - heard).max(0.0)
        }),
    }
}
