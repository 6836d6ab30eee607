//! Faults that are easily overlooked, each made as somebody would make it: a tool that looks must
//! name it, and one that has not looked must not call it good.

use std::process::Output;

use culvert_lab::{Families, Fault, Lab, LabBuilder, Node, wait_until};
use serde_json::Value;

use crate::harness::{CULVERT, SOON, assert_reaches, lab, quick_ping, run};

pub(crate) fn plain(name: &str) -> LabBuilder {
    lab(name).nodes(3).families(Families::Ipv4)
}

fn culvert(node: &Node, arguments: &[&str]) -> Output {
    let mut command = node.netns().command(CULVERT);
    command.args(arguments).arg("--run-dir").arg(node.run_dir());
    command.output().unwrap()
}

/// What doctor says of one thing: verdicts and texts.
pub(crate) fn doctor(node: &Node, arguments: &[&str], check: &str) -> Vec<(String, String)> {
    let output = culvert(node, &[&["doctor", "--json"], arguments].concat());
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = said["checks"].as_array().unwrap().iter();
    let of = checks.filter(|it| it["check"] == check);
    of.map(|it| (it["verdict"].as_str().unwrap().to_owned(), it.to_string())).collect()
}

/// Demands that doctor says `verdict` of `check` somewhere, with all of `words` in that finding.
#[track_caller]
pub(crate) fn assert_said(
    node: &Node,
    arguments: &[&str],
    check: &str,
    verdict: &str,
    words: &[&str],
) {
    let said = doctor(node, arguments, check);
    let is_it =
        |(is, text): &(String, String)| is == verdict && words.iter().all(|it| text.contains(it));
    assert!(said.iter().any(is_it), "{check} says no {verdict} with {words:?}: {said:#?}");
}

