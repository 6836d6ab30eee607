//! The address store when the power goes, at any moment of its life.
//!
//! A tape has every write, cut, flush and rename of a store's life. At each point of the tape the
//! power goes: what may then be on the disk is laid out, in several ways, and opened. It must be
//! whole, be the store as it was after one of its calls, and lack nothing that decision 0025
//! promises: no call before the log was last folded, and no import.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says why and ends")]

mod disk;
mod tape;

use std::collections::HashSet;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;

use culvert_node::Attachment;
use culvert_node::ipam::{DATABASE, DIRECTORY, Ports, Request, Store};
use culvert_node::pod_port::PodPort;
use disk::{Disk, Image, Luck};
use ipnet::IpNet;
use tape::Event;
use tempfile::TempDir;

/// Calls of the long life: the log is folded several times meanwhile.
const CALLS: usize = 120;

/// How often each moment is tried with part of what was not flushed.
const MIXED: u64 = 2;

/// Who holds what, sorted.
type Held = Vec<(String, String)>;

/// A life of a store, and what it held after each call.
struct Life {
    directory: TempDir,
    events: Vec<Event>,
    held: Vec<Held>,
    /// The calls whose answer promises that all up to them stays.
    promises: Vec<usize>,
    /// The pods that run, and whose ports' notes a lost store is made anew from.
    ports: Ports,
}

impl Life {
    /// Records `live`, which says what it did call by call.
    fn record(live: impl FnOnce(&Path, &mut Self)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().to_owned();
        fs::create_dir(state.join(DIRECTORY)).unwrap();
        let mut life = Self {
            directory,
            events: Vec::new(),
            held: vec![Vec::new()],
            promises: Vec::new(),
            ports: Ports::default(),
        };
        tape::start(&state.join(DIRECTORY));
        live(&state, &mut life);
        life.events = tape::stop();
        life
    }

    /// Notes that a call has been answered.
    fn answered(&mut self, store: &mut Store) {
        tape::answer();
        self.held.push(held(store));
    }

    fn answered_with_promise(&mut self, store: &mut Store) {
        self.answered(store);
        self.promises.push(self.held.len() - 1);
    }

    /// Cuts the power after each event, and says how many different disks were found.
    fn cut_everywhere(&self) -> usize {
        let mut disk = Disk::default();
        let mut seen = HashSet::new();
        let (mut answers, mut promised) = (0, 0);
        for (place, event) in self.events.iter().enumerate() {
            disk.take(event);
            if matches!(event, Event::Answer) {
                answers += 1;
            }
            let is_folded = matches!(event, Event::Cut { length: 0, .. });
            // The log is cut when all that it had is in the database.
            if is_folded || self.promises.contains(&answers) {
                promised = answers;
            }
            let seeds = (0..MIXED).map(|number| Luck::Mixed(place as u64 * MIXED + number));
            for luck in [Luck::Good, Luck::Bad].into_iter().chain(seeds) {
                let image = disk.after_cut(luck);
                let mut hasher = DefaultHasher::new();
                (&image, promised).hash(&mut hasher);
                if seen.insert(hasher.finish()) {
                    // The call that was under way may be done as well.
                    let last = (answers + 1).min(self.held.len() - 1);
                    let context = || format!("after event {place}, {luck:?}, {answers} answers");
                    self.assert_recovers(&image, &self.held[promised..=last], promised, &context);
                }
            }
        }
        seen.len()
    }
}

impl Life {
    /// Demands that the store on the disk is one of `possible` and goes on.
    #[track_caller]
    fn assert_recovers(
        &self,
        image: &Image,
        possible: &[Held],
        promised: usize,
        context: &dyn Fn() -> String,
    ) {
        let directory = tempfile::tempdir().unwrap();
        lay_out(image, directory.path());
        let opened = Store::open(directory.path());
        let opened = opened.unwrap_or_else(|error| panic!("{}: {error:?}", context()));
        let mut store = match opened {
            Some(store) => store,
            None if self.ports.pods.is_empty() => {
                assert_eq!(promised, 0, "{}: the file is lost", context());
                return;
            }
            // Whoever needs it next makes it anew.
            None => {
                let mut ports = self.ports.clone();
                let mut store = Store::open_or_create(directory.path(), &mut ports).unwrap();
                assert_eq!(held(&mut store), noted(&ports), "{}", context());
                return;
            }
        };
        let found = held(&mut store);
        assert!(possible.contains(&found), "{}: {found:?}, not one of {possible:?}", context());
        assert_eq!(store.faults().unwrap(), Vec::<String>::new(), "{}", context());
        let next = call_add(&mut store, "next");
        assert!(found.iter().all(|(address, _)| !next.contains(address)), "{}", context());
        assert_eq!(store.faults().unwrap(), Vec::<String>::new(), "{}", context());
    }
}

