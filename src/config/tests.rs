use culvert_seal::Suite;

use super::*;

const MINIMAL: &str = r#"
[network]
cidrs = ["10.244.0.0/16"]
[node]
name = "node1"
[table]
source = "file"
path = "/etc/culvert/table.toml"
"#;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(Path::new("c.toml"), text, &Overrides::default())
        .map_err(|error| error.to_string())
}

fn refusal(text: &str) -> String {
    parse(text).expect_err("the text is refused")
}

#[test]
fn what_is_left_out_has_the_documented_default() {
    let config = parse(MINIMAL).unwrap();
    assert_eq!(config.network.vni.get(), 1);
    assert_eq!(config.network.vxlan_vni.get(), 1);
    let underlay = config.underlay;
    assert_eq!((underlay.port, underlay.vxlan_port, underlay.ip_udp_port), (4790, 8472, 8285));
    assert_eq!((underlay.address, underlay.mtu), (None, None));
    let busy_poll = Duration::from_micros(60);
    assert_eq!(config.tun, Tun { name: "culvert0".into(), queues: None, offload: true, busy_poll });
    assert_eq!(config.bridge.name, "v-net-0");
    assert_eq!(config.node.run_dir, Path::new("/run/culvert"));
    assert_eq!(config.node.state_dir, Path::new("/var/lib/culvert"));
    assert_eq!(config.node.sysctl_dir, Path::new("/proc/sys"));
    assert!(!config.node.stand_by);
    assert!(config.egress.masquerade);
    let observe = Observe {
        address: Some("127.0.0.1:4791".parse().unwrap()),
        peer_metrics: PeerMetrics::Active,
    };
    assert_eq!(config.observe, observe);
    let sealed = Sealed {
        mode: SealedMode::Prefer,
        port: 4500,
        key_file: "/var/lib/culvert/node.key".into(),
        psk_files: Vec::new(),
        post_quantum: PostQuantum::Require,
        ciphers: None,
        key_log: None,
    };
    assert_eq!(config.sealed, sealed);
}

#[test]
fn what_is_sealed_and_with_what_is_chosen() {
    let sealed = |keys: &str| parse(&format!("{MINIMAL}[sealed]\n{keys}")).map(|it| it.sealed);
    let config = sealed(
        "mode = \"require\"\nport = 4501\nkey_file = \"/k\"\npsk_files = [\"/p\", \"/q\"]\n\
         post_quantum = \"off\"\nciphers = [\"chacha20-poly1305\"]\nkey_log = \"/l\"\n",
    );
    let expected = Sealed {
        mode: SealedMode::Require,
        port: 4501,
        key_file: "/k".into(),
        psk_files: vec!["/p".into(), "/q".into()],
        post_quantum: PostQuantum::Off,
        ciphers: Some(Suites::new([Suite::ChaCha20Poly1305])),
        key_log: Some("/l".into()),
    };
    assert_eq!(config, Ok(expected));
    // The key is beside what else must survive a reboot.
    let moved = MINIMAL.replace("[node]", "[node]\nstate_dir = \"/s\"");
    assert_eq!(parse(&moved).unwrap().sealed.key_file, Path::new("/s/node.key"));
    // A port that nobody opens may be another's.
    assert!(sealed("mode = \"off\"\nport = 4790\n").is_ok());
    let cases = [
        ("mode = \"on\"\n", "c.toml:10: sealed.mode = \"on\": not a mode; write \"off\""),
        ("port = 0\n", "c.toml:10: sealed.port = 0: not a port; 1 to 65535"),
        (
            "port = 8472\n",
            "c.toml:10: sealed.port = 8472: also the value of underlay.vxlan_port; give",
        ),
        ("key_file = \"k\"\n", "sealed.key_file = \"k\": not the whole path of a file; begin"),
        ("psk_files = [\"p\"]\n", "c.toml:10: sealed.psk_files = \"p\": not the whole path"),
        ("psk_files = [\"/p\", \"/p\"]\n", "sealed.psk_files = \"/p\": named twice; name each"),
        (
            "psk_files = [\"/1\", \"/2\", \"/3\", \"/4\", \"/5\"]\n",
            "sealed.psk_files = \"/5\": one file more than the 4 that a node tries; leave out",
        ),
        ("post_quantum = \"on\"\n", "sealed.post_quantum = \"on\": neither \"require\" nor"),
        ("ciphers = []\n", "sealed.ciphers = []: nothing could be sealed; leave it out"),
        (
            "ciphers = [\"rot13\"]\n",
            "sealed.ciphers = \"rot13\": not a cipher; those known are \"aes-256-gcm\", \
             \"chacha20-poly1305\"",
        ),
        ("key_log = \"l\"\n", "sealed.key_log = \"l\": not the whole path of a file"),
        ("keys = 1\n", "c.toml:10: unknown field `keys`"),
    ];
    for (keys, part) in cases {
        let error = sealed(keys).unwrap_err();
        assert!(error.contains(part), "{part}: {error}");
    }
    let default = refusal(&format!("{MINIMAL}[underlay]\nport = 4500\n"));
    assert!(default.contains("sealed.port = 4500: also the value of underlay.port"), "{default}");
}

