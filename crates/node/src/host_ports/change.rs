//! Entering a pod's ports, taking them out, and putting back what is missing.
//!
//! A key of a map leads to one chain, so that the kernel itself refuses a port that another pod
//! has. That a port of one address is that of all addresses too, it does not know: who enters looks
//! first.

use std::collections::BTreeSet;

use culvert_nft::{Batch, Element, Listing, Socket, Verdict};
use ipnet::IpNet;

use super::rules::{self, PORTS, PORTS_V4, PORTS_V6};
use super::{FAMILY, HostPort, PodPorts, TABLE};

/// How often a change is tried again that somebody else's change came before.
const ATTEMPTS: usize = 20;

const MAPS: [&str; 3] = [PORTS, PORTS_V4, PORTS_V6];

/// A port that another pod has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The port.
    pub port: HostPort,
    /// The node's end of that pod's cable.
    pub device: String,
}

/// What should be.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// What pods have, by their files.
    pub pods: &'a [PodPorts],
    /// The nodes' ends of the cables of pods that live.
    pub living: &'a BTreeSet<String>,
    /// Name of the bridge.
    pub bridge: &'a str,
    /// Its subnets.
    pub subnets: &'a [IpNet],
}

impl Wanted<'_> {
    /// What makes the kernel's table, `actual`, what it should be; none, if it is.
    ///
    /// What pods have that live and of which no file says anything stays. `accepted` is how the
    /// kernel listed the table when it was right, where that is not how we do. What is returned
    /// must be bound to the generation from before the look at files, devices and table.
    #[must_use]
    pub fn difference(
        &self,
        actual: Option<&Listing>,
        accepted: Option<&Listing>,
    ) -> Option<Batch> {
        let is_living = |pod: &&PodPorts| self.living.contains(&pod.device);
        let pods: Vec<PodPorts> = self.pods.iter().filter(is_living).cloned().collect();
        let whole = rules::table(&pods, self.bridge, self.subnets);
        let mut batch = Batch::new(FAMILY);
        let Some(actual) = actual else {
            if pods.is_empty() {
                return None;
            }
            batch.replace(&whole);
            return Some(batch);
        };
        let base = Listing::of(&rules::table(&[], self.bridge, self.subnets));
        let is_right = |listing: &Listing| {
            let is = common(actual, &base);
            is == base || common(listing, &base) == is
        };
        if !accepted.map_or_else(|| common(actual, &base) == base, is_right) {
            batch.replace(&whole);
            return Some(batch);
        }
        let expected = Listing::of(&whole);
        for device in actual.chains.keys() {
            let is_known = pods.iter().any(|pod| pod.device == *device);
            if base.chains.contains_key(device) || is_known || self.living.contains(device) {
                continue;
            }
            remove(&mut batch, actual, device);
        }
        for (map, elements) in &expected.sets {
            if !MAPS.contains(&map.as_str()) {
                continue;
            }
            let there = actual.sets.get(map).map(|set| &set.elements);
            let is_of_known = |element: &&Element| {
                pods.iter().any(|pod| leads_to(element, &pod.device))
                    && !elements.elements.contains(*element)
            };
            let stale: Vec<_> = there.into_iter().flatten().filter(is_of_known).cloned().collect();
            batch.remove_elements(TABLE, map, &stale);
        }
        for pod in &pods {
            let is = actual.chains.get(&pod.device);
            let is_accepted = accepted.is_some_and(|it| it.chains.get(&pod.device) == is);
            if is.is_none() || !(is_accepted || is == expected.chains.get(&pod.device)) {
                batch.put_chain(TABLE, &rules::chain_of(pod));
            }
        }
        for (map, elements) in &expected.sets {
            if MAPS.contains(&map.as_str()) {
                let none = BTreeSet::new();
                let there = actual.sets.get(map).map_or(&none, |set| &set.elements);
                let missing: Vec<_> = elements.elements.difference(there).cloned().collect();
                batch.add_elements(TABLE, map, &missing);
            }
        }
        (!batch.is_empty()).then_some(batch)
    }
}

