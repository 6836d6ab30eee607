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
