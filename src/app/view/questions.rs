//! What the daemon is asked beside its status, as whoever listens calls it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use culvert_dataplane::DataPlane;
use culvert_dataplane::engine::{DropReason, Peer, Table};
use culvert_dataplane::platform::clock;
use culvert_node::node_file::gateway;
use ipnet::IpNet;
use overlay_proto::DecodeError;
use tokio::task::JoinSet;

use super::{Facts, locked, own_netns};
use crate::app::drop_history::MINUTE;
use crate::app::kernel_facts::KernelFacts;
use crate::app::policy::judgements;
use crate::app::probes::{Pinger, own_half};
use crate::app::senders;
use crate::config::{Config, TableSource};
use crate::control::node::NodeSpec;
use crate::explain::{Node, Question, Refused, Verdict, explain};
use crate::observe::{
    ExplainSource, FailingChecks, FindSource, PingSource, Setup, SetupSource, TablesSource,
    TraceReport, TraceSource,
};

/// Makes the function that asks a peer on behalf of people.
pub(in crate::app) fn ping_source(facts: Arc<Facts>) -> PingSource {
    Arc::new(move |question| {
        let facts = Arc::clone(&facts);
        Box::pin(async move { facts.pinger()?.ping(question).await })
    })
}

/// Peers that are asked what is wrong with them, each of which looks at its kernel for it; of more,
/// none is.
const FEW: usize = 16;

/// How long they may take: their kernels are waited for.
const LOOK_PATIENCE: Duration = Duration::from_millis(1200);

/// Makes the function that asks all peers for their tables, and a few for what is wrong with them.
pub(in crate::app) fn tables_source(facts: Arc<Facts>) -> TablesSource {
    Arc::new(move || {
        let facts = Arc::clone(&facts);
        Box::pin(async move {
            let (pinger, table) = (facts.pinger()?, facts.plane()?.table());
            let failing = failing(pinger.clone(), between_bridges(&table));
            let (tables, failing) = tokio::join!(pinger.tables(), failing);
            let mut tables = tables?;
            for peer in &mut tables {
                let its = failing.iter().find(|it| it.node == peer.node);
                peer.failing = its.map(|it| it.checks.clone());
            }
            Ok(tables)
        })
    })
}

/// A question about a packet from this node's bridge to that of each peer; none where there are too
/// many.
fn between_bridges(table: &Table) -> Vec<Question> {
    let first = |subnets: &[IpNet], is_ipv4: bool| {
        let of_family = subnets.iter().find(|subnet| subnet.addr().is_ipv4() == is_ipv4);
        of_family.map(|subnet| gateway(subnet).addr())
    };
    let own = &table.local().subnets;
    let question = |peer: &Peer| {
        let ends = |is_ipv4| first(own, is_ipv4).zip(first(peer.subnets(), is_ipv4));
        let (source, destination) = ends(true).or_else(|| ends(false))?;
        Some(Question::between(source, destination))
    };
    match table.peers() {
        few if few.len() <= FEW => few.iter().filter_map(question).collect(),
        _ => Vec::new(),
    }
}

/// The checks that fail on the nodes of the destinations, of those that say so in time.
async fn failing(pinger: Pinger, questions: Vec<Question>) -> Vec<FailingChecks> {
    let mut asking = JoinSet::new();
    for question in questions {
        let pinger = pinger.clone();
        asking.spawn(tokio::time::timeout(LOOK_PATIENCE, async move {
            let answered = pinger.trace(question).await.ok()?;
            let node = answered.halves.first()?.node.clone();
            Some(FailingChecks { node, checks: answered.failing? })
        }));
    }
    let answers = asking.join_all().await;
    answers.into_iter().filter_map(|answer| answer.ok()?).collect()
}

