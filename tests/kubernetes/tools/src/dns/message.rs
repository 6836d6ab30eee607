//! Questions and answers on the wire: RFC 1035, section 4, without compression of names.

use std::net::IpAddr;

use super::zone::{Record, Zone};

const HEADER: usize = 12;
/// Response, authoritative.
const FLAGS: u16 = 0x8400;
const RECURSION_DESIRED: u16 = 0x0100;
const NO_SUCH_NAME: u16 = 3;
const INTERNET: u16 = 1;
/// Seconds that others may remember an answer for: what tests change, they ask for again soon.
const REMEMBERED: u32 = 1;

/// What a record is called in a question.
const A: u16 = 1;
const CNAME: u16 = 5;
const PTR: u16 = 12;
const AAAA: u16 = 28;
const SRV: u16 = 33;
const ANY: u16 = 255;

/// The answer to a message with one question, or nothing if it has none.
pub(super) fn answer(message: &[u8], zone: &Zone) -> Option<Vec<u8>> {
    let (name, end) = name(message)?;
    let question = message.get(HEADER..end + 4)?;
    let kind = number(message, end)?;
    let found = zone.find(&name);
    let records: Vec<Vec<u8>> = found
        .iter()
        .flatten()
        .filter(|record| wants(kind, record))
        .filter_map(|record| encode(message.get(HEADER..end)?, record))
        .collect();

    let mut reply = message.get(..2)?.to_vec();
    let code = if found.is_some() { 0 } else { NO_SUCH_NAME };
    let flags = FLAGS | number(message, 2)? & RECURSION_DESIRED | code;
    for value in [flags, 1, u16::try_from(records.len()).ok()?, 0, 0] {
        reply.extend(value.to_be_bytes());
    }
    reply.extend(question);
    reply.extend(records.into_iter().flatten());
    Some(reply)
}

/// The name of the first question, in lower case and without its last dot, and where it ends.
fn name(message: &[u8]) -> Option<(String, usize)> {
    if number(message, 4)? != 1 {
        return None;
    }
    let mut labels = Vec::new();
    let mut at = HEADER;
    loop {
        let len = usize::from(*message.get(at)?);
        at += 1;
        match len {
            0 => return Some((labels.join("."), at)),
            1..=63 => {
                let label = std::str::from_utf8(message.get(at..at + len)?).ok()?;
                labels.push(label.to_ascii_lowercase());
                at += len;
            }
            // A pointer has nothing to point at in the first name.
            _ => return None,
        }
    }
}

fn number(message: &[u8], at: usize) -> Option<u16> {
    message.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

/// The type of a record.
fn kind(record: &Record) -> u16 {
    match record {
        Record::Address(IpAddr::V4(_)) => A,
        Record::Address(IpAddr::V6(_)) => AAAA,
        Record::Alias(_) => CNAME,
        Record::Name(_) => PTR,
        Record::Port { .. } => SRV,
    }
}

/// Whether a question of that type wants the record. An alias answers every question.
fn wants(asked: u16, record: &Record) -> bool {
    let is_alias = matches!(record, Record::Alias(_));
    asked == ANY || asked == kind(record) || is_alias && matches!(asked, A | AAAA)
}

/// A record with the name that was asked for.
fn encode(name: &[u8], record: &Record) -> Option<Vec<u8>> {
    let data = match record {
        Record::Address(IpAddr::V4(address)) => address.octets().to_vec(),
        Record::Address(IpAddr::V6(address)) => address.octets().to_vec(),
        Record::Alias(target) | Record::Name(target) => labels(target)?,
        Record::Port { port, target } => {
            // Priority and weight are the same for all.
            let mut data = vec![0, 0, 0, 100];
            data.extend(port.to_be_bytes());
            data.extend(labels(target)?);
            data
        }
    };
    let mut encoded = name.to_vec();
    encoded.extend(kind(record).to_be_bytes());
    encoded.extend(INTERNET.to_be_bytes());
    encoded.extend(REMEMBERED.to_be_bytes());
    encoded.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
    encoded.extend(data);
    Some(encoded)
}

/// A name as labels.
fn labels(name: &str) -> Option<Vec<u8>> {
    let mut encoded = Vec::new();
    for label in name.trim_end_matches('.').split('.') {
        encoded.push(u8::try_from(label.len()).ok().filter(|len| (1..=63).contains(len))?);
        encoded.extend(label.bytes());
    }
    encoded.push(0);
    Some(encoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::zone::tests::zone;

    /// A question of a type for a name, recursion desired.
    fn question(name: &str, kind: u16) -> Vec<u8> {
        let mut message = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend(labels(name).unwrap());
        message.extend(kind.to_be_bytes());
        message.extend(INTERNET.to_be_bytes());
        message
    }

    #[test]
    fn an_address_is_answered_in_these_bytes() {
        let asked = question("web.shop.svc.cluster.local", A);
        let reply = answer(&asked, &zone()).unwrap();
        let mut expected = vec![0xab, 0xcd, 0x85, 0, 0, 1, 0, 1, 0, 0, 0, 0];
        expected.extend(&asked[HEADER..]);
        expected.extend(&asked[HEADER..asked.len() - 4]);
        expected.extend([0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 10, 96, 0, 7]);
        assert_eq!(reply, expected);
    }

    #[test]
    fn a_name_that_is_there_has_no_record_of_another_family_and_is_there() {
        let reply = answer(&question("web.shop.svc.cluster.local", AAAA), &zone()).unwrap();
        assert_eq!(reply[2..8], [0x85, 0, 0, 1, 0, 0]);
        let reply = answer(&question("nobody.shop.svc.cluster.local", A), &zone()).unwrap();
        assert_eq!(reply[2..8], [0x85, 3, 0, 1, 0, 0]);
    }

    #[test]
    fn what_is_no_question_gets_no_answer() {
        let whole = question("web.shop.svc.cluster.local", A);
        for len in 0..whole.len() {
            assert_eq!(answer(&whole[..len], &zone()), None, "{len} bytes");
        }
        let mut pointer = whole;
        pointer[HEADER] = 0xc0;
        assert_eq!(answer(&pointer, &zone()), None);
    }
}
