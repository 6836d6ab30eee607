//! A packet's way through the chains at a hook.

use std::fmt;

use super::evaluate::{Match, State, Verdict};
use super::packet::Packet;
use super::translation::{Change, Redirection};
use super::{Key, Rules, family_name};
use crate::table::Hook;

/// How deep jumps may go; the kernel allows as many (`NFT_JUMP_STACK_SIZE`).
const DEEPEST: usize = 16;

/// Where on its way chains may see a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A hook of its family, which chains of `inet` see too.
    Ip(Hook),
    /// A hook of the family `bridge`, as a frame that a bridge of this machine has. By which port
    /// it comes or leaves is not known.
    Bridge(Hook),
    /// Where it comes in by a device, or leaves by it: chains of the family `netdev`.
    Device {
        /// Name of the device.
        name: String,
        /// Whether it comes in.
        comes_in: bool,
    },
}

impl Stage {
    /// Where a packet comes in by a device.
    #[must_use]
    pub fn entering(name: &str) -> Self {
        Self::Device { name: name.to_owned(), comes_in: true }
    }

    /// Where a packet leaves by a device.
    #[must_use]
    pub fn leaving(name: &str) -> Self {
        Self::Device { name: name.to_owned(), comes_in: false }
    }
}

/// What becomes of a packet at a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Every chain lets it pass.
    Passes,
    /// It may be dropped, by something that could not be followed.
    MayStop(Obstacle),
    /// It is dropped.
    Stops(Obstacle),
}

/// Who drops a packet, or may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// Family of the table, as the program `nft` calls it.
    pub family: &'static str,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// What in the chain.
    pub what: What,
}

/// What in a chain drops a packet, or may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Its policy.
    Policy,
    /// The rule with this handle.
    Rule(u64),
    /// The rule with this handle, of which this could not be followed.
    Unfollowed(u64, String),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, table, chain, what } = self;
        write!(f, "chain {family} {table} {chain}")?;
        match what {
            What::Policy => f.write_str(" (policy drop)"),
            What::Rule(handle) => write!(f, " (rule {handle})"),
            What::Unfollowed(handle, step) => {
                write!(f, " (rule {handle}, not followed: {step})")
            }
        }
    }
}

/// What may become of a packet in a chain.
#[derive(Debug, Default)]
pub(super) struct Ends {
    may_accept: bool,
    /// Whether it may be accepted with the addresses that it has.
    may_stay: bool,
    may_return: bool,
    drops: Vec<Obstacle>,
    /// Rules that certainly give it another address.
    translates: Vec<Obstacle>,
    /// Rules that may give it another destination.
    pub(super) redirections: Vec<Redirection>,
}

impl Ends {
    /// Whether it gets other addresses, whatever comes of what is not known.
    pub(super) const fn is_translated(&self) -> bool {
        !self.may_return && !self.may_stay && self.drops.is_empty()
    }

    /// Takes what may become of it in a chain that it may go to.
    fn include(&mut self, inner: Self) {
        self.may_accept |= inner.may_accept;
        self.may_stay |= inner.may_stay;
        self.drops.extend(inner.drops);
        self.redirections.extend(inner.redirections);
    }
}

impl Rules {
    /// What becomes of `packet` at a stage of its way. A chain that certainly drops it is named
    /// before one that may.
    #[must_use]
    pub fn fate(&self, stage: &Stage, packet: &Packet) -> Fate {
        match stage {
            Stage::Ip(hook) => self.fate_among(self.at(*hook, packet.is_ipv4()), packet, false),
            Stage::Bridge(hook) => self.fate_among(self.at_bridge(*hook), packet, true),
            Stage::Device { name, comes_in } => {
                self.fate_among(self.at_device(name, *comes_in), packet, true)
            }
        }
    }

    /// The rule that certainly gives `packet` another address at `hook`, if there is one.
    #[must_use]
    pub fn translation(&self, hook: Hook, packet: &Packet) -> Option<Obstacle> {
        let mut chains = self.at(hook, packet.is_ipv4());
        chains.find_map(|(family, table, name)| {
            let mut state = State::new(packet, false);
            let ends = self.follow((*family, table), name, &mut state, 0);
            ends.translates.into_iter().next()
        })
    }

