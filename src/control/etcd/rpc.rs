//! The messages of etcd's version 3 interface that we send and read.
//!
//! Owns their shape on the wire, by the numbers that etcd's `rpc.proto` and `kv.proto` give to the
//! fields; fields that we neither set nor read are left out, which protobuf allows. Written out
//! instead of generated, so that nobody needs a protobuf compiler to build Culvert.

use culvert_claims::etcd::{self as protocol, Change, Watched};
use prost::{Enumeration, Message, Oneof};

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct ResponseHeader {
    #[prost(uint64, tag = "1")]
    pub(super) cluster_id: u64,
    #[prost(int64, tag = "3")]
    pub(super) revision: i64,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct KeyValue {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(int64, tag = "2")]
    create_revision: i64,
    #[prost(int64, tag = "3")]
    mod_revision: i64,
    #[prost(bytes = "vec", tag = "5")]
    value: Vec<u8>,
    #[prost(int64, tag = "6")]
    lease: i64,
}

impl From<KeyValue> for protocol::KeyValue {
    fn from(found: KeyValue) -> Self {
        let KeyValue { key, create_revision, mod_revision, value, lease } = found;
        Self { key, create_revision, mod_revision, value, lease }
    }
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct RangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) range_end: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub(super) limit: i64,
    #[prost(int64, tag = "4")]
    pub(super) revision: i64,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct RangeResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<ResponseHeader>,
    #[prost(message, repeated, tag = "2")]
    pub(super) kvs: Vec<KeyValue>,
    #[prost(bool, tag = "3")]
    pub(super) more: bool,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub(super) lease: i64,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct DeleteRangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct RequestOp {
    #[prost(oneof = "Op", tags = "2, 3")]
    pub(super) op: Option<Op>,
}

