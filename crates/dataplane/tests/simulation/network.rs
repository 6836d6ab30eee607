//! The underlay between nodes: delay, loss, duplication, reordering, marks, partitions, path MTUs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::random::Random;

/// What the network is like at the moment; numbers are percent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    pub(crate) loss: u64,
    pub(crate) duplication: u64,
    pub(crate) marks: u64,
    /// How many trains are taken apart on their way, so that their datagrams overtake each other.
    pub(crate) scatter: u64,
    pub(crate) delay_us: (u64, u64),
}

impl Weather {
    pub(crate) const CALM: Self =
        Self { loss: 0, duplication: 0, marks: 0, scatter: 0, delay_us: (100, 5_000) };

    pub(crate) fn any(random: &mut Random) -> Self {
        Self {
            loss: random.pick(&[0, 0, 5, 30]),
            duplication: random.pick(&[0, 0, 10, 40]),
            marks: random.pick(&[0, 0, 20]),
            scatter: random.pick(&[0, 30, 100]),
            delay_us: random.pick(&[(50, 200), (100, 5_000), (1_000, 80_000)]),
        }
    }
}

/// What becomes of one copy of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passage {
    Arrives {
        delay: Duration,
        marked: bool,
    },
    Lost,
    Partitioned,
    /// It fits only this many bytes, headers and all.
    TooLong(u16),
}

#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) weather: Weather,
    partitions: BTreeSet<(usize, usize)>,
    paths: BTreeMap<(usize, usize), u16>,
}

impl Network {
    pub(crate) const MTU: u16 = 1500;

    pub(crate) fn new() -> Self {
        let (partitions, paths) = (BTreeSet::new(), BTreeMap::new());
        Self { weather: Weather::CALM, partitions, paths }
    }

    pub(crate) fn cut(&mut self, a: usize, b: usize) {
        self.partitions.insert(pair(a, b));
    }

    pub(crate) fn heal(&mut self) {
        self.partitions.clear();
    }

    pub(crate) fn set_path(&mut self, a: usize, b: usize, mtu: u16) {
        self.paths.insert(pair(a, b), mtu);
    }

    /// Gives every path at least `least` bytes.
    pub(crate) fn widen(&mut self, least: u16) {
        self.paths.values_mut().for_each(|mtu| *mtu = (*mtu).max(least));
    }

    /// Decides about a train of `count` datagrams of at most `longest` bytes, headers and all: for
    /// each the passages of its copies. Copies with the same delay arrive as one train.
    pub(crate) fn carry(
        &self,
        from: usize,
        to: usize,
        count: usize,
        longest: usize,
        random: &mut Random,
    ) -> Vec<Vec<Passage>> {
        let mtu = self.paths.get(&pair(from, to)).copied().unwrap_or(Self::MTU);
        let weather = &self.weather;
        let delay = |random: &mut Random| {
            Duration::from_micros(random.between(weather.delay_us.0, weather.delay_us.1))
        };
        let (shared, marked) = (delay(random), random.percent(weather.marks));
        let scattered = random.percent(weather.scatter);
        let passage = |random: &mut Random| {
            if self.partitions.contains(&pair(from, to)) {
                Passage::Partitioned
            } else if longest > usize::from(mtu) {
                Passage::TooLong(mtu)
            } else if random.percent(weather.loss) {
                Passage::Lost
            } else if scattered {
                Passage::Arrives { delay: delay(random), marked: random.percent(weather.marks) }
            } else {
                Passage::Arrives { delay: shared, marked }
            }
        };
        (0..count)
            .map(|_| {
                let copies = 1 + usize::from(random.percent(weather.duplication));
                (0..copies).map(|_| passage(random)).collect()
            })
            .collect()
    }
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}
