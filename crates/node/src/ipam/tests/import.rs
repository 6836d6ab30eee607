//! Taking over from `host-local`.

use super::*;

const SUBNET: &str = "10.0.0.0/24";

fn ranges() -> Vec<Range> {
    vec![Range::whole(SUBNET.parse().unwrap()), Range::whole("fd00::/64".parse().unwrap())]
}

/// A directory as `host-local` of containernetworking-plugins leaves it.
fn host_local(files: &[(&str, &str)]) -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("lock"), "").unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn import(store: &mut Store, dir: &TempDir, pods: &[LivePod]) -> Result<Import, Error> {
    store.import(&HostLocal::read(dir.path(), "pods")?, &ranges(), pods)
}

fn live(device: &str, inode: u64, address: &str) -> LivePod {
    LivePod {
        host_device: device.to_owned(),
        netns: Namespace { path: "/run/netns/a".into(), inode },
        addresses: vec![address.parse().unwrap(), "fe80::1/64".parse().unwrap()],
    }
}

#[test]
fn imported_addresses_keep_their_holders_and_are_given_to_nobody_else() {
    let (_dir, mut store) = store();
    let dir = host_local(&[
        ("10.0.0.2", "aaa\r\neth0"),
        ("10.0.0.3", "bbb\r\nnet1"),
        ("fd00::2", "aaa\r\neth0"),
        ("10.0.0.9", "old-without-interface"),
    ]);
    let done = import(&mut store, &dir, &[live("veth1", 7, "10.0.0.2/24")]).unwrap();
    assert_eq!((done.added.len(), done.known, done.without_pod.len()), (4, 0, 3));
    let aaa = Attachment::new("pods", "aaa", "eth0").unwrap();
    let records = store.records_of(&aaa).unwrap();
    assert_eq!(records.len(), 2);
    assert_eq!(records[0].host_device, "veth1");
    assert_eq!(records[0].netns, Namespace { path: "/run/netns/a".into(), inode: 7 });
    assert_eq!(records[1].netns, Namespace::default());
    let old = Attachment::new("pods", "old-without-interface", "eth0").unwrap();
    assert_eq!(store.allocations_of(&old).unwrap()[0].address.to_string(), "10.0.0.9");

    let mut given = HashSet::new();
    for number in 0..250 {
        given.insert(add(&mut store, number, &[SUBNET]).unwrap().remove(0));
    }
    assert_eq!(given.len(), 250);
    for taken in ["10.0.0.2", "10.0.0.3", "10.0.0.9"] {
        assert!(!given.contains(taken), "{taken} was given twice");
    }
    assert!(add(&mut store, 999, &[SUBNET]).is_err(), "253 addresses, 3 of them imported");
    assert_eq!(store.release(&aaa).unwrap(), 2);
    assert_eq!(add(&mut store, 999, &[SUBNET]).unwrap(), ["10.0.0.2"]);
}

#[test]
fn allocation_goes_on_where_host_local_was() {
    let (_dir, mut store) = store();
    let dir = host_local(&[("10.0.0.4", "aaa\r\neth0"), ("last_reserved_ip.0", "10.0.0.6")]);
    import(&mut store, &dir, &[]).unwrap();
    assert_eq!(add(&mut store, 0, &[SUBNET]).unwrap(), ["10.0.0.7"]);
    for number in 1..248 {
        add(&mut store, number, &[SUBNET]).unwrap();
    }
    // What lay before comes last, and none of it is lost.
    let rest: Vec<_> =
        (300..304).map(|number| add(&mut store, number, &[SUBNET]).unwrap().remove(0)).collect();
    assert_eq!(rest, ["10.0.0.2", "10.0.0.3", "10.0.0.5", "10.0.0.6"]);
    assert_eq!(store.faults().unwrap(), Vec::<String>::new());
}

#[test]
fn second_import_changes_nothing() {
    let (_dir, mut store) = store();
    let dir = host_local(&[("10.0.0.2", "aaa\r\neth0"), ("last_reserved_ip.0", "10.0.0.2")]);
    import(&mut store, &dir, &[]).unwrap();
    let before = store.records().unwrap();
    let again = import(&mut store, &dir, &[]).unwrap();
    assert_eq!((again.added.len(), again.known), (0, 1));
    assert_eq!(store.records().unwrap(), before);
}

#[test]
fn what_cannot_be_imported_names_the_file_and_nothing_is_taken() {
    let cases = [
        (("10.9.9.9", "zzz\r\neth0"), "in no subnet of this node"),
        (("10.0.0.1", "zzz\r\neth0"), "in no subnet of this node"),
        (("10.0.0.8", ""), "names no container"),
        (("10.0.0.8", "../../etc\r\neth0"), "letter or digit"),
        (("10.0.0.8", "zzz\r\neth0/.."), "must not contain"),
        (("notes.txt", "x"), "its name is no address"),
    ];
    for ((name, text), part) in cases {
        let (_dir, mut store) = store();
        let dir = host_local(&[("10.0.0.2", "aaa\r\neth0"), (name, text)]);
        let error = import(&mut store, &dir, &[]).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains(name), "{error}");
        assert_eq!(store.records().unwrap(), []);
    }
}

#[test]
fn address_that_another_pod_has_here_stops_the_import() {
    let (_dir, mut store) = store();
    add(&mut store, 0, &[SUBNET]).unwrap();
    let dir = host_local(&[("10.0.0.2", "aaa\r\neth0")]);
    let error = import(&mut store, &dir, &[]).unwrap_err();
    assert!(matches!(error, Error::Taken { .. }), "{error}");
}

#[test]
fn missing_directory_says_what_to_name() {
    let error = HostLocal::read(Path::new("/nonexistent"), "pods").unwrap_err().to_string();
    assert!(
        error.contains("/nonexistent") && error.contains("/var/lib/cni/networks/NAME"),
        "{error}"
    );
}

#[test]
fn removed_entries_leave_the_rest_of_the_directory() {
    let dir = host_local(&[("10.0.0.2", "aaa\r\neth0"), ("last_reserved_ip.0", "10.0.0.2")]);
    HostLocal::read(dir.path(), "pods").unwrap().remove_entries().unwrap();
    let mut left: Vec<_> =
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["last_reserved_ip.0", "lock"]);
}