/// Makes the function that follows a packet through both nodes.
pub(in crate::app) fn trace_source(facts: Arc<Facts>, explain: ExplainSource) -> TraceSource {
    Arc::new(move |question| {
        let (facts, explain) = (Arc::clone(&facts), Arc::clone(&explain));
        Box::pin(async move {
            let pinger = facts.pinger()?;
            let there = question.clone();
            let looking = Arc::clone(&facts);
            let own = move || {
                let failing = looking.checkup.failing();
                let table = looking.plane()?.table();
                let mut explained = explain(&there)?;
                senders::ask(&table, there.source, &mut explained);
                anyhow::Ok((explained, explain(&there.answered()), failing))
            };
            let (there, back, failing) = tokio::task::spawn_blocking(own).await??;
            let mut report = TraceReport::default();
            let first = there.ways.first().context("there is no way")?;
            report.there.push(own_half(&there.node, first));
            let own_failing =
                failing.map(|checks| FailingChecks { node: there.node.clone(), checks });
            report.failing.extend(own_failing);
            if first.verdict != Verdict::Forward {
                // Nothing comes to another node, and nothing comes back.
                return Ok(report);
            }
            let remote = pinger.trace(question).await.unwrap_or_else(|error| {
                report.silence = Some(format!("{error:#}"));
                Default::default()
            });
            if remote.halves.is_empty() && report.silence.is_none() {
                report.silence =
                    Some("it answered nothing that this version understands".to_owned());
            }
            let other = remote.halves.first().map(|half| half.node.clone());
            let known = other.zip(remote.failing);
            report.failing.extend(known.map(|(node, checks)| FailingChecks { node, checks }));
            let mut remote = remote.halves.into_iter();
            report.there.extend(remote.next());
            // A node that says of a packet that it does not arrive, and goes on, is an older one.
            let arrives = report.there.last().is_some_and(|half| half.verdict == "deliver");
            report.back.extend(remote.next().filter(|_| arrives));
            let is_sent = report.back.first().is_some_and(|half| half.verdict == "forward");
            if let (Ok(back), true) = (back, is_sent) {
                report.back.extend(back.ways.first().map(|way| own_half(&back.node, way)));
            }
            Ok(report)
        })
    })
}

/// Makes the function that says how the node is to be set up, from the first table on.
pub(in crate::app) fn setup_source(config: &Config, facts: Arc<Facts>) -> SetupSource {
    let config = config.clone();
    Arc::new(move || {
        let spec = locked(&facts.spec).clone();
        let (spec, address) = spec.context("this node has no subnet table yet")?;
        let source_ports = facts.plane()?.source_ports();
        Ok(Setup { source_ports, ..setup(&config, spec, address) })
    })
}

/// What the daemon makes of a configuration and a table.
pub(in crate::app) fn setup(config: &Config, spec: NodeSpec, address: IpAddr) -> Setup {
    Setup {
        netns: own_netns(),
        tun: spec.tun,
        bridge: spec.bridge,
        cluster_networks: spec.cluster_networks,
        local_subnets: spec.local_subnets,
        mtu: spec.mtu,
        address: Some(address),
        underlay_ports: spec.underlay_ports,
        codec_ports: spec.codec_ports,
        masquerade: spec.masquerade,
        sealed_only: spec.sealed_only,
        state_dir: config.node.state_dir.clone(),
        sysctl_dir: config.node.sysctl_dir.clone(),
        source_ports: Vec::new(),
        table: match &config.table {
            TableSource::File { path } => Some(path.clone()),
            TableSource::Etcd(_) | TableSource::Kubernetes(_) => None,
        },
    }
}

/// Makes the function that answers questions about packets by the table that workers have, and by
/// the kernel. It waits for the kernel.
pub(in crate::app) fn explain_source(config: &Config, facts: Arc<Facts>) -> ExplainSource {
    let node = Node {
        bridge: config.bridge.name.clone(),
        tun: config.tun.name.clone(),
        masquerade: config.egress.masquerade,
        source_ports: Vec::new(),
        refused: Vec::new(),
    };
    let sysctl_dir = config.node.sysctl_dir.clone();
    Arc::new(move |question| {
        let plane = facts.plane()?;
        let table = plane.table();
        let (source_ports, refused) = (plane.source_ports(), refused(&facts, plane));
        let node = Node { source_ports, refused, ..node.clone() };
        let mut kernel = KernelFacts::read(&node.bridge, &node.tun, &sysctl_dir)?;
        let mut explanation = explain(&table, &node, Some(&mut kernel), question)?;
        if let Some(policies) = facts.policies.get() {
            // Whoever asks is on a thread that may wait.
            let runtime = tokio::runtime::Handle::current();
            // They see where a service sends it.
            let judged = explanation.becomes.clone().unwrap_or_else(|| question.clone());
            explanation.judge(&runtime.block_on(judgements(policies, &judged))?);
        }
        Ok(explanation)
    })
}

