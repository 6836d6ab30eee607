//! nftables, over netlink; see the crate `culvert-nft`, which the plugin shares.

pub use culvert_nft::*;
