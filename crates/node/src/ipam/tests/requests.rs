//! Ranges, and addresses that are asked for.

use super::*;
use crate::pod_port::PodPort;

fn range(subnet: &str, start: &str, end: &str) -> Range {
    let subnet = subnet.parse().unwrap();
    let [start, end] = [start, end].map(|bound| bound.parse().unwrap());
    Range::part(subnet, subnet, Some(start), Some(end)).unwrap()
}

fn ask(store: &mut Store, number: usize, request: &Request) -> Result<Vec<String>, Error> {
    let grant = store.allocate(&pod(number), Path::new("/x"), request, &mut no_ports())?;
    Ok(grant.allocations.iter().map(|allocation| allocation.address.to_string()).collect())
}

fn of(sets: &[&[Range]]) -> Request {
    Request { sets: sets.iter().map(|set| set.to_vec()).collect(), ..Request::default() }
}

fn with(addresses: &[&str], request: Request) -> Request {
    Request { addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(), ..request }
}

#[test]
fn each_set_gives_one_address_from_its_first_range_with_room() {
    let (_dir, mut store) = store();
    let request = of(&[
        &[
            range("10.0.0.0/24", "10.0.0.10", "10.0.0.10"),
            range("10.0.1.0/24", "10.0.1.20", "10.0.1.29"),
        ],
        &[Range::whole("10.0.2.0/24".parse().unwrap())],
    ]);
    assert_eq!(ask(&mut store, 0, &request).unwrap(), ["10.0.0.10", "10.0.2.2"]);
    assert_eq!(ask(&mut store, 1, &request).unwrap(), ["10.0.1.20", "10.0.2.3"]);
}

#[test]
fn full_range_is_named_with_its_bounds_and_the_knob() {
    let (_dir, mut store) = store();
    let request = of(&[&[range("10.0.0.0/24", "10.0.0.10", "10.0.0.11")]]);
    ask(&mut store, 0, &request).unwrap();
    ask(&mut store, 1, &request).unwrap();
    let text = ask(&mut store, 2, &request).unwrap_err().to_string();
    assert!(
        text.starts_with("no free pod address in 10.0.0.10 to 10.0.0.11 of 10.0.0.0/24 (2 in use)"),
        "{text}"
    );
    assert!(text.contains("rangeEnd"), "{text}");
}

#[test]
fn requested_address_takes_the_place_of_a_free_one_in_its_set() {
    let (_dir, mut store) = store();
    let dual = Request::one_of_each_family(&nets(&["10.0.0.0/24", "fd00::/64"]));
    let fixed = with(&["fd00::77"], dual.clone());
    assert_eq!(ask(&mut store, 0, &fixed).unwrap(), ["10.0.0.2", "fd00::77"]);
    let both = with(&["fd00::78", "10.0.0.200"], dual.clone());
    assert_eq!(ask(&mut store, 1, &both).unwrap(), ["10.0.0.200", "fd00::78"]);
    // Freed, they rest like any other, and the lowest fresh ones go on.
    store.release(&pod(1)).unwrap();
    assert_eq!(ask(&mut store, 2, &dual).unwrap(), ["10.0.0.3", "fd00::2"]);
}

#[test]
fn requested_address_that_is_held_names_its_holder() {
    let (_dir, mut store) = store();
    let request = with(&["10.0.0.9"], Request::one_of_each_family(&nets(&["10.0.0.0/24"])));
    ask(&mut store, 0, &request).unwrap();
    let text = ask(&mut store, 1, &request).unwrap_err().to_string();
    assert!(text.contains("10.0.0.9") && text.contains("container c0"), "{text}");
    assert_eq!(store.records().unwrap().len(), 1);
}

#[test]
fn requested_address_outside_of_every_range_changes_nothing() {
    let (_dir, mut store) = store();
    for address in ["10.0.9.1", "10.0.0.1", "10.0.0.0", "10.0.0.255", "fd00::5"] {
        let request = with(&[address], Request::one_of_each_family(&nets(&["10.0.0.0/24"])));
        let error = ask(&mut store, 0, &request).unwrap_err();
        assert!(matches!(&error, Error::NotInRange { .. }), "{error}");
        assert!(error.to_string().contains("10.0.0.0/24"), "{error}");
    }
    assert_eq!(store.records().unwrap(), []);
}

#[test]
fn fixed_address_is_skipped_when_its_turn_comes() {
    let (_dir, mut store) = store();
    let request = Request::one_of_each_family(&nets(&["10.0.0.0/24"]));
    ask(&mut store, 0, &with(&["10.0.0.3"], request.clone())).unwrap();
    assert_eq!(ask(&mut store, 1, &request).unwrap(), ["10.0.0.2"]);
    assert_eq!(ask(&mut store, 2, &request).unwrap(), ["10.0.0.4"]);
    // .3 was passed over while it was held, and must not be lost.
    store.release(&pod(0)).unwrap();
    for number in 10..260 {
        ask(&mut store, number, &request).unwrap();
    }
    assert_eq!(ask(&mut store, 999, &request).unwrap(), ["10.0.0.3"]);
    assert!(matches!(ask(&mut store, 1000, &request), Err(Error::Exhausted { .. })));
}

