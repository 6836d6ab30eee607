//! Network policies in the kernel: what a plan says becomes nftables rules, and stays that.
//!
//! Owns two tables, `inet culvert-policy` with the rules and `bridge culvert-policy`, which steers
//! what pods of this node send one another through them; the connections that are cut when rules
//! become stricter; and the socket on which the plugin asks before a pod starts. What policies mean
//! is `culvert-policy`'s. Blocking work runs on the thread `policy`; when that is slow, changes
//! gather, and the rules of before stay in force.

mod allow;
mod attachments;
mod closing;
mod door;
mod enforcer;
#[cfg(test)]
mod fixture;
mod flows;
mod memory;
mod policies;
mod render;
mod steering;
mod thread;
mod trial;

pub(crate) use self::closing::Refusal;
pub(crate) use self::door::{Door, Knock};
pub(crate) use self::enforcer::{Enforcer, Settled, TABLES};
pub(crate) use self::flows::{FlowThread, Sweep};
pub(crate) use self::policies::{
    Admission, Awaited, Candidate, Judged, News, Nodes, Outdated, Policies, Round,
};
pub(crate) use self::render::LOG_GROUP;
pub(crate) use self::thread::PolicyThread;
