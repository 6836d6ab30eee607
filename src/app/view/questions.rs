//! What the daemon is asked beside its status, as whoever listens calls it.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context as _;

use super::{Facts, locked, own_netns};
use crate::app::kernel_facts::KernelFacts;
use crate::app::policy::judgements;
use crate::app::probes::own_half;
use crate::config::{Config, TableSource};
use crate::control::node::NodeSpec;
use crate::explain::{Node, Verdict, explain};
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

/// Makes the function that asks all peers for their tables.
pub(in crate::app) fn tables_source(facts: Arc<Facts>) -> TablesSource {
    Arc::new(move || {
        let facts = Arc::clone(&facts);
        Box::pin(async move { facts.pinger()?.tables().await })
    })
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
                anyhow::Ok((explain(&there)?, explain(&there.answered()), failing))
            };
            let (there, back, failing) = tokio::task::spawn_blocking(own).await??;
            let mut report = TraceReport::default();
            let first = there.ways.first().context("there is no way")?;
            report.there.push(own_half(&there.node, first));
            let is_sent = first.verdict == Verdict::Forward;
            let remote = pinger.trace(question).await.unwrap_or_else(|error| {
                report.silence = Some(format!("{error:#}"));
                Default::default()
            });
            let other = remote.halves.first().map(|half| half.node.clone());
            for (node, failing) in [(Some(there.node.clone()), failing), (other, remote.failing)] {
                let known = node.zip(failing);
                report.failing.extend(known.map(|(node, checks)| FailingChecks { node, checks }));
            }
            let mut remote = remote.halves.into_iter();
            report.there.extend(remote.next().filter(|_| is_sent));
            report.back.extend(remote.next());
            if let (Ok(back), false) = (back, report.back.is_empty()) {
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
    };
    Arc::new(move |question| {
        let plane = facts.plane()?;
        let table = plane.table();
        let node = Node { source_ports: plane.source_ports(), ..node.clone() };
        let mut kernel = KernelFacts::read(&node.bridge, &node.tun)?;
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

/// Makes the function that finds the addresses of a pod: of this node by its container or port, and
/// where policies are enforced any by namespace and name. It waits for the kernel.
pub(in crate::app) fn find_source(config: &Config, facts: Arc<Facts>) -> FindSource {
    let (bridge, tun) = (config.bridge.name.clone(), config.tun.name.clone());
    Arc::new(move |name| {
        let Some((namespace, pod)) = name.split_once('/') else {
            return KernelFacts::read(&bridge, &tun)?.find(name);
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