    fn fate_among<'a>(
        &self,
        chains: impl Iterator<Item = &'a Key>,
        packet: &Packet,
        is_frame: bool,
    ) -> Fate {
        let mut perhaps = None;
        for (family, table, name) in chains {
            let mut state = State::new(packet, is_frame);
            let mut ends = self.follow((*family, table), name, &mut state, 0);
            let drops = self.chains.get(&(*family, table.clone(), name.clone()));
            if ends.may_return && drops.is_some_and(|chain| chain.drops) {
                ends.drops.push(obstacle((*family, table), name, What::Policy));
                ends.may_return = false;
            }
            let passes = ends.may_accept || ends.may_return;
            // The policy says more than the rules that were left on the way to it.
            let certain = |it: &Obstacle| !matches!(it.what, What::Unfollowed(..));
            let named = ends.drops.iter().rev().find(|it| passes || certain(it));
            match named.or_else(|| ends.drops.first()) {
                Some(by) if !passes => return Fate::Stops(by.clone()),
                Some(by) => {
                    let unfollowed = ends.drops.iter().find(|it| !certain(it)).unwrap_or(by);
                    perhaps.get_or_insert_with(|| unfollowed.clone());
                }
                None => {}
            }
        }
        perhaps.map_or(Fate::Passes, Fate::MayStop)
    }

    pub(super) fn follow(
        &self,
        at: (u8, &str),
        name: &str,
        state: &mut State<'_>,
        depth: usize,
    ) -> Ends {
        let mut ends = Ends::default();
        let chain = self.chains.get(&(at.0, at.1.to_owned(), name.to_owned()));
        let Some(chain) = chain.filter(|_| depth <= DEEPEST) else {
            return Ends {
                may_accept: true,
                may_stay: true,
                may_return: true,
                drops: vec![obstacle(at, name, What::Unfollowed(0, "no such chain".to_owned()))],
                ..Ends::default()
            };
        };
        for rule in &chain.rules {
            let (matches, verdict) = rule.apply(self, at, state);
            let why = match matches {
                Match::No => continue,
                Match::Yes => None,
                Match::Perhaps(step) => Some(step),
            };
            let here = Here { at, name, handle: rule.handle, depth };
            let is_over = if let Verdict::OneOf(verdicts, is_whole) = verdict {
                let mut is_over = is_whole;
                for verdict in verdicts {
                    is_over &= self.do_as_told(&here, &mut ends, state, why.as_ref(), verdict);
                }
                is_over
            } else {
                let is_over = self.do_as_told(&here, &mut ends, state, why.as_ref(), verdict);
                is_over && why.is_none()
            };
            if is_over {
                return ends;
            }
        }
        ends.may_return = true;
        ends
    }

    /// Does what a rule says with a packet that it is about, or may be for the reason `why`.
    /// Returns whether no rule behind it sees the packet then.
    fn do_as_told(
        &self,
        here: &Here<'_>,
        ends: &mut Ends,
        state: &mut State<'_>,
        why: Option<&String>,
        verdict: Verdict,
    ) -> bool {
        let Here { at, name, handle, depth } = *here;
        match verdict {
            Verdict::Continue => return false,
            Verdict::Accept => (ends.may_accept, ends.may_stay) = (true, true),
            Verdict::Translate(change) => {
                ends.may_accept = true;
                let by = || obstacle(at, name, What::Rule(handle));
                if why.is_none() && !ends.may_return && ends.drops.is_empty() {
                    ends.translates.push(by());
                }
                match change {
                    Change::Source => {}
                    Change::Destination(to) => {
                        ends.redirections.push(Redirection { by: by(), to: Some(to) });
                    }
                    Change::Unknown => ends.redirections.push(Redirection { by: by(), to: None }),
                }
            }
            Verdict::Return => ends.may_return = true,
            Verdict::Drop => {
                let what = match why {
                    Some(step) => What::Unfollowed(handle, step.clone()),
                    None => What::Rule(handle),
                };
                ends.drops.push(obstacle(at, name, what));
            }
            Verdict::Unknown(step) => {
                let what = What::Unfollowed(handle, why.cloned().unwrap_or(step));
                ends.drops.push(obstacle(at, name, what));
                (ends.may_accept, ends.may_stay) = (true, true);
                // It may also do nothing.
                return false;
            }
            // A map has no entry that leads to several.
            Verdict::OneOf(..) => return false,
            Verdict::Jump(ref to) | Verdict::Goto(ref to) => {
                let mut inner = self.follow(at, to, state, depth + 1);
                match why {
                    Some(step) => {
                        // What it does there depends on a rule that was not followed.
                        for drop in &mut inner.drops {
                            if drop.what != What::Policy {
                                drop.what = What::Unfollowed(handle, step.clone());
                                name.clone_into(&mut drop.chain);
                            }
                        }
                    }
                    None => ends.translates.append(&mut inner.translates),
                }
                let comes_back = inner.may_return;
                ends.include(inner);
                if matches!(verdict, Verdict::Jump(_)) {
                    return !comes_back;
                }
                ends.may_return |= comes_back;
            }
        }
        true
    }
}

/// A rule, and how deep in chains it is.
struct Here<'a> {
    at: (u8, &'a str),
    name: &'a str,
    handle: u64,
    depth: usize,
}

fn obstacle((family, table): (u8, &str), chain: &str, what: What) -> Obstacle {
    Obstacle { family: family_name(family), table: table.to_owned(), chain: chain.to_owned(), what }
}
