//! `address_elsewhere`: whether the underlay address is this machine's, and nobody else's.

use culvert_netlink::Detection;

use crate::doctor::facts::Facts;
use crate::doctor::finding::Finding;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let expected = match super::expected(facts) {
        Ok(expected) => expected,
        Err(skipped) => return skipped,
    };
    let kernel = match &facts.kernel {
        Ok(kernel) => kernel,
        Err(why) => return vec![Finding::skip(why)],
    };
    let Some(own) = expected.setup.address else {
        return vec![Finding::skip("the underlay address is not known")];
    };
    let Some(holder) = kernel.addresses.iter().find(|has| has.net.addr() == own) else {
        let remedy = format!(
            "put it back (ip address add {own}/LENGTH dev DEVICE), or correct the subnet table or \
             underlay.address"
        );
        return vec![Finding::fail(format!("no device of this machine has {own}"), remedy)];
    };
    let link = kernel.links.iter().find(|link| link.index == holder.link);
    let device = link.map_or("a device", |link| link.name.as_str());
    if holder.detection == Detection::Duplicate {
        let found = format!("the kernel found that another machine has {own}");
        let remedy = format!(
            "give one of them another address; then ip address del {own} dev {device}, \
                              and add it again"
        );
        return vec![Finding::fail(found, remedy)];
    }
    vec![match &facts.other_holder {
        Ok(None) => {
            Finding::ok(format!("{own} is on {device}, and nobody else says that he has it"))
        }
        Ok(Some(mac)) => Finding::fail(
            format!("{own} is on {device}, and {mac} has it too: datagrams go now here, now there"),
            format!("ip neigh and the switch tell where {mac} is: give it another address"),
        ),
        Err(why) => {
            Finding::skip(format!("{own} is on {device}; whether on another machine too: {why}"))
        }
    }]
}