/// What of `listing` does not depend on pods.
fn common(listing: &Listing, base: &Listing) -> Listing {
    let mut common = listing.clone();
    common.chains.retain(|name, _chain| base.chains.contains_key(name));
    for (name, set) in &mut common.sets {
        if MAPS.contains(&name.as_str()) {
            set.elements.clear();
        }
    }
    common
}

fn leads_to(element: &Element, device: &str) -> bool {
    matches!(&element.verdict, Some(Verdict::Goto(chain)) if chain == device)
}

/// Takes out what `listing` has of the pod behind `device`.
fn remove(batch: &mut Batch, listing: &Listing, device: &str) {
    for (map, set) in &listing.sets {
        let own: Vec<_> =
            set.elements.iter().filter(|element| leads_to(element, device)).cloned().collect();
        batch.remove_elements(TABLE, map, &own);
    }
    if listing.chains.contains_key(device) {
        batch.drop_chain(TABLE, device);
    }
}

/// Has the node's ports lead to `pod`, or says who has one of them.
///
/// `is_there` says whether a device exists: the ports of a pod that is gone are free.
///
/// # Errors
///
/// When the kernel refuses, or lacks what the rules need.
pub fn enter(
    socket: &mut Socket,
    pod: &PodPorts,
    (bridge, subnets): (&str, &[IpNet]),
    is_there: &mut dyn FnMut(&str) -> bool,
) -> culvert_nft::Result<Option<Taken>> {
    let mut attempts = ATTEMPTS;
    loop {
        attempts -= 1;
        // The kernel compares equal keys only, not a port of one address with that of all. What is
        // seen here holds until the commit, or there is none.
        let generation = socket.generation()?;
        if let Some(taken) = holder(socket, pod)? {
            if is_there(&taken.device) || attempts == 0 {
                return Ok(Some(taken));
            }
            leave(socket, &taken.device)?;
            continue;
        }
        let mut batch = Batch::new(FAMILY).at(generation);
        batch.put_chain(TABLE, &rules::chain_of(pod));
        for (map, element) in rules::elements(pod) {
            batch.add_elements(TABLE, map, &[element]);
        }
        match socket.commit(&batch) {
            Err(error) if error.is_not_found() && attempts > 0 => {
                let mut whole = Batch::new(FAMILY);
                whole.create(&rules::table(std::slice::from_ref(pod), bridge, subnets));
                match socket.commit(&whole) {
                    // Another plugin or the daemon was faster, so the rest can go in.
                    Err(error) if error.is_exists() => {}
                    outcome => return outcome.map(|()| None),
                }
            }
            Err(error)
                if (error.is_stale() || error.is_busy() || error.is_exists()) && attempts > 0 => {}
            outcome => return outcome.map(|()| None),
        }
    }
}

/// Who has a port that `pod` wants, by the kernel's table.
fn holder(socket: &mut Socket, pod: &PodPorts) -> culvert_nft::Result<Option<Taken>> {
    let listing = socket.listing(FAMILY, TABLE)?;
    Ok(listing.and_then(|listing| taken(&listing, pod)))
}

/// The first port of `pod` that another one has in `listing`. A port without address is that of
/// every address; two addresses have one port each.
fn taken(listing: &Listing, pod: &PodPorts) -> Option<Taken> {
    let others = |map: &str| {
        let elements = listing.sets.get(map).into_iter().flat_map(|set| &set.elements);
        elements.filter_map(|element| match &element.verdict {
            Some(Verdict::Goto(device)) if *device != pod.device => Some((&element.key, device)),
            _ => None,
        })
    };
    pod.ports.iter().find_map(|port| {
        let single = PodPorts { ports: vec![port.clone()], ..pod.clone() };
        let (own_map, element) = rules::elements(&single).pop()?;
        // Behind the address, if there is one, keys of all maps are the same.
        let end = &element.key[element.key.len().saturating_sub(rules::PORT_KEY_LEN)..];
        let has_it = |map: &str, key: &[u8]| match (own_map, map) {
            (PORTS, _) | (_, PORTS) => key.ends_with(end),
            _ => own_map == map && key == element.key,
        };
        let mut keys = MAPS.into_iter().flat_map(|map| others(map).map(move |it| (map, it)));
        let (_map, (_key, device)) = keys.find(|(map, (key, _device))| has_it(map, key))?;
        Some(Taken { port: port.clone(), device: device.clone() })
    })
}

