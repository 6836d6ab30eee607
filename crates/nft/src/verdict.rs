//! What becomes of a packet, as rules and maps say it.

use crate::attribute::{self, Attributes};

/// `NFTA_DATA_VERDICT`, `NFTA_VERDICT_CODE`, `NFTA_VERDICT_CHAIN`.
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Gone.
    Drop,
    /// On to the next hook, or to the next chain of this one.
    Accept,
    /// To the chain of that name, and back if it decides nothing.
    Jump(String),
    /// To the chain of that name, which decides in place of this one.
    Goto(String),
    /// Back to the chain that it came from.
    Return,
}

impl Verdict {
    /// Writes `NFTA_DATA_VERDICT`.
    pub(crate) fn encode(&self, data: &mut Attributes) {
        // `NFT_JUMP`, `NFT_GOTO`, `NFT_RETURN`; the first two are netfilter's own.
        let (code, chain) = match self {
            Self::Drop => (0_i32, None),
            Self::Accept => (1, None),
            Self::Jump(chain) => (-3, Some(chain)),
            Self::Goto(chain) => (-4, Some(chain)),
            Self::Return => (-5, None),
        };
        data.nested(DATA_VERDICT, |data| {
            data.number(VERDICT_CODE, code.cast_unsigned());
            if let Some(chain) = chain {
                data.text(VERDICT_CHAIN, chain);
            }
        });
    }

    /// Reads the value of `NFTA_DATA_VERDICT`; none for one that we never write.
    pub(crate) fn decode(data: &[u8]) -> Option<Self> {
        let verdict = attribute::find(data, DATA_VERDICT)?;
        let chain = || attribute::text(verdict, VERDICT_CHAIN);
        match attribute::number(verdict, VERDICT_CODE)?.cast_signed() {
            0 => Some(Self::Drop),
            1 => Some(Self::Accept),
            -3 => Some(Self::Jump(chain()?)),
            -4 => Some(Self::Goto(chain()?)),
            -5 => Some(Self::Return),
            _another => None,
        }
    }
}
