//! NetworkPolicy.

use std::sync::Arc;

use super::{Namespaces, PodSelection, Rule, Selector};
use crate::plan::Direction;

/// A NetworkPolicy of `networking.k8s.io/v1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// The namespace that it is in, and whose pods it is about.
    pub namespace: Arc<str>,
    /// Its name there.
    pub name: Arc<str>,
    /// Which pods of the namespace it is about.
    pub subjects: Selector,
    /// What may come to them; `None` if it says nothing of that.
    pub ingress: Option<Vec<Rule>>,
    /// What they may send; `None` if it says nothing of that.
    pub egress: Option<Vec<Rule>>,
    /// Whether it is only being tried out: what it does not allow is logged and passes.
    pub is_audit: bool,
}

impl NetworkPolicy {
    /// The pods that it is about.
    #[must_use]
    pub fn selection(&self) -> PodSelection {
        PodSelection {
            namespaces: Namespaces::Named(self.namespace.clone()),
            pods: self.subjects.clone(),
        }
    }

    /// Its rules in one direction; `None` if it does not isolate in it.
    #[must_use]
    pub fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}
