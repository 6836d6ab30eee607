//! The subnet table changes under running daemons, for better or worse.

use std::fs;

use culvert_lab::probe::Answer;
use culvert_lab::{NODE_INTERFACE, Node, TableFile, wait_until};
use culvert_node::node_file::NodeFile;

use crate::harness::{
    FAMILIES, SOON, TABLE_LIMIT, assert_reaches, assert_reaches_within, lab, quick_ping,
    refused_start,
};
use crate::stream::Stream;

#[test]
fn a_node_leaves_and_comes_back_within_a_second() {
    let lab = lab("nt-leave").nodes(3).up().unwrap();
    let (pod, gone) = (lab.pod(1, 1), lab.pod(3, 1));
    for family in FAMILIES {
        assert_reaches(pod.netns(), gone.address(family));
    }
    let mut table = lab.table();
    let third = table.nodes.remove(2);
    // Its own daemon keeps the table that has it: it refuses one that does not.
    lab.write_table(&table.to_toml()).unwrap();
    for family in FAMILIES {
        let unreachable =
            || matches!(quick_ping(pod.netns(), gone.address(family)), Answer::Unreachable { .. });
        wait_until(TABLE_LIMIT, "the node to be unknown", unreachable).unwrap();
    }
    let peers = lab.node(1).status().unwrap()["peers"].as_array().unwrap().len();
    assert_eq!(peers, 1);
    table.nodes.push(third);
    lab.write_table(&table.to_toml()).unwrap();
    for family in FAMILIES {
        assert_reaches_within(TABLE_LIMIT, pod.netns(), gone.address(family));
    }
}

#[test]
fn a_nodes_subnets_change_within_a_second() {
    let lab = lab("nt-subnet").up().unwrap();
    let mut table = lab.table();
    let added = ["10.244.102.0/24", "fd00:10:244:102::/64"];
    table.nodes[1].subnets.extend(added.map(|subnet| subnet.parse::<ipnet::IpNet>().unwrap()));
    lab.write_table(&table.to_toml()).unwrap();
    let pod = lab.pod(1, 1);
    for router in ["10.244.102.1", "fd00:10:244:102::1"] {
        assert_reaches_within(TABLE_LIMIT, pod.netns(), router.parse().unwrap());
    }
    let file = NodeFile::path(&lab.node(2).run_dir());
    let text = || fs::read_to_string(&file).unwrap();
    let listed = || added.iter().all(|subnet| text().contains(subnet));
    wait_until(TABLE_LIMIT, "the plugin to be told", listed).unwrap();

    lab.write_table(&lab.table().to_toml()).unwrap();
    let unreachable = || {
        let answer = quick_ping(pod.netns(), [10, 244, 102, 1].into());
        matches!(answer, Answer::Unreachable { .. })
    };
    wait_until(TABLE_LIMIT, "the subnet to be unknown", unreachable).unwrap();
    assert_reaches(pod.netns(), lab.pod(2, 1).ipv4());
}

#[test]
fn a_nodes_address_changes_within_a_second() {
    let lab = lab("nt-address").up().unwrap();
    // Its daemon finds its own address in the table.
    without_own_address(lab.node(2));
    lab.node(2).restart().unwrap();
    // The first address of a device takes the others with it, unless told otherwise.
    let promote = format!("ipv4/conf/{NODE_INTERFACE}/promote_secondaries");
    lab.node(2).netns().set_sysctl(&promote, "1").unwrap();
    lab.node(2).netns().ip(&format!("address add 192.168.1.22/24 dev {NODE_INTERFACE}\n")).unwrap();
    let (one, two) = (lab.pod(1, 1), lab.pod(2, 1));
    assert_reaches(one.netns(), two.ipv4());

    let mut table = lab.table();
    table.nodes[1].address = "192.168.1.22".parse().unwrap();
    lab.write_table(&table.to_toml()).unwrap();
    let moved = || lab.node(1).status().unwrap()["peers"][0]["address"] == "192.168.1.22";
    wait_until(TABLE_LIMIT, "the peer to move", moved).unwrap();
    for family in FAMILIES {
        assert_reaches_within(TABLE_LIMIT, one.netns(), two.address(family));
        assert_reaches_within(TABLE_LIMIT, two.netns(), one.address(family));
    }
    // Nothing goes to the old address any more.
    lab.node(2).netns().ip(&format!("address del 192.168.1.12/24 dev {NODE_INTERFACE}\n")).unwrap();
    lab.node(2).netns().ip("route replace default via 192.168.1.1\n").unwrap();
    assert_reaches_within(SOON, one.netns(), two.ipv4());
}

