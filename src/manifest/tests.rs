use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::render::{config, manifest, removal};
use super::*;

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)
}

/// The objects of a text, by kind and name.
fn objects(text: &str) -> BTreeMap<String, Value> {
    let documents = text.split("\n---\n").filter(|document| !document.trim().is_empty());
    documents
        .map(|document| {
            let object: Value = serde_saphyr::from_str(document).unwrap();
            let word = |value: &Value| value.as_str().unwrap().to_owned();
            (word(&object["kind"]) + "/" + &word(&object["metadata"]["name"]), object)
        })
        .collect()
}

fn values(words: &[&str]) -> Values {
    let mut values = Values::of(Distribution::default());
    for word in words {
        values.set(word).unwrap();
    }
    values
}

fn set(values: &Values) -> Value {
    objects(&manifest(values).unwrap())["DaemonSet/culvert"].clone()
}

#[test]
fn without_values_it_is_what_the_directory_has() {
    let found = objects(&manifest(&values(&[])).unwrap());
    let mut expected = BTreeMap::new();
    for file in
        ["namespace.yaml", "rbac.yaml", "own-node.yaml", "own-events.yaml", "daemonset.yaml"]
    {
        expected.extend(objects(&fs::read_to_string(deploy("kubernetes").join(file)).unwrap()));
    }
    let names: Vec<_> = found.keys().filter(|name| *name != "ConfigMap/culvert").collect();
    assert_eq!(names, expected.keys().collect::<Vec<_>>());
    for (name, object) in expected {
        let mut found = found[&name].clone();
        if name == "DaemonSet/culvert" {
            let pod = &mut found["spec"]["template"];
            pod["metadata"].as_object_mut().unwrap().remove("annotations").unwrap();
            for place in ["initContainers", "containers"] {
                assert_eq!(pod["spec"][place][0]["image"], "culvert:latest");
                pod["spec"][place][0]["image"] = json!("culvert");
            }
        }
        assert_eq!(found, object, "{name}");
    }
    let map = &found["ConfigMap/culvert"];
    let file = fs::read_to_string(deploy("kubernetes/config.toml")).unwrap();
    assert_eq!(map["data"]["config.toml"], file);
}

#[test]
fn each_value_is_where_it_belongs() {
    let words = [
        "image=registry.example:5000/culvert@sha256:00",
        "cidrs=10.42.0.0/16,fd00:42::/48",
        "serviceCidrs=10.43.0.0/16",
        "cniBinDir=/bin/cni",
        "cniConfDir=/etc/net.d",
        "surge=false",
        "ownNode=false",
        "sealed=require",
    ];
    let values = values(&words);
    let found = objects(&manifest(&values).unwrap());
    assert!(found.keys().all(|name| !name.starts_with("ValidatingAdmissionPolicy")));
    let set = &found["DaemonSet/culvert"];
    let rolling = json!({"maxUnavailable": 1});
    assert_eq!(set["spec"]["updateStrategy"]["rollingUpdate"], rolling);
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!(pod["containers"][0]["image"], "registry.example:5000/culvert@sha256:00");
    let paths: Vec<_> = pod["volumes"].as_array().unwrap().iter().collect();
    assert_eq!(paths[5]["hostPath"]["path"], "/bin/cni");
    assert_eq!(paths[6]["hostPath"]["path"], "/etc/net.d");
    let config: toml::Table = config(&values).unwrap().parse().unwrap();
    assert_eq!(config["network"]["cidrs"].as_array().unwrap().len(), 2);
    assert_eq!(config["network"]["service_cidrs"][0].as_str(), Some("10.43.0.0/16"));
    assert_eq!(config["node"]["stand_by"].as_bool(), Some(false));
    assert_eq!(config["sealed"]["mode"].as_str(), Some("require"));
    // Another configuration is another pod.
    let digest = |set: &Value| set["spec"]["template"]["metadata"]["annotations"].clone();
    assert_ne!(digest(set), digest(&self::set(&Values::of(Distribution::default()))));
}

#[test]
fn distributions_differ_by_directories() {
    let of = |distribution| {
        set(&Values::of(distribution))["spec"]["template"]["spec"]["volumes"].clone()
    };
    let usual = of(Distribution::Kubeadm);
    for other in [Distribution::K3s, Distribution::MicroK8s, Distribution::Debian] {
        let volumes = of(other);
        assert_ne!(volumes, usual, "{other:?}");
        assert_eq!(volumes[5]["hostPath"]["path"], other.directories().0);
        assert_eq!(volumes[6]["hostPath"]["path"], other.directories().1);
    }
}

