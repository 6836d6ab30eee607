//! The data path as the owner of the TUN device that the reconciler keeps in shape.

use std::sync::Arc;

use culvert_dataplane::DataPlane;
use culvert_dataplane::platform;

use crate::control::node::TunOwner;

#[derive(Clone)]
pub(super) struct Owner(pub(super) Arc<DataPlane>);

impl TunOwner for Owner {
    fn is_attached(&self) -> bool {
        self.0.is_attached()
    }

    fn open(&self) -> platform::Result<()> {
        self.0.open_tun()
    }
}
