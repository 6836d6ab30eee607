//! The task that keeps the rules what the policies say.
//!
//! Gathers what sources, plugins and the subnet table say until it has been quiet for a moment, and
//! has the thread `policy` make the rules of it, one round at a time. What is not quiet waits no
//! longer than a tenth of a second. A pod that nobody knows yet is asked about again with each
//! round.

use std::mem;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use culvert_nft::Counted;
use culvert_node::pod_admission::{Answer, PodName, Request};
use culvert_policy::Plan;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

use super::complaints::Complaints;
use super::counters::Counters;
use super::drops::Drops;
use super::memory::Memory;
use super::source_errors::SourceErrors;
use super::sweeper::{Sweeper, Swept};
use super::untold::Untold;
use crate::app::view::Facts;
use crate::control::enforce::{
    Admission, Awaited, Candidate, FlowThread, Knock, News, Nodes, PolicyThread, Refusal, Round,
    Settled, Sweep,
};
use crate::control::policy::{PolicySource, PolicyUpdate};
use crate::lifecycle::{Need, Readiness};
use crate::observe::PolicyStatus;
use crate::platform::netlink::{Logged, Notices, PacketLog};

/// How long it must be quiet before a round, and the longest that one waits for that.
const QUIET: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_millis(100);

/// How long a pod waits for its object: less than the plugin waits for an answer.
const FOR_OBJECT: Duration = Duration::from_secs(4);

/// How often the source is asked for that object: an answer that does not help is news as well, and
/// would call for the next question.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// How often everything is looked at although nothing called for it, and how long after a failure.
const FULL_CHECK: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);

/// What a keeper is connected to.
pub(super) struct Ends {
    pub(super) kernel: Arc<PolicyThread>,
    pub(super) source: PolicySource,
    pub(super) knocks: mpsc::Receiver<Knock>,
    pub(super) nodes: watch::Receiver<Nodes>,
    pub(super) notices: Notices,
    pub(super) log: Option<PacketLog>,
    pub(super) facts: Arc<Facts>,
    pub(super) readiness: Readiness,
    pub(super) news: Arc<Notify>,
    pub(super) status: PolicyStatus,
}

/// A pod that waits for its port to go up.
struct Waiting {
    pod: Option<PodName>,
    addresses: Vec<IpAddr>,
    until: Instant,
    /// When the source is asked for its object.
    ask_at: Instant,
    answer: oneshot::Sender<Answer>,
}

impl Waiting {
    /// Whether it is time to ask the source for its object, which then is not asked for a while.
    fn asks(&mut self, now: Instant) -> bool {
        let is_time = self.ask_at <= now;
        if is_time {
            self.ask_at = now + ASK_AGAIN;
        }
        is_time
    }
}

/// The task.
pub(super) struct Keeper {
    ends: Ends,
    untold: Untold,
    source_errors: SourceErrors,
    waiting: Vec<Waiting>,
    /// When the next round begins, and when what calls for it began.
    due: Option<Instant>,
    since: Option<Instant>,
    sweeper: Sweeper,
    /// Why connections could not be gone through.
    sweep_error: Option<String>,
    plan: Arc<Plan>,
    drops: Drops,
    counters: Counters,
    memory: Memory,
    /// What was said of objects.
    complaints: Complaints,
}

impl Keeper {
    pub(super) fn new(mut ends: Ends, flows: FlowThread) -> Self {
        let nodes = ends.nodes.borrow_and_update().clone();
        Self {
            sweeper: Sweeper::new(flows),
            sweep_error: None,
            ends,
            untold: Untold { nodes: Some(nodes), ..Untold::default() },
            source_errors: SourceErrors::default(),
            waiting: Vec::new(),
            due: None,
            since: None,
            plan: Arc::default(),
            drops: Drops::default(),
            counters: Counters::default(),
            memory: Memory::default(),
            complaints: Complaints::default(),
        }
    }

    /// Keeps the rules, for ever.
    pub(super) async fn run(mut self) {
        let mut full_check = ticks(FULL_CHECK);
        loop {
            tokio::select! {
                updates = next_updates(&mut self.ends.source), if self.untold.has_room() => {
                    self.hear(updates);
                }
                Some(knock) = self.ends.knocks.recv() => self.open(knock),
                Ok(()) = self.ends.nodes.changed() => {
                    self.untold.nodes = Some(self.ends.nodes.borrow_and_update().clone());
                    self.call_for_round();
                }
                notice = self.ends.notices.next() => {
                    if let Err(error) = notice {
                        tracing::warn!(%error, "changes of rules are noticed late");
                        tokio::time::sleep(RETRY).await;
                    }
                    self.call_for_round();
                }
                logged = next_logged(&mut self.ends.log) => self.tell_of(&logged),
                () = at(self.due) => self.round().await,
                swept = self.sweeper.next() => self.go_on_after(swept),
                () = self.memory.wait() => self.memory.keep(&self.ends.kernel).await,
                _ = full_check.tick() => self.look_around().await,
            }
        }
    }

