//! A store that is lost while pods run: their ports' notes have what it had.

use std::time::Instant;

use super::*;
use crate::pod_port::PodPort;

const SUBNET: [&str; 1] = ["10.0.0.0/24"];

fn port(number: usize, addresses: &str) -> PodPort {
    let device = pod(number).host_device();
    let note =
        format!("culvert pod 0a:58:00:00:01:{number:02x} checked {addresses} pods/c{number}/eth0");
    PodPort::from_note(&device, &note).unwrap()
}

fn node(pods: &[PodPort]) -> Ports {
    Ports {
        devices: pods.iter().map(|pod| (pod.device.clone(), None)).collect(),
        pods: pods.to_vec(),
        ..no_ports()
    }
}

fn add_on(store: &mut Store, number: usize, ports: &mut Ports) -> Result<String, Error> {
    let request = Request::one_of_each_family(&nets(&SUBNET));
    let grant = store.allocate(&pod(number), Path::new("/x"), &request, ports)?;
    Ok(grant.allocations[0].address.to_string())
}

fn held(store: &mut Store) -> Vec<(String, Attachment)> {
    let records = store.records().unwrap().into_iter();
    records
        .map(|record| (record.allocation.interface_address().to_string(), record.attachment))
        .collect()
}

fn file(dir: &TempDir) -> PathBuf {
    dir.path().join(DIRECTORY).join(DATABASE)
}

#[test]
fn missing_store_is_made_with_the_addresses_of_running_pods() {
    let dir = TempDir::new().unwrap();
    let mut ports = node(&[port(1, "10.0.0.2/24 fd00::2/64"), port(2, "10.0.0.3/24")]);
    let mut store = Store::open_or_create(dir.path(), &mut ports).unwrap();
    let expected = [("10.0.0.2/24", 1), ("10.0.0.3/24", 2), ("fd00::2/64", 1)];
    let expected = expected.map(|(address, number)| (address.to_owned(), pod(number)));
    assert_eq!(held(&mut store), expected);
    let restored = store.restored().unwrap();
    assert_eq!((restored.old.as_ref(), restored.records.len()), (None, 3));
    assert_eq!(restored.records[0].mac, Some(ports.pods[0].mac));
    assert_eq!(restored.records[0].host_device, pod(1).host_device());
    assert_eq!(add_on(&mut store, 3, &mut ports).unwrap(), "10.0.0.4");
    assert_eq!(store.release(&pod(1)).unwrap(), 2);
    assert_eq!(store.faults().unwrap(), Vec::<String>::new());
    drop(store);
    assert_eq!(Store::open_or_create(dir.path(), &mut ports).unwrap().restored(), None);
}

#[test]
fn store_of_a_node_without_pods_was_not_lost() {
    let (_dir, store) = store();
    assert_eq!(store.restored(), None);
}

#[test]
fn emptied_store_gives_no_address_that_a_note_holds() {
    let (_dir, mut store) = store();
    let pods: Vec<_> = (0..3).map(|n| port(n, &format!("10.0.0.{}/24", n + 2))).collect();
    for number in 0..3 {
        add(&mut store, number, &SUBNET).unwrap();
    }
    store.connection.execute("DELETE FROM allocation", []).unwrap();
    store.connection.execute("UPDATE pool SET next = first", []).unwrap();
    assert_eq!(add_on(&mut store, 9, &mut node(&pods)).unwrap(), "10.0.0.5");
    // What it lacked was written down.
    assert_eq!(held(&mut store).len(), 4);
    assert_eq!(store.release(&pod(0)).unwrap(), 1);
}

#[test]
fn requested_address_that_a_note_holds_names_the_pod() {
    let (_dir, mut store) = store();
    let request = Request {
        addresses: vec!["10.0.0.7".parse().unwrap()],
        ..Request::one_of_each_family(&nets(&SUBNET))
    };
    let mut ports = node(&[port(4, "10.0.0.7/24")]);
    let error = store.allocate(&pod(0), Path::new("/x"), &request, &mut ports).unwrap_err();
    assert!(matches!(&error, Error::Taken { holder, .. } if **holder == pod(4)), "{error}");
}

/// Counts how often it is looked at.
struct Counting {
    ports: Ports,
    looks: usize,
}

impl Survey for Counting {
    fn look(&mut self) -> Result<Ports, Error> {
        self.looks += 1;
        self.ports.look()
    }

    fn place(&self) -> (u64, String) {
        self.ports.place()
    }
}

fn looks(store: &mut Store, number: usize, ports: &[PodPort]) -> (String, usize) {
    let request = Request::one_of_each_family(&nets(&SUBNET));
    let mut survey = Counting { ports: node(ports), looks: 0 };
    let grant = store.allocate(&pod(number), Path::new("/x"), &request, &mut survey).unwrap();
    (grant.allocations[0].address.to_string(), survey.looks)
}

