use overlay_proto::Mac;
use serde_json::json;

use super::*;
use crate::environment::Args;

fn parse(document: &Value) -> Result<Config, Error> {
    let text = document.to_string();
    Config::parse(read(&mut text.as_bytes())?, Directories::default())
}

/// A minimal configuration with `key` set to `value`.
fn with(key: &str, value: Value) -> Value {
    let mut document = json!({"cniVersion": "1.0.0", "name": "pods", "type": "culvert-cni"});
    document[key] = value;
    document
}

fn settings(document: &Value) -> Result<Settings, Error> {
    Settings::read(&parse(document)?, &Args::default())
}

#[test]
fn defaults_are_those_of_a_node_alone_on_its_machine() {
    let config = parse(&with("type", json!("culvert-cni"))).unwrap();
    assert_eq!(config.run_dir, PathBuf::from("/run/culvert"));
    assert_eq!(config.state_dir, PathBuf::from("/var/lib/culvert"));
    assert_eq!(config.version, CniVersion::V1_0_0);
    let settings = Settings::read(&config, &Args::default()).unwrap();
    let expected = Settings {
        hairpin: true,
        source_check: true,
        default_gateway: true,
        ..Settings::default()
    };
    assert_eq!(settings, expected);
}

#[test]
fn config_key_beats_environment_beats_default() {
    let environment =
        Directories { run_dir: Some("/env/run".into()), state_dir: Some("/env/state".into()) };
    let Value::Object(document) = with("runDir", json!("/key/run")) else {
        unreachable!("`with` builds an object")
    };
    let config = Config::parse(document, environment).unwrap();
    assert_eq!(config.run_dir, PathBuf::from("/key/run"));
    assert_eq!(config.state_dir, PathBuf::from("/env/state"));
}

#[test]
fn missing_version_is_the_oldest() {
    assert_eq!(parse(&json!({"name": "pods"})).unwrap().version, CniVersion::V0_1_0);
}

#[test]
fn each_mistake_of_every_verb_has_its_code_and_names_key_and_value() {
    let cases = [
        (with("cniVersion", json!("2.0.0")), 1, "2.0.0"),
        (with("cniVersion", json!(1)), 7, "cniVersion is 1"),
        (json!({"cniVersion": "1.0.0"}), 7, "name is missing"),
        (with("name", json!("../x")), 7, "../x"),
        (with("name", json!("a\0b")), 7, "name is"),
        (with("name", json!(7)), 7, "name is 7"),
        (with("runDir", json!("run")), 7, "runDir is \"run\""),
        (with("runDir", json!("/run\0")), 7, "runDir is"),
        (with("stateDir", json!(1)), 7, "stateDir is 1"),
        (json!([]), 6, "JSON object"),
    ];
    for (document, code, part) in cases {
        let error = parse(&document).unwrap_err();
        assert_eq!(error.code(), code, "{document}");
        assert!(error.to_string().contains(part), "{error} lacks {part}");
    }
}

#[test]
fn endless_input_is_cut_off() {
    let error = read(&mut std::io::repeat(b' ')).unwrap_err();
    assert!(matches!(error, Error::ConfigTooLong { .. }));
}

#[test]
fn deeply_nested_empty_and_garbled_input_is_refused() {
    let nested = format!("{{\"a\":{}", "[".repeat(1_000_000));
    for text in [nested.as_bytes(), &b""[..], b"\0\xff\xfe", b"{\"name\":\"pods\"} {}", b"null"] {
        let error = read(&mut &text[..]).unwrap_err();
        assert_eq!(error.code(), 6, "{:?}", &text[..text.len().min(20)]);
    }
}

#[test]
fn long_values_do_not_make_long_messages() {
    let error = parse(&with("runDir", json!("x".repeat(1_000_000)))).unwrap_err();
    assert!(error.to_string().len() < 1_000);
}

