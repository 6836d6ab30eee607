//! Ranges, gateways, and addresses that are asked for.

use super::*;

fn range(subnet: &str, start: &str, end: &str) -> Range {
    let whole = Range::whole(subnet.parse().unwrap());
    whole.between(Some(start.parse().unwrap()), Some(end.parse().unwrap())).unwrap()
}

fn ask(store: &mut Store, number: usize, request: &Request) -> Result<Vec<String>, Error> {
    let allocations = store.allocate_from(&pod(number), Path::new("/x"), request)?;
    Ok(allocations.iter().map(|allocation| allocation.address.to_string()).collect())
}

fn of(sets: &[&[Range]]) -> Request {
    Request { sets: sets.iter().map(|set| set.to_vec()).collect(), addresses: Vec::new() }
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
fn gateway_of_the_request_is_handed_to_the_pod_and_to_no_other() {
    let (_dir, mut store) = store();
    let subnet = Range::whole("10.0.0.0/29".parse().unwrap());
    let request = of(&[&[subnet.with_gateway("10.0.0.3".parse().unwrap()).unwrap()]]);
    let mut given = Vec::new();
    for number in 0..5 {
        let allocations = store.allocate_from(&pod(number), Path::new("/x"), &request).unwrap();
        assert_eq!(allocations[0].gateway().to_string(), "10.0.0.3");
        assert_eq!(store.allocations_of(&pod(number)).unwrap(), allocations);
        given.push(allocations[0].address.to_string());
    }
    assert_eq!(given, ["10.0.0.1", "10.0.0.2", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
    assert!(matches!(ask(&mut store, 9, &request), Err(Error::Exhausted { .. })));
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