#[test]
fn addresses_of_a_range_that_was_changed_are_never_lost() {
    let (_dir, mut store) = store();
    let narrow = of(&[&[range("10.0.0.0/24", "10.0.0.10", "10.0.0.12")]]);
    let wide = of(&[&[range("10.0.0.0/24", "10.0.0.10", "10.0.0.14")]]);
    for number in 0..3 {
        ask(&mut store, number, &narrow).unwrap();
    }
    assert_eq!(ask(&mut store, 3, &wide).unwrap(), ["10.0.0.13"]);
    assert_eq!(ask(&mut store, 4, &wide).unwrap(), ["10.0.0.14"]);
    // They go back to the narrow range, which nobody asks for any more.
    for number in [1, 0, 2] {
        store.release(&pod(number)).unwrap();
    }
    let taken: Vec<_> =
        (5..8).map(|number| ask(&mut store, number, &wide).unwrap().remove(0)).collect();
    assert_eq!(taken, ["10.0.0.11", "10.0.0.10", "10.0.0.12"]);
    assert!(matches!(ask(&mut store, 9, &wide), Err(Error::Exhausted { .. })));
    assert_eq!(store.faults().unwrap(), Vec::<String>::new());
}

fn with_mac(mac: Mac) -> Request {
    Request { mac: Some(mac), ..Request::one_of_each_family(&nets(&["10.0.0.0/24"])) }
}

#[test]
fn mac_address_goes_to_one_pod_at_a_time() {
    let (_dir, mut store) = store();
    let mac = Mac::new([2, 0, 0, 0, 0, 9]);
    let ask = |store: &mut Store, number| {
        store.allocate(&pod(number), Path::new("/x"), &with_mac(mac), &mut no_ports())
    };
    assert_eq!(ask(&mut store, 0).unwrap().mac, mac);
    let error = ask(&mut store, 1).unwrap_err();
    assert!(matches!(&error, Error::MacTaken { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("02:00:00:00:00:09") && text.contains("container c0"), "{text}");
    assert_eq!(store.records().unwrap().len(), 1, "nothing was allocated");
    store.release(&pod(0)).unwrap();
    assert_eq!(ask(&mut store, 1).unwrap().mac, mac);
}

#[test]
fn mac_address_of_a_device_of_the_node_or_of_a_noted_pod_is_given_to_nobody() {
    let (_dir, mut store) = store();
    let [bridge, noted] = [1, 2].map(|last| Mac::new([2, 0, 0, 0, 0, last]));
    let note = "culvert pod 02:00:00:00:00:02 checked 10.0.0.77/24 pods/c77/eth0";
    let mut ports = Ports {
        devices: [("v-net-0".to_owned(), Some(bridge)), ("culv77".to_owned(), None)].into(),
        pods: PodPort::from_note("culv77", note).into_iter().collect(),
        ..no_ports()
    };
    for (mac, holder) in [(bridge, "device v-net-0"), (noted, "container c77")] {
        let asked = store.allocate(&pod(0), Path::new("/x"), &with_mac(mac), &mut ports);
        let text = asked.unwrap_err().to_string();
        assert!(text.contains(holder), "{text}");
    }
}

#[test]
fn mac_address_that_would_follow_is_passed_over_when_somebody_has_it() {
    let (_dir, mut store) = store();
    let taken = Mac::new([0x0a, 0x58, 10, 0, 0, 3]);
    store.allocate(&pod(0), Path::new("/x"), &with_mac(taken), &mut no_ports()).unwrap();
    let request = Request::one_of_each_family(&nets(&["10.0.0.0/24"]));
    let grant = store.allocate(&pod(1), Path::new("/x"), &request, &mut no_ports()).unwrap();
    assert_eq!(grant.allocations[0].address.to_string(), "10.0.0.3");
    assert_ne!(grant.mac, taken);
}

#[test]
fn threads_that_ask_for_one_mac_address_at_once_get_it_once() {
    let dir = TempDir::new().unwrap();
    let ask = |number| {
        let mut store = Store::open_or_create(dir.path(), &mut no_ports()).unwrap();
        let mac = with_mac(Mac::new([2, 0, 0, 0, 0, 9]));
        store.allocate(&pod(number), Path::new("/x"), &mac, &mut no_ports()).is_ok()
    };
    let given = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16).map(|number| scope.spawn(move || ask(number))).collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap().then_some(())).count()
    });
    assert_eq!(given, 1);
}
