//! Ten thousand nodes, from each source.

use std::fmt::Write as _;

use tempfile::TempDir;

use crate::kubernetes::listen;
use crate::listener::Listener;
use source_servers::api_server::{ApiServer, node};
use source_servers::etcd::{Etcd, config};

const NODES: u32 = 10_000;

/// The address and the subnet of a node.
fn place(number: u32) -> (String, String) {
    let [_, _, high, low] = number.to_be_bytes();
    (format!("192.{}.{low}.1", 100 + high), format!("10.{}.{low}.0/24", 100 + high))
}

#[test]
fn ten_thousand_nodes_come_from_a_file() {
    let directory = TempDir::with_prefix("culvert-growth-").unwrap();
    let mut table = String::new();
    for number in 0..NODES {
        let (address, subnet) = place(number);
        writeln!(
            table,
            "[[node]]\nname = \"node{number}\"\naddress = \"{address}\"\nsubnets = [\"{subnet}\"]"
        )
        .unwrap();
    }
    let path = directory.path().join("table.toml");
    std::fs::write(&path, &table).unwrap();
    let text = format!(
        "[network]\ncidrs = [\"10.0.0.0/8\"]\n[node]\nname = \"node7\"\n[table]\nsource = \"file\"\n\
         path = \"{}\"\n",
        path.display()
    );
    let listener = Listener::start(&text);
    listener.until("ten thousand nodes", |heard| heard.proposal.nodes().count() == 10_000);
}

#[test]
fn ten_thousand_nodes_come_from_etcd() {
    let etcd = Etcd::with_arguments(vec!["--max-txn-ops".into(), "1000".into()]);
    etcd.put("/culvert/config", r#"{"cidrs":["10.0.0.0/8"],"vni":1,"port":4790}"#);
    let keys: Vec<(String, String)> = (0..NODES)
        .map(|number| {
            let (address, subnet) = place(number);
            let key = format!("/culvert/subnets/{}", subnet.replace('/', "-"));
            let value = format!(
                "{{\"node\":\"peer{number}\",\"instance\":\"i{number}\",\"address\":\"{address}\"}}"
            );
            (key, value)
        })
        .collect();
    keys.chunks(1000).for_each(|chunk| etcd.put_all(chunk));
    let state = TempDir::with_prefix("culvert-state-").unwrap();
    let text = config(&etcd, "node1", state.path(), "192.168.1.11");
    let listener = Listener::start(&text.replace("cidrs = [\"10.244.0.0/16\"]\n", ""));
    listener.until("ten thousand nodes", |heard| heard.proposal.nodes().count() == 10_001);
    etcd.ctl(&["del", &keys[9_999].0]);
    let heard = listener.until("one less", |heard| heard.proposal.nodes().count() == 10_000);
    assert_eq!(heard.losses, 0);
}

#[test]
fn ten_thousand_nodes_come_from_kubernetes() {
    let server = ApiServer::start();
    for number in 1..=NODES {
        server.put(node(number, &place(number).1));
    }
    let (listener, _directory) = listen(&server);
    listener.until("ten thousand nodes", |heard| heard.proposal.nodes().count() == 10_000);
    server.delete("node9999");
    listener.until("one less", |heard| heard.proposal.nodes().count() == 9_999);
}
