//! The chains of everybody that the kernel calls at a hook.

use crate::attribute;
use crate::error::Result;
use crate::message;
use crate::socket::{Socket, request};
use crate::table::Hook;

/// `NF_DROP`.
pub(crate) const POLICY_DROP: u32 = 0;

/// A chain that the kernel calls at a hook, whoever made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseChain {
    /// The kernel's number of its family (`NFPROTO_*`).
    family: u8,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Number of its hook.
    hook: u32,
    /// Whether what none of its rules accepts is dropped.
    pub drops: bool,
}

impl BaseChain {
    /// Whether packets of IPv4, or of IPv6, pass it at `hook`.
    #[must_use]
    pub fn is_passed(&self, is_ipv4: bool, hook: Hook) -> bool {
        const INET: u8 = 1;
        const IPV4: u8 = 2;
        const IPV6: u8 = 10;
        let family = if is_ipv4 { IPV4 } else { IPV6 };
        self.hook == hook.number() && [INET, family].contains(&self.family)
    }

    /// Its family, as the program `nft` calls it.
    #[must_use]
    pub fn family(&self) -> &'static str {
        crate::rules::family_name(self.family)
    }
}

impl Socket {
    /// Every base chain of the namespace. The tables of iptables-legacy are not among them.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or the tables change faster than they can be listed.
    pub fn base_chains(&mut self) -> Result<Vec<BaseChain>> {
        // 0, `NFPROTO_UNSPEC`, asks for every family.
        let request = request("list", "the chains", 0, message::GET_CHAIN, &[]);
        let found = self.0.dump(&request)?;
        Ok(found.iter().filter_map(|found| read(found.family, &found.attributes)).collect())
    }
}

/// A chain, if it is at a hook.
fn read(family: u8, attributes: &[u8]) -> Option<BaseChain> {
    let hook = attribute::find(attributes, message::CHAIN_HOOK)?;
    Some(BaseChain {
        family,
        table: attribute::text(attributes, message::TABLE)?,
        name: attribute::text(attributes, message::CHAIN_NAME)?,
        hook: attribute::number(hook, message::HOOK_NUMBER)?,
        drops: attribute::number(attributes, message::CHAIN_POLICY) == Some(POLICY_DROP),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{Chain, ChainKind};

    #[test]
    fn chain_is_read_as_it_is_written() {
        let chain = Chain {
            name: "forward",
            kind: ChainKind::Filter,
            hook: Hook::Forward,
            priority: 0,
            rules: Vec::new(),
        };
        let found = read(1, &message::chain("fw", &chain).0).unwrap();
        assert_eq!((found.table.as_str(), found.name.as_str()), ("fw", "forward"));
        assert!(!found.drops);
        assert!(found.is_passed(true, Hook::Forward) && found.is_passed(false, Hook::Forward));
        assert!(!found.is_passed(true, Hook::Input));
    }

    #[test]
    fn chains_of_one_family_see_that_family() {
        let chain = |family| BaseChain {
            family,
            table: String::new(),
            name: String::new(),
            hook: Hook::Forward.number(),
            drops: true,
        };
        assert!(
            chain(2).is_passed(true, Hook::Forward) && !chain(2).is_passed(false, Hook::Forward)
        );
        assert!(
            chain(10).is_passed(false, Hook::Forward) && !chain(10).is_passed(true, Hook::Forward)
        );
        assert!(!chain(7).is_passed(true, Hook::Forward), "frames are another matter");
    }

    #[test]
    fn chain_without_a_hook_is_none() {
        assert_eq!(read(1, &message::table("fw").0), None);
    }
}