#[test]
fn removal_has_the_image_and_the_directories_that_were_installed() {
    let mut values = Values::of(Distribution::K3s);
    values.set("image=registry.example/culvert:0.1.0").unwrap();
    let found = objects(&removal(&values).unwrap());
    assert!(found.keys().eq(["DaemonSet/culvert-remove"]), "{found:?}");
    let pod = &found["DaemonSet/culvert-remove"]["spec"]["template"]["spec"];
    for container in ["initContainers", "containers"] {
        assert_eq!(pod[container][0]["image"], "registry.example/culvert:0.1.0");
    }
    let installed = &set(&values)["spec"]["template"]["spec"]["volumes"];
    assert_eq!(pod["volumes"], json!([installed[5], installed[6]]));
}

#[test]
fn what_makes_no_sense_is_refused_with_its_key() {
    for (word, named) in [
        ("image", "KEY=VALUE"),
        ("image=", "--set image"),
        ("images=x", "no such value"),
        ("surge=maybe", "true or false"),
        ("cniBinDir=opt", "absolute path"),
        ("image=a\"\nb", "no quotes"),
    ] {
        let error = Values::of(Distribution::default()).set(word).unwrap_err();
        assert!(format!("{error:#}").contains(named), "{error:#}");
    }
    for (word, named) in [
        ("cidrs=", "network.cidrs"),
        ("cidrs=10.244.0.0", "network.cidrs"),
        ("serviceCidrs=10.244.9.0/24", "overlaps"),
        ("sealed=perhaps", "sealed.mode"),
    ] {
        let error = format!("{:#}", manifest(&values(&[word])).unwrap_err());
        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn what_the_cluster_says_is_taken_and_what_it_does_not_say_is_asked_for() {
    let nodes = json!({"items": [{"spec": {"podCIDRs": ["10.32.1.0/24"]}}]});
    let text = "apiVersion: kubeadm.k8s.io/v1beta4\nnetworking:\n  dnsDomain: cluster.local\n  \
                podSubnet: 10.32.0.0/16,fd00:32::/48\n  serviceSubnet: 10.33.0.0/16\n";
    let kubeadm = json!({"data": {"ClusterConfiguration": text}});
    let services = json!({"items": [{"spec": {"cidrs": ["10.34.0.0/16"]}}]});
    let unnamed = Named::default();
    let put = |mut values: Values,
               named,
               nodes: &Value,
               kubeadm: Option<&Value>,
               services: Option<&Value>| {
        let asked = discover::put(&mut values, named, &mut |question| {
            Ok(match question {
                ["get", "nodes"] => Some(nodes.clone()),
                ["get", "servicecidrs.networking.k8s.io"] => services.cloned(),
                _ => kubeadm.cloned(),
            })
        });
        asked.map(|()| values).map_err(|error| format!("{error:#}"))
    };
    let ask = |nodes: &Value, kubeadm: Option<&Value>, services: Option<&Value>| {
        put(Values::of(Distribution::default()), unnamed, nodes, kubeadm, services)
    };
    let found = ask(&nodes, Some(&kubeadm), Some(&services)).unwrap();
    assert_eq!(found.cidrs, ["10.32.0.0/16", "fd00:32::/48"]);
    assert_eq!(found.service_cidrs, ["10.34.0.0/16"]);
    assert_eq!(ask(&nodes, Some(&kubeadm), None).unwrap().service_cidrs, ["10.33.0.0/16"]);
    let error = ask(&nodes, None, None).unwrap_err();
    assert!(error.contains("10.32.1.0/24") && error.contains("--set cidrs="), "{error}");
    let stray = json!({"items": [{"spec": {"podCIDRs": ["10.99.1.0/24"]}}]});
    let error = ask(&stray, Some(&kubeadm), None).unwrap_err();
    assert!(error.contains("a node has 10.99.1.0/24"), "{error}");

    // What the messages tell to name is then not asked of the cluster.
    let own = |named| {
        put(values(&["cidrs=10.32.0.0/16", "serviceCidrs=10.43.0.0/16"]), named, &nodes, None, None)
    };
    let error = own(Named { cidrs: true, service_cidrs: false }).unwrap_err();
    assert!(error.contains("--set serviceCidrs="), "{error}");
    let found = own(Named { cidrs: true, service_cidrs: true }).unwrap();
    assert_eq!(
        (found.cidrs, found.service_cidrs),
        (vec!["10.32.0.0/16".to_owned()], vec!["10.43.0.0/16".to_owned()])
    );
    let named = Named { cidrs: true, service_cidrs: true };
    let error = put(values(&["cidrs=10.32.0.0/16"]), named, &stray, None, None).unwrap_err();
    assert!(error.contains("--set cidrs says") && error.contains("10.99.1.0/24"), "{error}");
}

/// As much of Helm's language as the chart uses.
fn render(template: &str, values: &Value) -> String {
    let mut out = String::new();
    let mut shown = vec![true];
    for line in template.lines() {
        let word = line.trim();
        if let Some(condition) = word.strip_prefix("{{- if .Values.") {
            let key = condition.strip_suffix(" }}").unwrap();
            shown.push(values[key].as_bool().unwrap());
        } else if word == "{{- else }}" {
            let last = shown.last_mut().unwrap();
            *last = !*last;
        } else if word == "{{- end }}" {
            shown.pop().unwrap();
        } else if shown.iter().all(|is_shown| *is_shown) {
            let mut rest = line;
            while let Some((before, after)) = rest.split_once("{{ ") {
                let (expression, after) = after.split_once(" }}").unwrap();
                let value = match expression.strip_prefix(".Values.") {
                    // Of a boolean both ways of writing it are the same.
                    Some(key) => values[key.trim_end_matches(" | toJson")].to_string(),
                    None => "\"digest\"".to_owned(),
                };
                out += &format!("{before}{value}");
                rest = after;
            }
            out += &format!("{rest}\n");
        }
    }
    assert_eq!(shown.len(), 1, "every if has its end");
    out
}

/// What the chart makes of `values`, whose words it has defaults for.
fn chart(values: &Value) -> BTreeMap<String, Value> {
    let directory = deploy("helm/culvert");
    let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
    let mut merged: Value = serde_saphyr::from_str(&read("values.yaml")).unwrap();
    for (key, value) in values.as_object().unwrap() {
        assert!(!merged[key].is_null(), "values.yaml has no {key}");
        merged[key] = value.clone();
    }
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory.join("templates")).unwrap() {
        found
            .extend(objects(&render(&fs::read_to_string(entry.unwrap().path()).unwrap(), &merged)));
    }
    found
}

#[test]
fn chart_says_the_same_by_the_same_words() {
    let cases: [(&[&str], Value); 2] = [
        (&[], json!({})),
        (
            &[
                "image=r/c:1",
                "cidrs=10.42.0.0/16,fd00:42::/48",
                "serviceCidrs=10.43.0.0/16",
                "cniBinDir=/a",
                "cniConfDir=/b",
                "surge=false",
                "ownNode=false",
                "sealed=off",
            ],
            json!({
                "image": "r/c:1",
                "cidrs": ["10.42.0.0/16", "fd00:42::/48"],
                "serviceCidrs": ["10.43.0.0/16"],
                "cniBinDir": "/a",
                "cniConfDir": "/b",
                "surge": false,
                "ownNode": false,
                "sealed": "off",
            }),
        ),
    ];
    for (words, chart_values) in cases {
        let (mut expected, mut found) =
            (objects(&manifest(&values(words)).unwrap()), chart(&chart_values));
        for set in [&mut expected, &mut found] {
            let set = set.get_mut("DaemonSet/culvert").unwrap();
            set["spec"]["template"]["metadata"]["annotations"]["culvert.dev/config"] = json!("");
        }
        let tables = [&mut expected, &mut found].map(|objects| {
            let map = objects.remove("ConfigMap/culvert").unwrap();
            map["data"]["config.toml"].as_str().unwrap().parse::<toml::Table>().unwrap()
        });
        assert_eq!(tables[0], tables[1]);
        assert_eq!(found, expected);
    }
    let chart = fs::read_to_string(deploy("helm/culvert/Chart.yaml")).unwrap();
    let chart: Value = serde_saphyr::from_str(&chart).unwrap();
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
}
