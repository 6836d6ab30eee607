//! A status, gathered when somebody looks.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use culvert_dataplane::engine::{DropReason, Local, SENDERS_KEPT, Table};
use culvert_dataplane::platform::clock;
use culvert_dataplane::{DataPlane, HandshakeTimes};
use culvert_node::ipam::Range;
use culvert_seal::Suite;
use culvert_seal::mesh::Role;
use ipnet::IpNet;

use super::peers::{count_paths, count_sessions, tally, with_paths};
use super::{Facts, locked};
use crate::app::drop_history::MINUTE;
use crate::app::feed::Following;
use crate::app::probes::BOUNDS;
use crate::config::Config;
use crate::control::source;
use crate::lifecycle::Readiness;
use crate::observe::{
    AddressUse, Handshakes, LastDrop, Observed, PeerStatus, PeerTotals, ProbeStatus, ProcessStatus,
    SCHEMA, Scrape, SealedStatus, Status, StatusSource, TableStatus, Tally, Times, TunnelStatus,
    UnderlayStatus,
};
use crate::platform::process;

/// Makes what shows the daemon, at any time from before the first table on.
pub(in crate::app) fn status_source(
    config: &Config,
    facts: Arc<Facts>,
    readiness: Readiness,
) -> StatusSource {
    let source = source::describe(&config.table);
    Arc::new(View { config: config.clone(), source, facts, readiness })
}

struct View {
    config: Config,
    /// The table source, in words.
    source: String,
    facts: Arc<Facts>,
    readiness: Readiness,
}

impl Observed for View {
    fn status(&self) -> Status {
        let (now, table) = (clock::now(), self.table());
        let peers = table.iter().flat_map(|table| table.peers());
        let peers = with_paths(peers, &self.facts, now).collect();
        self.gather(table.as_deref(), peers, now)
    }

    fn node(&self) -> Status {
        self.gather(self.table().as_deref(), Vec::new(), clock::now())
    }

