//! The outer header: a datagram passes exactly if we would have sent its header.

use overlay_proto::{Codec, Family, Vni};

use crate::cluster::VNI;

/// Every encapsulation.
const CODECS: &[Codec] = &[Codec::VxlanGpe];

pub(crate) fn run(input: &[u8]) {
    let vni = Vni::new(VNI).unwrap();
    for codec in CODECS {
        let ours = [Family::V4, Family::V6].into_iter().find_map(|family| {
            let inner = input.strip_prefix(codec.header(vni, family).as_slice())?;
            Some((family, inner))
        });
        let decoded = codec.decode(vni, input).ok().map(|decoded| (decoded.family, decoded.inner));
        assert_eq!(decoded, ours, "{codec}");
    }
}
