//! Rules that choose a routing table.

use ipnet::IpNet;
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleHeader, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::error::Result;
use crate::protocol::Rtnetlink;
use crate::request::Request;
use crate::socket::Socket;

/// A rule that has packets looked up in a table, and who says that they made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Whether it is for IPv6.
    pub is_v6: bool,
    /// Where the packets come from; none for everywhere.
    pub source: Option<IpNet>,
    /// Name of the device that the sender asks for; none for any.
    pub outgoing: Option<String>,
    /// Number of the table.
    pub table: u32,
    /// Rank among rules, lowest first.
    pub priority: u32,
    /// Who made the rule.
    pub protocol: u8,
}

impl Socket<Rtnetlink> {
    /// Hands the rules of both families that have packets looked up in a table to `take`, one by
    /// one: there may be any number of them. Those that come or go meanwhile may be missing.
    ///
    /// # Errors
    ///
    /// When the kernel refuses or does not answer in time.
    pub fn visit_rules(&mut self, take: &mut dyn FnMut(Rule)) -> Result<()> {
        let message = RouteNetlinkMessage::GetRule(RuleMessage::default());
        let request = Request::new("list", "routing rules", 0, message);
        self.visit(&request, &mut |answer| parse(&answer).into_iter().for_each(&mut *take))?;
        Ok(())
    }
}

fn parse(answer: &RouteNetlinkMessage) -> Option<Rule> {
    let RouteNetlinkMessage::NewRule(message) = answer else {
        return None;
    };
    Rule::read(message)
}

impl Rule {
    /// The rule that a message of the kernel describes; none for one that does something else.
    #[must_use]
    pub fn read(message: &RuleMessage) -> Option<Self> {
        let header = &message.header;
        let is_v6 = header.family == AddressFamily::Inet6;
        let is_ip = is_v6 || header.family == AddressFamily::Inet;
        if !is_ip || header.action != RuleAction::ToTable {
            return None;
        }
        let mut rule = Self {
            is_v6,
            source: None,
            outgoing: None,
            table: header.table.into(),
            priority: 0,
            protocol: 0,
        };
        for attribute in &message.attributes {
            if let RuleAttribute::Source(address) = attribute {
                rule.source = Some(IpNet::new(*address, header.src_len).ok()?);
            } else if let RuleAttribute::Oifname(name) = attribute {
                rule.outgoing = Some(name.clone());
            } else if let RuleAttribute::Table(number) = attribute {
                rule.table = *number;
            } else if let RuleAttribute::Priority(rank) = attribute {
                rule.priority = *rank;
            } else if let RuleAttribute::Protocol(by) = attribute {
                rule.protocol = u8::from(*by);
            }
        }
        Some(rule)
    }

    /// The message that names the rule, for adding and for deleting it.
    #[must_use]
    pub fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header = RuleHeader {
            family: if self.is_v6 { AddressFamily::Inet6 } else { AddressFamily::Inet },
            src_len: self.source.map_or(0, |source| source.prefix_len()),
            action: RuleAction::ToTable,
            ..RuleHeader::default()
        };
        // The header's field has a byte; the attribute has room for every table.
        message.attributes = vec![
            RuleAttribute::Priority(self.priority),
            RuleAttribute::Table(self.table),
            RuleAttribute::Protocol(RouteProtocol::from(self.protocol)),
        ];
        message.attributes.extend(self.source.map(|source| RuleAttribute::Source(source.addr())));
        message.attributes.extend(self.outgoing.clone().map(RuleAttribute::Oifname));
        message
    }

    /// The rule in words, as `ip rule` has them.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = "rule".to_owned();
        if let Some(source) = self.source {
            text += &format!(" from {}", source.addr());
        }
        if let Some(outgoing) = &self.outgoing {
            text += &format!(" oif {outgoing}");
        }
        text + &format!(" lookup {}", self.table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_of_the_kernel_is_read_back_the_same() {
        let by_source = Rule {
            is_v6: true,
            source: Some("fd00::2/128".parse().unwrap()),
            outgoing: None,
            table: 53_000,
            priority: 20_700,
            protocol: 207,
        };
        let by_device = Rule {
            is_v6: false,
            source: None,
            outgoing: Some("net1".to_owned()),
            ..by_source.clone()
        };
        assert_eq!(by_source.describe(), "rule from fd00::2 lookup 53000");
        assert_eq!(by_device.describe(), "rule oif net1 lookup 53000");
        for rule in [by_source, by_device] {
            assert_eq!(Rule::read(&rule.message()), Some(rule));
        }
    }
}
