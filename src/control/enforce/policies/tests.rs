use culvert_nft::TableFlags;
use culvert_policy::object::Pod;

use super::*;
use crate::control::enforce::fixture::objects;

/// The node of the fixture, which has been told everything.
fn policies(directory: &Path) -> Policies {
    let enforcer = Enforcer::new(TableFlags::None);
    let unknown = UnknownPods::Refuse;
    let mut policies = Policies::new("node1", "v-net-0", directory, "a test", unknown, enforcer);
    policies.take(vec![News::All(objects())]);
    assert!(policies.is_stale && policies.outdated == Outdated::Here);
    policies
}

/// What `change` makes of a plan and a copy that were of now.
fn after(policies: &mut Policies, change: Change) -> (bool, Outdated) {
    (policies.is_stale, policies.outdated) = (false, Outdated::Nothing);
    policies.take(vec![News::Changed(vec![change])]);
    (policies.is_stale, policies.outdated)
}

fn pod(policies: &Policies, name: &str) -> Pod {
    Pod::clone(policies.world.pod("default", name).unwrap())
}

#[test]
fn what_is_said_again_asks_for_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut policies = policies(directory.path());
    for object in objects() {
        assert_eq!(after(&mut policies, Change::Put(object)), (false, Outdated::Nothing));
    }
    let nobody = Change::Delete(Key::Pod("default".into(), "nobody".into()));
    assert_eq!(after(&mut policies, nobody), (false, Outdated::Nothing));
}

#[test]
fn pods_of_other_nodes_are_kept_later_and_all_else_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut policies = policies(directory.path());
    let elsewhere =
        Pod { name: "other".into(), node: Some("node2".into()), ..pod(&policies, "client") };
    let put = |pod: &Pod| Change::Put(Object::Pod(pod.clone()));
    assert_eq!(after(&mut policies, put(&elsewhere)), (true, Outdated::Elsewhere));
    let comes = Pod { node: Some("node1".into()), ..elsewhere.clone() };
    assert_eq!(after(&mut policies, put(&comes)), (true, Outdated::Here));
    assert_eq!(after(&mut policies, put(&elsewhere)), (true, Outdated::Here), "it was here");
    let gone = Change::Delete(Key::Pod("default".into(), "client".into()));
    assert_eq!(after(&mut policies, gone), (true, Outdated::Here));
    let policy = Change::Delete(Key::NetworkPolicy("default".into(), "server".into()));
    assert_eq!(after(&mut policies, policy), (true, Outdated::Here));
}

#[test]
fn why_a_pod_is_not_known_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let mut policies = policies(directory.path());
    let client = Pod { uid: Some("u-1".into()), ..pod(&policies, "client") };
    let in_the_nodes = Pod { name: "proxy".into(), host_network: true, ..client.clone() };
    after(&mut policies, Change::Put(Object::Pod(client)));
    after(&mut policies, Change::Put(Object::Pod(in_the_nodes)));
    let why = |name: &str, uid: Option<&str>| {
        let uid = uid.map(str::to_owned);
        policies.unknown(Some(&PodName { namespace: "default".into(), name: name.into(), uid }))
    };
    assert_eq!((why("client", Some("u-1")), why("client", None)), (None, None));
    assert!(why("client", Some("u-2")).unwrap().contains("has the uid u-1"));
    assert!(why("proxy", None).unwrap().contains("uses the network of its node"));
    assert!(why("nobody", None).unwrap().contains("there is no pod default/nobody"));
    assert!(policies.unknown(None).unwrap().contains("CNI_ARGS"));
}
