//! The plan of before, with what a few pods change.
//!
//! Most of what happens in a cluster is that pods come, go, and get addresses: sets have other
//! members then, and some addresses another class or none. Chains and classes stay, and with them
//! nearly all that making a plan takes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::places::Places;
use super::{ClassKey, Compiler, Site, chains_of, insert, isolates, itself};
use crate::object::Pod;
use crate::plan::{Direction, Name, Plan, Target};
use crate::world::{Dirty, World};

/// The class of a pod in one direction, and whether it may drop anything; none, if no policy
/// applies.
type Class = Option<(Name, bool)>;

impl Compiler {
    /// The plan after changes of a few pods; none, if more than that may be another.
    pub(super) fn quick(
        &self,
        world: &World,
        site: &Site,
        places: &Places,
        dirty: &Dirty,
    ) -> Option<Plan> {
        let (last_site, last) = self.last.as_ref()?;
        let is_more = dirty.policies || dirty.nodes || dirty.many_pods;
        if is_more || last_site != site {
            return None;
        }
        let mut plan = Plan::clone(last);
        let mut left = BTreeSet::new();
        let addresses: BTreeSet<IpAddr> =
            dirty.pods.iter().flat_map(|pod| pod.addresses.iter()).collect();
        for address in addresses {
            left.extend(take_out(&mut plan, address));
            if let Some(pod) = world.holder(address).or_else(|| places.subject(address)) {
                for direction in Direction::ALL {
                    let Some((class, isolates)) = self.known_class(world, pod, direction, &plan)?
                    else {
                        continue;
                    };
                    insert(&mut plan, direction, address, Target::Class(class));
                    plan.selves.extend(itself(address, pod));
                    if isolates {
                        plan.isolated.insert(address);
                    }
                }
            }
            if site.closed.contains(&address) {
                for direction in Direction::ALL {
                    insert(&mut plan, direction, address, Target::Closed);
                }
                plan.isolated.insert(address);
            }
        }
        // A class that nobody has any more goes, and perhaps chains and sets with it.
        let all = || plan.egress.values().chain(plan.ingress.values());
        let is_used = |class: &Name| all().any(|it| matches!(it, Target::Class(it) if it == class));
        if !left.iter().all(is_used) {
            return None;
        }
        self.sets.refresh(places, &mut plan);
        Some(plan)
    }

    /// The class of `pod`, if `plan` has it already.
    fn known_class(
        &self,
        world: &World,
        pod: &Arc<Pod>,
        direction: Direction,
        plan: &Plan,
    ) -> Option<Class> {
        let Some((keys, end)) = chains_of(world, pod, direction) else { return Some(None) };
        let steps = keys.iter().map(|key| self.chains.get(key).map(|(name, _)| name.clone()));
        let steps = steps.collect::<Option<Vec<Name>>>()?;
        let isolates = isolates(plan, &steps, end);
        let name = self.classes.known(&ClassKey { direction, steps, end })?;
        plan.classes.contains_key(name).then(|| Some((name.clone(), isolates)))
    }
}

/// Forgets `address`, and returns the classes that it had.
fn take_out(plan: &mut Plan, address: IpAddr) -> impl Iterator<Item = Name> {
    plan.isolated.remove(&address);
    let first = (address, IpAddr::from([0; 4]));
    let pairs = plan.selves.range(first..).take_while(|(source, _)| *source == address);
    let pairs: Vec<_> = pairs.copied().collect();
    for pair in pairs {
        plan.selves.remove(&pair);
    }
    let had = [plan.egress.remove(&address), plan.ingress.remove(&address)];
    had.into_iter().flatten().filter_map(|target| match target {
        Target::Class(class) => Some(class),
        Target::Closed => None,
    })
}