/// Takes out what the table has of the pod behind `device`, if anything.
///
/// # Errors
///
/// When the kernel refuses.
pub fn leave(socket: &mut Socket, device: &str) -> culvert_nft::Result<()> {
    let removal = |socket: &mut Socket| {
        let listing = match socket.listing(FAMILY, TABLE) {
            Err(error) if error.is_unsupported() => None,
            listing => listing?,
        };
        let mut batch = Batch::new(FAMILY);
        listing.iter().for_each(|listing| remove(&mut batch, listing, device));
        Ok((!batch.is_empty()).then_some(batch))
    };
    socket.commit_seen(removal).map(|_was_there| ())
}

/// Whether the kernel has all that `pod` needs.
///
/// # Errors
///
/// When the kernel refuses.
pub fn is_right(socket: &mut Socket, pod: &PodPorts) -> culvert_nft::Result<bool> {
    let Some(actual) = socket.listing(FAMILY, TABLE)? else { return Ok(false) };
    // Only the names of chains are looked at, which are the same behind every bridge.
    let expected = Listing::of(&rules::table(std::slice::from_ref(pod), "", &[]));
    let has_rules = |name: &String| actual.chains.contains_key(name);
    let mut own = rules::elements(pod).into_iter();
    Ok(expected.chains.keys().all(has_rules)
        && own.all(|(map, element)| {
            actual.sets.get(map).is_some_and(|set| set.elements.contains(&element))
        }))
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    const BRIDGE: &str = "v-net-0";

    fn subnets() -> Vec<IpNet> {
        ["10.244.1.0/24", "fd00:1::/64"].map(|net| net.parse().unwrap()).into()
    }

    fn living(pods: &[PodPorts]) -> BTreeSet<String> {
        pods.iter().map(|pod| pod.device.clone()).collect()
    }

    fn listed(pods: &[PodPorts]) -> Listing {
        Listing::of(&rules::table(pods, BRIDGE, &subnets()))
    }

    fn difference(
        (pods, living): (&[PodPorts], &[PodPorts]),
        actual: Option<&Listing>,
        accepted: Option<&Listing>,
    ) -> bool {
        let (living, subnets) = (self::living(living), subnets());
        let wanted = Wanted { pods, living: &living, bridge: BRIDGE, subnets: &subnets };
        wanted.difference(actual, accepted).is_some()
    }

    fn other() -> PodPorts {
        let mut pod = PodPorts { device: "culv0".to_owned(), ..example() };
        for port in &mut pod.ports {
            port.host_port += 1;
        }
        pod
    }

    #[test]
    fn nothing_is_made_before_a_pod_wants_it_and_nothing_changed_that_is_right() {
        assert!(!difference((&[], &[example()]), None, None));
        assert!(difference((&[example()], &[example()]), None, None));
        let both = [example(), other()];
        assert!(!difference((&both, &both), Some(&listed(&both)), None));
        assert!(!difference((&[], &[]), Some(&listed(&[])), None));
    }

    #[test]
    fn what_pods_left_behind_goes_and_what_a_living_one_has_stays() {
        let both = [example(), other()];
        let actual = listed(&both);
        assert!(difference((&both, &[example()]), Some(&actual), None), "its device is gone");
        assert!(difference((&[example()], &[example()]), Some(&actual), None));
        assert!(!difference((&[example()], &both), Some(&actual), None), "its file is gone");
    }

    #[test]
    fn missing_chain_element_or_rule_of_the_base_is_put_back() {
        let pods = [example()];
        let with = |change: &dyn Fn(&mut Listing)| {
            let mut listing = listed(&pods);
            change(&mut listing);
            difference((&pods, &pods), Some(&listing), None)
        };
        assert!(with(&|listing| drop(listing.chains.remove(&example().device))));
        assert!(with(&|listing| drop(listing.chains.remove("guard"))));
        assert!(with(&|listing| listing.sets.get_mut(PORTS).unwrap().elements.clear()));
        assert!(with(&|listing| listing.is_dormant = true));
        let extra = Element::of(&[&[6], &[0, 99]]).deciding(Verdict::Goto(example().device));
        assert!(with(&|listing| {
            listing.sets.get_mut(PORTS).unwrap().elements.insert(extra.clone());
        }));
    }

    #[test]
    fn what_the_kernel_lists_otherwise_is_right_while_it_stays_so() {
        let pods = [example()];
        let mut listing = listed(&pods);
        let odd = listing.chains["guard"].clone();
        listing.chains.insert("prerouting".to_owned(), odd.clone());
        listing.chains.insert(example().device, odd);
        assert!(difference((&pods, &pods), Some(&listing), None));
        assert!(!difference((&pods, &pods), Some(&listing), Some(&listing)));
        let changed = listed(&pods);
        assert!(!difference((&pods, &pods), Some(&changed), Some(&listing)), "as we list it");
        listing.chains.remove("guard");
        assert!(difference((&pods, &pods), Some(&listing), Some(&changed)));
    }

    #[test]
    fn port_of_every_address_and_that_of_one_are_the_same_in_both_orders() {
        use super::super::{HostPort, Protocol};

        let pod = |device: &str, protocol, host_ip: Option<&str>, host_port| PodPorts {
            device: device.to_owned(),
            ports: vec![HostPort {
                protocol,
                host_ip: host_ip.map(|address| address.parse().unwrap()),
                host_port,
                container_port: 80,
            }],
            ..example()
        };
        let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
        let is_taken = |first: (Protocol, Option<&str>, u16), second: (_, Option<&str>, u16)| {
            let [one, two] = [("culv1", first), ("culv2", second)]
                .map(|(device, (protocol, host, port))| pod(device, protocol, host, port));
            assert_eq!(taken(&listed(std::slice::from_ref(&one)), &one), None, "its own");
            let found = taken(&listed(&[one]), &two);
            found.inspect(|it| assert_eq!((&it.device[..], &it.port), ("culv1", &two.ports[0])))
        };
        for every in [None, Some("0.0.0.0"), Some("::")] {
            for one in [None, Some("0.0.0.0"), Some("192.168.1.11"), Some("fd00::11")] {
                for (first, second) in [(every, one), (one, every)] {
                    let found = is_taken((tcp, first, 80), (tcp, second, 80));
                    assert!(found.is_some(), "{first:?}, then {second:?}");
                    assert_eq!(is_taken((tcp, first, 80), (udp, second, 80)), None);
                    assert_eq!(is_taken((tcp, first, 80), (tcp, second, 81)), None);
                }
            }
        }
        let [one, other] = [Some("192.168.1.11"), Some("192.168.1.12")];
        assert_eq!(is_taken((tcp, one, 80), (tcp, other, 80)), None);
        assert_eq!(is_taken((tcp, one, 80), (tcp, Some("fd00::11"), 80)), None);
        assert!(is_taken((tcp, one, 80), (tcp, one, 80)).is_some());
    }

    #[test]
    fn two_pods_whose_files_have_one_port_do_not_stand_in_each_others_way() {
        let twin = PodPorts { device: "culv0".to_owned(), ..example() };
        let table = rules::table(&[twin, example()], BRIDGE, &subnets());
        let ports = table.sets.iter().find(|set| set.name == PORTS).unwrap();
        let elements: Vec<_> = ports.elements.iter().collect();
        assert_eq!(elements.len(), 1);
        assert!(leads_to(&elements[0], "culv0"), "the first has it");
    }
}
