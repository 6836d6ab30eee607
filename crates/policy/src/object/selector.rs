//! Selectors: which labels an object must have.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::{Labels, Pod};

/// What labels must fulfil: every requirement. Two selectors that say the same in another order are
/// equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector(BTreeSet<Requirement>);

/// One requirement.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Requirement {
    /// The key is there, with one of these values.
    In(Arc<str>, BTreeSet<Arc<str>>),
    /// The key is not there, or has none of these values.
    NotIn(Arc<str>, BTreeSet<Arc<str>>),
    /// The key is there.
    Exists(Arc<str>),
    /// The key is not there.
    DoesNotExist(Arc<str>),
    /// Something that is not understood: nothing fulfils it.
    Never,
}

impl Selector {
    /// One that everything matches.
    #[must_use]
    pub const fn everything() -> Self {
        Self(BTreeSet::new())
    }

    /// One that nothing matches.
    #[must_use]
    pub fn nothing() -> Self {
        [Requirement::Never].into_iter().collect()
    }

    /// Whether everything matches.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// Its requirements.
    pub fn requirements(&self) -> impl Iterator<Item = &Requirement> {
        self.0.iter()
    }

    /// Whether `labels` fulfil every requirement.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| requirement.matches(labels))
    }
}

impl FromIterator<Requirement> for Selector {
    fn from_iter<T: IntoIterator<Item = Requirement>>(requirements: T) -> Self {
        Self(requirements.into_iter().collect())
    }
}

impl Requirement {
    fn matches(&self, labels: &Labels) -> bool {
        match self {
            Self::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Self::Exists(key) => labels.get(key).is_some(),
            Self::DoesNotExist(key) => labels.get(key).is_none(),
            Self::Never => false,
        }
    }
}

/// Pods of some namespaces that match a selector. Only pods with addresses of their own are ever
/// selected: none of the host's network, none that has ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodSelection {
    /// In which namespaces.
    pub namespaces: Namespaces,
    /// Which pods there.
    pub pods: Selector,
}

/// Some namespaces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Namespaces {
    /// The one of this name.
    Named(Arc<str>),
    /// Those that match.
    Matching(Selector),
}

impl Namespaces {
    /// Whether the namespace called `name` is one of them, whose labels are `labels` if there is
    /// one.
    #[must_use]
    pub fn contain(&self, name: &str, labels: Option<&Labels>) -> bool {
        match self {
            Self::Named(own) => **own == *name,
            Self::Matching(selector) => labels.is_some_and(|labels| selector.matches(labels)),
        }
    }
}

impl PodSelection {
    /// Every pod of the cluster.
    #[must_use]
    pub const fn everything() -> Self {
        Self {
            namespaces: Namespaces::Matching(Selector::everything()),
            pods: Selector::everything(),
        }
    }

    /// Whether `pod` is selected, whose namespace has these labels if it is known.
    #[must_use]
    pub fn selects(&self, pod: &Pod, namespace: Option<&Labels>) -> bool {
        self.namespaces.contain(&pod.namespace, namespace) && self.pods.matches(&pod.labels)
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |values: &BTreeSet<Arc<str>>| {
            values.iter().map(|value| &**value).collect::<Vec<_>>().join(",")
        };
        match self {
            Self::In(key, values) if values.len() == 1 => write!(f, "{key}={}", list(values)),
            Self::In(key, values) => write!(f, "{key} in ({})", list(values)),
            Self::NotIn(key, values) => write!(f, "{key} notin ({})", list(values)),
            Self::Exists(key) => write!(f, "{key}"),
            Self::DoesNotExist(key) => write!(f, "!{key}"),
            Self::Never => f.write_str("(nothing)"),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, requirement) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{requirement}")?;
        }
        Ok(())
    }
}

impl fmt::Display for PodSelection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pods.is_everything() {
            f.write_str("all pods of ")?;
        } else {
            write!(f, "pods {} of ", self.pods)?;
        }
        match &self.namespaces {
            Namespaces::Named(name) => write!(f, "namespace {name}"),
            Namespaces::Matching(all) if all.is_everything() => f.write_str("all namespaces"),
            Namespaces::Matching(selector) => write!(f, "namespaces {selector}"),
        }
    }
}
