//! How often the rules of a table have matched.

use crate::attribute;
use crate::error::Result;
use crate::expression::{COUNTER, EXPRESSION_DATA, EXPRESSION_NAME};
use crate::message;
use crate::socket::{Socket, request};
use crate::table::TableFamily;

/// `NFTA_COUNTER_BYTES`, `NFTA_COUNTER_PACKETS`.
const BYTES: u16 = 1;
const PACKETS: u16 = 2;

/// What a rule with a counter has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Name of the rule's chain.
    pub chain: String,
    /// The comment on the rule.
    pub comment: Option<String>,
    /// Packets that came as far as the counter.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Socket {
    /// What the rules of a table have counted, those that count, in their order; none of a table
    /// that does not exist.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or the tables change faster than they can be listed.
    pub fn counted(&mut self, family: TableFamily, table: &str) -> Result<Vec<Counted>> {
        let target = format!("the rules of table {} {table}", family.as_str());
        let named = message::table(table).0;
        let rules = request("list", &target, family.number(), message::GET_RULE, &named);
        let found = self.0.dump(&rules)?;
        // As other listings here: whatever else the kernel tells is left out.
        let is_ours = |attributes: &[u8]| {
            attribute::text(attributes, message::TABLE).as_deref() == Some(table)
        };
        let rules = found.iter().filter(|rule| is_ours(&rule.attributes));
        Ok(rules.filter_map(|rule| read(&rule.attributes)).collect())
    }
}

/// A rule that counts.
fn read(attributes: &[u8]) -> Option<Counted> {
    let expressions = attribute::find(attributes, message::RULE_EXPRESSIONS)?;
    let is_counter = |expression: &&[u8]| {
        attribute::text(expression, EXPRESSION_NAME).as_deref() == Some(COUNTER)
    };
    let counter =
        attribute::parse(expressions).map(|(_kind, expression)| expression).find(is_counter)?;
    let data = attribute::find(counter, EXPRESSION_DATA)?;
    let number = |kind| {
        let bytes = attribute::find(data, kind)?.try_into().ok()?;
        Some(u64::from_be_bytes(bytes))
    };
    Some(Counted {
        chain: attribute::text(attributes, message::RULE_CHAIN)?,
        comment: message::rule_comment(attributes),
        packets: number(PACKETS)?,
        bytes: number(BYTES)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute::Attributes;
    use crate::expression::Expression;

    #[test]
    fn counter_is_read_with_the_comment_on_its_rule() {
        let rule = [Expression::Comment("default/web ingress[0]".to_owned())];
        let attributes = message::rule("t", "c", &rule);
        // As the kernel lists it.
        let mut listed = Attributes::default();
        listed.text(message::RULE_CHAIN, "c");
        listed.nested(message::RULE_EXPRESSIONS, |list| {
            list.nested(message::LIST_ELEMENT, |expression| {
                expression.text(EXPRESSION_NAME, COUNTER);
                expression.nested(EXPRESSION_DATA, |data| {
                    data.bytes(BYTES, &840_u64.to_be_bytes());
                    data.bytes(PACKETS, &10_u64.to_be_bytes());
                });
            });
        });
        let user_data = attribute::find(&attributes.0, message::RULE_USERDATA).unwrap();
        listed.bytes(message::RULE_USERDATA, user_data);
        let expected = Counted {
            chain: "c".to_owned(),
            comment: Some("default/web ingress[0]".to_owned()),
            packets: 10,
            bytes: 840,
        };
        assert_eq!(read(&listed.0), Some(expected));
    }

    #[test]
    fn rule_without_a_counter_is_left_out() {
        assert_eq!(read(&message::rule("t", "c", &[Expression::NoTrack]).0), None);
    }
}
