//! Who asks whom.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};

/// Pods that one asks at most; of more, those that are spread evenly behind it in the list.
const MOST: usize = 63;

/// A pod, and how a program is run inside.
#[derive(Clone, Debug)]
pub(super) struct Pod {
    pub(super) node: String,
    pub(super) name: String,
    pub(super) addresses: Vec<IpAddr>,
    /// What stands before the words after `culvert`, this program included.
    pub(super) program: Vec<OsString>,
}

impl Pod {
    /// A name that tells it from all others.
    pub(super) fn title(&self) -> String {
        if self.name.starts_with(&self.node) {
            self.name.clone()
        } else {
            format!("{}-{}", self.node, self.name)
        }
    }
}

/// The numbers of those that pod `number` of `count` asks.
pub(super) fn asked_by(number: usize, count: usize) -> Vec<usize> {
    let others = count.saturating_sub(1);
    let asked = others.min(MOST);
    // Evenly spread steps from 1 to `others`, each once. Each pod is asked as often as it asks.
    (0..asked).map(|step| (number + 1 + step * others / asked) % count).collect()
}

/// Where pods `from` can reach an address of `to`: in each family that both have, the first.
pub(super) fn targets(from: &Pod, to: &Pod, port: u16) -> Vec<SocketAddr> {
    let first = |pod: &Pod, is_v4| pod.addresses.iter().copied().find(|it| it.is_ipv4() == is_v4);
    [true, false]
        .into_iter()
        .filter(|is_v4| first(from, *is_v4).is_some())
        .filter_map(|is_v4| Some((first(to, is_v4)?, port).into()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_asks_all_others_and_of_many_a_bounded_number() {
        for count in [2, 3, 64] {
            for number in 0..count {
                let mut asked = asked_by(number, count);
                asked.sort_unstable();
                let others: Vec<usize> = (0..count).filter(|other| *other != number).collect();
                assert_eq!(asked, others);
            }
        }
        let mut times = vec![0; 1000];
        for number in 0..1000 {
            let asked = asked_by(number, 1000);
            assert!(asked.len() == MOST && !asked.contains(&number));
            asked.into_iter().for_each(|other| times[other] += 1);
        }
        assert!(times.iter().all(|asked| *asked == MOST), "everybody is asked as often");
        assert_eq!(asked_by(0, 1), Vec::<usize>::new());
    }

    #[test]
    fn families_are_those_that_both_have() {
        let pod = |addresses: &[&str]| Pod {
            node: "node1".to_owned(),
            name: "pod1".to_owned(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            program: Vec::new(),
        };
        let (both, v6) = (pod(&["10.244.1.2", "fd00::2"]), pod(&["fd00:1::2"]));
        assert_eq!(targets(&both, &v6, 7), ["[fd00:1::2]:7".parse().unwrap()]);
        assert_eq!(targets(&both, &both, 7).len(), 2);
        assert_eq!(targets(&v6, &pod(&["10.244.1.2"]), 7), []);
        assert_eq!(both.title(), "node1-pod1");
    }
}
