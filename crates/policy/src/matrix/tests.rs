use overlay_proto::Protocol;

use super::*;
use crate::read;

const WORLD: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, labels: {app: web, pod-template-hash: a}}
status: {podIPs: [{ip: 10.244.1.2}, {ip: 'fd00::2'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-2, namespace: shop, labels: {app: web, pod-template-hash: b}}
status: {podIPs: [{ip: 10.244.1.3}, {ip: 'fd00::3'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
status: {podIPs: [{ip: 10.244.2.2}, {ip: 'fd00::4'}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: 5432}]
  - from: [{ipBlock: {cidr: 192.168.0.0/16}}]
";

fn world(text: &str) -> World {
    World::new(read::text(text).unwrap().objects)
}

#[test]
fn pods_that_no_policy_tells_apart_are_one_place() {
    let matrix = Matrix::new(&world(WORLD));
    let names: Vec<String> = matrix.places.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["shop/db", "shop/web-* (2 pods)", "192.168.0.0/16", "elsewhere"]);
}

#[test]
fn cells_say_what_passes() {
    let matrix = Matrix::new(&world(WORLD));
    let told = matrix.to_string();
    let expected = "   \
   from \\ to             1                 2    3    4
1  shop/db               all               all  all  all
2  shop/web-* (2 pods)   tcp 5432          all  all  all
3  192.168.0.0/16        all               all
4  elsewhere             –                 all          ";
    let trimmed = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    };
    assert_eq!(trimmed(&told), trimmed(expected), "{told}");
}

#[test]
fn one_port_is_asked_for_alone() {
    let matrix = Matrix::new(&world(WORLD)).only(Traffic::Port(Protocol::Tcp, 80));
    let cell = matrix.cells[1][0].as_ref().unwrap();
    assert!(cell.is_none(), "{cell}");
}

#[test]
fn a_difference_is_told_by_places() {
    let (old, new) = (world(WORLD), world(&WORLD.replace("port: 5432", "port: 5433")));
    let difference = Difference::between(&old, &new);
    assert_eq!(
        difference.to_string(),
        "- shop/web-* (2 pods) → shop/db: tcp 5432\n+ shop/web-* (2 pods) → shop/db: tcp 5433"
    );
    assert!(Difference::between(&old, &old).is_empty());
    let fewer = world(&WORLD.replace("name: web-2", "name: web-3"));
    let difference = Difference::between(&old, &fewer);
    assert_eq!(difference.to_string(), "- pod shop/web-2\n+ pod shop/web-3");
}

#[test]
fn the_page_says_the_same_and_escapes_what_it_is_told() {
    let page = Matrix::new(&world(WORLD)).to_html("A <b>&\"");
    assert!(page.contains("<title>A &lt;b&gt;&amp;&quot;</title>"));
    assert!(page.contains("title=\"shop/web-* (2 pods) → shop/db\">tcp 5432</td>"), "{page}");
    assert!(page.contains("<th colspan=\"5\">outside the cluster</th>"));
    assert!(!page.contains("<script") && !page.contains("http"));
}

/// The pod 10.244.1.2, which may reach what `to`, a list in YAML, says.
fn outgoing(to: &str) -> World {
    world(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, namespace: shop}}\n\
         status: {{podIPs: [{{ip: 10.244.1.2}}]}}\n---\n\
         apiVersion: v1\nkind: Node\nmetadata: {{name: node1, labels: {{role: api}}}}\n\
         status: {{addresses: [{{type: InternalIP, address: 192.0.2.1}}]}}\n---\n\
         apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{name: out, namespace: shop}}\n\
         spec: {{podSelector: {{}}, policyTypes: [Egress], egress: [{{to: {to}}}]}}\n"
    ))
}

fn differences(old: &str, new: &str) -> Vec<String> {
    let difference = Difference::between(&outgoing(old), &outgoing(new));
    difference.to_string().lines().map(str::to_owned).collect()
}

