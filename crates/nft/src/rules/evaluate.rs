//! One rule and one packet: whether it matches, and what it then does.

use crate::attribute;
use crate::matches::INTERFACE_NAME_BYTES;

use super::packet::Packet;
use super::registers::Registers;
use super::set::Found;
use super::translation::{self, Change};
use super::{Rule, Rules};

/// `NFTA_LOOKUP_SET`.
pub(super) const LOOKUP_SET: u16 = 1;

/// `NFTA_DATA_VALUE`, `NFTA_DATA_VERDICT`; `NFTA_VERDICT_CODE`, `NFTA_VERDICT_CHAIN`.
const VALUE: u16 = 1;
const VERDICT: u16 = 2;
const CODE: u16 = 1;
const CHAIN: u16 = 2;

/// Whether a rule is about a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Match {
    Yes,
    No,
    /// The step that is not understood, or asks what is not known.
    Perhaps(String),
}

/// What a rule does with a packet that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Continue,
    Accept,
    Drop,
    /// It goes on with another address.
    Translate(Change),
    Return,
    Jump(String),
    Goto(String),
    /// What a map has for the packet, of which not enough is known: one of these, and nothing else
    /// if that is certain.
    OneOf(Vec<Self>, bool),
    /// Something that nobody understands.
    Unknown(String),
}

/// Why a comparison is not followed.
const ASKS: &str = "it asks what not all packets have in common";

/// What is known of the packet as it passes.
#[derive(Clone, Debug)]
pub(super) struct State<'a> {
    pub(super) packet: &'a Packet,
    /// Its mark, unless a rule has given it another.
    pub(super) mark: Option<u32>,
    /// Whether it is followed as a frame, of whose devices nothing is known.
    pub(super) is_frame: bool,
}

impl<'a> State<'a> {
    pub(super) const fn new(packet: &'a Packet, is_frame: bool) -> Self {
        Self { packet, mark: Some(packet.mark), is_frame }
    }
}

/// What becomes of a comparison.
fn is(truth: Option<bool>, step: &str) -> Match {
    match truth {
        Some(true) => Match::Yes,
        Some(false) => Match::No,
        None => Match::Perhaps(step.to_owned()),
    }
}

