//! No overlay: the nodes route each other's pod subnets. What the machine can do.

use anyhow::Result;

use super::{Network, Recipe, routed};

pub(super) struct Underlay;

impl Recipe for Underlay {
    fn name(&self) -> &'static str {
        "underlay"
    }

    fn about(&self) -> String {
        "no overlay: plain routes between the nodes, MTU 1500".to_owned()
    }

    fn build(&self, lab: String) -> Result<Network> {
        let (lab, pods) = routed::build(lab, routed::UNDERLAY_MTU)?;
        for (node, peer) in [(1, 2), (2, 1)] {
            let (subnet, via) = (routed::subnet(peer), lab.node(peer).address());
            lab.node(node).netns().ip(&format!("route add {subnet} via {via}\n"))?;
        }
        Ok(Network::new(lab, pods))
    }
}
