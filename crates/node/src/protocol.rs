//! How files spell a protocol: by its name in lower case.

use overlay_proto::Protocol;
use serde::de::{Deserialize as _, Deserializer, Error as _};
use serde::ser::Serializer;

pub(crate) fn serialize<S: Serializer>(protocol: &Protocol, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(protocol.as_str())
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Protocol, D::Error> {
    let name = String::deserialize(from)?;
    Protocol::of_name(&name)
        .ok_or_else(|| D::Error::custom(format!("{name:?} is none of tcp, udp and sctp")))
}
