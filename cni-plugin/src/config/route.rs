//! Routes that the configuration wants in the pod, with what CNI 1.1 may say of them.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value};

use super::{bad, keys};
use crate::error::Error;

/// What may be said of a route.
const MEMBERS: [&str; 7] = ["dst", "gw", "mtu", "advmss", "priority", "table", "scope"];

/// A route that a pod is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RouteSpec {
    /// Where it was asked for, for messages.
    pub(crate) key: String,
    pub(crate) dst: IpNet,
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) mtu: Option<u32>,
    pub(crate) advmss: Option<u32>,
    pub(crate) priority: Option<u32>,
    pub(crate) table: Option<u32>,
    pub(crate) scope: Option<u8>,
}

impl RouteSpec {
    /// A route with nothing special about it.
    pub(crate) fn new(dst: IpNet, gateway: IpAddr) -> Self {
        Self {
            key: String::new(),
            dst,
            gateway: Some(gateway),
            mtu: None,
            advmss: None,
            priority: None,
            table: None,
            scope: None,
        }
    }

    /// Reads one element of a list of routes.
    pub(super) fn read(key: &str, value: &Value) -> Result<Self, Error> {
        let Value::Object(object) = value else {
            return Err(bad(key, value, "needs to be an object with dst"));
        };
        keys::refuse_members(key, object, &MEMBERS, "a route has no such member; remove it")?;
        let path = format!("{key}.");
        let dst = keys::text(&path, object, "dst")?
            .ok_or_else(|| bad(&format!("{path}dst"), &Value::Null, "say where the route goes"))?;
        let dst: IpNet = dst.parse().map_err(|_| {
            let value = Value::String(dst.to_owned());
            bad(&format!("{path}dst"), &value, "needs to be a prefix, such as 192.168.0.0/16")
        })?;
        let gateway = keys::text(&path, object, "gw")?
            .map(|text| {
                let same_family = |address: &IpAddr| address.is_ipv6() == dst.addr().is_ipv6();
                text.parse().ok().filter(same_family).ok_or_else(|| {
                    let value = Value::String(text.to_owned());
                    bad(&format!("{path}gw"), &value, "needs to be an address of the family of dst")
                })
            })
            .transpose()?;
        Ok(Self {
            key: key.to_owned(),
            dst: dst.trunc(),
            gateway,
            mtu: number(&path, object, "mtu", u32::MAX)?,
            advmss: number(&path, object, "advmss", u32::MAX)?,
            priority: number(&path, object, "priority", u32::MAX)?,
            table: number(&path, object, "table", u32::MAX)?,
            scope: number(&path, object, "scope", u8::MAX.into())?
                .and_then(|scope| u8::try_from(scope).ok()),
        })
    }
}

fn number(
    path: &str,
    object: &Map<String, Value>,
    key: &str,
    max: u32,
) -> Result<Option<u32>, Error> {
    let Some(value) = object.get(key).filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
    match number.filter(|number| *number <= max) {
        Some(number) => Ok(Some(number)),
        None => Err(bad(
            &format!("{path}{key}"),
            value,
            &format!("needs to be a whole number from 0 to {max}"),
        )),
    }
}