#[test]
fn peers_are_asked_every_ten_seconds_unless_that_is_set_or_switched_off() {
    let interval = |keys: &str| {
        let config = parse(&format!("{MINIMAL}[probe]\n{keys}"));
        config.map(|config| config.probe.interval).map_err(|error| error.to_string())
    };
    assert_eq!(interval(""), Ok(Some(Duration::from_secs(10))));
    assert_eq!(interval("interval = 1\n"), Ok(Some(Duration::from_secs(1))));
    assert_eq!(interval("interval = 0\n"), Ok(None));
    for wrong in ["-1", "601"] {
        let error = interval(&format!("interval = {wrong}\n")).unwrap_err();
        let part = format!("probe.interval = {wrong}: not a time between two questions");
        assert!(error.contains(&part) && error.contains("0: nobody is asked"), "{error}");
    }
}

#[test]
fn the_command_line_goes_before_the_file() {
    let overrides = Overrides {
        node_name: Some("other".into()),
        run_dir: Some("/r".into()),
        state_dir: Some("/s".into()),
        underlay_address: Some("192.0.2.7".parse().unwrap()),
        observe_address: Some("off".into()),
        table_source: Some("etcd".into()),
        sealed_mode: Some("require".into()),
        etcd_endpoints: vec!["http://192.0.2.8:2379".into()],
        kubeconfig: None,
    };
    let config = Config::parse(Path::new("c.toml"), MINIMAL, &overrides).unwrap();
    assert_eq!((config.node.name.as_str(), config.node.run_dir.to_str()), ("other", Some("/r")));
    assert_eq!(config.node.state_dir, Path::new("/s"));
    assert_eq!(config.underlay.address, overrides.underlay_address);
    let TableSource::Etcd(etcd) = config.table else { panic!("{:?}", config.table) };
    assert_eq!(etcd.endpoints, overrides.etcd_endpoints);
    assert_eq!(config.sealed.mode, SealedMode::Require);
    assert_eq!(config.observe.address, None);
    let wrong = Overrides { observe_address: Some("4791".into()), ..overrides.clone() };
    let error = Config::parse(Path::new("c.toml"), MINIMAL, &wrong).unwrap_err().to_string();
    assert!(error.contains("--observe-address = \"4791\": not an address and port"), "{error}");
    let wrong = Overrides { sealed_mode: Some("on".into()), ..overrides };
    let error = Config::parse(Path::new("c.toml"), MINIMAL, &wrong).unwrap_err().to_string();
    assert!(error.contains("--sealed-mode = \"on\": not a mode; write \"off\""), "{error}");
}

#[test]
fn metrics_are_served_where_and_of_whom_is_chosen() {
    let observe = |keys: &str| parse(&format!("{MINIMAL}[observe]\n{keys}")).map(|it| it.observe);
    let chosen = observe("address = \"[::1]:9\"\npeer_metrics = \"none\"\n").unwrap();
    let expected =
        Observe { address: Some("[::1]:9".parse().unwrap()), peer_metrics: PeerMetrics::None };
    assert_eq!(chosen, expected);
    assert_eq!(observe("address = \"off\"\n").unwrap().address, None);
    let error = observe("peer_metrics = \"some\"\n").unwrap_err();
    assert_eq!(
        error,
        "c.toml:10: observe.peer_metrics = \"some\": not a choice of peers; write \"active\", \
         \"none\" or \"all\""
    );
}