impl Rule {
    /// Follows the packet through the rule, which is in `table` of `family`.
    pub(super) fn apply(
        &self,
        rules: &Rules,
        (family, table): (u8, &str),
        state: &mut State<'_>,
    ) -> (Match, Verdict) {
        let mut registers = Registers::new();
        let mut matches = Match::Yes;
        let mut chosen: Option<Chosen> = None;
        for (step, data) in &self.steps {
            let number = |kind| attribute::number(data, kind).unwrap_or_default();
            let found = match step.as_str() {
                "counter" | "log" | "notrack" | "objref" | "last" => Match::Yes,
                "meta" if attribute::find(data, 3).is_some() => {
                    // It is given a mark, or something else that no rule of a firewall asks.
                    state.mark = None;
                    Match::Yes
                }
                "meta" => meta(state, data, &mut registers),
                "payload" if attribute::find(data, 1).is_some() => {
                    payload(state.packet, data, &mut registers)
                }
                // Bytes are written into it.
                "payload" => Match::Yes,
                "ct" if attribute::find(data, 4).is_some() => Match::Yes,
                "ct" => connection(state.packet, data, &mut registers),
                "bitwise" => {
                    bitwise(data, &mut registers);
                    Match::Yes
                }
                "cmp" => is(compare(data, &registers), ASKS),
                "range" => is(range(data, &registers), ASKS),
                "lookup" => {
                    let Some(name) = attribute::text(data, LOOKUP_SET) else {
                        return (Match::Perhaps(step.clone()), Verdict::Unknown(step.clone()));
                    };
                    let set = rules.sets.get(&(family, table.to_owned(), name.clone()));
                    let key_len = set.map(|set| set.key_len().unwrap_or_default());
                    let key = key_len.map(|len| registers.read(number(2), len));
                    let found = set.zip(key).map(|(set, key)| set.look_up(&key));
                    match attribute::number(data, 3) {
                        // A set.
                        None => {
                            let is_inverse = number(5) & 1 != 0;
                            let truth = match found {
                                Some(Found::Nothing) => Some(false),
                                Some(Found::This(_)) => Some(true),
                                Some(Found::Perhaps(_)) | None => None,
                            };
                            let truth = truth.map(|is_inside| is_inside != is_inverse);
                            is(truth, &format!("set {name}"))
                        }
                        // A map that decides.
                        Some(0) => {
                            let what = format!("map {name}");
                            let verdict = match found {
                                None => {
                                    return (Match::Perhaps(what.clone()), Verdict::Unknown(what));
                                }
                                Some(Found::Nothing) => return (Match::No, Verdict::Continue),
                                Some(Found::This(entry)) => decides(entry),
                                Some(Found::Perhaps(entries)) => {
                                    let is_whole = chosen.is_some_and(|chosen| {
                                        chosen.register == number(2) && chosen.has_all(&entries)
                                    });
                                    let mut all: Vec<Verdict> = Vec::new();
                                    for verdict in entries.into_iter().map(decides) {
                                        if !all.contains(&verdict) {
                                            all.push(verdict);
                                        }
                                    }
                                    if matches == Match::Yes {
                                        matches = Match::Perhaps(what);
                                    }
                                    Verdict::OneOf(all, is_whole)
                                }
                            };
                            return (matches, verdict);
                        }
                        // One from which something is loaded.
                        Some(register) => {
                            let value = match found {
                                Some(Found::Nothing) => return (Match::No, Verdict::Continue),
                                Some(Found::This(entry)) => entry.value.clone(),
                                Some(Found::Perhaps(_)) | None => None,
                            };
                            match value {
                                Some(value) => {
                                    let value: Vec<_> = value.into_iter().map(Some).collect();
                                    registers.write(register, &value);
                                    Match::Yes
                                }
                                None => {
                                    registers.forget(register);
                                    Match::Perhaps(format!("map {name}"))
                                }
                            }
                        }
                    }
                }
                "numgen" => {
                    chosen = Some(Chosen::read(data));
                    match chosen.and_then(Chosen::only) {
                        Some(one) => registers.write(number(1), &one.to_ne_bytes().map(Some)),
                        None => registers.forget(number(1)),
                    }
                    Match::Yes
                }
                "match" => extension(state.packet, data),
                "immediate" if number(1) != 0 => {
                    let value = attribute::find(data, 2)
                        .and_then(|data| attribute::find(data, VALUE))
                        .unwrap_or_default();
                    let value: Vec<_> = value.iter().copied().map(Some).collect();
                    registers.write(number(1), &value);
                    Match::Yes
                }
                "immediate" => return (matches, verdict(data)),
                "reject" => return (matches, Verdict::Drop),
                "masq" => return (matches, Verdict::Translate(Change::Source)),
                "redir" => return (matches, Verdict::Translate(Change::Unknown)),
                "nat" => {
                    let change = translation::of_nat(data, &registers);
                    return (matches, Verdict::Translate(change));
                }
                "tproxy" => return (matches, Verdict::Accept),
                "target" => {
                    let verdict = target(data);
                    if verdict != Verdict::Continue {
                        return (matches, verdict);
                    }
                    Match::Yes
                }
                other => {
                    // Whatever it loads is not known.
                    for register in [number(1), number(2)] {
                        if (1..24).contains(&register) {
                            registers.forget(register);
                        }
                    }
                    match other {
                        "fib" | "rt" | "hash" | "socket" | "osf" | "tunnel" | "exthdr"
                        | "byteorder" | "xfrm" => Match::Yes,
                        "queue" => {
                            return (matches, Verdict::Unknown("a queue to a program".to_owned()));
                        }
                        other => Match::Perhaps(other.to_owned()),
                    }
                }
            };
            match (&matches, found) {
                (_, Match::No) => return (Match::No, Verdict::Continue),
                (Match::Yes, found) => matches = found,
                _ => {}
            }
        }
        (matches, Verdict::Continue)
    }
}