#[test]
fn kernel_is_asked_once_and_not_again_while_the_store_is_the_one_that_was_changed_last() {
    let run = TempDir::new().unwrap();
    let (_dir, mut store) = store();
    store.follow(run.path());
    assert_eq!(looks(&mut store, 0, &[]), ("10.0.0.2".to_owned(), 1));
    assert_eq!(looks(&mut store, 1, &[]), ("10.0.0.3".to_owned(), 0));
    assert_eq!(store.release(&pod(0)).unwrap(), 1);
    assert_eq!(looks(&mut store, 2, &[]), ("10.0.0.4".to_owned(), 0));
    // Somebody changes it who says so nowhere.
    store.stamp = None;
    assert_eq!(store.release(&pod(1)).unwrap(), 1);
    store.follow(run.path());
    assert_eq!(looks(&mut store, 3, &[]).1, 1);
    assert_eq!(looks(&mut store, 4, &[]).1, 0);
    // Another boot.
    fs::remove_file(run.path().join("addresses.edition")).unwrap();
    assert_eq!(looks(&mut store, 5, &[]).1, 1);
}

#[test]
fn older_copy_of_the_store_gives_no_address_that_a_note_holds() {
    let (run, copy) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (dir, mut store) = store();
    store.follow(run.path());
    let pods: Vec<_> = (0..3).map(|n| port(n, &format!("10.0.0.{}/24", n + 2))).collect();
    assert_eq!(looks(&mut store, 0, &[]).0, "10.0.0.2");
    store.connection.execute("VACUUM INTO ?1", [copy.path().join("db").to_str()]).unwrap();
    assert_eq!(looks(&mut store, 1, &pods[..1]).0, "10.0.0.3");
    assert_eq!(looks(&mut store, 2, &pods[..2]).0, "10.0.0.4");
    drop(store);
    fs::remove_dir_all(dir.path().join(DIRECTORY)).unwrap();
    fs::create_dir(dir.path().join(DIRECTORY)).unwrap();
    fs::copy(copy.path().join("db"), file(&dir)).unwrap();
    let mut store = Store::open(dir.path()).unwrap().unwrap();
    store.follow(run.path());
    // A DEL does not make it whole.
    assert_eq!(store.release(&pod(0)).unwrap(), 1);
    assert_eq!(looks(&mut store, 9, &pods[1..]), ("10.0.0.5".to_owned(), 1));
    assert_eq!(held(&mut store).len(), 3);
    assert_eq!(looks(&mut store, 10, &pods[1..]).1, 0);
}

#[test]
fn killed_allocation_costs_a_look_and_nothing_else() {
    let run = TempDir::new().unwrap();
    let (_dir, mut store) = store();
    store.follow(run.path());
    assert_eq!(looks(&mut store, 0, &[]).1, 1);
    // Its edition is written, its transaction is not.
    let failed: Result<(), _> = store.change("change", |change| {
        change.set_complete();
        change.release(&pod(0))?;
        store_edition(change, run.path());
        Err(Error::NoSubnet)
    });
    assert!(failed.is_err());
    assert_eq!(held(&mut store).len(), 1);
    assert_eq!(looks(&mut store, 1, &[port(0, "10.0.0.2/24")]), ("10.0.0.3".to_owned(), 1));
    assert_eq!(looks(&mut store, 2, &[]).1, 0);
}

fn store_edition(change: &Change<'_>, run_dir: &Path) {
    Stamp::in_directory(run_dir).set(change.edition().unwrap()).unwrap();
}

#[test]
fn run_directory_that_is_not_there_costs_looks_only() {
    let (_dir, mut store) = store();
    store.follow(Path::new("/proc/none"));
    assert_eq!(looks(&mut store, 0, &[]), ("10.0.0.2".to_owned(), 1));
    assert_eq!(looks(&mut store, 1, &[]), ("10.0.0.3".to_owned(), 1));
}

#[test]
fn damage_that_shows_in_the_midst_of_an_add_is_mended_before_it_gives_an_address() {
    let (dir, mut store) = store();
    add(&mut store, 0, &SUBNET).unwrap();
    store.connection.execute("UPDATE pool SET next = x'00'", []).unwrap();
    let mut ports = node(&[port(0, "10.0.0.2/24")]);
    assert_eq!(add_on(&mut store, 1, &mut ports).unwrap(), "10.0.0.3");
    assert_eq!(held(&mut store).len(), 2);
    let old = store.restored().unwrap().old.clone().unwrap();
    assert!(old.exists() && old != file(&dir));
}

#[test]
fn pods_of_other_plugins_are_kept_from_what_can_be_read_of_a_damaged_store() {
    let (dir, mut store) = store();
    add(&mut store, 0, &SUBNET).unwrap();
    add(&mut store, 1, &SUBNET).unwrap();
    let old_device = "UPDATE allocation SET host_device = 'veth1' WHERE container = 'c1'";
    store.connection.execute(old_device, []).unwrap();
    store.connection.execute("UPDATE pool SET in_use = 77", []).unwrap();
    drop(store);
    let mut ports = node(&[]);
    ports.devices.insert("veth1".to_owned(), None);
    let mut sweep = Sweep::new(boot_id(), GRACE);
    #[expect(clippy::disallowed_methods, reason = "any moment will do")]
    let swept = sweep.run(dir.path(), &mut ports, Instant::now()).unwrap();
    assert!(swept.restored.unwrap().old.is_some());
    let mut store = Store::open(dir.path()).unwrap().unwrap();
    assert_eq!(held(&mut store), [("10.0.0.3/24".to_owned(), pod(1))]);
    assert_eq!(store.records().unwrap()[0].host_device, "veth1");
}