#[test]
fn each_source_has_its_keys_and_defaults() {
    let with = |source: &str, more: &str| {
        parse(&format!("{}{more}", MINIMAL.replace("\"file\"", &format!("\"{source}\""))))
    };
    let endpoints = "[etcd]\nendpoints = [\"http://192.0.2.8:2379\"]\n";
    let TableSource::Etcd(etcd) = with("etcd", endpoints).unwrap().table else { panic!() };
    assert_eq!((etcd.prefix.as_str(), etcd.lease), ("/culvert", Duration::from_secs(86_400)));
    let TableSource::Kubernetes(kubernetes) = with("kubernetes", "").unwrap().table else {
        panic!()
    };
    assert_eq!(kubernetes.startup_taint, "culvert.dev/not-ready");
    let refused = |more: &str| with("etcd", more).unwrap_err();
    let cases = [
        (String::new(), "etcd.endpoints: the source \"etcd\" needs it"),
        ("[etcd]\nendpoints = [\"10.0.0.1\"]\n".into(), "not the URL of an etcd member"),
        (format!("{endpoints}lease_seconds = 1\n"), "etcd.lease_seconds = 1"),
        (format!("{endpoints}prefix = \"/\"\n"), "would be every key"),
        (format!("{endpoints}cert_file = \"c\"\n"), "etcd.key_file: etcd.cert_file needs it"),
        (format!("{endpoints}password_file = \"p\"\n"), "etcd.user: etcd.password_file needs it"),
    ];
    for (more, part) in cases {
        assert!(refused(&more).contains(part), "{part}: {}", refused(&more));
    }
}

#[test]
fn only_etcd_can_hold_the_pod_networks() {
    let without = MINIMAL.replace("cidrs = [\"10.244.0.0/16\"]\n", "");
    assert!(refusal(&without).contains("network.cidrs: the cluster needs a pod network"));
    let etcd = without.replace("\"file\"", "\"etcd\"");
    let etcd = format!("{etcd}[etcd]\nendpoints = [\"http://192.0.2.8:2379\"]\n");
    assert!(parse(&etcd).unwrap().network.cidrs.is_empty());
}

