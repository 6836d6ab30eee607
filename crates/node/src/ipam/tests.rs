use std::collections::{HashSet, VecDeque};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use ipnet::IpNet;
use overlay_proto::Mac;
use proptest::prelude::*;
use tempfile::TempDir;

use super::change::{MAX_RESTING, RECORD};
use super::*;

mod damage;
mod import;
mod leaving;
mod lost;
mod requests;

fn pod(number: usize) -> Attachment {
    Attachment::new("pods", &format!("c{number}"), "eth0").unwrap()
}

fn nets(subnets: &[&str]) -> Vec<IpNet> {
    subnets.iter().map(|subnet| subnet.parse().unwrap()).collect()
}

fn no_ports() -> Ports {
    Ports { netns: 7, boot: boot_id(), ..Ports::default() }
}

fn store() -> (TempDir, Store) {
    let dir = TempDir::new().unwrap();
    let store = Store::open_or_create(dir.path(), &mut no_ports()).unwrap();
    (dir, store)
}

fn add(store: &mut Store, number: usize, subnets: &[&str]) -> Result<Vec<String>, Error> {
    let request = Request::one_of_each_family(&nets(subnets));
    let netns = Path::new("/run/netns/x");
    let grant = store.allocate(&pod(number), netns, &request, &mut no_ports())?;
    Ok(grant.allocations.iter().map(|allocation| allocation.address.to_string()).collect())
}

#[test]
fn first_pod_gets_the_address_after_the_gateway() {
    let (_dir, mut store) = store();
    assert_eq!(add(&mut store, 0, &["10.244.1.0/24"]).unwrap(), ["10.244.1.2"]);
    assert_eq!(add(&mut store, 1, &["10.244.1.0/24"]).unwrap(), ["10.244.1.3"]);
}

#[test]
fn each_family_gives_one_address_in_the_order_of_the_subnets() {
    let (_dir, mut store) = store();
    let v4_first = ["10.0.0.0/24", "fd00::/64", "10.0.1.0/24"];
    assert_eq!(add(&mut store, 0, &v4_first).unwrap(), ["10.0.0.2", "fd00::2"]);
    let v6_first = ["fd00::/64", "10.0.0.0/24"];
    assert_eq!(add(&mut store, 1, &v6_first).unwrap(), ["fd00::3", "10.0.0.3"]);
}

#[test]
fn second_subnet_is_used_when_the_first_is_full() {
    let (_dir, mut store) = store();
    let subnets = ["10.0.0.0/30", "10.0.1.0/30"];
    assert_eq!(add(&mut store, 0, &subnets).unwrap(), ["10.0.0.2"]);
    assert_eq!(add(&mut store, 1, &subnets).unwrap(), ["10.0.1.2"]);
}

#[test]
fn freed_address_rests_until_the_others_were_used() {
    let (_dir, mut store) = store();
    let subnets = ["10.0.0.0/29"];
    for (number, address) in ["10.0.0.2", "10.0.0.3", "10.0.0.4"].iter().enumerate() {
        assert_eq!(add(&mut store, number, &subnets).unwrap(), [*address]);
    }
    store.release(&pod(1)).unwrap();
    store.release(&pod(0)).unwrap();
    let next: Vec<_> =
        (10..14).map(|number| add(&mut store, number, &subnets).unwrap().remove(0)).collect();
    assert_eq!(next, ["10.0.0.5", "10.0.0.6", "10.0.0.3", "10.0.0.2"]);
}

#[test]
fn exhaustion_names_the_subnets_the_use_and_the_remedy() {
    let (_dir, mut store) = store();
    let subnets = ["10.0.0.0/30", "10.0.1.0/31"];
    add(&mut store, 0, &subnets).unwrap();
    let error = add(&mut store, 1, &subnets).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no free pod address in 10.0.0.0/30 (1 in use) or 10.0.1.0/31 (0 in use): add a subnet to \
         this node's entry in the subnet table, or delete pods"
    );
}