#[derive(Clone, PartialEq, Eq, Oneof)]
pub(super) enum Op {
    #[prost(message, tag = "2")]
    Put(PutRequest),
    #[prost(message, tag = "3")]
    Delete(DeleteRangeRequest),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub(super) enum CompareResult {
    Equal = 0,
    Less = 2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub(super) enum CompareTarget {
    Version = 0,
    Mod = 2,
    Value = 3,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Compare {
    #[prost(enumeration = "CompareResult", tag = "1")]
    result: i32,
    #[prost(enumeration = "CompareTarget", tag = "2")]
    target: i32,
    #[prost(bytes = "vec", tag = "3")]
    key: Vec<u8>,
    #[prost(oneof = "Union", tags = "4, 6, 7")]
    union: Option<Union>,
    /// With it, all keys from `key` to before this one must compare.
    #[prost(bytes = "vec", tag = "64")]
    range_end: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Oneof)]
enum Union {
    #[prost(int64, tag = "4")]
    Version(i64),
    #[prost(int64, tag = "6")]
    ModRevision(i64),
    #[prost(bytes, tag = "7")]
    Value(Vec<u8>),
}

impl From<protocol::Compare> for Compare {
    fn from(compare: protocol::Compare) -> Self {
        use CompareResult::{Equal, Less};
        let (key, result, target, union, end) = match compare {
            // Versions count from 1; a key that does not exist has 0.
            protocol::Compare::Absent(key) => {
                (key, Equal, CompareTarget::Version, Union::Version(0), String::new())
            }
            protocol::Compare::Value(key, value) => {
                (key, Equal, CompareTarget::Value, Union::Value(value), String::new())
            }
            protocol::Compare::Written(key, revision) => {
                (key, Equal, CompareTarget::Mod, Union::ModRevision(revision), String::new())
            }
            protocol::Compare::NotWrittenSince { first, end, revision } => {
                (first, Less, CompareTarget::Mod, Union::ModRevision(revision + 1), end)
            }
        };
        Self {
            result: result.into(),
            target: target.into(),
            key: key.into_bytes(),
            union: Some(union),
            range_end: end.into_bytes(),
        }
    }
}

impl From<Change> for RequestOp {
    fn from(change: Change) -> Self {
        let op = match change {
            Change::Put { key, value, lease } => {
                Op::Put(PutRequest { key: key.into_bytes(), value, lease })
            }
            Change::Delete(key) => Op::Delete(DeleteRangeRequest { key: key.into_bytes() }),
        };
        Self { op: Some(op) }
    }
}

impl From<WatchResponse> for Watched {
    fn from(response: WatchResponse) -> Self {
        if response.compact_revision > 0 {
            return Self::Compacted;
        }
        if response.canceled {
            return Self::Canceled(response.cancel_reason);
        }
        let revision = response.header.map_or(0, |header| header.revision);
        let events = response.events.into_iter().filter_map(|event| {
            let deleted = event.r#type == i32::from(EventType::Delete);
            let kv = event.kv?;
            Some(if deleted {
                protocol::Event::Delete { key: kv.key, revision: kv.mod_revision }
            } else {
                protocol::Event::Put(kv.into())
            })
        });
        Self::Events { revision, events: events.collect() }
    }
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct TxnRequest {
    #[prost(message, repeated, tag = "1")]
    pub(super) compare: Vec<Compare>,
    #[prost(message, repeated, tag = "2")]
    pub(super) success: Vec<RequestOp>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct TxnResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<ResponseHeader>,
    #[prost(bool, tag = "2")]
    pub(super) succeeded: bool,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct WatchRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) create: Option<WatchCreateRequest>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct WatchCreateRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) range_end: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub(super) start_revision: i64,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct WatchResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<ResponseHeader>,
    #[prost(bool, tag = "4")]
    pub(super) canceled: bool,
    #[prost(int64, tag = "5")]
    pub(super) compact_revision: i64,
    #[prost(string, tag = "6")]
    pub(super) cancel_reason: String,
    #[prost(message, repeated, tag = "11")]
    pub(super) events: Vec<Event>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub(super) enum EventType {
    Put = 0,
    Delete = 1,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Event {
    #[prost(enumeration = "EventType", tag = "1")]
    pub(super) r#type: i32,
    #[prost(message, optional, tag = "2")]
    pub(super) kv: Option<KeyValue>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct LeaseGrantRequest {
    /// In seconds.
    #[prost(int64, tag = "1")]
    pub(super) ttl: i64,
}

/// The answer to granting a lease as well as to keeping it; the fields have the same numbers.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct LeaseResponse {
    #[prost(int64, tag = "2")]
    pub(super) id: i64,
    /// In seconds; none left when the lease is gone.
    #[prost(int64, tag = "3")]
    pub(super) ttl: i64,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct LeaseKeepAliveRequest {
    #[prost(int64, tag = "1")]
    pub(super) id: i64,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct AuthenticateRequest {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) password: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct AuthenticateResponse {
    #[prost(string, tag = "2")]
    pub(super) token: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes as etcd's own client sends them, worked out by hand from the numbers of the fields.
    #[test]
    fn requests_have_the_bytes_that_etcd_expects() {
        let range = RangeRequest {
            key: b"a".to_vec(),
            range_end: b"b".to_vec(),
            limit: 5,
            ..RangeRequest::default()
        };
        assert_eq!(range.encode_to_vec(), b"\x0a\x01a\x12\x01b\x18\x05");
        // A field that is zero is not sent; that the union has a member is.
        let absent = Compare::from(protocol::Compare::Absent("k".into()));
        assert_eq!(absent.encode_to_vec(), b"\x1a\x01k\x20\x00");
        let same = Compare::from(protocol::Compare::Written("k".into(), 7));
        assert_eq!(same.encode_to_vec(), b"\x10\x02\x1a\x01k\x30\x07");
        let value = Compare::from(protocol::Compare::Value("k".into(), b"v".to_vec()));
        assert_eq!(value.encode_to_vec(), b"\x10\x03\x1a\x01k\x3a\x01v");
        let (first, end) = ("k".to_owned(), "l".to_owned());
        let range = Compare::from(protocol::Compare::NotWrittenSince { first, end, revision: 7 });
        assert_eq!(range.encode_to_vec(), b"\x08\x02\x10\x02\x1a\x01k\x30\x08\x82\x04\x01l");
        let put = RequestOp::from(Change::Put { key: "k".into(), value: b"v".to_vec(), lease: 3 });
        let transaction = TxnRequest { compare: vec![absent], success: vec![put] };
        assert_eq!(
            transaction.encode_to_vec(),
            b"\x0a\x05\x1a\x01k\x20\x00\x12\x0a\x12\x08\x0a\x01k\x12\x01v\x18\x03"
        );
        let create =
            WatchCreateRequest { key: b"a".to_vec(), range_end: b"b".to_vec(), start_revision: 9 };
        let watch = WatchRequest { create: Some(create) };
        assert_eq!(watch.encode_to_vec(), b"\x0a\x08\x0a\x01a\x12\x01b\x18\x09");
        assert_eq!(LeaseGrantRequest { ttl: 60 }.encode_to_vec(), b"\x08\x3c");
    }

    #[test]
    fn fields_that_are_not_read_are_passed_over() {
        // A watch response with watch_id 1 (field 2), created (3) and one deletion.
        let bytes = b"\x10\x01\x18\x01\x5a\x09\x08\x01\x12\x05\x0a\x01k\x18\x04";
        let response = WatchResponse::decode(&bytes[..]).unwrap();
        assert_eq!(response.events.len(), 1);
        assert_eq!(response.events[0].r#type, i32::from(EventType::Delete));
        assert_eq!(response.events[0].kv.as_ref().unwrap().mod_revision, 4);
        let gone = protocol::Event::Delete { key: b"k".to_vec(), revision: 4 };
        assert_eq!(Watched::from(response), Watched::Events { revision: 0, events: vec![gone] });
        let ended = WatchResponse { canceled: true, ..WatchResponse::default() };
        assert_eq!(Watched::from(ended.clone()), Watched::Canceled(String::new()));
        let compacted = WatchResponse { compact_revision: 7, ..ended };
        assert_eq!(Watched::from(compacted), Watched::Compacted);
    }
}
