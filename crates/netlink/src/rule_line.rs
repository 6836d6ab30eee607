//! Routing rules of every kind, as `ip rule` shows them.

use std::fmt::Write as _;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, rule::RuleFlags};

use crate::error::Result;
use crate::protocol::Rtnetlink;
use crate::request::Request;
use crate::socket::Socket;

/// A rule of whatever kind, for people to recognise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleLine {
    /// Whether it is for IPv6.
    pub is_v6: bool,
    /// Rank among rules, lowest first.
    pub priority: u32,
    /// Who made the rule.
    pub protocol: u8,
    /// The table that packets are looked up in; none for a rule that does something else.
    pub table: Option<u32>,
    /// What it says, as `ip rule` has it, without its rank.
    pub text: String,
}

impl Socket<Rtnetlink> {
    /// Lists the rules of both families. Those that come or go meanwhile may be missing.
    ///
    /// # Errors
    ///
    /// When the kernel refuses or does not answer in time.
    pub fn rule_lines(&mut self) -> Result<Vec<RuleLine>> {
        let message = RouteNetlinkMessage::GetRule(RuleMessage::default());
        let request = Request::new("list", "routing rules", 0, message);
        let mut lines = Vec::new();
        self.visit(&request, &mut |answer| {
            if let RouteNetlinkMessage::NewRule(message) = answer {
                lines.extend(read(&message));
            }
        })?;
        Ok(lines)
    }
}

fn read(message: &RuleMessage) -> Option<RuleLine> {
    let header = &message.header;
    let is_v6 = header.family == AddressFamily::Inet6;
    if !is_v6 && header.family != AddressFamily::Inet {
        return None;
    }
    let (mut priority, mut protocol) = (0, 0);
    let mut table = u32::from(header.table);
    let (mut from, mut rest) = ("from all".to_owned(), String::new());
    for attribute in &message.attributes {
        // A string takes whatever is written.
        let _ = if let RuleAttribute::Priority(rank) = attribute {
            priority = *rank;
            Ok(())
        } else if let RuleAttribute::Protocol(by) = attribute {
            protocol = u8::from(*by);
            Ok(())
        } else if let RuleAttribute::Table(number) = attribute {
            table = *number;
            Ok(())
        } else if let RuleAttribute::Source(address) = attribute {
            from = format!("from {address}/{}", header.src_len);
            Ok(())
        } else if let RuleAttribute::Destination(address) = attribute {
            write!(rest, " to {address}/{}", header.dst_len)
        } else if let RuleAttribute::Iifname(name) = attribute {
            write!(rest, " iif {name}")
        } else if let RuleAttribute::Oifname(name) = attribute {
            write!(rest, " oif {name}")
        } else if let RuleAttribute::FwMark(mark) = attribute {
            write!(rest, " fwmark {mark:#x}")
        } else {
            Ok(())
        };
    }
    let is_lookup = header.action == RuleAction::ToTable;
    let what = if is_lookup {
        format!("lookup {table}")
    } else {
        format!("{:?}", header.action).to_lowercase()
    };
    let not = if header.flags.contains(RuleFlags::Invert) { "not " } else { "" };
    Some(RuleLine {
        is_v6,
        priority,
        protocol,
        table: is_lookup.then_some(table),
        text: format!("{not}{from}{rest} {what}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_reads_as_ip_rule_shows_it() {
        let mut message = RuleMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.src_len = 24;
        message.header.action = RuleAction::ToTable;
        message.attributes = vec![
            RuleAttribute::Priority(100),
            RuleAttribute::Table(77),
            RuleAttribute::Source("10.244.1.0".parse().unwrap()),
            RuleAttribute::Iifname("v-net-0".to_owned()),
        ];
        let line = read(&message).unwrap();
        assert_eq!(line.text, "from 10.244.1.0/24 iif v-net-0 lookup 77");
        assert_eq!((line.priority, line.table, line.is_v6), (100, Some(77), false));
        message.header.action = RuleAction::Blackhole;
        let line = read(&message).unwrap();
        assert_eq!(
            (line.text.as_str(), line.table),
            ("from 10.244.1.0/24 iif v-net-0 blackhole", None)
        );
    }
}