/// A number of several, of which nobody knows which it will be.
#[derive(Clone, Copy, Debug)]
struct Chosen {
    register: u32,
    /// How many there are, from `first` on.
    count: u32,
    first: u32,
}

impl Chosen {
    fn read(data: &[u8]) -> Self {
        let number = |kind| attribute::number(data, kind).unwrap_or_default();
        Self { register: number(1), count: number(2), first: number(4) }
    }

    /// The number, if there is but one.
    fn only(self) -> Option<u32> {
        (self.count == 1).then_some(self.first)
    }

    /// Whether a map has an entry for each, if these are those that it may have.
    fn has_all(self, entries: &[&super::set::Entry]) -> bool {
        u32::try_from(entries.len()).is_ok_and(|count| count == self.count)
    }
}

/// What an entry of a map says.
fn decides(entry: &super::set::Entry) -> Verdict {
    use crate::verdict::Verdict as Of;
    match &entry.verdict {
        Some(Of::Drop) => Verdict::Drop,
        Some(Of::Accept) => Verdict::Accept,
        Some(Of::Jump(chain)) => Verdict::Jump(chain.clone()),
        Some(Of::Goto(chain)) => Verdict::Goto(chain.clone()),
        Some(Of::Return) => Verdict::Return,
        None => Verdict::Unknown("an entry of a map".to_owned()),
    }
}

/// The bytes, if all are known.
fn known(bytes: &[Option<u8>]) -> Option<Vec<u8>> {
    bytes.iter().copied().collect()
}

/// The least and the greatest that bytes can be of which the last are not known; none where one is
/// not known and one behind it is.
pub(super) fn extremes(bytes: &[Option<u8>]) -> Option<(Vec<u8>, Vec<u8>)> {
    let first = bytes.iter().position(Option::is_none).unwrap_or(bytes.len());
    if bytes.iter().skip(first).any(Option::is_some) {
        return None;
    }
    let with = |rest: u8| bytes.iter().map(|byte| byte.unwrap_or(rest)).collect();
    Some((with(0), with(u8::MAX)))
}

fn meta(state: &State<'_>, data: &[u8], registers: &mut Registers) -> Match {
    let packet = state.packet;
    let name = |name: &str| {
        let mut bytes = name.as_bytes().to_vec();
        bytes.resize(INTERFACE_NAME_BYTES, 0);
        Some(bytes)
    };
    let host = |value: u32| Some(value.to_ne_bytes().to_vec());
    // kernel: what comes by no device has none of its name; a rule about it does not match.
    let device = |device: &Option<super::Device>, named: bool| match device {
        _ if state.is_frame => Ok(None),
        Some(device) if named => Ok(name(&device.name)),
        Some(device) => Ok(host(device.index)),
        None => Err(()),
    };
    let loaded = match attribute::number(data, 2) {
        Some(1) => Ok(Some(packet.ether_type().to_vec())),
        Some(3) => Ok(state.mark.and_then(host)),
        Some(4) => device(&packet.input, false),
        Some(5) => device(&packet.output, false),
        Some(6) => device(&packet.input, true),
        Some(7) => device(&packet.output, true),
        // Of a frame it is another number.
        Some(15) if state.is_frame => Ok(None),
        Some(15) => Ok(Some(vec![if packet.is_ipv4() { 2 } else { 10 }])),
        Some(16) => Ok(packet.protocol().map(|protocol| vec![protocol])),
        _ => Ok(None),
    };
    let register = attribute::number(data, 1).unwrap_or_default();
    match loaded {
        // kernel: a name of sixteen zeros (nft_meta_store_ifname), and index 0.
        Err(()) => registers.write(register, &[Some(0); 16]),
        Ok(Some(bytes)) => {
            registers.write(register, &bytes.into_iter().map(Some).collect::<Vec<_>>());
        }
        Ok(None) => registers.forget(register),
    }
    Match::Yes
}