fn lay_out(image: &Image, state: &Path) {
    let directory = state.join(DIRECTORY);
    fs::create_dir(&directory).unwrap();
    for (name, content) in image {
        fs::write(directory.join(name), content).unwrap();
    }
    // Shared memory is a file too, and nobody knows how much of it came to the disk.
    fs::write(directory.join(format!("{DATABASE}-shm")), [0x55; 0x8000]).unwrap();
}

fn create(state: &Path) -> Store {
    Store::open_or_create(state, &mut Ports::default()).unwrap()
}

fn held(store: &mut Store) -> Held {
    let records = store.records().unwrap().into_iter();
    records
        .map(|record| {
            (record.allocation.address.to_string(), record.attachment.container().to_owned())
        })
        .collect()
}

fn noted(ports: &Ports) -> Held {
    let addresses = ports.addresses().map(|(pod, net)| (net.addr(), pod.owner()));
    let mut held: Vec<_> = addresses.collect();
    held.sort_by_key(|(address, _)| *address);
    held.into_iter()
        .map(|(address, owner)| (address.to_string(), owner.container().to_owned()))
        .collect()
}

fn subnets() -> [IpNet; 2] {
    ["10.0.0.0/24", "fd00::/64"].map(|subnet| subnet.parse().unwrap())
}

fn pod(name: &str) -> Attachment {
    Attachment::new("pods", name, "eth0").unwrap()
}

fn call_add(store: &mut Store, name: &str) -> Vec<String> {
    let request = Request::one_of_each_family(&subnets());
    let netns = Path::new("/run/netns/x");
    let grant = store.allocate(&pod(name), netns, &request, &mut Ports::default()).unwrap();
    grant.allocations.iter().map(|allocation| allocation.address.to_string()).collect()
}

#[test]
fn whatever_a_power_cut_leaves_is_the_store_as_it_was_after_one_of_its_calls() {
    let life = Life::record(|state, life| {
        life.answered_with_promise(&mut create(state));
        for number in 0..CALLS {
            // As processes do it: each opens the store, and often another has it open too.
            let _other = (number % 7 < 3).then(|| Store::open(state).unwrap());
            let mut store = Store::open(state).unwrap().unwrap();
            if number % 3 == 2 {
                store.release(&pod(&format!("c{}", number / 2))).unwrap();
            } else {
                call_add(&mut store, &format!("c{number}"));
            }
            life.answered(&mut store);
        }
    });
    let folds = life.events.iter().filter(|event| matches!(event, Event::Cut { length: 0, .. }));
    assert!(folds.count() > 2, "the log is folded");
    let disks = life.cut_everywhere();
    assert!(disks > CALLS, "{disks} different disks");
}

/// Twenty pods, each with one address, as their ports' notes have it.
fn running() -> Ports {
    let pods = (0..20).filter_map(|number| {
        let address = number + 2;
        let note = format!(
            "culvert pod 0a:58:0a:00:00:{address:02x} 10.0.0.{address}/24 pods/c{number}/eth0"
        );
        PodPort::from_note(&format!("culv{number}"), &note)
    });
    Ports { pods: pods.collect(), ..Ports::default() }
}

#[test]
fn what_was_rebuilt_is_there_however_soon_the_power_goes() {
    let life = Life::record(|state, life| {
        life.ports = running();
        life.answered_with_promise(&mut create(state));
        let mut store = Store::rebuild(state, &mut running()).unwrap();
        assert_eq!(held(&mut store).len(), 20);
        life.answered_with_promise(&mut store);
        call_add(&mut store, "later");
        life.answered(&mut store);
    });
    life.cut_everywhere();
}

#[test]
fn store_that_is_made_while_pods_run_has_all_of_them_from_its_first_moment() {
    let life = Life::record(|state, life| {
        life.ports = running();
        let mut store = Store::open_or_create(state, &mut running()).unwrap();
        assert_eq!(held(&mut store).len(), 20);
        life.answered_with_promise(&mut store);
        call_add(&mut store, "later");
        life.answered(&mut store);
    });
    life.cut_everywhere();
}

#[test]
fn the_tape_has_all_that_was_written() {
    let life = Life::record(|state, life| {
        for name in ["a", "b", "c"] {
            let mut store = create(state);
            call_add(&mut store, name);
            life.answered(&mut store);
        }
    });
    let mut disk = Disk::default();
    life.events.iter().for_each(|event| disk.take(event));
    let image = disk.after_cut(Luck::Good);
    assert_eq!(image.len(), 2, "{:?}", image.keys());
    for (name, content) in image {
        let found = fs::read(life.directory.path().join(DIRECTORY).join(&name)).unwrap();
        assert!(found == content, "{name}: {} and {} bytes", found.len(), content.len());
    }
}
