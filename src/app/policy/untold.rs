//! What the thread `policy` has not been told yet.
//!
//! It goes along with a round, and comes back if the round did not begin: the kernel may keep the
//! thread waiting for longer than anybody waits for it.

use std::net::IpAddr;

use crate::control::enforce::{News, Nodes, Policies};

/// News that wait at most while the thread is busy; the source waits when there are more.
const MOST: usize = 4096;

/// What there is to tell.
#[derive(Default)]
pub(super) struct Untold {
    pub(super) news: Vec<News>,
    pub(super) nodes: Option<Nodes>,
    pub(super) left: Vec<IpAddr>,
    /// Whether a round may have come to something of which nobody heard.
    pub(super) missed: bool,
}

impl Untold {
    /// Whether there is room for what a source tells at once.
    pub(super) fn has_room(&self) -> bool {
        self.news.len() < MOST
    }

    /// Takes what a source tells. A list takes the place of those that it makes old: they may be
    /// of a whole cluster each.
    pub(super) fn hear(&mut self, news: News) {
        match &news {
            News::All(_) => self.news.clear(),
            News::Kind(kind, _) => {
                self.news.retain(|old| !matches!(old, News::Kind(of, _) if of == kind));
            }
            News::Changed(_) => {}
        }
        self.news.push(news);
    }

    /// Tells the thread, on which this runs.
    pub(super) fn tell(self, policies: &mut Policies) {
        let Self { news, nodes, left, missed } = self;
        if missed {
            policies.say_again();
        }
        policies.take(news);
        if let Some(nodes) = nodes {
            policies.set_nodes(nodes);
        }
        let forgotten = if left.is_empty() { Ok(()) } else { policies.left(&left) };
        if let Err(error) = forgotten {
            tracing::warn!(error = format!("{error:#}"), "a pod that left is remembered");
        }
    }
}

#[cfg(test)]
mod tests {
    use culvert_policy::object::{Change, Key, Kind};

    use super::*;

    #[test]
    fn lists_that_are_told_again_and_again_while_the_thread_is_busy_do_not_pile_up() {
        let mut untold = Untold::default();
        let change = || News::Changed(vec![Change::Delete(Key::Namespace("a".into()))]);
        for _again in 0..100 {
            untold.hear(News::Kind(Kind::Pod, Vec::new()));
            untold.hear(News::Kind(Kind::Node, Vec::new()));
        }
        untold.hear(change());
        untold.hear(News::Kind(Kind::Pod, Vec::new()));
        let told = untold.news.as_slice();
        let [News::Kind(Kind::Node, _), News::Changed(_), News::Kind(Kind::Pod, _)] = told else {
            panic!("{told:?}")
        };
        untold.hear(News::All(Vec::new()));
        untold.hear(change());
        let told = untold.news.as_slice();
        assert!(matches!(told, [News::All(_), News::Changed(_)]), "{told:?}");
    }
}