#[test]
fn peers_that_a_change_does_not_concern_lose_nothing() {
    let lab = lab("nt-lossless").nodes(3).up().unwrap();
    for family in FAMILIES {
        let (from, to) = (lab.pod(1, 1), lab.pod(2, 1));
        // The first packets between two pods may wait for their neighbours' addresses for too long.
        assert_reaches_within(SOON, from.netns(), to.address(family));
        let stream = Stream::start(&from, &to, family);
        for round in 0..4 {
            let mut table = lab.table();
            match round % 2 {
                0 => drop(table.nodes.remove(2)),
                _ => table.nodes[2].subnets.truncate(1),
            }
            let generation = generation(lab.node(1));
            lab.write_table(&table.to_toml()).unwrap();
            let taken = || self::generation(lab.node(1)) > generation;
            wait_until(SOON, "the table to be taken", taken).unwrap();
        }
        let (sent, missing) = stream.stop();
        assert!(missing.is_empty(), "{family}: {missing:?} of {sent} were lost");
        lab.write_table(&lab.table().to_toml()).unwrap();
    }
}

#[test]
fn a_broken_table_is_refused_whole_and_the_old_one_stays() {
    let lab = lab("nt-broken").own_tables().up().unwrap();
    let good = lab.table();
    let path = lab.node(1).table_path().display().to_string();
    let with = |change: fn(&mut TableFile)| {
        let mut table = good.clone();
        change(&mut table);
        table.to_toml()
    };
    let broken = [
        ("[[node]]\nname = ".to_owned(), [":2", "", ""]),
        ("[[node]]\nnamen = \"node1\"\n".to_owned(), [":2", "namen", "expected"]),
        (
            with(|table| table.nodes[1].address = table.nodes[0].address),
            ["node.address", "192.168.1.11", "give each node its own"],
        ),
        (
            with(|table| table.nodes[1].subnets[0] = "10.244.1.128/25".parse().unwrap()),
            ["node.subnets", "10.244.1.128/25", "give each node subnets of its own"],
        ),
        (
            with(|table| table.nodes[1].subnets[0] = "10.245.0.0/24".parse().unwrap()),
            ["node.subnets", "10.245.0.0/24", "choose a subnet inside network.cidrs"],
        ),
        (
            with(|table| drop(table.nodes.remove(0))),
            ["node.name", "node1", "add an entry for this node"],
        ),
    ];
    for (text, parts) in broken {
        lab.write_table_of(1, &text).unwrap();
        let error = || lab.node(1).status().unwrap()["table"]["error"].clone();
        let refused = || {
            let error = error();
            let text = error.as_str().unwrap_or_default();
            text.contains(&path) && parts.iter().all(|part| text.contains(part))
        };
        let what = format!("a complaint with {parts:?}");
        if let Err(late) = wait_until(TABLE_LIMIT, &what, refused) {
            panic!("{late}: {}", error());
        }
        let said = error().as_str().unwrap().to_owned();
        assert!(lab.node(1).log().replace("\\\"", "\"").contains(&said), "{}", lab.node(1).log());
        assert!(lab.node(1).culvert(&["status"]).unwrap().contains("newest refused"));
        assert_reaches(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
        let (code, body) = lab.node(1).http("/metrics").unwrap();
        assert!(code == 200 && body.contains("culvert_table_refused 1"), "{body}");
    }
    lab.write_table_of(1, &good.to_toml()).unwrap();
    let forgiven = || lab.node(1).status().unwrap()["table"]["error"].is_null();
    wait_until(TABLE_LIMIT, "the good table to be taken", forgiven).unwrap();
    // The end of each trouble is said, too.
    let log = lab.node(1).log();
    for end in ["the subnet table can be read again", "the subnet table is no longer refused"] {
        assert!(log.contains(end), "{end:?} is not in {log}");
    }
}

#[test]
fn a_table_that_lacks_this_node_is_fatal_at_start_unless_there_is_a_last_good_one() {
    let lab = lab("nt-lacks").own_tables().up().unwrap();
    let node = lab.node(1);
    let mut table = lab.table();
    table.nodes.remove(0);
    for (text, part) in
        [(table.to_toml(), "lacks this node"), ("[[node]".to_owned(), "table.toml:1")]
    {
        lab.write_table_of(1, &text).unwrap();
        node.restart().unwrap();
        assert_reaches(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
        let error = node.status().unwrap()["table"]["error"].clone();
        assert!(error.as_str().unwrap_or_default().contains(part), "{error}");
    }
    node.stop().unwrap();
    fs::remove_file(node.state_dir().join("table.json")).unwrap();
    lab.write_table_of(1, &table.to_toml()).unwrap();
    let (code, said) = refused_start(node);
    assert_eq!(code, Some(1), "{said}");
    for part in ["table.toml", "node.name", "node1", "lacks this node", "add an entry"] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
}

#[test]
fn a_table_that_is_missing_at_start_is_waited_for() {
    let lab = lab("nt-missing").own_tables().without_daemons().pods(0).up().unwrap();
    let (node, path) = (lab.node(1), lab.node(1).table_path());
    fs::remove_file(&path).unwrap();
    node.spawn().unwrap();
    let says = || {
        node.http("/readyz").is_ok_and(|(code, text)| {
            code == 503 && text.contains("table: ") && text.contains(&path.display().to_string())
        })
    };
    wait_until(SOON, "the daemon to say what it waits for", says).unwrap();
    lab.write_table_of(1, &lab.table().to_toml()).unwrap();
    node.wait_ready().unwrap();
}

#[test]
fn a_table_that_comes_before_the_nodes_address_comes_into_force_with_it() {
    let lab = lab("nt-early").up().unwrap();
    let node = lab.node(2);
    without_own_address(node);
    node.restart().unwrap();
    let mut table = lab.table();
    table.nodes[1].address = "192.168.1.22".parse().unwrap();
    lab.write_table(&table.to_toml()).unwrap();
    let refused = || {
        let error = node.status().unwrap()["table"]["error"].clone();
        error.as_str().is_some_and(|error| error.contains("192.168.1.22"))
    };
    wait_until(TABLE_LIMIT, "the table to be refused", refused).unwrap();
    node.netns().ip(&format!("address add 192.168.1.22/24 dev {NODE_INTERFACE}\n")).unwrap();
    let taken = || node.status().unwrap()["table"]["error"].is_null();
    wait_until(TABLE_LIMIT, "the table to be taken", taken).unwrap();
    assert_reaches_within(SOON, lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
}

#[test]
fn a_table_comes_into_force_once_the_route_that_prevents_it_is_gone() {
    let lab = lab("nt-hidden").nodes(3).up().unwrap();
    let node = lab.node(1);
    let mut table = lab.table();
    table.nodes.remove(2);
    node.netns().ip("route add 10.244.77.0/24 via 192.168.1.1\n").unwrap();
    lab.write_table(&table.to_toml()).unwrap();
    let error = || node.status().unwrap()["table"]["error"].clone();
    let refused = || error().as_str().is_some_and(|error| error.contains("10.244.77.0/24"));
    wait_until(TABLE_LIMIT, "the table to be refused", refused).unwrap();
    node.netns().ip("route del 10.244.77.0/24\n").unwrap();
    wait_until(TABLE_LIMIT, "the table to be taken", || error().is_null()).unwrap();
    assert_eq!(node.status().unwrap()["peers"].as_array().unwrap().len(), 1);
}

#[test]
fn a_changed_subnet_is_taken_at_once_and_pods_of_the_old_one_are_named() {
    let lab = lab("nt-moved").own_tables().up().unwrap();
    let node = lab.node(1);
    let mut table = lab.table();
    let takes = |table: &TableFile, subnet: &str| {
        for number in [1, 2] {
            lab.write_table_of(number, &table.to_toml()).unwrap();
        }
        let taken = || node.status().unwrap()["subnets"].to_string().contains(subnet);
        wait_until(TABLE_LIMIT, "the subnet to be taken", taken).unwrap();
    };
    let named = || node.status().unwrap()["stranded"].as_array().unwrap().clone();
    table.nodes[0].subnets = vec!["10.244.81.0/24".parse().unwrap()];
    takes(&table, "10.244.81.0/24");
    wait_until(SOON, "the old pod to be named", || named().len() == 2).unwrap();
    assert!(named()[0].as_str().unwrap().contains("10.244.1.2"), "{:?}", named());

    let new = node.add_pod().unwrap();
    assert!(new.ipv4().to_string().starts_with("10.244.81."), "{}", new.ipv4());
    assert_reaches_within(SOON, lab.pod(2, 1).netns(), new.ipv4());
    node.remove_pod(1).unwrap();
    wait_until(SOON, "nobody to be named", || named().is_empty()).unwrap();

    // The same while the daemon is stopped.
    node.stop().unwrap();
    table.nodes[0].subnets = vec!["10.244.91.0/24".parse().unwrap()];
    lab.write_table_of(1, &table.to_toml()).unwrap();
    node.start().unwrap();
    wait_until(SOON, "the old pod to be named", || named().len() == 1).unwrap();
}

#[test]
fn sighup_reads_the_table_again() {
    let lab = lab("nt-hup").up().unwrap();
    let node = lab.node(1);
    lab.write_table("broken").unwrap();
    let refusals = || node.log().matches("is refused").count();
    wait_until(TABLE_LIMIT, "the broken table to be refused", || refusals() == 1).unwrap();
    node.reload().unwrap();
    wait_until(TABLE_LIMIT, "the table to be read again", || refusals() == 2).unwrap();
    assert_reaches(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
}

fn generation(node: &Node) -> u64 {
    node.status().unwrap()["table"]["generation"].as_u64().unwrap()
}

/// Takes `underlay.address` out of the node's configuration.
fn without_own_address(node: &Node) {
    let text = fs::read_to_string(node.config_path()).unwrap();
    let mut config: toml::Table = text.parse().unwrap();
    config["underlay"].as_table_mut().unwrap().remove("address");
    fs::write(node.config_path(), config.to_string()).unwrap();
}