/// Why what a node sends is dropped whatever it carries: it differs from this one.
const COMMON: [DropReason; 7] = [
    DropReason::Header(DecodeError::Vni),
    DropReason::WrongCodec,
    DropReason::PlaintextRefused,
    DropReason::Header(DecodeError::Version),
    DropReason::Header(DecodeError::Flags),
    DropReason::Header(DecodeError::Reserved),
    DropReason::Header(DecodeError::NextProtocol),
];

/// The peers of which something was dropped for a common reason in the last minute, and nothing was
/// taken since.
fn refused(facts: &Facts, plane: &DataPlane) -> Vec<Refused> {
    let (now, table) = (clock::now(), plane.table());
    let newest = COMMON
        .into_iter()
        .flat_map(|reason| plane.last_drops(reason).into_iter().map(move |last| (reason, last)));
    newest
        .filter_map(|(reason, last)| {
            let from = last.from?;
            let peer = table.peers().iter().find(|peer| peer.address() == from)?;
            let heard = peer.counters.last_heard_ms();
            let heard = heard.map(|after| facts.started + Duration::from_millis(after));
            let age = now.saturating_duration_since(last.at);
            let is_so = age <= MINUTE && heard.is_none_or(|heard| heard < last.at);
            is_so.then_some(Refused { from, reason, seconds_ago: age.as_secs() })
        })
        .collect()
}

/// Makes the function that finds the addresses of a pod: of this node by its container or port, and
/// where policies are enforced any by namespace and name. It waits for the kernel.
pub(in crate::app) fn find_source(config: &Config, facts: Arc<Facts>) -> FindSource {
    let (bridge, tun) = (config.bridge.name.clone(), config.tun.name.clone());
    let sysctl_dir = config.node.sysctl_dir.clone();
    Arc::new(move |name| {
        let Some((namespace, pod)) = name.split_once('/') else {
            return KernelFacts::read(&bridge, &tun, &sysctl_dir)?.find(name);
        };
        let known = facts.policies.get().map(|policies| {
            let asked = (namespace.to_owned(), pod.to_owned());
            // Whoever asks is on a thread that may wait.
            let runtime = tokio::runtime::Handle::current();
            let known = policies.ask(move |policies| policies.addresses_of(&asked.0, &asked.1));
            runtime.block_on(known)
        });
        addresses_of(namespace, pod, known.transpose()?)
    })
}

/// The addresses of a pod by its namespace and name. `known` is what policies know of it, if any
/// are enforced.
fn addresses_of(
    namespace: &str,
    pod: &str,
    known: Option<Option<Vec<IpAddr>>>,
) -> anyhow::Result<Vec<IpAddr>> {
    let name = format!("{namespace}/{pod}");
    let known = known.with_context(|| {
        format!(
            "{name} is the name of a pod in a namespace, and a node knows those only where it enforces \
             policies (policy.mode): give its address (kubectl -n {namespace} get pod {pod} -o wide)"
        )
    })?;
    let addresses = known.with_context(|| {
        format!("no pod {name} is known: `culvert status` says whether their source is followed")
    })?;
    anyhow::ensure!(!addresses.is_empty(), "the pod {name} has no address yet");
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pod_of_a_namespace_is_found_or_it_is_said_why_not() {
        let ask = |known| addresses_of("shop", "web-0", known);
        let addresses: Vec<IpAddr> = vec!["10.244.1.2".parse().unwrap()];
        assert_eq!(ask(Some(Some(addresses.clone()))).unwrap(), addresses);
        let refused = |known| ask(known).unwrap_err().to_string();
        assert_eq!(refused(Some(Some(Vec::new()))), "the pod shop/web-0 has no address yet");
        assert!(refused(Some(None)).starts_with("no pod shop/web-0 is known"));
        let nobody_knows = refused(None);
        assert!(nobody_knows.contains("policy.mode"), "{nobody_knows}");
        assert!(nobody_knows.contains("kubectl -n shop get pod web-0 -o wide"), "{nobody_knows}");
    }
}