    /// Has a round begin once it has been quiet.
    fn call_for_round(&mut self) {
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        self.due = Some((now + QUIET).min(since + PATIENCE));
    }

    fn hear(&mut self, updates: Vec<PolicyUpdate>) {
        for update in updates {
            self.source_errors.hear(&update);
            let (news, findings) = match update {
                PolicyUpdate::Everything { objects, findings } => (News::All(objects), findings),
                PolicyUpdate::Kind { kind, objects, findings } => {
                    (News::Kind(kind, objects), findings)
                }
                PolicyUpdate::Changes { changes, findings } => (News::Changed(changes), findings),
                PolicyUpdate::Refused(_) | PolicyUpdate::Lost { .. } => continue,
            };
            self.complaints.say(&findings, Instant::now());
            self.untold.hear(news);
            self.call_for_round();
        }
        let error = self.source_errors.first();
        if self.ends.status.source_error.as_ref() != error {
            match error {
                Some(error) => tracing::warn!(error, "policies stay as they were"),
                None => tracing::info!("policies are followed again"),
            }
            self.ends.status.source_error = error.cloned();
            self.show();
        }
    }

    fn open(&mut self, knock: Knock) {
        let Knock { request, answer } = knock;
        match request {
            Request::Admit { pod, addresses } => {
                let now = Instant::now();
                let until = now + FOR_OBJECT;
                self.waiting.push(Waiting { pod, addresses, until, ask_at: now, answer });
                // Whoever asks waits: what others have to say comes with the next round.
                self.begin_at(now);
            }
            Request::Left { addresses } => {
                self.untold.left.extend(addresses);
                // Whoever goes does not wait.
                let _gone = answer.send(Answer::Admitted);
                self.call_for_round();
            }
        }
    }

    async fn round(&mut self) {
        (self.due, self.since) = (None, None);
        let now = Instant::now();
        self.waiting.retain(|waiting| !waiting.answer.is_closed());
        let candidates: Vec<_> = self
            .waiting
            .iter()
            .map(|waiting| Candidate {
                pod: waiting.pod.clone(),
                addresses: waiting.addresses.clone(),
                is_last_chance: waiting.until <= now,
            })
            .collect();
        let untold = mem::take(&mut self.untold);
        let forget = untold.left.iter().copied().collect();
        self.sweeper.want(Sweep { forget, ..Sweep::default() });
        let round = self.ends.kernel.hand(untold, move |policies, untold: Untold| {
            untold.tell(policies);
            policies.round(&candidates)
        });
        match round.await {
            Ok(round) => self.go_by(round),
            Err(returned) => {
                // What was begun is finished all the same; what was not is told the next time.
                let untold = returned.load.unwrap_or_default();
                self.untold = Untold { missed: true, ..untold };
                self.fail(&returned.error);
            }
        }
        let next = self.waiting.iter().map(|waiting| waiting.until.min(waiting.ask_at)).min();
        if let Some(next) = next {
            self.begin_at(next.max(Instant::now() + QUIET));
        }
    }

    /// Has a round begin at `time`, if none does before.
    fn begin_at(&mut self, time: Instant) {
        self.due = Some(self.due.map_or(time, |due| due.min(time)));
    }

    fn go_by(&mut self, round: Round) {
        let Round { admissions, settled, plan, size, lack, outdated } = round;
        self.memory.outdate(outdated);
        let now = Instant::now();
        for (mut waiting, admission) in mem::take(&mut self.waiting).into_iter().zip(admissions) {
            let answer = match admission {
                Admission::Unknown => {
                    // A source may be slow to tell, and quick to answer.
                    if waiting.asks(now)
                        && let Some(pod) = &waiting.pod
                    {
                        self.ends.source.ask_pod(&pod.namespace, &pod.name);
                    }
                    self.waiting.push(waiting);
                    continue;
                }
                Admission::Admitted => {
                    self.sweeper.start_after(waiting.addresses, waiting.answer);
                    continue;
                }
                Admission::Refused(why) => {
                    self.ends.status.pods_refused += 1;
                    tracing::warn!(why, "a pod was refused");
                    Answer::Refused { why }
                }
            };
            // The plugin may have given up.
            let _gone = waiting.answer.send(answer);
        }
        let status = &mut self.ends.status;
        (status.policies, status.pods) = (size.policies, size.pods);
        status.isolated = plan.isolated.len();
        self.plan = plan;
        match settled {
            Ok(settled) => self.note(settled, lack),
            Err(error) => self.fail(&error),
        }
    }

    fn note(&mut self, settled: Settled, lack: Option<String>) {
        self.sweeper.want(Sweep { cut: settled.cut, ..Sweep::default() });
        let status = &mut self.ends.status;
        status.updates += u64::from(settled.changed);
        status.repairs += u64::from(settled.repaired);
        status.is_owned = settled.is_owned;
        if settled.repaired {
            tracing::warn!("put back rules of policies that somebody else had changed");
        }
        let refused: Vec<String> = settled.refused.iter().map(describe).collect();
        for refusal in refused.iter().filter(|refusal| !status.refused.contains(refusal)) {
            tracing::error!(reason = refusal, "a policy cannot be enforced");
        }
        status.refused = refused;
        let lack = lack.or_else(|| self.sweep_error.clone());
        status.error.clone_from(&lack);
        let missing = if lack.is_some() {
            lack
        } else if !status.refused.is_empty() {
            Some(status.refused.join("; "))
        } else if settled.is_steered {
            None
        } else {
            Some("there is no bridge yet whose pods could be kept apart".to_owned())
        };
        self.be_ready_unless(missing);
    }

