//! A question and its answer: STAMP's unauthenticated packets (RFC 8762 §4.2.1, §4.3.1) with TLVs
//! (RFC 8972).

use core::error::Error;
use core::fmt;

use super::packet::{Ends, UDP_HEADER_LEN};
use super::tlv::{self, Digest, MAX_TRACE_LEN, Route, Writer};
use super::{REFLECTOR_PORT, SENDER_PORT, UDP};
use crate::checksum::{Sum, checksum, pseudo_header};
use crate::{Family, Fragment, InnerPacket};

/// Either packet before its TLVs.
const BASE_LEN: usize = 44;
/// TLVs that both always have.
const TLVS_LEN: usize = 2 * tlv::HEADER_LEN + Route::LEN + Digest::LEN;

/// The shortest message: what both directions have.
pub const MIN_LEN: usize = UDP_HEADER_LEN + BASE_LEN + TLVS_LEN;
/// The longest answer with its IP header.
pub const MAX_LEN: usize = Family::V6.header_len() + MIN_LEN + tlv::HEADER_LEN + MAX_TRACE_LEN;

/// The clock of a node: not known to agree with that of others (S = 0), as NTP writes time
/// (Z = 0), and good for a millisecond: 2^22 · 2^-32 s (RFC 4656 §4.1.2).
const ERROR_ESTIMATE: [u8; 2] = [22, 1];

/// Seconds from 1900, where NTP begins, to 1970.
const NTP_EPOCH: u64 = 2_208_988_800;
const NANOS: u64 = 1_000_000_000;

/// A moment as NTP writes it (RFC 8877): seconds after 1900, and a fraction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The moment so many nanoseconds after 1970. Wraps round in 2036, as NTP does.
    #[must_use]
    pub const fn from_unix_nanos(nanos: u64) -> Self {
        let seconds = (nanos / NANOS).wrapping_add(NTP_EPOCH);
        Self((seconds << 32) | (((nanos % NANOS) << 32) / NANOS))
    }

    /// Nanoseconds from `earlier` to this moment, if it is not before.
    #[must_use]
    pub const fn nanos_since(self, earlier: Self) -> Option<u64> {
        match self.0.checked_sub(earlier.0) {
            // 2^32 · 10^9 fits 64 bits.
            Some(passed) => Some((passed >> 32) * NANOS + (((passed & 0xffff_ffff) * NANOS) >> 32)),
            None => None,
        }
    }

    /// Seconds from `other` to this moment, also if it is before. Of two clocks, which may be far
    /// apart: the nearer way round counts.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "of some years, still microseconds")]
    pub const fn seconds_ahead_of(self, other: Self) -> f64 {
        self.0.wrapping_sub(other.0).cast_signed() as f64 / (1_u64 << 32) as f64
    }
}

/// What a node asks another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// Which question it is.
    pub sequence: u32,
    /// When it was sent, by the sender's clock.
    pub sent: Timestamp,
    /// Which run of the sender's daemon it is of (SSID, RFC 8972 §3).
    pub session: u16,
    /// Its path and that of the answer.
    pub route: Route,
    /// How the sender is.
    pub digest: Digest,
}

/// What the other answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The question's number.
    pub sequence: u32,
    /// When the question was sent, by the clock of who asked.
    pub asked: Timestamp,
    /// When it arrived, by the clock of who answers.
    pub received: Timestamp,
    /// When the answer was sent, by the same.
    pub sent: Timestamp,
    /// Which run of the asking daemon it is for.
    pub session: u16,
    /// The TTL with which the inner packet of the question arrived.
    pub ttl: u8,
    /// As the question had it.
    pub route: Route,
    /// How who answers is.
    pub digest: Digest,
}

/// One of the two, and what came with it of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'p> {
    /// Somebody asks.
    Question(Question, Option<&'p [u8]>),
    /// Somebody answers.
    Answer(Answer, Option<&'p [u8]>),
}

/// Why a packet is neither a question nor an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OamError {
    /// No whole UDP datagram with the ports of either.
    Ports,
    /// A header's checksum or the datagram's is wrong, or its length.
    Checksum,
    /// Shorter than either.
    TooShort,
    /// The TLVs that both have are not there, or some are cut short.
    Tlvs,
}