#[test]
fn keys_that_say_what_is_so_are_allowed() {
    let cases = [
        ("capabilities", json!({"portMappings": true})),
        ("forceAddress", json!(true)),
        ("isGateway", json!(true)),
        ("ipMasqBackend", json!("nftables")),
        ("ipMasqBackend", json!("")),
        ("promiscMode", json!(false)),
        ("vlan", json!(0)),
        ("vlanTrunk", json!([])),
        ("preserveDefaultVlan", json!(true)),
        ("macspoofchk", json!(true)),
        ("disableContainerInterface", json!(false)),
        ("enabledad", json!(false)),
        ("mtu", json!(0)),
        ("cni.dev/valid-attachments", json!([])),
        ("example.com/note", json!("x")),
        ("args", json!({"cni": {"labels": [], "ips": [], "mac": ""}, "labels": {}})),
        ("runtimeConfig", json!({})),
        (
            "runtimeConfig",
            json!({"ips": [], "mac": "", "dns": {}, "ipRanges": [], "portMappings": []}),
        ),
        ("ipam", json!({})),
        ("ipam", json!({"type": "host-local", "ranges": []})),
        ("dns", json!({})),
        ("vlan", Value::Null),
    ];
    for (key, value) in cases {
        let document = with(key, value);
        let settings = settings(&document).unwrap_or_else(|error| panic!("{document}: {error}"));
        let expected = Settings {
            hairpin: true,
            source_check: true,
            default_gateway: true,
            ..Settings::default()
        };
        assert_eq!(settings, expected, "{document}");
    }
}

#[test]
fn keys_that_ask_for_something_else_are_refused_with_name_and_value() {
    let cases = [
        ("runtimeConfig", json!({"bandwidth": {"ingressRate": 1}}), "runtimeConfig.bandwidth"),
        ("runtimeConfig", json!({"aliases": []}), "runtimeConfig.aliases"),
        ("ipam", json!({"type": "dhcp"}), "ipam.type"),
        ("ipam", json!({"dataDir": "/var/lib/cni"}), "ipam.dataDir"),
        ("ipam", json!({"subnets": []}), "ipam.subnets"),
        ("isGateway", json!(false), "isGateway"),
        ("ipMasqBackend", json!("iptables"), "ipMasqBackend"),
        ("promiscMode", json!(true), "promiscMode"),
        ("vlan", json!(100), "vlan"),
        ("vlanTrunk", json!([{"id": 100}]), "vlanTrunk"),
        ("preserveDefaultVlan", json!(false), "preserveDefaultVlan"),
        ("disableContainerInterface", json!(true), "disableContainerInterface"),
        ("plugins", json!([]), "plugins"),
        ("runDirectory", json!("/run"), "runDirectory"),
        ("dns", json!({"servers": []}), "dns.servers"),
    ];
    for (key, value, named) in cases {
        let document = with(key, value);
        let error = settings(&document).unwrap_err();
        assert_eq!(error.code(), 2, "{document}");
        let text = error.to_string();
        assert!(text.contains(&format!("config key {named} is ")), "{text}");
    }
}

