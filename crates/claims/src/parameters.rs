//! What all nodes of a cluster share: by the configuration, or by a source that holds it.

use std::fmt;

use culvert_membership::{Foreign, Overlay};
use ipnet::IpNet;
use overlay_proto::Vni;
use serde::{Deserialize, Serialize};

/// What all nodes share. As JSON it is part of etcd's key `config` and of the last good table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameters {
    /// Pod networks, one per family.
    pub cidrs: Vec<IpNet>,
    /// Network identifier on the wire.
    #[serde(with = "vni")]
    pub vni: Vni,
    /// UDP port of the tunnel.
    pub port: u16,
}

impl Parameters {
    /// What is in force by `overlay`.
    pub fn of(overlay: &Overlay) -> Self {
        Self { cidrs: overlay.networks.clone(), vni: overlay.vni, port: overlay.port }
    }

    /// Whether a node that goes by `other` can go by this one without a break: no address is lost,
    /// and the packets stay what they are.
    pub fn widens(&self, other: &Self) -> bool {
        let has = |old: &IpNet| self.cidrs.iter().any(|new| new.contains(old));
        (self.vni, self.port) == (other.vni, other.port) && other.cidrs.iter().all(has)
    }

    /// The overlay with these parameters; `foreign` says how nodes without Culvert speak.
    pub fn overlay(self, foreign: Foreign) -> Overlay {
        Overlay { vni: self.vni, networks: self.cidrs, port: self.port, foreign }
    }
}

impl fmt::Display for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cidrs, vni, port } = self;
        write!(f, "cidrs = {cidrs:?}, vni = {vni}, port = {port}")
    }
}

/// A network identifier as a number.
mod vni {
    use overlay_proto::Vni;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    pub(super) fn serialize<S: Serializer>(vni: &Vni, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u32(vni.get())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vni, D::Error> {
        Vni::new(u32::deserialize(from)?).map_err(D::Error::custom)
    }
}
