//! Requests for rules that choose a routing table.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;

use super::{Request, Rule};

/// A request that adds a rule.
pub(crate) fn add_rule(rule: &Rule) -> Request {
    let message = RouteNetlinkMessage::NewRule(rule.message());
    Request::new("add", rule.describe(), NLM_F_CREATE | NLM_F_EXCL, message)
}

/// A request that deletes a rule.
pub(crate) fn delete_rule(rule: &Rule) -> Request {
    let message = RouteNetlinkMessage::DelRule(rule.message());
    Request::new("delete", rule.describe(), 0, message)
}
