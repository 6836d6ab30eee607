//! Of which kinds the source does not tell, and why.
//!
//! Kinds fail by themselves: that pods are told of says nothing about policies. One that has failed
//! comes back with everything that there is of it.

use std::collections::BTreeMap;

use culvert_policy::object::Kind;

use crate::control::policy::PolicyUpdate;

/// The error of each kind; under none that of a source which has all kinds in one.
#[derive(Debug, Default)]
pub(super) struct SourceErrors(BTreeMap<Option<Kind>, String>);

impl SourceErrors {
    /// Takes note of what an update says of the source.
    pub(super) fn hear(&mut self, update: &PolicyUpdate) {
        match update {
            PolicyUpdate::Everything { .. } => self.0.clear(),
            PolicyUpdate::Kind { kind, .. } => _ = self.0.remove(&Some(*kind)),
            PolicyUpdate::Changes { .. } => {}
            PolicyUpdate::Refused(why) => _ = self.0.insert(None, why.clone()),
            PolicyUpdate::Lost { kind, why } => _ = self.0.insert(*kind, why.clone()),
        }
    }

    /// The first of them; the others most often have the same cause.
    pub(super) fn first(&self) -> Option<&String> {
        self.0.values().next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_of_one_kind_stays_until_everything_of_that_kind_is_told() {
        let (objects, findings) = (Vec::new(), Vec::new());
        let kind = |kind| PolicyUpdate::Kind {
            kind,
            objects: objects.clone(),
            findings: findings.clone(),
        };
        let lost = PolicyUpdate::Lost {
            kind: Some(Kind::NetworkPolicy),
            why: "listing networkpolicies: forbidden".to_owned(),
        };
        let others = [
            PolicyUpdate::Changes { changes: Vec::new(), findings: findings.clone() },
            kind(Kind::Pod),
        ];
        let everything =
            PolicyUpdate::Everything { objects: objects.clone(), findings: findings.clone() };
        for end in [kind(Kind::NetworkPolicy), everything] {
            let mut errors = SourceErrors::default();
            errors.hear(&lost);
            others.iter().for_each(|update| errors.hear(update));
            assert!(errors.first().is_some_and(|error| error.contains("forbidden")));
            errors.hear(&end);
            assert_eq!(errors.first(), None);
        }
    }
}
