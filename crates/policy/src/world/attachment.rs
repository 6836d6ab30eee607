//! An address of a pod of this node, from ADD to DEL, whatever becomes of the pod's object.

use std::sync::Arc;

use crate::object::Pod;

/// An address that a pod of this node was given, until it is taken from it.
#[derive(Debug)]
pub(super) struct Attachment {
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
    /// What tells the pod from another that had its name before; none if nobody says.
    pub(super) uid: Option<Box<str>>,
    /// The pod as its object described it last, which may be gone while the pod still runs.
    pub(super) last: Option<Arc<Pod>>,
}

impl Attachment {
    /// Whether `pod` describes whom the address was given to, and not another pod of its name.
    pub(super) fn is_of(&self, pod: &Pod) -> bool {
        let said = self.last.as_ref().and_then(|last| last.uid.as_ref());
        let is_same = match (self.uid.as_ref().or(said), &pod.uid) {
            (Some(given), Some(uid)) => given == uid,
            // Whoever writes objects by hand gives them no number. One that had a number is none of
            // those, and what has its name without a number now is on no node, or on another.
            (_, None) => said.is_none(),
            (None, Some(_)) => true,
        };
        let is_elsewhere = || {
            let was = self.last.as_ref().and_then(|last| last.node.as_ref());
            was.zip(pod.node.as_ref()).is_some_and(|(was, is)| was != is)
        };
        is_same && !pod.host_network && !is_elsewhere()
    }
}