    fn scrape(&self, choose: &mut dyn FnMut(&[Tally<'_>]) -> Vec<usize>) -> Scrape {
        let (now, table) = (clock::now(), self.table());
        let peers = table.as_ref().map_or(&[][..], |table| table.peers());
        let tallies: Vec<_> = peers.iter().map(tally).collect();
        let chosen = choose(&tallies).into_iter().filter_map(|place| peers.get(place));
        let chosen = with_paths(chosen, &self.facts, now).collect();
        let mut totals = PeerTotals::default();
        count_paths(peers.len(), &self.facts, &mut totals);
        count_sessions(peers, now, &mut totals);
        Scrape { node: self.gather(table.as_deref(), Vec::new(), now), totals, chosen }
    }
}

impl View {
    /// The table in force.
    fn table(&self) -> Option<Arc<Table>> {
        Some(self.facts.plane.get()?.table())
    }

    fn gather(&self, table: Option<&Table>, peers: Vec<PeerStatus>, now: Instant) -> Status {
        let uptime = now.saturating_duration_since(self.facts.started).as_secs_f64();
        let missing = self.readiness.missing();
        let standing = locked(&self.facts.standing).clone();
        let plane = self.facts.plane.get();
        let local = table.map(|table| table.local());
        let fragmented = plane.map(|plane| plane.fragmented()).unwrap_or_default();
        let receive_drops = plane.and_then(|plane| plane.receive_drops());
        Status {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.config.node.name.clone(),
            ready: missing.is_empty(),
            missing,
            uptime_seconds: uptime,
            mtu: *locked(&self.facts.mtu),
            vni: table.map_or(self.config.network.vni, |table| table.vni()).get(),
            subnets: local.map(|local| local.subnets.clone()).unwrap_or_default(),
            underlay: underlay_status(local, self.config.underlay.address),
            table: TableStatus {
                source: self.source.clone(),
                current: standing.following == Following::Current,
                age_seconds: match &standing.following {
                    Following::Current => 0.0,
                    Following::Waiting => uptime,
                    Following::Lost { since, .. } => {
                        now.saturating_duration_since(*since).as_secs_f64()
                    }
                },
                source_error: match standing.following {
                    Following::Lost { why, .. } => Some(why),
                    Following::Waiting | Following::Current => None,
                },
                hash: table.map(|table| table.digest().to_string()).unwrap_or_default(),
                generation: self.facts.generation.load(Ordering::Relaxed),
                nodes: table.map_or(0, |table| table.peers().len() + 1),
                error: standing.malformed.or(standing.refused).or(standing.differs),
                left_out: standing.left_out,
                contested: standing.contested.or_else(|| locked(&self.facts.address).clone()),
            },
            stranded: locked(&self.facts.stranded).clone(),
            hints: {
                let unserved = locked(&self.facts.observe).clone();
                unserved.into_iter().chain(locked(&self.facts.hints).clone()).collect()
            },
            sealed: sealed_status(&self.facts, now),
            policy: locked(&self.facts.policy).clone(),
            offload: plane.map(|plane| plane.offload()).unwrap_or_default(),
            workers: plane.map_or(0, |plane| plane.workers()),
            peers,
            probes: probe_status(&self.facts, plane.map(|plane| &**plane)),
            drops: DropReason::ALL
                .into_iter()
                .map(|reason| (reason, plane.map_or(0, |plane| plane.drops(reason))))
                .collect(),
            last_drops: last_drops(&self.facts, plane.map(|plane| &**plane), now),
            receive_drops: receive_drops.map(|drops| drops.late),
            receive_damaged: receive_drops.map(|drops| drops.damaged),
            tun_drops: *locked(&self.facts.tun_drops),
            addresses: address_use(
                local.map_or(&[], |local| &local.subnets),
                &locked(&self.facts.held),
            ),
            process: process_status(self.facts.started_unix),
            icmp_replies: plane.map_or(0, |plane| plane.replies()),
            fragmented_packets: fragmented.0,
            fragments: fragmented.1,
            offload_refusals: plane.map_or(0, |plane| plane.degraded()),
            repairs: self.facts.repairs.load(Ordering::Relaxed),
        }
    }
}

/// The newest drop for each reason that has occurred.
fn last_drops(
    facts: &Facts,
    plane: Option<&DataPlane>,
    now: Instant,
) -> BTreeMap<DropReason, LastDrop> {
    let Some(plane) = plane else { return BTreeMap::new() };
    let history = locked(&facts.drop_history);
    let of = |reason| {
        let newest = plane.last_drops(reason);
        let last = newest.first()?;
        let age = |at| now.saturating_duration_since(at);
        let lately = newest.iter().filter(|it| age(it.at) <= MINUTE);
        Some(LastDrop {
            seconds_ago: age(last.at).as_secs_f64(),
            last_minute: history.in_last_minute(reason, plane.drops(reason), now),
            from: last.from,
            senders: lately.filter_map(|it| it.from).take(SENDERS_KEPT).collect(),
        })
    };
    DropReason::ALL.into_iter().filter_map(|reason| Some((reason, of(reason)?))).collect()
}

/// What was counted of questions and answers.
fn probe_status(facts: &Facts, plane: Option<&DataPlane>) -> ProbeStatus {
    let (answered, refused) = plane.map(DataPlane::probes_answered).unwrap_or_default();
    let Some((known, _)) = facts.probes.get() else { return ProbeStatus::default() };
    let known = locked(known);
    ProbeStatus {
        interval_seconds: known.interval.as_secs(),
        rtt_bounds: BOUNDS.to_vec(),
        rtt_counts: known.rtt.counts.to_vec(),
        rtt_sum: known.rtt.sum,
        answered,
        refused,
    }
}

/// How many addresses of each subnet are among those that are `held`.
fn address_use(subnets: &[IpNet], held: &[IpAddr]) -> Vec<AddressUse> {
    let of_subnet = |subnet: &IpNet| {
        let used = held.iter().filter(|address| subnet.contains(*address)).count() as u64;
        let free = Range::whole(*subnet).capacity().saturating_sub(used.into());
        #[expect(clippy::cast_precision_loss, reason = "of 2^64 addresses nobody counts the last")]
        let free = free as f64;
        AddressUse { subnet: *subnet, used, free }
    };
    subnets.iter().map(of_subnet).collect()
}

/// What this process takes; nothing where /proc cannot be read.
fn process_status(started: f64) -> ProcessStatus {
    let Some(usage) = process::usage() else { return ProcessStatus::default() };
    ProcessStatus {
        cpu_seconds: usage.cpu.as_secs_f64(),
        resident_bytes: usage.resident_bytes,
        virtual_bytes: usage.virtual_bytes,
        open_files: usage.open_files,
        open_files_limit: usage.open_files_limit,
        threads: usage.threads,
        started,
    }
}

/// How it stands with this node's keys.
fn sealed_status(facts: &Facts, now: Instant) -> SealedStatus {
    let (sealed, in_use_since) = locked(&facts.sealed).clone();
    let in_use_seconds =
        in_use_since.map(|since| now.saturating_duration_since(since).as_secs_f64());
    let handshakes = facts.plane.get().map(|plane| handshakes(plane)).unwrap_or_default();
    SealedStatus { in_use_seconds, handshakes, ..sealed }
}

/// What was counted of handshakes.
fn handshakes(plane: &DataPlane) -> Handshakes {
    let Some(counters) = plane.sealed_counters() else { return Handshakes::default() };
    let mut made = BTreeMap::new();
    for role in [Role::Initiator, Role::Responder] {
        for suite in Suite::ALL {
            let key = format!("{} {suite}", role.as_str());
            made.insert(key, counters.established(role, suite));
        }
    }
    let failed = counters.failures().map(|(role, failure, count)| {
        let key = format!("{} {}", role.as_str(), failure.as_str());
        (key, count)
    });
    Handshakes {
        made,
        failed: failed.collect(),
        refused: plane.refused_handshakes(),
        sessions_ended: counters.ended(),
        seconds: [Role::Initiator, Role::Responder]
            .map(|role| (role.as_str().to_owned(), times(counters.times(role))))
            .into(),
    }
}

fn times(HandshakeTimes { counts, sum }: HandshakeTimes) -> Times {
    let [counts @ .., longer] = counts;
    Times { buckets: HandshakeTimes::BOUNDS.into_iter().zip(counts).collect(), longer, sum }
}

/// What is known of the tunnels' ends here; `address` is what the configuration says.
fn underlay_status(local: Option<&Local>, address: Option<IpAddr>) -> UnderlayStatus {
    let tunnels = local.map_or(&[][..], |local| &local.tunnels);
    let sealed_port = || local?.sealed_port;
    UnderlayStatus {
        address: address.or_else(|| Some(local?.address)),
        port: tunnels.first().map(|tunnel| tunnel.port).or_else(sealed_port).unwrap_or_default(),
        tunnels: tunnels
            .iter()
            .map(|tunnel| TunnelStatus { codec: tunnel.codec, port: tunnel.port })
            .collect(),
        sealed_port: local.and_then(|local| local.sealed_port),
        mac: local.map(|local| local.mac.to_string()),
    }
}
