//! Addresses that come back without DEL: GC, the sweep, a reboot.

use std::time::{Duration, Instant};

use super::*;
use crate::netns::Netns;

const SUBNET: [&str; 1] = ["10.0.0.0/24"];
const GRACE: Duration = Duration::from_secs(300);

#[expect(
    clippy::disallowed_methods,
    reason = "any moment will do, and there is no other way to one"
)]
fn some_moment() -> Instant {
    Instant::now()
}

fn minutes(count: u64) -> Duration {
    Duration::from_secs(count * 60)
}

#[test]
fn gc_frees_what_is_not_listed_and_only_in_its_network() {
    let (_dir, mut store) = store();
    for number in 0..4 {
        add(&mut store, number, &SUBNET).unwrap();
    }
    let other = Attachment::new("other", "c0", "eth0").unwrap();
    let request = Request::one_of_each_family(&nets(&SUBNET));
    store.allocate(&other, Path::new("/x"), &request, &mut no_ports()).unwrap();
    let valid = [("c1", "eth0"), ("c2", "net1"), ("c9", "eth0")];
    let valid = valid.map(|(container, ifname)| (container.to_owned(), ifname.to_owned()));
    let freed = store.release_except("pods", &valid).unwrap();
    let freed: Vec<_> = freed.iter().map(|record| record.attachment.container()).collect();
    assert_eq!(freed, ["c0", "c2", "c3"]);
    let left: Vec<_> =
        store.records().unwrap().into_iter().map(|record| record.attachment).collect();
    assert_eq!(left, [pod(1), other]);
    assert_eq!(store.release_except("pods", &valid).unwrap(), []);
    // What was freed rests, oldest first.
    for number in 10..258 {
        add(&mut store, number, &SUBNET).unwrap();
    }
    assert_eq!(add(&mut store, 999, &SUBNET).unwrap(), ["10.0.0.2"]);
}

#[test]
fn gc_of_a_thousand_pods_with_none_listed_empties_the_network() {
    let (_dir, mut store) = store();
    for number in 0..1000 {
        add(&mut store, number, &["10.0.0.0/20"]).unwrap();
    }
    assert_eq!(store.release_except("pods", &[]).unwrap().len(), 1000);
    assert_eq!(store.records().unwrap(), []);
}

/// A sweep, and the records of pods 0, 1 and 2, all of this boot.
fn swept() -> (TempDir, Store, Sweep, Vec<Record>) {
    let (dir, mut store) = store();
    for number in 0..3 {
        add(&mut store, number, &SUBNET).unwrap();
    }
    let records = store.records().unwrap();
    (dir, store, Sweep::new(boot_id(), GRACE), records)
}

fn seen(records: &[Record], pulses: &[Pulse]) -> Vec<(Record, Pulse)> {
    records.iter().cloned().zip(pulses.iter().copied()).collect()
}

#[test]
fn address_returns_only_when_its_pod_is_gone_and_the_grace_time_has_passed() {
    let (_dir, _store, mut sweep, records) = swept();
    let start = some_moment();
    let look = seen(&records, &[Pulse::Alive, Pulse::Gone, Pulse::Unknown]);
    // Gone, but not for long enough.
    assert_eq!(sweep.due(&look, start), []);
    assert_eq!(sweep.due(&look, start + GRACE - Duration::from_millis(1)), []);
    // The time alone, for a pod that lives, is no reason either; nor is not knowing.
    assert_eq!(sweep.due(&look, start + GRACE), [records[1].clone()]);
    assert_eq!(sweep.due(&look[..1], start + minutes(1000)), []);
    assert_eq!(sweep.due(&look[2..], start + minutes(1000)), []);
}

#[test]
fn pod_that_shows_up_again_starts_the_grace_time_anew() {
    let (_dir, _store, mut sweep, records) = swept();
    let start = some_moment();
    let gone = seen(&records[..1], &[Pulse::Gone]);
    let alive = seen(&records[..1], &[Pulse::Alive]);
    assert_eq!(sweep.due(&gone, start), []);
    assert_eq!(sweep.due(&alive, start + minutes(4)), []);
    assert_eq!(sweep.due(&gone, start + minutes(6)), []);
    assert_eq!(sweep.due(&gone, start + minutes(10)), []);
    assert_eq!(sweep.due(&gone, start + minutes(11)).len(), 1);
}

#[test]
fn another_pod_with_the_same_address_has_a_grace_time_of_its_own() {
    let (_dir, _store, mut sweep, records) = swept();
    let start = some_moment();
    assert_eq!(sweep.due(&seen(&records[..1], &[Pulse::Gone]), start), []);
    let mut other = records[0].clone();
    other.attachment = pod(77);
    let other = seen(&[other], &[Pulse::Gone]);
    assert_eq!(sweep.due(&other, start + minutes(5)), []);
    assert_eq!(sweep.due(&other, start + minutes(10)).len(), 1);
}