#[test]
fn what_is_no_longer_left_out_is_a_difference() {
    let all = "[{ipBlock: {cidr: 0.0.0.0/0}}]";
    let but = "[{ipBlock: {cidr: 0.0.0.0/0, except: [169.254.169.254/32]}}]";
    assert_eq!(differences(but, all), ["+ shop/web → 169.254.169.254/32: all"]);
    let parts = "[{ipBlock: {cidr: 10.0.0.0/9}}, {ipBlock: {cidr: 10.192.0.0/10}}]";
    let whole = "[{ipBlock: {cidr: 10.0.0.0/8}}]";
    assert_eq!(differences(whole, parts), ["- shop/web → 10.0.0.0/8: all"]);
}

#[test]
fn nodes_that_policies_name_are_places() {
    let node = "[{ipBlock: {cidr: 192.0.2.1/32}}]";
    let none = "[{ipBlock: {cidr: 198.51.100.0/24}}]";
    assert_eq!(
        differences(none, node),
        ["+ shop/web → node node1: all", "- shop/web → 198.51.100.0/24: all"]
    );
    let denied = |world: &str| {
        format!(
            "{world}---\napiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n\
             metadata: {{name: nodes}}\nspec: {{tier: Admin, priority: 1, subject: {{namespaces: {{}}}}, \
             egress: [{{action: Deny, to: [{{nodes: {{matchLabels: {{role: api}}}}}}]}}]}}\n"
        )
    };
    let node = "---\napiVersion: v1\nkind: Node\nmetadata: {name: node1, labels: {role: api}}\n\
                status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}\n";
    let old = format!("{WORLD}{node}");
    let difference = Difference::between(&world(&old), &world(&denied(&old))).to_string();
    assert!(difference.contains("- shop/db → node node1: all"), "{difference}");
}

#[test]
fn elsewhere_is_what_no_policy_names_or_leaves_out() {
    let bogons = "[{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8, 192.0.2.0/24, 198.51.100.0/24, \
                  203.0.113.0/24, 9.0.0.0/8]}}]";
    let matrix = Matrix::new(&outgoing(bogons));
    let elsewhere = matrix.places.iter().position(|it| *it == Place::Elsewhere).unwrap();
    assert!(matrix.cells[0][elsewhere].as_ref().unwrap().v4.as_ref().unwrap().is_all());
}

/// Whatever networks two worlds allow: if any address is treated differently, a place says so.
#[test]
fn no_difference_of_an_address_is_missed() {
    let mut state = 7_u64;
    let mut draw = |below: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut differ = 0;
    for _ in 0..300 {
        let mut list = || {
            let blocks = (0..=draw(2)).map(|_| {
                let len = 28 + draw(4);
                let size = 1 << (32 - len);
                let first = draw(16) / size * size;
                let except = len + 1 + draw(32 - len);
                let inner = first + draw(size) / (1 << (32 - except)) * (1 << (32 - except));
                let except = match draw(2) {
                    0 => String::new(),
                    _ => format!(", except: [10.0.0.{inner}/{except}]"),
                };
                format!("{{ipBlock: {{cidr: 10.0.0.{first}/{len}{except}}}}}")
            });
            format!("[{}]", blocks.collect::<Vec<_>>().join(", "))
        };
        let (old, new) = (list(), list());
        let worlds = [outgoing(&old), outgoing(&new)];
        let judges = worlds.each_ref().map(Judge::new);
        let pod = "10.244.1.2".parse().unwrap();
        let differs = (0..=17).any(|last| {
            let [one, other] =
                judges.each_ref().map(|it| it.openings(pod, [10, 0, 0, last].into()));
            one != other
        });
        let found = !Difference::between(&worlds[0], &worlds[1]).is_empty();
        assert_eq!(found, differs, "{old} and {new}");
        differ += u32::from(differs);
    }
    assert!((50..300).contains(&differ), "{differ} of 300 differ");
}