#[test]
fn errors_name_file_line_key_value_and_remedy() {
    let cases = [
        (
            MINIMAL.replace("10.244.0.0/16", "10.244.0.0/33"),
            "c.toml:3: network.cidrs = \"10.244.0.0/33\": not a prefix; \
             write an address and a length, such as \"10.244.0.0/16\"",
        ),
        (
            MINIMAL.replace("10.244.0.0/16", "10.244.3.0/16"),
            "c.toml:3: network.cidrs = \"10.244.3.0/16\": has bits set beyond its length; \
             write \"10.244.0.0/16\"",
        ),
        (
            MINIMAL.replace("\"10.244.0.0/16\"", "\"10.244.0.0/16\", \"10.245.0.0/16\""),
            "c.toml:3: network.cidrs = 10.245.0.0/16: a second network of the same family; \
             keep one prefix per family, wide enough for every node",
        ),
        (
            MINIMAL.replace("10.244.0.0/16", "127.0.0.0/16"),
            "c.toml:3: network.cidrs = \"127.0.0.0/16\": has addresses of 127.0.0.0/8, which no pod \
             can have; choose a network of unicast addresses",
        ),
        (
            MINIMAL.replace("10.244.0.0/16", "::/0"),
            "c.toml:3: network.cidrs = \"::/0\": has addresses of ::/127, which no pod can have; \
             choose a network of unicast addresses",
        ),
        (
            MINIMAL.replace("[node]", "[node]\naddress = \"fe80::1\""),
            "c.toml:5: node.address = \"fe80::1\": not an address that datagrams can be sent to; \
             write the address by which peers reach this node, without a length",
        ),
        (
            format!("{MINIMAL}[underlay]\naddress = \"0.0.0.0\"\n"),
            "c.toml:10: underlay.address = \"0.0.0.0\": not an address that datagrams can be sent \
             to; write the address by which peers reach this node, without a length",
        ),
        (
            MINIMAL.replace("[node]", "service_cidrs = [\"10.244.9.0/24\"]\n[node]"),
            "c.toml:4: network.service_cidrs = 10.244.9.0/24: overlaps the pod network \
             10.244.0.0/16 of network.cidrs; choose networks that have no address in common",
        ),
        (
            MINIMAL.replace("\"file\"", "\"gossip\""),
            "c.toml:7: table.source = \"gossip\": not a table source; the sources are: \"file\", \"etcd\", \"kubernetes\"",
        ),
        (
            format!("{MINIMAL}[underlay]\nport = 70000\n"),
            "c.toml:10: underlay.port = 70000: not a port; 1 to 65535",
        ),
        (
            format!("{MINIMAL}[underlay]\nip_udp_port = 0\n"),
            "c.toml:10: underlay.ip_udp_port = 0: not a port; 1 to 65535",
        ),
        (
            format!("{MINIMAL}[underlay]\nvxlan_port = 4790\n"),
            "c.toml:10: underlay.vxlan_port = 4790: also the value of underlay.port; \
             give each codec a port of its own",
        ),
        (
            format!("{MINIMAL}[underlay]\nport = 8472\n"),
            "c.toml: underlay.vxlan_port = 8472: also the value of underlay.port; \
             give each codec a port of its own",
        ),
        (
            MINIMAL.replace("[node]", "vxlan_vni = 16777216\n[node]"),
            "c.toml:4: network.vxlan_vni = 16777216: a VNI is at most 16777215",
        ),
        (
            format!("{MINIMAL}[tun]\nname = \"a/b\"\n"),
            "c.toml:10: tun.name = \"a/b\": not a device name; \
             1 to 15 letters, digits, '-', '_' or '.', such as \"culvert0\"",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(refusal(&text), expected);
    }
}

#[test]
fn an_unknown_key_is_refused_with_its_line() {
    let message = refusal(&MINIMAL.replace("[node]", "[node]\nnmae = \"x\""));
    assert!(message.starts_with("c.toml:5: unknown field `nmae`"), "{message}");
}

#[test]
fn a_syntax_error_is_refused_with_its_line() {
    let message = refusal(&MINIMAL.replace("name = \"node1\"", "name = node1"));
    assert!(message.starts_with("c.toml:5: "), "{message}");
}

#[test]
fn one_name_for_both_devices_is_refused() {
    let message = refusal(&format!("{MINIMAL}[tun]\nname = \"x\"\n[bridge]\nname = \"x\"\n"));
    assert!(message.contains("tun.name, bridge.name = x"), "{message}");
}

#[test]
fn policies_are_enforced_where_there_are_some() {
    let policy = |keys: &str| parse(&format!("{MINIMAL}[policy]\n{keys}")).map(|it| it.policy);
    let off = Policy { mode: PolicyMode::Off, directory: None, unknown_pods: UnknownPods::Refuse };
    assert_eq!(policy(""), Ok(off.clone()));
    let directory = Some(PathBuf::from("/p"));
    let on = Policy { mode: PolicyMode::On, directory: directory.clone(), ..off.clone() };
    assert_eq!(policy("directory = \"/p\"\n"), Ok(on));
    assert_eq!(
        policy("mode = \"off\"\ndirectory = \"/p\"\nunknown_pods = \"open\"\n"),
        Ok(Policy { mode: PolicyMode::Off, directory, unknown_pods: UnknownPods::Open })
    );
    assert_eq!(
        policy("mode = \"on\"\n").unwrap_err(),
        "c.toml:10: policy.mode = \"on\": there are no policies to enforce; name the directory with \
         their files as policy.directory"
    );
    assert_eq!(
        policy("mode = \"maybe\"\n").unwrap_err(),
        "c.toml:10: policy.mode = \"maybe\": not a mode; write \"on\" or \"off\""
    );
    assert_eq!(
        policy("unknown_pods = \"drop\"\n").unwrap_err(),
        "c.toml:10: policy.unknown_pods = \"drop\": not what can be done; write \"refuse\", \
         \"closed\" or \"open\""
    );
    assert_eq!(
        policy("directory = \"p\"\n").unwrap_err(),
        "c.toml:10: policy.directory = \"p\": not the whole path of a directory; begin it with a \
         slash"
    );
}

#[cfg(feature = "databases")]
#[test]
fn policies_of_a_cluster_come_from_its_api_server() {
    let text = MINIMAL.replace("source = \"file\"", "source = \"kubernetes\"");
    assert_eq!(parse(&text).unwrap().policy.mode, PolicyMode::On);
    assert_eq!(
        parse(&format!("{text}[policy]\nmode = \"off\"")).unwrap().policy.mode,
        PolicyMode::Off
    );
    assert_eq!(
        refusal(&format!("{text}[policy]\ndirectory = \"/p\"\n")),
        "c.toml:10: policy.directory = \"/p\": with table.source = \"kubernetes\" policies come from \
         the API server; leave it out, and create the policies in the cluster"
    );
}