#[test]
fn after_a_reboot_everything_of_before_goes_at_once_unless_it_lives() {
    let (_dir, _store, _, mut records) = swept();
    let mut sweep = Sweep::new("this boot".to_owned(), GRACE);
    for record in &mut records {
        record.boot = "the boot before".to_owned();
    }
    let look = seen(&records, &[Pulse::Alive, Pulse::Gone, Pulse::Unknown]);
    assert_eq!(sweep.due(&look, some_moment()), records[1..]);
    // Without a name of the boot, nothing is concluded.
    let mut nameless = Sweep::new(String::new(), GRACE);
    assert_eq!(nameless.due(&look, some_moment()), []);
}

#[test]
fn sweep_frees_in_the_store_what_is_due() {
    let (dir, mut store) = store();
    let netns = dir.path().join("netns");
    fs::write(&netns, "").unwrap();
    for number in 0..2 {
        let path = if number == 0 { &netns } else { &dir.path().join("gone") };
        let request = Request::one_of_each_family(&nets(&SUBNET));
        store.allocate(&pod(number), path, &request, &mut no_ports()).unwrap();
    }
    let mut sweep = Sweep::new(boot_id(), GRACE);
    let start = some_moment();
    let mut run = |passed| sweep.run(dir.path(), &mut no_ports(), start + passed).unwrap().freed;
    assert_eq!(run(Duration::ZERO), []);
    let freed = run(GRACE);
    assert_eq!(freed.len(), 1);
    assert_eq!(freed[0].attachment, pod(1));
    assert_eq!(run(GRACE * 2), []);
    fs::remove_file(&netns).unwrap();
    assert_eq!(run(GRACE * 3), []);
    assert_eq!(run(GRACE * 4).len(), 1);
    assert_eq!(store.records().unwrap(), []);
}

#[test]
fn pod_lives_by_its_port_where_namespaces_cannot_be_seen() {
    let (_dir, mut store) = store();
    add(&mut store, 0, &SUBNET).unwrap();
    let record = store.records().unwrap().remove(0);
    let with_port = Ports { devices: [(pod(0).host_device(), None)].into(), ..no_ports() };
    assert_eq!(Pulse::of(&record, &with_port), Pulse::Alive);
    assert_eq!(Pulse::of(&record, &no_ports()), Pulse::Gone);
    // Another network namespace says nothing, unless it is of another boot.
    let elsewhere = Ports { netns: 8, ..no_ports() };
    assert_eq!(Pulse::of(&record, &elsewhere), Pulse::Elsewhere);
    let named = Record { netns: Namespace::at(Path::new("/proc/self/ns/net")), ..record.clone() };
    assert_eq!(Pulse::of(&named, &elsewhere), Pulse::Elsewhere);
    assert_eq!(Pulse::of(&named, &no_ports()), Pulse::Alive);
    let later = Ports { boot: "the next".to_owned(), ..elsewhere };
    assert_eq!(Pulse::of(&record, &later), Pulse::Gone);
    let nowhere = Record { netns: Namespace::default(), host_device: String::new(), ..record };
    assert_eq!(Pulse::of(&nowhere, &no_ports()), Pulse::Unknown);
}

#[test]
fn sweep_without_a_store_and_without_pods_makes_none() {
    let dir = TempDir::new().unwrap();
    let mut sweep = Sweep::new(boot_id(), GRACE);
    let swept = sweep.run(dir.path(), &mut no_ports(), some_moment()).unwrap();
    assert_eq!(swept, Swept::default());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn address_that_changed_hands_since_it_was_looked_at_stays() {
    let (_dir, mut store) = store();
    add(&mut store, 0, &["10.0.0.0/30"]).unwrap();
    let before = store.records().unwrap();
    store.release(&pod(0)).unwrap();
    add(&mut store, 1, &["10.0.0.0/30"]).unwrap();
    assert_eq!(store.release_unchanged(&before).unwrap(), []);
    assert_eq!(store.records().unwrap()[0].attachment, pod(1));
}

#[test]
fn own_namespace_has_no_pods_device() {
    // The namespace of a test is no pod's: `Netns` refuses it, and so nothing is found by it.
    assert!(Netns::open(Path::new("/proc/self/ns/net")).is_err());
    let ports = Surveyor::open().unwrap().look().unwrap();
    assert!(!ports.devices.contains_key(&pod(0).host_device()));
    assert!(ports.netns != 0 && ports.devices.contains_key("lo"));
}