#[test]
fn a_full_family_gives_no_address_of_the_other_either() {
    let (_dir, mut store) = store();
    add(&mut store, 0, &["fd00::/64", "10.0.0.0/30"]).unwrap();
    assert!(matches!(
        add(&mut store, 1, &["fd00::/64", "10.0.0.0/30"]),
        Err(Error::Exhausted { .. })
    ));
    assert_eq!(store.records().unwrap().len(), 2);
    assert_eq!(add(&mut store, 2, &["fd00::/64"]).unwrap(), ["fd00::3"]);
}

#[test]
fn same_attachment_twice_is_an_error_that_names_its_address() {
    let (_dir, mut store) = store();
    add(&mut store, 0, &["10.0.0.0/24"]).unwrap();
    let error = add(&mut store, 0, &["10.0.0.0/24"]).unwrap_err();
    assert!(matches!(&error, Error::AlreadyAllocated { address, .. }
        if address.to_string() == "10.0.0.2"));
    assert_eq!(store.records().unwrap().len(), 1);
}

#[test]
fn other_interface_of_the_same_container_is_another_attachment() {
    let (_dir, mut store) = store();
    let request = Request::one_of_each_family(&nets(&["10.0.0.0/24"]));
    let second = Attachment::new("pods", "c0", "net1").unwrap();
    add(&mut store, 0, &["10.0.0.0/24"]).unwrap();
    store.allocate(&second, Path::new("/x"), &request, &mut no_ports()).unwrap();
    assert_eq!(store.release(&second).unwrap(), 1);
    assert_eq!(store.allocations_of(&pod(0)).unwrap().len(), 1);
}

#[test]
fn release_of_nothing_is_no_error() {
    let (_dir, mut store) = store();
    assert_eq!(store.release(&pod(7)).unwrap(), 0);
}

#[test]
fn node_without_subnet_is_an_error() {
    let (_dir, mut store) = store();
    assert!(matches!(add(&mut store, 0, &[]), Err(Error::NoSubnet)));
}

#[test]
fn overlapping_subnets_never_give_one_address_twice() {
    let (_dir, mut store) = store();
    assert_eq!(add(&mut store, 0, &["10.0.0.0/24"]).unwrap(), ["10.0.0.2"]);
    assert_eq!(add(&mut store, 1, &["10.0.0.0/24"]).unwrap(), ["10.0.0.3"]);
    store.release(&pod(1)).unwrap();
    // The entry in the subnet table grew from a /24 to a /23.
    assert_eq!(add(&mut store, 2, &["10.0.0.0/23"]).unwrap(), ["10.0.0.3"]);
    assert_eq!(add(&mut store, 3, &["10.0.0.0/23"]).unwrap(), ["10.0.0.4"]);
    // And shrank again: .3 must not come back out of the old subnet's list.
    for number in 4..254 {
        add(&mut store, number, &["10.0.0.0/24"]).unwrap();
    }
    assert!(add(&mut store, 999, &["10.0.0.0/24"]).is_err());
    assert_eq!(store.records().unwrap().len(), 253);
}

#[test]
fn large_subnet_reuses_addresses_instead_of_growing_its_list_for_ever() {
    let (_dir, mut store) = store();
    let limit = usize::try_from(MAX_RESTING).unwrap();
    for number in 0..limit {
        add(&mut store, number, &["fd00::/64"]).unwrap();
        store.release(&pod(number)).unwrap();
    }
    assert_eq!(add(&mut store, limit, &["fd00::/64"]).unwrap(), ["fd00::2"]);
    assert_eq!(add(&mut store, limit + 1, &["fd00::/64"]).unwrap(), ["fd00::1002"]);
}

#[test]
fn store_is_private_to_root() {
    let (dir, mut store) = store();
    add(&mut store, 0, &["10.0.0.0/24"]).unwrap();
    let ipam = dir.path().join(DIRECTORY);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&ipam), 0o700);
    let mut files = 0;
    for entry in fs::read_dir(&ipam).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
        files += 1;
    }
    assert_eq!(files, 3, "database, log and shared memory");
}