#[test]
fn values_of_the_wrong_kind_are_refused_with_their_path() {
    let route = |route: Value| json!({"routes": [{"dst": "0.0.0.0/0"}, route]});
    let cases = [
        ("hairpinMode", json!("yes"), "hairpinMode"),
        ("portIsolation", json!(1), "portIsolation"),
        ("isGateway", json!("true"), "isGateway"),
        ("vlan", json!("100"), "vlan"),
        ("mtu", json!(-1), "mtu"),
        ("mtu", json!("1400"), "mtu"),
        ("dns", json!("10.96.0.10"), "dns"),
        ("ipam", json!([]), "ipam"),
        ("args", json!({"cni": {"ips": ["10.244.1"]}}), "args.cni.ips[0]"),
        ("args", json!({"cni": {"mac": "ff:ff:ff:ff:ff:ff"}}), "args.cni.mac"),
        ("runtimeConfig", json!({"ips": ["10.244.1.9/24", 7]}), "runtimeConfig.ips[1]"),
        ("runtimeConfig", json!({"mac": 7}), "runtimeConfig.mac"),
        ("runtimeConfig", json!({"dns": {"servers": "x"}}), "runtimeConfig.dns.servers"),
        ("runtimeConfig", json!({"ipRanges": [{}]}), "runtimeConfig.ipRanges[0]"),
        ("ipam", json!({"rangeStart": "10.244.1.9"}), "ipam.subnet"),
        ("ipam", json!({"subnet": "10.244.1.9/24"}), "ipam.subnet"),
        ("ipam", json!({"subnet": "10.244.1.0/24", "rangeEnd": "10.244.2.1"}), "ipam.rangeEnd"),
        (
            "ipam",
            json!({"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "rangeEnd": "10.0.0.8"}),
            "ipam.rangeEnd",
        ),
        (
            "ipam",
            json!({"ranges": [[{"subnet": "10.0.0.0/24"}, {"subnet": "fd00::/64"}]]}),
            "ipam.ranges[0]",
        ),
        (
            "ipam",
            json!({"ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.0.0.0/25"}]]}),
            "ipam.ranges[1][0]",
        ),
        ("ipam", route(json!({"gw": "10.0.0.1"})), "ipam.routes[1].dst"),
        ("ipam", route(json!({"dst": "10.0.0.1"})), "ipam.routes[1].dst"),
        ("ipam", route(json!({"dst": "10.0.0.0/8", "gw": "fd00::1"})), "ipam.routes[1].gw"),
        ("ipam", route(json!({"dst": "10.0.0.0/8", "mtu": "x"})), "ipam.routes[1].mtu"),
        ("ipam", route(json!({"dst": "10.0.0.0/8", "scope": 256})), "ipam.routes[1].scope"),
        ("ipam", json!({"resolvConf": "/nonexistent/resolv.conf"}), "ipam.resolvConf"),
        ("ipam", json!({"resolvConf": "/proc"}), "ipam.resolvConf"),
    ];
    for (key, value, named) in cases {
        let document = with(key, value);
        let error = settings(&document).unwrap_err();
        assert_eq!(error.code(), 7, "{document}: {error}");
        let text = error.to_string();
        assert!(text.contains(&format!("config key {named} is ")), "{named}: {text}");
    }
}

#[test]
fn addresses_of_all_sources_add_up() {
    let mut document = with("args", json!({"cni": {"ips": ["10.244.1.8", "fd00::9"]}}));
    document["runtimeConfig"] = json!({"ips": ["10.244.1.7/24", "10.244.1.8"]});
    let args = Args { ip: "10.244.1.9".parse().ok(), ..Args::default() };
    let settings = Settings::read(&parse(&document).unwrap(), &args).unwrap();
    let found: Vec<_> = settings
        .addresses
        .iter()
        .map(|wish| (wish.key.as_str(), wish.address.to_string()))
        .collect();
    let expected = [
        ("CNI_ARGS IP", "10.244.1.9".to_owned()),
        ("args.cni.ips[0]", "10.244.1.8".to_owned()),
        ("args.cni.ips[1]", "fd00::9".to_owned()),
        ("runtimeConfig.ips[0]", "10.244.1.7".to_owned()),
    ];
    assert_eq!(found, expected);
}

#[test]
fn mac_of_the_runtime_beats_that_of_args_beats_that_of_the_environment() {
    let [first, second, third] = [1, 2, 3].map(|last| Mac::new([2, 0, 0, 0, 0, last]));
    let args = Args { mac: Some(first), ..Args::default() };
    let mac = |document: &Value| Settings::read(&parse(document).unwrap(), &args).unwrap().mac;
    assert_eq!(mac(&with("args", json!({}))), Some(first));
    let mut document = with("args", json!({"cni": {"mac": second.to_string()}}));
    assert_eq!(mac(&document), Some(second));
    document["runtimeConfig"] = json!({"mac": third.to_string()});
    assert_eq!(mac(&document), Some(third));
}

#[test]
fn ranges_of_the_runtime_come_before_those_of_the_network() {
    let range = |subnet: &str| json!([[{"subnet": subnet}]]);
    let mut document =
        with("ipam", json!({"subnet": "10.2.0.0/24", "ranges": range("10.3.0.0/24")}));
    document["runtimeConfig"] = json!({"ipRanges": range("10.1.0.0/24")});
    let keys: Vec<_> = settings(&document)
        .unwrap()
        .ranges
        .iter()
        .flatten()
        .map(|range| format!("{} {}", range.key, range.subnet))
        .collect();
    assert_eq!(
        keys,
        [
            "runtimeConfig.ipRanges[0][0] 10.1.0.0/24",
            "ipam 10.2.0.0/24",
            "ipam.ranges[0][0] 10.3.0.0/24",
        ]
    );
}

