use std::os::unix::fs::symlink;

use culvert_policy::object::Kind;
use tokio::sync::mpsc;

use super::*;

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop}\n";
const POLICY: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
                      metadata: {name: web, namespace: shop}\nspec: {podSelector: {}}\n";

fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("pod.yaml"), POD).unwrap();
    fs::write(directory.path().join("policy.yml"), POLICY).unwrap();
    fs::write(directory.path().join("README"), "not: [yaml").unwrap();
    fs::write(directory.path().join(".policy.yaml"), "not: [yaml").unwrap();
    directory
}

fn kinds(objects: &[Object]) -> Vec<Kind> {
    objects.iter().map(|object| object.key().kind()).collect()
}

#[test]
fn files_are_read_with_the_namespaces_that_they_name() {
    let directory = directory();
    let contents = read(directory.path()).unwrap();
    assert_eq!(kinds(&contents.objects), [Kind::Pod, Kind::NetworkPolicy, Kind::Namespace]);
    assert_eq!(contents.findings, []);
}

#[test]
fn faults_are_named_with_their_file() {
    let directory = directory();
    let path = directory.path().display().to_string();
    let refused = |name: &str, text: &str| {
        let file = directory.path().join(name);
        fs::write(&file, text).unwrap();
        let update = told(read(directory.path()));
        fs::remove_file(&file).unwrap();
        let PolicyUpdate::Refused(problem) = update else { panic!("{update:?}") };
        problem
    };
    assert_eq!(
        refused("z.yaml", POD),
        format!("{path}/z.yaml: Pod shop/web is in {path}/pod.yaml as well; remove one of the two")
    );
    assert!(refused("z.yaml", "a: [\n").starts_with(&format!("{path}/z.yaml:")));
    assert_eq!(
        refused(
            "z.json",
            &POLICY.replace("podSelector: {}", "policyTypes: [Both]").replace("web", "b")
        ),
        format!(
            "{path}/z.json: NetworkPolicy shop/b: spec.policyTypes[0] = \"Both\": not a type; write \
             [Ingress], [Egress] or both"
        )
    );
    let missing = told(read(&directory.path().join("missing")));
    assert_eq!(
        missing,
        PolicyUpdate::Lost {
            kind: None,
            why: format!(
                "{path}/missing: cannot be read: No such file or directory (os error 2); create it, \
                 or name another directory"
            ),
        }
    );
}

#[test]
fn what_is_not_understood_is_told_and_does_not_refuse_the_rest() {
    let directory = directory();
    let newer =
        POLICY.replace("podSelector: {}", "podSelector: {}, mode: strict").replace("web", "b");
    fs::write(directory.path().join("newer.yaml"), newer).unwrap();
    let PolicyUpdate::Everything { objects, findings } = told(read(directory.path())) else {
        panic!("it is refused")
    };
    assert_eq!(objects.len(), 4);
    assert_eq!(findings.len(), 1);
}

#[tokio::test]
async fn changes_are_followed_and_faults_leave_what_was_read() {
    let directory = directory();
    let (updates, mut told) = mpsc::channel(8);
    let (ask, questions) = mpsc::channel(8);
    let path = directory.path().to_owned();
    let task = tokio::spawn(follow(path.clone(), Link { updates, questions }));
    let mut next =
        async || tokio::time::timeout(Duration::from_secs(10), told.recv()).await.unwrap().unwrap();
    assert!(matches!(next().await, PolicyUpdate::Everything { objects, .. } if objects.len() == 3));
    // As a ConfigMap that is mounted changes: the file is a link to another one.
    let (old, new) = (path.join(".old"), path.join(".new"));
    fs::write(&new, POLICY.replace("name: web", "name: other")).unwrap();
    symlink(&new, &old).unwrap();
    fs::rename(&old, path.join("more.yaml")).unwrap();
    assert!(matches!(next().await, PolicyUpdate::Everything { objects, .. } if objects.len() == 4));
    fs::write(&new, "a: [").unwrap();
    assert!(matches!(next().await, PolicyUpdate::Refused(_)));
    fs::remove_file(path.join("more.yaml")).unwrap();
    assert!(matches!(next().await, PolicyUpdate::Everything { objects, .. } if objects.len() == 3));
    // Whoever waits for a pod asks again and again, and no file has come.
    for _again in 0..4 {
        ask.send(Question::Pod("shop".to_owned(), "none".to_owned())).await.unwrap();
    }
    ask.send(Question::Reload).await.unwrap();
    assert!(matches!(next().await, PolicyUpdate::Everything { .. }));
    drop(ask);
    task.await.unwrap();
}