fn payload(packet: &Packet, data: &[u8], registers: &mut Registers) -> Match {
    let number = |kind| attribute::number(data, kind).unwrap_or_default() as usize;
    let (base, offset, len) = (number(2), number(3), number(4).min(16));
    let byte = |at: usize| match base {
        // The type of the frame, behind two hardware addresses.
        0 if (12..14).contains(&at) => Some(packet.ether_type()[at - 12]),
        1 => packet.network(at),
        2 => packet.upper(at),
        _ => None,
    };
    let bytes: Vec<_> = (offset..offset + len).map(byte).collect();
    registers.write(attribute::number(data, 1).unwrap_or_default(), &bytes);
    Match::Yes
}

fn connection(packet: &Packet, data: &[u8], registers: &mut Registers) -> Match {
    const UNTRACKED: u32 = 1 << 6;
    const NEW: u32 = 1 << 3;
    let register = attribute::number(data, 1).unwrap_or_default();
    let key = attribute::number(data, 2);
    let host = |value: u32| value.to_ne_bytes().map(Some);
    match (key, packet.is_tracked) {
        (Some(0), true) => registers.write(register, &host(NEW)),
        (Some(0), false) => registers.write(register, &host(UNTRACKED)),
        // Whatever else is asked of a connection, a packet of none has not.
        (_, false) => return Match::No,
        (Some(1), true) => registers.write(register, &[Some(0)]),
        // Nobody has given it one yet.
        (Some(3), true) => registers.write(register, &host(0)),
        (_, true) => registers.forget(register),
    }
    Match::Yes
}

fn bitwise(data: &[u8], registers: &mut Registers) {
    let number = |kind| attribute::number(data, kind).unwrap_or_default();
    let value = |kind| {
        let nested = attribute::find(data, kind);
        nested.and_then(|nested| attribute::find(nested, VALUE)).unwrap_or_default()
    };
    let (source, destination, len) = (number(1), number(2), (number(3) as usize).min(16));
    let (mask, flip) = (value(4), value(5));
    // Zero is mask and flip; the others shift, or take a second register.
    if number(6) != 0 || mask.len() < len || flip.len() < len {
        return registers.forget(destination);
    }
    let bytes: Vec<_> = registers
        .read(source, len)
        .into_iter()
        .zip(mask.iter().zip(flip))
        .map(|(byte, (mask, flip))| match byte {
            _ if *mask == 0 => Some(*flip),
            byte => byte.map(|byte| byte & mask ^ flip),
        })
        .collect();
    registers.write(destination, &bytes);
}

fn compare(data: &[u8], registers: &Registers) -> Option<bool> {
    let value = attribute::find(attribute::find(data, 3)?, VALUE)?;
    let bytes = registers.read(attribute::number(data, 1)?, value.len());
    let differs = bytes.iter().zip(value).any(|(byte, value)| byte.is_some_and(|it| it != *value));
    let whole = known(&bytes);
    match attribute::number(data, 2)? {
        0 if differs => Some(false),
        1 if differs => Some(true),
        0 => whole.map(|whole| whole == value),
        1 => whole.map(|whole| whole != value),
        2 => whole.map(|whole| whole.as_slice() < value),
        3 => whole.map(|whole| whole.as_slice() <= value),
        4 => whole.map(|whole| whole.as_slice() > value),
        5 => whole.map(|whole| whole.as_slice() >= value),
        _ => None,
    }
}