#[test]
fn dns_of_the_runtime_beats_that_of_the_network_beats_the_file() {
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path().join("resolv.conf");
    std::fs::write(&path, "nameserver 10.0.0.3\n").unwrap();
    let mut document = with("ipam", json!({"resolvConf": path}));
    let dns = |document: &Value| settings(document).unwrap().dns;
    assert_eq!(dns(&document), Some(json!({"nameservers": ["10.0.0.3"]})));
    document["dns"] = json!({"nameservers": ["10.0.0.2"]});
    assert_eq!(dns(&document), Some(json!({"nameservers": ["10.0.0.2"]})));
    document["runtimeConfig"] = json!({"dns": {"servers": ["10.0.0.1"], "searches": ["x"]}});
    assert_eq!(dns(&document), Some(json!({"nameservers": ["10.0.0.1"], "search": ["x"]})));
}

/// As containerd 1.6 hands over a `hostPort` of a Kubernetes pod, and what else its library has.
#[test]
fn what_the_runtime_wants_is_understood_in_the_spelling_of_go() {
    let written = json!({
        "portMappings": [{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}],
        "dns": {"Servers": ["10.0.0.1"], "Searches": ["x"], "Options": null},
        "ipRanges": [[{"Subnet": "10.1.0.0/24", "RangeStart": "10.1.0.9", "RangeEnd": "", "Gateway": ""}]],
    });
    let by_conventions = json!({
        "portMappings": [{"hostPort": 8080, "containerPort": 80}],
        "dns": {"servers": ["10.0.0.1"], "searches": ["x"]},
        "ipRanges": [[{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9"}]],
    });
    let of = |runtime: &Value| settings(&with("runtimeConfig", runtime.clone())).unwrap();
    assert_eq!(of(&written), of(&by_conventions));
    assert_eq!(of(&written).ports.len(), 1);
    let wrong =
        with("runtimeConfig", json!({"portMappings": [{"HostPort": 0, "ContainerPort": 80}]}));
    let error = settings(&wrong).unwrap_err().to_string();
    assert!(error.contains("runtimeConfig.portMappings[0].hostPort"), "{error}");
}

#[test]
fn valid_attachments_have_to_be_a_list_of_names() {
    let valid = |key: &str, value: Value| parse(&with(key, value)).unwrap().valid_attachments();
    let pair = json!([{"containerID": "c1", "ifname": "eth0"}]);
    let expected = vec![("c1".to_owned(), "eth0".to_owned())];
    for key in VALID_ATTACHMENTS_KEYS {
        assert_eq!(valid(key, pair.clone()).unwrap(), expected);
        assert_eq!(valid(key, json!([])).unwrap(), []);
        for value in [json!({}), json!([{}]), json!([{"containerID": 7, "ifname": "eth0"}])] {
            assert_eq!(valid(key, value).unwrap_err().code(), 7);
        }
    }
    assert_eq!(valid("mtu", json!(1)).unwrap_err().code(), 7, "none is not an empty list");
}

/// The keys that `docs/cni.md` decides on: the first cells of its tables, in backquotes.
#[test]
fn every_key_is_in_the_document() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cni.md"));
    let text = text.unwrap();
    let cells: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next()).collect();
    let fixed = keys::FIXED.iter().map(|fixed| fixed.key);
    for key in keys::READ.into_iter().chain(keys::IGNORED).chain(fixed) {
        let quoted = format!("`{key}`");
        assert!(cells.iter().any(|cell| cell.contains(&quoted)), "docs/cni.md lacks {quoted}");
    }
    for key in ipam::MEMBERS.into_iter().chain(["dataDir"]) {
        let quoted = format!("`ipam.{key}`");
        assert!(cells.iter().any(|cell| cell.contains(&quoted)), "docs/cni.md lacks {quoted}");
    }
}