impl fmt::Display for OamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ports => "no datagram with the ports of a question or an answer",
            Self::Checksum => "a checksum or a length is wrong",
            Self::TooShort => "too short",
            Self::Tlvs => "the TLVs are not what they should be",
        })
    }
}

impl Error for OamError {}

impl Question {
    /// Writes the inner packet, `packet_len` bytes of it: what is more than needed is padding.
    /// Returns its length.
    ///
    /// `None`, with `out` in any state, if `ends` are of two families, `trace` is longer than
    /// [`MAX_TRACE_LEN`], the packet is too short for what it must hold, or `out` for the packet.
    /// A packet that is one to three bytes longer than needed cannot be padded either.
    #[must_use]
    pub fn write(
        &self,
        ends: Ends,
        trace: Option<&[u8]>,
        packet_len: usize,
        out: &mut [u8],
    ) -> Option<usize> {
        write(ends, SENDER_PORT, REFLECTOR_PORT, packet_len, out, |base, tlvs| {
            base[..4].copy_from_slice(&self.sequence.to_be_bytes());
            base[4..12].copy_from_slice(&self.sent.0.to_be_bytes());
            base[12..14].copy_from_slice(&ERROR_ESTIMATE);
            base[14..16].copy_from_slice(&self.session.to_be_bytes());
            let mut writer = Writer { room: tlvs, flags: tlv::UNRECOGNIZED };
            tlvs_of(&mut writer, self.route, self.digest, trace)?;
            writer.pad()
        })
    }

    /// The shortest packet that holds it.
    #[must_use]
    pub const fn packet_len(family: Family, trace: Option<&[u8]>) -> usize {
        family.header_len() + MIN_LEN + trace_len(trace)
    }

    /// What answers it, so far as the question tells: a reflector that knows nothing of sessions
    /// numbers answers as questions are numbered (RFC 8762 §4.3).
    #[must_use]
    pub fn answer(&self, ttl: u8) -> Answer {
        let Self { sequence, sent, session, route, .. } = *self;
        Answer { sequence, asked: sent, session, ttl, route, ..Answer::default() }
    }
}

impl Answer {
    /// Writes the inner packet, as short as it can be. Returns its length; `None` as for
    /// [`Question::write`].
    #[must_use]
    pub fn write(&self, ends: Ends, trace: Option<&[u8]>, out: &mut [u8]) -> Option<usize> {
        let packet_len = Question::packet_len(ends.family()?, trace);
        write(ends, REFLECTOR_PORT, SENDER_PORT, packet_len, out, |base, tlvs| {
            base[..4].copy_from_slice(&self.sequence.to_be_bytes());
            base[4..12].copy_from_slice(&self.sent.0.to_be_bytes());
            base[12..14].copy_from_slice(&ERROR_ESTIMATE);
            base[14..16].copy_from_slice(&self.session.to_be_bytes());
            base[16..24].copy_from_slice(&self.received.0.to_be_bytes());
            base[24..28].copy_from_slice(&self.sequence.to_be_bytes());
            base[28..36].copy_from_slice(&self.asked.0.to_be_bytes());
            base[36..38].copy_from_slice(&ERROR_ESTIMATE);
            base[40] = self.ttl;
            let mut writer = Writer { room: tlvs, flags: 0 };
            tlvs_of(&mut writer, self.route, self.digest, trace)?;
            writer.pad()
        })
    }
}

const fn trace_len(trace: Option<&[u8]>) -> usize {
    match trace {
        Some(trace) => tlv::HEADER_LEN + trace.len(),
        None => 0,
    }
}

fn tlvs_of(
    writer: &mut Writer<'_>,
    route: Route,
    digest: Digest,
    trace: Option<&[u8]>,
) -> Option<()> {
    writer.push(tlv::ROUTE, &route.encode())?;
    writer.push(tlv::DIGEST, &digest.encode())?;
    match trace {
        Some(trace) if trace.len() > MAX_TRACE_LEN => None,
        Some(trace) => writer.push(tlv::TRACE, trace),
        None => Some(()),
    }
}

