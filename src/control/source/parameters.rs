//! What the configuration says of what all nodes share.

use culvert_claims::Parameters;
use culvert_dataplane::engine::{Foreign, Overlay};

use crate::config::{Config, SealedMode};

/// What `config` says of the parameters; none if it leaves them to the table source.
pub fn configured(config: &Config) -> Option<Parameters> {
    let cidrs = config.network.cidrs.clone();
    let (vni, port) = (config.network.vni, config.underlay.port);
    (!cidrs.is_empty()).then_some(Parameters { cidrs, vni, port })
}

/// The overlay with `parameters`; `config` says how nodes without Culvert speak.
pub fn overlay(parameters: Parameters, config: &Config) -> Overlay {
    parameters.overlay(Foreign {
        vxlan_vni: config.network.vxlan_vni,
        vxlan_port: config.underlay.vxlan_port,
        ip_udp_port: config.underlay.ip_udp_port,
        must_be_plain: config.sealed.mode == SealedMode::Require,
        is_changing: config.is_from_flannel(),
    })
}