    /// Connections were gone through, or could not be.
    fn go_on_after(&mut self, swept: Swept) {
        let Swept { cut, pods } = swept;
        let status = &mut self.ends.status;
        match cut {
            Ok(cut) => {
                status.pods_admitted += pods;
                status.cut += u64::try_from(cut).unwrap_or(u64::MAX);
                if cut > 0 {
                    tracing::info!(connections = cut, "cut what policies no longer allow");
                }
                if self.sweep_error.take().is_some() {
                    self.call_for_round();
                }
                self.show();
            }
            Err(error) => {
                status.pods_refused += pods;
                self.sweep_error = Some(format!("{error:#}"));
                self.fail(&error);
            }
        }
    }

    fn fail(&mut self, error: &anyhow::Error) {
        let is_awaited = error.is::<Awaited>();
        let error = format!("{error:#}");
        if self.ends.status.error.as_ref() != Some(&error) {
            if is_awaited {
                tracing::info!(reason = error, "waiting for the source of policies");
            } else {
                tracing::error!(error, "policies are not in force as they should be; trying again");
            }
        }
        self.ends.status.error = Some(error.clone());
        self.be_ready_unless(Some(format!("{error}; trying again")));
        self.begin_at(Instant::now() + RETRY);
    }

    fn be_ready_unless(&mut self, missing: Option<String>) {
        if self.ends.readiness.set(Need::Policy, missing) {
            self.ends.news.notify_one();
        }
        self.show();
    }

    fn show(&self) {
        self.ends.facts.show_policy(self.ends.status.clone());
    }

    /// Looks at what nobody tells of.
    async fn look_around(&mut self) {
        let looked = self.ends.kernel.ask(|policies| (policies.look_around(), policies.counted()));
        match looked.await {
            Ok((gone, counted)) => {
                if let Ok(counted) = &counted {
                    self.count(counted);
                }
                if let Ok(gone) = &gone {
                    let forget = gone.iter().copied().collect();
                    self.sweeper.want(Sweep { forget, ..Sweep::default() });
                }
                if let Some(error) = gone.err().or_else(|| counted.err()) {
                    tracing::debug!(error = format!("{error:#}"), "a look at policies failed");
                }
            }
            Err(error) => tracing::debug!(error = format!("{error:#}"), "no look at policies"),
        }
        self.call_for_round();
    }

    /// Takes note of what rules have counted.
    fn count(&mut self, counted: &[Counted]) {
        self.counters.take(counted, &self.plan);
        let status = &mut self.ends.status;
        status.hits = self.counters.hits();
        status.drops = self.counters.drops();
        status.audited = self.counters.audited();
        self.show();
    }

    fn tell_of(&mut self, logged: &[Logged]) {
        for packet in logged {
            self.drops.tell(packet, &self.plan);
        }
    }
}

/// The next that the source tells.
///
/// # Cancel safety
///
/// Nothing is lost.
async fn next_updates(source: &mut PolicySource) -> Vec<PolicyUpdate> {
    let updates = source.next().await;
    if updates.is_empty() {
        // It has ended, which it does not before the daemon does.
        std::future::pending::<()>().await;
    }
    updates
}

/// What the kernel refuses, for people.
fn describe(refusal: &Refusal) -> String {
    let list = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join(", ");
    format!(
        "the kernel refuses the rules of {} ({}); closed until it takes them: {}",
        list(&mut refusal.policies.iter().cloned()),
        refusal.why,
        list(&mut refusal.closed.iter().map(ToString::to_string))
    )
}

fn ticks(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// The next packets that rules have logged.
///
/// # Cancel safety
///
/// Nothing is lost.
async fn next_logged(log: &mut Option<PacketLog>) -> Vec<Logged> {
    let logged = match log {
        Some(log) => log.next().await,
        None => std::future::pending().await,
    };
    logged.unwrap_or_else(|error| {
        tracing::warn!(%error, "what policies drop is counted, and not logged any more");
        *log = None;
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_is_not_asked_anew_for_a_pod_by_each_of_its_answers() {
        let now = Instant::now();
        let (answer, _answered) = oneshot::channel();
        let until = now + FOR_OBJECT;
        let mut waiting = Waiting { pod: None, addresses: Vec::new(), until, ask_at: now, answer };
        // A round every ten milliseconds, as when each answer calls for one.
        let rounds = (0..400).map(|round| now + QUIET * round);
        assert_eq!(rounds.filter(|time| waiting.asks(*time)).count(), 8);
    }
}