#[test]
fn allocations_survive_a_process_that_ends_without_closing() {
    let (dir, mut store) = store();
    add(&mut store, 0, &["10.0.0.0/24"]).unwrap();
    // A killed process closes nothing and folds no log.
    std::mem::forget(store);
    let mut reopened = Store::open(dir.path()).unwrap().unwrap();
    assert_eq!(reopened.allocations_of(&pod(0)).unwrap().len(), 1);
    assert_eq!(add(&mut reopened, 1, &["10.0.0.0/24"]).unwrap(), ["10.0.0.3"]);
}

#[test]
fn log_stays_short_when_each_process_is_alone() {
    let (dir, store) = store();
    drop(store);
    for number in 0..100 {
        let mut store = Store::open(dir.path()).unwrap().unwrap();
        add(&mut store, number, &["10.0.0.0/24"]).unwrap();
    }
    let log = dir.path().join(DIRECTORY).join(format!("{DATABASE}-wal"));
    let length = fs::metadata(log).unwrap().len();
    assert!(length < 1024 * 1024, "{length} bytes");
}

#[test]
fn uncommitted_allocation_is_gone_after_a_crash() {
    let (dir, mut store) = store();
    {
        let transaction =
            store.connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        let path = Path::new("x");
        let change = Change::new(transaction, path);
        let request = Request::one_of_each_family(&nets(&["10.0.0.0/24"]));
        let mut survey = no_ports();
        let mut noted = Noted::new(&mut survey);
        let grant = change.allocate(&pod(0), path, &request, &mut noted).unwrap();
        assert_eq!(grant.allocations.len(), 1);
    }
    drop(store);
    let mut reopened = Store::open(dir.path()).unwrap().unwrap();
    assert_eq!(reopened.records().unwrap(), []);
    assert_eq!(add(&mut reopened, 1, &["10.0.0.0/24"]).unwrap(), ["10.0.0.2"]);
}

#[test]
fn half_made_file_of_a_killed_process_is_replaced() {
    let dir = TempDir::new().unwrap();
    let ipam = dir.path().join(DIRECTORY);
    fs::create_dir(&ipam).unwrap();
    fs::write(ipam.join("addresses.new"), b"half").unwrap();
    fs::write(ipam.join("addresses.new-wal"), b"half").unwrap();
    let mut store = Store::open_or_create(dir.path(), &mut no_ports()).unwrap();
    assert_eq!(add(&mut store, 0, &["10.0.0.0/24"]).unwrap(), ["10.0.0.2"]);
}

#[test]
fn missing_store_is_none_and_is_not_made() {
    let dir = TempDir::new().unwrap();
    assert!(Store::open(dir.path()).unwrap().is_none());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn garbage_is_an_error_that_names_the_file() {
    let dir = TempDir::new().unwrap();
    let ipam = dir.path().join(DIRECTORY);
    fs::create_dir(&ipam).unwrap();
    fs::write(ipam.join(DATABASE), vec![0x55; 8192]).unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert!(matches!(&error, Error::Database { .. }), "{error:?}");
    assert!(error.to_string().contains(DATABASE), "{error}");
}

#[test]
fn newer_schema_is_refused() {
    let (dir, store) = store();
    store.connection.pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(Store::open(dir.path()), Err(Error::UnknownSchema { found: 99, .. })));
}

#[test]
fn records_show_who_holds_what() {
    let (_dir, mut store) = store();
    add(&mut store, 0, &["10.0.0.0/24"]).unwrap();
    let records = store.records().unwrap();
    assert_eq!(records[0].attachment, pod(0));
    assert_eq!(records[0].netns.path, Path::new("/run/netns/x"));
    assert_eq!(records[0].boot, boot_id());
    assert_eq!(records[0].host_device, pod(0).host_device());
    assert_eq!(records[0].host_netns, 7);
    assert_eq!(records[0].mac, Some(Mac::new([0x0a, 0x58, 10, 0, 0, 2])));
    assert_eq!(records[0].allocation.gateway().to_string(), "10.0.0.1");
    assert_eq!(records[0].allocation.interface_address().to_string(), "10.0.0.2/24");
    assert!(records[0].allocated_at > 1_700_000_000);
}