fn write(
    ends: Ends,
    source_port: u16,
    destination_port: u16,
    packet_len: usize,
    out: &mut [u8],
    fill: impl FnOnce(&mut [u8; BASE_LEN], &mut [u8]) -> Option<()>,
) -> Option<usize> {
    let datagram = ends.write(UDP, packet_len, out)?;
    let len = u16::try_from(datagram.len()).ok()?;
    let (header, message) = datagram.split_first_chunk_mut::<UDP_HEADER_LEN>()?;
    header[..2].copy_from_slice(&source_port.to_be_bytes());
    header[2..4].copy_from_slice(&destination_port.to_be_bytes());
    header[4..6].copy_from_slice(&len.to_be_bytes());
    let (base, tlvs) = message.split_first_chunk_mut::<BASE_LEN>()?;
    fill(base, tlvs)?;
    let sum = match ends.transport_checksum(UDP, datagram)? {
        0 => 0xffff, // RFC 768: 0 is "none"
        sum => sum,
    };
    datagram.get_mut(6..8)?.copy_from_slice(&sum.to_be_bytes());
    Some(packet_len)
}

/// Reads a question or an answer. Every checksum is looked at, since no kernel will: what is read
/// here goes no further.
///
/// # Errors
///
/// The first check that failed.
pub fn parse<'p>(packet: &InnerPacket<'p>) -> Result<Message<'p>, OamError> {
    let upper = packet.upper_layer();
    let whole = packet.next_protocol() == UDP && upper.fragment == Fragment::Whole;
    let is_question = match packet.ports().filter(|_| whole) {
        Some((SENDER_PORT, REFLECTOR_PORT)) => true,
        Some((REFLECTOR_PORT, SENDER_PORT)) => false,
        _ => return Err(OamError::Ports),
    };
    let datagram = packet.bytes().get(upper.offset..).unwrap_or_default();
    check(packet, datagram).ok_or(OamError::Checksum)?;
    let message = datagram.get(UDP_HEADER_LEN..).unwrap_or_default();
    let Some((base, mut tlvs)) = message.split_first_chunk::<BASE_LEN>() else {
        return Err(OamError::TooShort);
    };
    let (mut route, mut digest, mut trace) = (None, None, None);
    while !tlvs.is_empty() {
        let (kind, value, rest) = tlv::take(tlvs).ok_or(OamError::Tlvs)?;
        match kind {
            tlv::ROUTE => route = Route::decode(value),
            tlv::DIGEST => digest = Digest::decode(value),
            tlv::TRACE if value.len() <= MAX_TRACE_LEN => trace = Some(value),
            // Padding, and what later versions add.
            _ => {}
        }
        tlvs = rest;
    }
    let (Some(route), Some(digest)) = (route, digest) else { return Err(OamError::Tlvs) };
    let fields = Fields(base);
    let (sequence, session) = (fields.u32(0), fields.u16(14));
    Ok(if is_question {
        let sent = Timestamp(fields.u64(4));
        Message::Question(Question { sequence, sent, session, route, digest }, trace)
    } else {
        let answer = Answer {
            sequence: fields.u32(24),
            asked: Timestamp(fields.u64(28)),
            received: Timestamp(fields.u64(16)),
            sent: Timestamp(fields.u64(4)),
            session,
            ttl: base[40],
            route,
            digest,
        };
        Message::Answer(answer, trace)
    })
}

/// Whether lengths and checksums are right.
fn check(packet: &InnerPacket<'_>, datagram: &[u8]) -> Option<()> {
    let header = packet.bytes().get(..packet.header_len())?;
    let right_header = packet.family() == Family::V6 || checksum(header) == 0;
    let len = u16::from_be_bytes(*datagram.get(4..)?.first_chunk()?);
    let sent_sum = u16::from_be_bytes(*datagram.get(6..)?.first_chunk()?);
    let pseudo = pseudo_header(packet.source(), packet.destination(), UDP, len.into());
    let right = right_header
        && usize::from(len) == datagram.len()
        && sent_sum != 0
        && pseudo.join(Sum::of(datagram)).finish() == 0;
    right.then_some(())
}

/// The numbers of a packet by their places, which the length of the packet covers.
struct Fields<'b>(&'b [u8; BASE_LEN]);

impl Fields<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0.get(at..).and_then(|rest| rest.first_chunk().copied()).unwrap_or([0; N])
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_be_bytes(self.bytes(at))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.bytes(at))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_be_bytes(self.bytes(at))
    }
}