fn range(data: &[u8], registers: &Registers) -> Option<bool> {
    let bound = |kind| attribute::find(attribute::find(data, kind)?, VALUE);
    let (from, to) = (bound(3)?, bound(4)?);
    let (least, most) = extremes(&registers.read(attribute::number(data, 1)?, from.len()))?;
    let is_outside = most.as_slice() < from || least.as_slice() > to;
    let is_inside =
        (from..=to).contains(&least.as_slice()) && (from..=to).contains(&most.as_slice());
    let is_inverse = attribute::number(data, 2)? == 1;
    (is_inside || is_outside).then_some(is_inside != is_inverse)
}

/// A match of iptables: a remark, and the state of the connection, are understood.
fn extension(packet: &Packet, data: &[u8]) -> Match {
    match attribute::text(data, 1) {
        Some(name) if name == "comment" => Match::Yes,
        Some(name) => match name.as_str() {
            "conntrack" => connection_state(packet, data).map(|truth| is(Some(truth), "")),
            _ => None,
        }
        .unwrap_or_else(|| Match::Perhaps(format!("match {name} of iptables"))),
        None => Match::Perhaps("a match of iptables".to_owned()),
    }
}

/// What `-m conntrack` says of the packet, if its connection's state is all that is asked. The
/// kernel has it as `struct xt_conntrack_mtinfo2`, which number 3 only adds to.
fn connection_state(packet: &Packet, data: &[u8]) -> Option<bool> {
    const STATE: u16 = 1;
    const NEW: u16 = 1 << 3;
    const UNTRACKED: u16 = 1 << 8;
    // A packet of a connection that is translated has one of these beside its state.
    const TRANSLATED: u16 = 3 << 6;
    let number = |at: usize| {
        let info = attribute::find(data, 3)?;
        info.get(at..)?.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
    };
    // Behind eight addresses, two times and five numbers.
    let (asked, inverse, states) = (number(146)?, number(148)?, number(150)?);
    let is_known = matches!(attribute::number(data, 2), Some(2 | 3));
    if !is_known || asked != STATE || states & TRANSLATED != 0 {
        return None;
    }
    let state = if packet.is_tracked { NEW } else { UNTRACKED };
    Some((states & state != 0) != (inverse & STATE != 0))
}

/// A target of iptables.
fn target(data: &[u8]) -> Verdict {
    let name = attribute::text(data, 1).unwrap_or_default();
    match name.as_str() {
        "REJECT" | "DROP" => Verdict::Drop,
        "LOG" | "NFLOG" | "MARK" | "CONNMARK" | "CT" | "NOTRACK" | "TCPMSS" | "CHECKSUM"
        | "DSCP" | "TOS" | "CLASSIFY" | "TRACE" | "AUDIT" => Verdict::Continue,
        "MASQUERADE" | "SNAT" => Verdict::Translate(Change::Source),
        "DNAT" => Verdict::Translate(translation::of_target(data)),
        "REDIRECT" | "NETMAP" => Verdict::Translate(Change::Unknown),
        _ => Verdict::Unknown(format!("target {name} of iptables")),
    }
}

fn verdict(data: &[u8]) -> Verdict {
    let Some(verdict) = attribute::find(data, 2).and_then(|data| attribute::find(data, VERDICT))
    else {
        return Verdict::Unknown("a verdict without a code".to_owned());
    };
    let chain = || attribute::text(verdict, CHAIN).unwrap_or_default();
    match attribute::number(verdict, CODE).map(u32::cast_signed) {
        Some(0) => Verdict::Drop,
        Some(1) => Verdict::Accept,
        Some(-1 | -2) => Verdict::Continue,
        Some(-3) => Verdict::Jump(chain()),
        Some(-4) => Verdict::Goto(chain()),
        Some(-5) => Verdict::Return,
        Some(code) => Verdict::Unknown(format!("verdict {code}")),
        None => Verdict::Unknown("a verdict without a code".to_owned()),
    }
}