#[test]
fn port_that_does_not_say_whose_it_is_holds_its_address_until_del() {
    let dir = TempDir::new().unwrap();
    let device = pod(0).host_device();
    let note = "culvert pod 0a:58:0a:00:00:02 10.0.0.2";
    let nameless = PodPort::from_note(&device, note).unwrap();
    let mut ports = node(std::slice::from_ref(&nameless));
    let mut store = Store::open_or_create(dir.path(), &mut ports).unwrap();
    assert_eq!(held(&mut store), [("10.0.0.2/32".to_owned(), Attachment::unnamed(&device))]);
    assert_eq!(add_on(&mut store, 1, &mut ports).unwrap(), "10.0.0.3");
    // DEL knows the names, and by them the device.
    assert_eq!(store.release(&pod(0)).unwrap(), 1);
}

#[test]
fn two_notes_with_one_address_do_not_stop_the_rebuild() {
    let dir = TempDir::new().unwrap();
    let mut ports = node(&[port(1, "10.0.0.2/24"), port(2, "10.0.0.2/24")]);
    let mut store = Store::open_or_create(dir.path(), &mut ports).unwrap();
    assert_eq!(held(&mut store).len(), 1);
    assert_eq!(add_on(&mut store, 3, &mut ports).unwrap(), "10.0.0.3");
}

#[test]
fn pod_notices_when_the_store_was_replaced_while_it_was_attached() {
    let (dir, mut store) = store();
    let request = Request::one_of_each_family(&nets(&SUBNET));
    let given = store.allocate(&pod(0), Path::new("/x"), &request, &mut no_ports()).unwrap();
    store.confirm(&pod(0), &given.allocations).unwrap();
    // Its port has no note yet, so nobody knows of it.
    fs::remove_dir_all(dir.path().join(DIRECTORY)).unwrap();
    let gone = store.confirm(&pod(0), &given.allocations).unwrap_err();
    assert!(matches!(gone, Error::Replaced { .. }), "{gone}");
    let mut other = Store::open_or_create(dir.path(), &mut no_ports()).unwrap();
    assert_eq!(add_on(&mut other, 1, &mut no_ports()).unwrap(), "10.0.0.2");
    let replaced = store.confirm(&pod(0), &given.allocations).unwrap_err();
    assert!(matches!(replaced, Error::Replaced { .. }), "{replaced}");
    // So with rows that were removed.
    let given = vec![other.allocations_of(&pod(1)).unwrap().remove(0)];
    other.connection.execute("DELETE FROM allocation", []).unwrap();
    assert!(other.confirm(&pod(1), &given).is_err());
}

#[test]
fn sweep_writes_down_what_the_store_lacks() {
    let (dir, mut store) = store();
    let mut ports = node(&[port(1, "10.0.0.2/24"), port(2, "10.0.0.3/24")]);
    let mut sweep = Sweep::new(boot_id(), GRACE);
    #[expect(clippy::disallowed_methods, reason = "any moment will do")]
    let mut run = || sweep.run(dir.path(), &mut ports, Instant::now()).unwrap();
    assert_eq!(run().adopted, 2);
    assert_eq!(run(), Swept::default());
    assert_eq!(held(&mut store).len(), 2);
}

#[test]
fn sweep_makes_a_missing_store_when_pods_run() {
    let dir = TempDir::new().unwrap();
    let mut sweep = Sweep::new(boot_id(), GRACE);
    let mut ports = node(&[port(1, "10.0.0.2/24")]);
    #[expect(clippy::disallowed_methods, reason = "any moment will do")]
    let swept = sweep.run(dir.path(), &mut ports, Instant::now()).unwrap();
    assert_eq!(swept.restored.unwrap().records.len(), 1);
    assert_eq!(held(&mut Store::open(dir.path()).unwrap().unwrap()).len(), 1);
}

#[test]
fn rebuild_that_was_killed_between_two_names_loses_nothing() {
    let (dir, mut store) = store();
    add(&mut store, 1, &SUBNET).unwrap();
    let imported = "UPDATE allocation SET host_device = 'veth1'";
    store.connection.execute(imported, []).unwrap();
    drop(store);
    let mut ports = node(&[port(2, "10.0.0.7/24")]);
    ports.devices.insert("veth1".to_owned(), None);
    drop(Store::rebuild(dir.path(), &mut ports).unwrap());
    // The old file was set aside, and the new one has not got its name.
    fs::rename(file(&dir), file(&dir).with_extension("new")).unwrap();
    let mut store = Store::open_or_create(dir.path(), &mut ports).unwrap();
    let expected = [("10.0.0.2/24", 1), ("10.0.0.7/24", 2)];
    let expected = expected.map(|(address, number)| (address.to_owned(), pod(number)));
    assert_eq!(held(&mut store), expected);
}
