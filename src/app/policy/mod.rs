//! Network policies on this node: from whoever tells of them to the kernel that enforces them.
//!
//! Connects the source, the plugin's questions, the subnet table and the thread `policy`. Runs as a
//! task of its own on the control runtime, so that nothing else of the daemon waits for rules, nor
//! rules for it.

mod complaints;
mod counters;
mod drops;
mod explained;
mod keeper;
mod memory;
mod nodes;
mod source_errors;
mod sweeper;
mod untold;

use std::sync::Arc;

use anyhow::Context as _;
use culvert_dataplane::engine::{Changes, Membership};
use culvert_nft::{TableFamily, TableFlags};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;

pub(super) use self::explained::judgements;
use self::keeper::Keeper;
use self::nodes::{change, nodes};
use super::view::Facts;
use crate::config::{Config, PolicyMode};
use crate::control::enforce::{
    Door, Enforcer, FlowThread, LOG_GROUP, Nodes, Policies, PolicyThread, TABLES,
};
use crate::control::policy::PolicySource;
use crate::lifecycle::{Need, Readiness};
use crate::observe::PolicyStatus;
use crate::platform::netlink::{Notices, PacketLog, Watched};

/// Questions of the plugin that wait to be read.
const KNOCKS: usize = 256;

/// Our tables, of which a change by somebody else is undone.
const WATCHED: &[Watched] = &[
    Watched { family: RULES.0, table: RULES.1, elements: true },
    Watched { family: STEERING.0, table: STEERING.1, elements: true },
];
const STEERING: (TableFamily, &str) = TABLES[0];
const RULES: (TableFamily, &str) = TABLES[1];

/// Policies that are being enforced, until this is dropped.
pub(super) struct Enforcement {
    /// None while policies are off: nobody asks then.
    nodes: Option<Followed>,
    /// Told when the node may have become ready, or unready, by it.
    news: Arc<Notify>,
    tasks: Vec<JoinHandle<()>>,
}

/// The subnet table that policies go by.
struct Followed {
    members: Membership,
    nodes: watch::Sender<Nodes>,
}

impl Enforcement {
    /// Begins to enforce policies, where `config` says so; otherwise removes what an earlier daemon
    /// enforced.
    ///
    /// # Errors
    ///
    /// The kernel refuses a thread or a socket, or the run directory cannot be written.
    pub(super) async fn start(
        config: &Arc<Config>,
        facts: &Arc<Facts>,
        readiness: &Readiness,
        members: &Membership,
    ) -> anyhow::Result<Self> {
        let news = Arc::new(Notify::new());
        let mode = config.policy.mode;
        let status = PolicyStatus { mode: mode.as_str().to_owned(), ..PolicyStatus::default() };
        facts.show_policy(status.clone());
        if mode == PolicyMode::Off {
            let removed =
                tokio::task::spawn_blocking(|| Enforcer::new(TableFlags::None).remove()).await?;
            if removed.context("policies are off (policy.mode)")? {
                tracing::info!("removed the rules of policies, which are off (policy.mode)");
            }
            return Ok(Self { nodes: None, news, tasks: Vec::new() });
        }
        readiness.set(Need::Policy, Some("not in force yet".to_owned()));
        let policies = Policies::new(
            &config.node.name,
            &config.bridge.name,
            &config.node.state_dir,
            &describe(config),
            config.policy.unknown_pods,
            Enforcer::new(table_flags()),
        );
        let source = PolicySource::start(config, policies.cluster_policies());
        let log = match PacketLog::open(LOG_GROUP).await {
            Ok(log) => Some(log),
            Err(error) => {
                tracing::warn!(%error, "what policies drop is counted, and not logged");
                None
            }
        };
        let (knock, knocks) = mpsc::channel(KNOCKS);
        let door = Door::bind(&config.node.run_dir)?;
        let (nodes_in_force, nodes_followed) = watch::channel(nodes(members));
        let kernel = Arc::new(PolicyThread::start(policies)?);
        facts.set_policies(Arc::clone(&kernel));
        let ends = keeper::Ends {
            kernel,
            status: PolicyStatus { source: describe(config), ..status },
            source,
            knocks,
            nodes: nodes_followed,
            notices: Notices::open(WATCHED)?,
            log,
            facts: Arc::clone(facts),
            readiness: readiness.clone(),
            news: Arc::clone(&news),
        };
        let keeper = Keeper::new(ends, FlowThread::start()?);
        let tasks = vec![tokio::spawn(door.serve(knock)), tokio::spawn(keeper.run())];
        let followed = Followed { members: members.clone(), nodes: nodes_in_force };
        Ok(Self { nodes: Some(followed), news, tasks })
    }

    /// Goes by another subnet table.
    pub(super) fn follow(&mut self, members: &Membership) {
        let Some(followed) = &mut self.nodes else { return };
        let changes = members.changes(&followed.members);
        let is_news = changes != Changes::default();
        followed.nodes.send_if_modified(|known| {
            change(known, &changes, members);
            is_news
        });
        followed.members = members.clone();
    }

    /// Waits until the node may have become ready, or unready, by policies.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(super) async fn changed(&self) {
        self.news.notified().await;
    }
}

/// Where policies come from, for people.
fn describe(config: &Config) -> String {
    match &config.policy.directory {
        Some(directory) => format!("directory {}", directory.display()),
        None => "Kubernetes".to_owned(),
    }
}

/// The flags that tables are to have. A test may want those of an older kernel; only a development
/// build looks.
fn table_flags() -> TableFlags {
    const VARIABLE: &str = "CULVERT_TEST_SHARED_TABLES";
    if cfg!(debug_assertions) && std::env::var_os(VARIABLE).is_some() {
        TableFlags::None
    } else {
        TableFlags::OwnedAndLasting
    }
}

impl Drop for Enforcement {
    fn drop(&mut self) {
        // The rules stay, and keep what they keep, until the next daemon.
        for task in &self.tasks {
            task.abort();
        }
    }
}