#[test]
fn allocation_reads_no_table_from_end_to_end() {
    let (_dir, store) = store();
    let of_owner = format!(
        "{} WHERE a.network = ?1 AND a.container = ?2 AND a.ifname = ?3 ORDER BY a.address",
        RECORD
    );
    let statements = [
        of_owner.as_str(),
        "SELECT id, next, in_use, resting FROM pool \
         WHERE subnet = ?1 AND first = ?2 AND last = ?3 AND gateway = ?4",
        "SELECT address FROM resting WHERE pool = ?1 AND address != ?2 ORDER BY sequence LIMIT 1",
        "SELECT network, container, ifname FROM allocation WHERE address = ?1",
        "DELETE FROM resting WHERE address = ?1",
        "UPDATE resting SET pool = ?1 WHERE address BETWEEN ?2 AND ?3 AND pool != ?1",
        "DELETE FROM allocation WHERE network = ?1 AND container = ?2 AND ifname = ?3",
        "DELETE FROM allocation WHERE address = ?1",
        "SELECT network, container, ifname FROM allocation WHERE mac = ?1",
        "UPDATE allocation SET mac = ?4 WHERE network = ?1 AND container = ?2 AND ifname = ?3",
    ];
    for sql in statements {
        let mut statement = store.connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next().unwrap() {
            let step: String = row.get(3).unwrap();
            assert!(!step.contains("SCAN"), "{sql}: {step}");
        }
    }
}

#[test]
fn threads_with_stores_of_their_own_never_share_an_address() {
    let dir = TempDir::new().unwrap();
    let each = |thread: usize| {
        let mut store = Store::open_or_create(dir.path(), &mut no_ports()).unwrap();
        (0..20)
            .map(|n| add(&mut store, thread * 100 + n, &["10.0.0.0/22"]).unwrap().remove(0))
            .collect::<Vec<_>>()
    };
    let addresses: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|thread| scope.spawn(move || each(thread))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(addresses.len(), 160);
    assert_eq!(addresses.iter().collect::<HashSet<_>>().len(), 160);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Against a model: a queue of free addresses, taken from the front, freed to the back.
    #[test]
    fn store_behaves_like_a_queue_of_free_addresses(
        steps in prop::collection::vec((any::<bool>(), 0usize..16, any::<bool>()), 1..60),
    ) {
        let (dir, mut store) = store();
        let mut free: VecDeque<_> = (2..=14).map(|host| format!("10.0.0.{host}")).collect();
        let mut held: Vec<(usize, String)> = Vec::new();
        for (is_add, number, reopen) in steps {
            let position = held.iter().position(|(holder, _)| *holder == number);
            if is_add {
                match (add(&mut store, number, &["10.0.0.0/28"]), position) {
                    (Ok(address), None) => {
                        prop_assert_eq!(Some(&address[0]), free.front());
                        held.push((number, free.pop_front().unwrap()));
                    }
                    (Err(Error::AlreadyAllocated { .. }), Some(_)) => {}
                    (Err(Error::Exhausted { full }), None) => {
                        prop_assert!(free.is_empty());
                        prop_assert_eq!(full[0].in_use, 13);
                    }
                    other => prop_assert!(false, "unexpected {other:?}"),
                }
            } else {
                let released = store.release(&pod(number)).unwrap();
                prop_assert_eq!(released, usize::from(position.is_some()));
                if let Some(position) = position {
                    free.push_back(held.remove(position).1);
                }
            }
            if reopen {
                std::mem::forget(store);
                store = Store::open(dir.path()).unwrap().unwrap();
            }
        }
        prop_assert_eq!(store.records().unwrap().len(), held.len());
    }
}