/// The verdict of explain on the first way, and all that it prints.
fn explain(node: &Node, arguments: &[&str]) -> (String, String) {
    let output = culvert(node, &[&["explain", "--json"], arguments].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said: Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (said["ways"][0]["verdict"].as_str().unwrap().to_owned(), text)
}

fn nft(node: &Node, script: &str) {
    run(node.netns(), "nft", &[script]);
}

fn no_firewall(node: &Node, table: &str) {
    nft(node, &format!("delete table {table}"));
}

#[test]
fn rule_about_one_pod_or_one_port_is_not_called_a_pass() {
    let lab = plain("nt-truth-rule").pods(2).up().unwrap();
    let subject = lab.node(2);
    let (guilty, other) = (lab.pod(3, 1).ipv4().to_string(), lab.pod(3, 2).ipv4().to_string());
    let own = lab.pod(2, 1).ipv4().to_string();
    nft(
        subject,
        &format!(
            "table inet corp {{\nchain some {{\nip saddr {guilty} drop\n}}\nchain ahead {{\ntype filter hook \
         forward priority -5\niifname \"culvert0\" jump some\n}}\n}}"
        ),
    );
    assert!(!quick_ping(lab.pod(3, 1).netns(), lab.pod(2, 1).ipv4()).is_reply());
    assert_reaches(lab.pod(3, 2).netns(), lab.pod(2, 1).ipv4());
    assert_said(
        subject,
        &[],
        "forward",
        "warn",
        &["chain inet corp some", "may drop packets of pods"],
    );
    let (verdict, text) = explain(subject, &[&guilty, &own]);
    assert_eq!(verdict, "kernel_drops", "{text}");
    assert!(text.contains("chain inet corp some (rule") && text.contains("drops it"), "{text}");
    assert_eq!(explain(subject, &[&other, &own]).0, "deliver");
    // The other node asks this one, and is told.
    let trace = culvert(lab.node(3), &["trace", &guilty, &own]);
    assert_eq!(trace.status.code(), Some(1), "{trace:?}");
    assert!(String::from_utf8_lossy(&trace.stdout).contains("corp some"), "{trace:?}");
    no_firewall(subject, "inet corp");

    nft(
        subject,
        "table inet corp {\nchain ahead {\ntype filter hook forward priority -5\ntcp dport 8080 drop\n}\n}",
    );
    assert_said(subject, &[], "forward", "warn", &["may drop packets of pods"]);
    assert_eq!(explain(subject, &[&own, &other, "--dport", "8080"]).0, "kernel_drops");
    assert_eq!(explain(subject, &[&own, &other, "--dport", "80"]).0, "forward");
    assert_eq!(explain(subject, &[&own, &other, "--dport", "8080", "--proto", "udp"]).0, "forward");
}

#[test]
fn rules_for_frames_and_at_devices_are_followed() {
    let lab = plain("nt-truth-frames").up().unwrap();
    let subject = lab.node(1);
    let (own, other) = (lab.pod(1, 1).ipv4().to_string(), lab.pod(2, 1).ipv4().to_string());
    nft(
        subject,
        "table bridge corp {\nchain in1 {\ntype filter hook input priority 0\nip protocol tcp drop\n}\n}",
    );
    assert_said(subject, &[], "forward", "warn", &["chain bridge corp in1"]);
    assert_eq!(explain(subject, &[&own, &other]).0, "kernel_drops");
    assert_eq!(explain(subject, &[&own, &other, "--proto", "icmp"]).0, "forward");
    no_firewall(subject, "bridge corp");

    nft(
        subject,
        "table netdev corp {\nchain in1 {\ntype filter hook ingress device \"eth0\" priority 0\nudp dport 4790 drop\n}\n}",
    );
    assert!(!quick_ping(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4()).is_reply());
    assert_said(
        subject,
        &[],
        "input",
        "fail",
        &["chain netdev corp in1", "drops datagrams of other nodes"],
    );
    assert_eq!(explain(subject, &[&other, &own]).0, "kernel_drops");
    no_firewall(subject, "netdev corp");
    assert_eq!(doctor(subject, &[], "input")[0].0, "ok");
}

#[test]
fn rule_about_one_peer_is_found_whichever_it_is() {
    let lab = plain("nt-truth-peer").up().unwrap();
    let subject = lab.node(1);
    let (own, third) = (lab.pod(1, 1).ipv4().to_string(), lab.pod(3, 1).ipv4().to_string());
    for (hook, address, check) in [("prerouting", "saddr", "input"), ("output", "daddr", "output")]
    {
        nft(
            subject,
            &format!(
                "table ip corp {{\nchain raw1 {{\ntype filter hook {hook} priority -500\nip {address} \
             192.168.1.13 udp dport 4790 drop\n}}\n}}"
            ),
        );
        assert_said(subject, &[], check, "fail", &["chain ip corp raw1", "(with node3)"]);
        let way = if check == "input" { [&third, &own] } else { [&own, &third] };
        let (verdict, text) = explain(subject, &way.map(String::as_str));
        assert_eq!(verdict, "kernel_drops", "{text}");
        assert!(text.contains("chain ip corp raw1"), "{text}");
        no_firewall(subject, "ip corp");
    }
}

#[test]
fn other_addresses_that_somebody_gives_pods_are_told() {
    let lab = plain("nt-truth-nat").up().unwrap();
    let subject = lab.node(1);
    nft(
        subject,
        "table ip corp {\nchain after {\ntype nat hook postrouting priority 90\nip saddr 10.244.0.0/16 masquerade\n}\n}",
    );
    assert_said(subject, &[], "forward", "warn", &["chain ip corp after", "other addresses"]);
}

#[test]
fn route_to_a_single_pod_is_found() {
    let lab = plain("nt-truth-route").pods(2).up().unwrap();
    let subject = lab.node(1);
    let pod = lab.pod(2, 2).ipv4();
    for (route, words) in [
        (format!("{pod} via 192.168.1.254 dev eth0 onlink"), " via 192.168.1.254 dev eth0"),
        (format!("blackhole {pod}"), ", which names no device"),
    ] {
        subject.netns().ip(&format!("route add {route}")).unwrap();
        assert!(!quick_ping(lab.pod(1, 1).netns(), pod).is_reply());
        let found = format!("{pod}/32{words}");
        let words = [&found, "takes the packets of node2's pods", "ip route del"];
        assert_said(subject, &[], "routes", "fail", &words.map(|word: &str| word));
        let said = doctor(subject, &[], "routes");
        assert_eq!(said.len(), 1, "one route is one failure: {said:#?}");
        subject.netns().ip(&format!("route del {route}")).unwrap();
        assert_eq!(doctor(subject, &[], "routes")[0].0, "ok");
    }
}

#[test]
fn pod_that_is_broken_within_is_named() {
    let lab = plain("nt-truth-pod").pods(3).up().unwrap();
    let subject = lab.node(1);
    assert_eq!(doctor(subject, &[], "pods")[0].0, "ok", "{:?}", doctor(subject, &[], "pods"));
    let [routeless, down, bare] = [1, 2, 3].map(|index| lab.pod(1, index));
    routeless.netns().ip("route del default").unwrap();
    let name = routeless.ipv4().to_string();
    assert_said(subject, &[], "pods", "warn", &[&name, "its default route is gone"]);
    // Whoever sends to it, or follows what it sends, is told so, or that nobody has looked.
    let peer = lab.pod(2, 1).ipv4().to_string();
    let (verdict, text) = explain(subject, &[&peer, &name]);
    assert_eq!(verdict, "deliver", "{text}");
    assert!(text.contains("whether it has a way back, was not looked at"), "{text}");
    let (_, text) = explain(lab.node(2), &[&peer, &name]);
    assert!(text.contains("not looked at there: `culvert trace` asks node1"), "{text}");
    for (node, from, to) in [(2, &peer, &name), (1, &name, &peer)] {
        let trace = culvert(lab.node(node), &["trace", from, to]);
        let text = String::from_utf8_lossy(&trace.stdout);
        assert_eq!(trace.status.code(), Some(1), "{text}");
        assert!(text.contains("node1  no_answer") && text.contains("its default route"), "{text}");
        assert!(text.trim_end().ends_with("and culvert doctor") || node == 1, "{text}");
        assert!(!text.contains(&format!("{from} > {to}\n  node1  deliver")), "{text}");
    }
    routeless.netns().ip("route add default via 10.244.1.1 dev eth0").unwrap();

    down.netns().ip("link set eth0 down").unwrap();
    let name = down.ipv4().to_string();
    assert_said(subject, &[], "pods", "fail", &[&name, "interface down"]);
    let peer = lab.pod(2, 1).ipv4().to_string();
    let (verdict, text) = explain(subject, &[&peer, &name]);
    assert_eq!(verdict, "kernel_drops", "{text}");
    assert!(text.contains("has no carrier"), "{text}");

    bare.netns().ip("address flush dev eth0").unwrap();
    let name = bare.ipv4().to_string();
    run(subject.netns(), "ip", &["neigh", "flush", "dev", "v-net-0"]);
    assert_said(subject, &[], "pods", "fail", &[&format!("does not answer who has {name}")]);

    routeless
        .netns()
        .ip("neigh replace 10.244.1.1 lladdr 02:de:ad:be:ef:02 dev eth0 nud permanent")
        .unwrap();
    let name = routeless.ipv4().to_string();
    assert_said(subject, &[], "pods", "warn", &[&name, "answers nothing", "10.244.1.1"]);
}

#[test]
fn packet_between_nodes_of_two_networks_is_doubted_and_a_second_cause_is_none() {
    let lab = plain("nt-truth-vni").up().unwrap();
    let (subject, odd) = (lab.node(1), lab.node(2));
    let (own, other) = (lab.pod(1, 1).ipv4().to_string(), lab.pod(2, 1).ipv4().to_string());
    odd.write_config(&["[network]\nvni = 2"]).unwrap();
    odd.restart().unwrap();
    for (from, to) in [(1, 2), (2, 1)] {
        assert!(!quick_ping(lab.pod(from, 1).netns(), lab.pod(to, 1).ipv4()).is_reply());
    }
    for (node, from, to) in [(subject, &own, &other), (odd, &own, &other)] {
        let (_, text) = explain(node, &[from, to]);
        let said: Value = serde_json::from_str(&text).unwrap();
        let doubt = said["ways"][0]["unless"][0].as_str().unwrap_or_default();
        assert!(doubt.contains("(vni, "), "{text}");
    }
    assert_said(subject, &[], "drops", "fail", &["node2", "vni: "]);
    odd.write_config(&[]).unwrap();
    odd.restart().unwrap();
    assert_reaches(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
    // It is over, and of the last minute.
    assert_said(subject, &[], "drops", "warn", &["vni: ", "the last ", "it may be over"]);
    assert!(!explain(subject, &[&other, &own]).1.contains("(vni, "));
}

#[test]
fn rule_about_other_addresses_is_not_accused() {
    let lab = plain("nt-truth-innocent").up().unwrap();
    let subject = lab.node(1);
    for rule in
        ["priority 90 from 10.1.0.0/16 lookup 55", "priority 100 from 10.244.1.0/24 unreachable"]
    {
        run(subject.netns(), "sh", &["-c", &format!("ip rule add {rule}")]);
    }
    let said = doctor(subject, &["--peers"], "rules");
    assert_eq!((said.len(), said[0].0.as_str()), (1, "fail"), "{said:#?}");
    assert!(said[0].1.contains("rule 100: from 10.244.1.0/24"), "{said:#?}");
    // That peers do not answer follows, and is no failure of its own.
    let peers = doctor(subject, &["--peers"], "peer");
    assert!(peers.iter().all(|(verdict, _)| verdict != "fail"), "{peers:#?}");
    assert!(peers.iter().all(|(_, text)| text.contains("or may: ") || text.contains("answers in")));
}

#[test]
fn black_hole_is_told_of_in_a_second_look_too() {
    let lab = plain("nt-truth-hole").up().unwrap();
    let subject = lab.node(1);
    assert_reaches(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
    lab.inflict(&Fault::Narrow { node: "node2".to_owned(), mtu: 1400 }).unwrap();
    assert_said(subject, &["--peers"], "blackhole", "fail", &["node2", "1464 bytes vanish"]);
    wait_until(std::time::Duration::from_secs(30), "the daemon to find what fits", || {
        let said = doctor(subject, &["--peers"], "blackhole");
        assert!(said.iter().all(|(verdict, _)| verdict != "ok"), "{said:#?}");
        said.iter().any(|(_, text)| text.contains("the daemon found that 1364 arrive"))
    })
    .unwrap();
}

#[test]
fn places_of_a_lab_go_by_the_names_of_their_namespaces_too() {
    let lab = plain("nt-truth-names").up().unwrap();
    assert_eq!(lab.find_node("nt-truth-names-node2").unwrap().name(), "node2");
    let unknown = lab.find_node("nt-truth-names-node9").unwrap_err().to_string();
    assert!(unknown.contains("it has node1, node2, node3"), "{unknown}");
    let exec = |place: &str| {
        let mut command = std::process::Command::new(CULVERT);
        command.args(["lab", "--name", "nt-truth-names", "exec", place, "--", "true"]);
        command.output().unwrap().status.success()
    };
    assert!(exec("nt-truth-names-node1-pod1") && exec("node1-pod1") && !exec("other-node1-pod1"));
    let peer = lab.pod(2, 1).ipv4().to_string();
    assert_eq!(explain(lab.node(1), &["node1-pod1", &peer]).0, "forward");
    let refused = culvert(lab.node(1), &["explain", "node2-pod1", &peer]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("there is nt-truth-names-node1-pod1"), "{said}");
}

#[test]
fn two_pods_with_one_address_are_both_named() {
    let lab = plain("nt-truth-twice").pods(2).up().unwrap();
    let subject = lab.node(1);
    let (owner, taker) = (lab.pod(1, 1), lab.pod(1, 2));
    let address = owner.ipv4().to_string();
    assert_eq!(doctor(subject, &[], "pods")[0].0, "ok", "{:?}", doctor(subject, &[], "pods"));
    taker.netns().ip(&format!("address add {address}/24 dev eth0")).unwrap();
    let names = [1, 2].map(|pod| format!("nt-truth-twice-node1-pod{pod} ("));
    let words = [&address, &names[0], &names[1], "has it too", "ip address del"];
    assert_said(subject, &[], "pods", "fail", &words.map(|word: &str| word));
    taker.netns().ip(&format!("address del {address}/24 dev eth0")).unwrap();
    assert_eq!(doctor(subject, &[], "pods")[0].0, "ok", "{:?}", doctor(subject, &[], "pods"));

    // Given to both, as the notes on their ports have it.
    let links = run(subject.netns(), "ip", &["-json", "link", "show", "type", "veth"]);
    let links: Value = serde_json::from_str(&links).unwrap();
    let own = taker.ipv4().to_string();
    let note = |link: &Value| link["ifalias"].as_str().unwrap_or_default().to_owned();
    let link = links.as_array().unwrap().iter().find(|link| note(link).contains(&own)).unwrap();
    let (port, note) = (link["ifname"].as_str().unwrap(), note(link).replace(&own, &address));
    run(subject.netns(), "ip", &["link", "set", port, "alias", &note]);
    let words = [&address, "was given to two pods", &names[0], &names[1]];
    assert_said(subject, &[], "pods", "fail", &words.map(|word: &str| word));
}

#[test]
fn refusal_of_whoever_has_a_peers_address_is_not_called_a_missing_daemon() {
    let lab = plain("nt-truth-holder").up().unwrap();
    let subject = lab.node(1);
    assert_reaches(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
    assert_said(subject, &["--peers"], "address_elsewhere", "ok", &["nobody else"]);
    let fault = Fault::Address { node: "node2".to_owned() };
    lab.inflict(&fault).unwrap();
    let words = ["node2", "192.168.1.12 is at ", "two machines"];
    assert_said(subject, &["--peers"], "address_elsewhere", "warn", &words);
    // ARP has the stranger's from here on.
    let links = run(lab.switch(), "ip", &["-json", "link", "show", "type", "bridge"]);
    let links: Value = serde_json::from_str(&links).unwrap();
    let mac = links[0]["address"].as_str().unwrap();
    let neighbour = format!("neigh replace 192.168.1.12 lladdr {mac} dev eth0 nud reachable");
    wait_until(SOON, "the stranger to be asked", || {
        subject.netns().ip(&neighbour).unwrap();
        let said = doctor(subject, &["--peers"], "peer");
        said.iter().any(|(verdict, text)| {
            verdict == "fail"
                && text.contains("two machines have the address")
                && !text.contains("no daemon there")
        })
    })
    .unwrap_or_else(|error| panic!("{error}: {:?}", doctor(subject, &["--peers"], "peer")));
}

#[test]
fn neighbour_that_somebody_wrote_down_or_that_is_not_there_is_named() {
    let lab = plain("nt-truth-neighbour").own_tables().up().unwrap();
    let subject = lab.node(1);
    assert_reaches(lab.pod(1, 1).netns(), lab.pod(3, 1).ipv4());
    assert_said(subject, &["--peers"], "neighbours", "ok", &["2 peers of eth0"]);
    subject
        .netns()
        .ip("neigh replace 192.168.1.13 lladdr 02:de:ad:be:ef:01 dev eth0 nud permanent")
        .unwrap();
    assert_said(
        subject,
        &["--peers"],
        "neighbours",
        "warn",
        &["node3", "02:de:ad:be:ef:01", "ip neigh del"],
    );
    let (_, text) = explain(subject, &["10.244.1.2", "10.244.3.2"]);
    assert!(text.contains("somebody wrote down that 192.168.1.13 is at 02:de"), "{text}");
    subject.netns().ip("neigh del 192.168.1.13 dev eth0").unwrap();

    let mut table = lab.table();
    table.nodes[1].address = "192.168.1.92".parse().unwrap();
    lab.write_table_of(1, &table.to_toml()).unwrap();
    wait_until(SOON, "the absent node to be asked for in vain", || {
        let _ = quick_ping(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
        let said = doctor(subject, &["--peers"], "neighbours");
        said.iter()
            .any(|(verdict, text)| verdict == "fail" && text.contains("who has 192.168.1.92"))
    })
    .unwrap_or_else(|error| panic!("{error}: {:?}", doctor(subject, &["--peers"], "neighbours")));
}

#[test]
fn node_with_another_table_is_named_by_the_others() {
    let lab = plain("nt-truth-table").own_tables().up().unwrap();
    let subject = lab.node(1);
    assert_reaches(lab.pod(1, 1).netns(), lab.pod(3, 1).ipv4());
    assert_said(subject, &["--peers"], "table", "ok", &["the same on all 2 peers"]);
    // It lacks node2, and still answers node1.
    let mut table = lab.table();
    table.nodes.retain(|node| node.name != "node2");
    lab.write_table_of(3, &table.to_toml()).unwrap();
    let own = |number: u16| {
        let output = culvert(lab.node(number), &["status", "--json"]);
        let status: Value = serde_json::from_slice(&output.stdout).unwrap();
        status["table"]["hash"].as_str().unwrap().to_owned()
    };
    wait_until(SOON, "node3 to have another table", || own(3) != own(1)).unwrap();
    wait_until(SOON, "node1 to be told", || {
        let said = doctor(subject, &["--peers"], "table");
        said.iter().any(|(verdict, text)| verdict == "warn" && text.contains("its table is"))
    })
    .unwrap();
    assert_said(subject, &["--peers"], "table", "warn", &["node3", &own(3), &own(1)]);
}

/// What kube-proxy makes for one service with two endpoints and one with none, as far as it matters
/// here (its nftables mode).
const SERVICES: &str = "table ip kube-proxy {
    map service-ips {
        type ipv4_addr . inet_proto . inet_service : verdict
        elements = { 10.96.0.10 . tcp . 80 : goto service-web, 10.96.0.12 . tcp . 80 : goto service-one }
    }
    map no-endpoint-services {
        type ipv4_addr . inet_proto . inet_service : verdict
        elements = { 10.96.0.11 . tcp . 80 : goto reject-chain }
    }
    chain reject-chain { reject; }
    chain mark-for-masquerade { meta mark set meta mark or 0x4000; }
    chain endpoint-near {
        ip saddr 10.244.1.3 jump mark-for-masquerade
        meta l4proto tcp dnat to 10.244.1.3:8080
    }
    chain endpoint-far {
        ip saddr 10.244.2.2 jump mark-for-masquerade
        meta l4proto tcp dnat to 10.244.2.2:8080
    }
    chain service-web {
        ip saddr != 10.244.0.0/16 jump mark-for-masquerade
        numgen random mod 2 vmap { 0 : goto endpoint-far, 1 : goto endpoint-near }
    }
    chain service-one { numgen random mod 1 vmap { 0 : goto endpoint-far }; }
    chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
    chain nat-prerouting { type nat hook prerouting priority -100; jump services; }
    chain nat-output { type nat hook output priority -100; jump services; }
    chain filter-forward {
        type filter hook forward priority -110
        ct state new ip daddr . meta l4proto . th dport vmap @no-endpoint-services
    }
}";

#[test]
fn packet_to_a_service_is_followed_through_the_maps_of_kube_proxy() {
    let lab = plain("nt-truth-service").pods(2).up().unwrap();
    let subject = lab.node(1);
    let own = lab.pod(1, 1).ipv4().to_string();
    nft(subject, SERVICES);
    // They are about no pod's own address.
    let said = doctor(subject, &[], "forward");
    assert!(said.iter().all(|(verdict, _)| verdict == "ok"), "{said:?}");
    assert_eq!(explain(subject, &[&own, "10.244.2.2"]).0, "forward");

    let servers = [lab.pod(2, 1), lab.pod(1, 2)].map(|pod| {
        let listen = || std::net::TcpListener::bind((pod.ipv4(), 8080));
        pod.netns().run(listen).unwrap().unwrap()
    });
    let connects = |service: &str| {
        let address = format!("{service}:80").parse().unwrap();
        let connect = || std::net::TcpStream::connect_timeout(&address, SOON).is_ok();
        lab.pod(1, 1).netns().run(connect).unwrap()
    };
    let (verdict, text) = explain(subject, &[&own, "10.96.0.12"]);
    assert_eq!(verdict, "forward", "{text}");
    assert!(text.contains("sends it to 10.244.2.2:8080"), "{text}");
    assert!(text.contains("chain ip kube-proxy endpoint-far"), "{text}");
    assert!(connects("10.96.0.12"));
    let (_, text) = explain(subject, &[&own, "10.96.0.10"]);
    // In the order in which the kernel lists the map.
    for part in
        ["sends it to one of ", "10.244.2.2:8080", "10.244.1.3:8080", "; what follows is of "]
    {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert!(connects("10.96.0.10"));
    // Nobody is behind the third, which rules say where packets are forwarded.
    let (verdict, text) = explain(subject, &[&own, "10.96.0.11"]);
    assert_eq!(verdict, "kernel_drops", "{text}");
    assert!(text.contains("chain ip kube-proxy reject-chain"), "{text}");
    assert!(!connects("10.96.0.11"));
    // Of another port nothing is said, so it leaves for the world.
    assert_eq!(explain(subject, &[&own, "10.96.0.12", "--dport", "81"]).0, "kernel");
    drop(servers);
    no_firewall(subject, "ip kube-proxy");

    let rule = "-t nat -A PREROUTING -d 10.96.0.13 -p tcp -m tcp --dport 80 -j DNAT --to-destination \
                10.244.2.2:8080";
    run(subject.netns(), "iptables", &rule.split_whitespace().collect::<Vec<_>>());
    let (verdict, text) = explain(subject, &[&own, "10.96.0.13"]);
    assert_eq!(verdict, "forward", "{text}");
    assert!(text.contains("sends it to 10.244.2.2:8080"), "{text}");
}

#[test]
fn rules_of_iptables_are_followed_too() {
    let lab = plain("nt-truth-iptables").up().unwrap();
    let subject = lab.node(1);
    let iptables = |words: &str| {
        run(subject.netns(), "iptables", &words.split(' ').collect::<Vec<_>>());
    };
    iptables("-A FORWARD -s 10.244.0.0/16 -m comment --comment corp -j DROP");
    assert_said(
        subject,
        &[],
        "forward",
        "fail",
        &["chain ip filter FORWARD (rule", "drops packets of pods"],
    );
    let (own, other) = (lab.pod(1, 1).ipv4().to_string(), lab.pod(2, 1).ipv4().to_string());
    assert_eq!(explain(subject, &[&own, &other]).0, "kernel_drops");
    iptables("-F FORWARD");
    iptables("-A INPUT -p udp -m udp --dport 4790 -j DROP");
    assert_said(subject, &[], "input", "fail", &["chain ip filter INPUT (rule"]);
    assert_eq!(explain(subject, &[&other, &own]).0, "kernel_drops");
}

/// The very figures that people compare must not move by their looking.
#[test]
fn thousand_explanations_change_no_counter() {
    let lab: Lab = plain("nt-truth-count").config("[probe]\ninterval = 0").up().unwrap();
    let figures = |number: u16| {
        let output = culvert(lab.node(number), &["status", "--json"]);
        let mut status: Value = serde_json::from_slice(&output.stdout).unwrap();
        let parts = ["drops", "icmp_replies", "receive_drops", "tun_drops", "repairs", "probes"];
        let mut kept: Vec<Value> = parts.iter().map(|part| status[part].take()).collect();
        for peer in status["peers"].as_array().unwrap() {
            kept.push(serde_json::json!([peer["name"], peer["egress"], peer["ingress"]]));
        }
        kept
    };
    let before = [1, 2, 3].map(figures);
    std::thread::scope(|scope| {
        for worker in 0..4_u32 {
            let lab = &lab;
            scope.spawn(move || {
                for turn in 0..250_u32 {
                    let node = lab.node(1);
                    let (one, other) =
                        (lab.pod(1, 1).ipv4().to_string(), lab.pod(2, 1).ipv4().to_string());
                    let ends =
                        if (turn + worker).is_multiple_of(2) { [one, other] } else { [other, one] };
                    let size = if turn.is_multiple_of(3) { "1500" } else { "100" };
                    explain(node, &[&ends[0], &ends[1], "--size", size]);
                }
            });
        }
    });
    assert_eq!(before, [1, 2, 3].map(figures));
}

/// A thousand peers that nobody has ever heard of are the most that has to be waited for.
#[test]
fn thousand_silent_peers_are_looked_at_in_seconds() {
    let wide = "[network]\ncidrs = [\"10.0.0.0/8\"]\n[probe]\ninterval = 0";
    let lab = plain("nt-truth-many").nodes(2).config(wide).up().unwrap();
    let mut table = lab.table();
    table.nodes.extend((3..=1000_u16).map(|number| {
        let [high, low] = number.to_be_bytes();
        culvert_lab::TableNode {
            name: format!("invented{number}"),
            address: [172, 16, high, low].into(),
            subnets: vec![format!("10.{high}.{low}.0/24").parse().unwrap()],
            public_keys: Vec::new(),
        }
    }));
    lab.write_table(&table.to_toml()).unwrap();
    let subject = lab.node(1);
    wait_until(SOON, "the table to be taken", || {
        subject.status().unwrap()["table"]["nodes"].as_u64() == Some(1000)
    })
    .unwrap();
    for (arguments, limit) in [(&[][..], 5), (&["--peers"][..], 15)] {
        let since = culvert_lab::clock::now();
        let said = doctor(subject, arguments, "peer");
        let took = since.elapsed();
        println!("doctor {arguments:?} with 1,000 peers: {took:?}");
        // Of a development build on a busy machine; a release build has 1 s and 3 s.
        assert!(took.as_secs() < limit, "{took:?}: {said:?}");
    }
    assert_said(subject, &["--peers"], "peer", "ok", &["node2", "answers in"]);
}
