//! A pod on every node of a cluster, made for the test with Culvert's own image and removed with
//! it.
//!
//! Everything is in a namespace of its own, which must not be there before: what was there before
//! is never changed. `kubectl` is what speaks to the cluster.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use clap::Args;
use culvert_reach::DEFAULT_PORT;

use super::plan::Pod;
use super::{Answering, Manner, Place, Service, words};
use crate::kubectl;

/// The objects.
const MANIFEST: &str = include_str!("kubernetes.yaml");

/// How long the pods may take until they answer.
const READY: &str = "180s";

#[derive(Clone, Debug, Args)]
#[command(
    after_help = "If it is interrupted, `kubectl delete namespace culvert-test` removes what it has made."
)]
pub(super) struct KubernetesPlace {
    /// The image of the pods: that of the daemon, unless named.
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// The namespace that is made for the test.
    #[arg(long, value_name = "NAME", default_value = "culvert-test")]
    test_namespace: String,
    /// The namespace of the DaemonSet.
    #[arg(short, long, value_name = "NAME", default_value = "culvert")]
    namespace: String,
    /// The context of the kubeconfig.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    #[command(flatten)]
    pub(super) manner: Manner,
}

/// What was made; it is removed with this.
#[derive(Debug)]
pub(super) struct Deployed {
    place: KubernetesPlace,
    is_removed: bool,
}

impl KubernetesPlace {
    fn kubectl(&self) -> Command {
        let mut kubectl = Command::new("kubectl");
        if let Some(context) = &self.context {
            kubectl.args(["--context", context]);
        }
        kubectl
    }

    /// What kubectl prints when called with these words.
    fn ask(&self, words: &[&str]) -> anyhow::Result<String> {
        kubectl::output(self.kubectl().args(words))
    }

    /// Makes the pods, and waits until they answer.
    pub(super) fn deploy(&self) -> anyhow::Result<Deployed> {
        let image = match &self.image {
            Some(image) => image.clone(),
            None => self.image_of_the_daemon()?,
        };
        // What stands in quotes of a manifest would be another one.
        let is_plain =
            |text: &str| text.chars().all(|it| it.is_ascii_alphanumeric() || "-._/:@".contains(it));
        if !is_plain(&image) || !is_plain(&self.test_namespace) {
            bail!("\"{image}\" or \"{}\" is no name", self.test_namespace);
        }
        let manifest = MANIFEST.replace("IMAGE", &image).replace("NAMESPACE", &self.test_namespace);
        let there = self.ask(&[
            "get",
            "namespace",
            &self.test_namespace,
            "--ignore-not-found",
            "--output",
            "name",
        ])?;
        if !there.trim().is_empty() {
            bail!(
                "the namespace \"{0}\" is there already: `kubectl delete namespace {0}` removes what \
                 an interrupted test has left, --test-namespace names another one",
                self.test_namespace
            );
        }
        let deployed = Deployed { place: self.clone(), is_removed: false };
        self.create(&manifest)?;
        let space = &*self.test_namespace;
        let timeout = format!("--timeout={READY}");
        self.ask(&["--namespace", space, "rollout", "status", "daemonset/culvert-test", &timeout])
            .context("wait for the pods")?;
        Ok(deployed)
    }

    fn image_of_the_daemon(&self) -> anyhow::Result<String> {
        const FORM: &str = "jsonpath={.spec.template.spec.containers[0].image}";
        let words =
            ["--namespace", &self.namespace, "get", "daemonset", "culvert", "--output", FORM];
        let image = self.ask(&words).context("ask for the daemon's image")?;
        if image.trim().is_empty() {
            bail!("the DaemonSet of Culvert names no image: name one by --image");
        }
        Ok(image.trim().to_owned())
    }

    fn create(&self, manifest: &str) -> anyhow::Result<()> {
        let mut kubectl = self
            .kubectl()
            .args(["create", "--filename", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(kubectl::absent)?;
        let written = kubectl.stdin.take().context("open a pipe")?.write_all(manifest.as_bytes());
        let output = kubectl.wait_with_output().context("wait for kubectl")?;
        if !output.status.success() {
            bail!("kubectl create: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        written.context("write to kubectl")
    }
}

impl Deployed {
    pub(super) fn place(&self) -> anyhow::Result<Place> {
        const FORM: &str = "jsonpath={range .items[*]}{.spec.nodeName} {.metadata.name} \
                            {.status.podIPs[*].ip}{\"\\n\"}{end}";
        let place = &self.place;
        let space = &*place.test_namespace;
        let in_space = ["--namespace", space];
        let listed = place.ask(
            &[
                &in_space[..],
                &["get", "pods", "--selector", "app.kubernetes.io/name=culvert-test"],
                &["--field-selector", "status.phase=Running", "--output", FORM],
            ]
            .concat(),
        )?;
        let mut pods = Vec::new();
        for line in listed.lines() {
            let mut fields = line.split_whitespace();
            let (Some(node), Some(pod)) = (fields.next(), fields.next()) else { continue };
            let mut program = words(&["kubectl"]);
            if let Some(context) = &place.context {
                program.extend(words(&["--context", context]));
            }
            program.extend(words(&["--namespace", space, "exec", pod, "--", "/bin/culvert"]));
            pods.push(Pod {
                node: node.to_owned(),
                // There is one on each node.
                name: "pod".to_owned(),
                addresses: fields.flat_map(str::parse).collect(),
                program,
            });
        }
        pods.sort_by(|one, other| one.node.cmp(&other.node));
        let addresses = place.ask(
            &[
                &in_space[..],
                &["get", "service", "culvert-test", "--output", "jsonpath={.spec.clusterIPs[*]}"],
            ]
            .concat(),
        )?;
        let services = addresses.split_whitespace().filter_map(|text| {
            let address: std::net::IpAddr = text.parse().ok()?;
            let name = format!("service {address}");
            Some(Service { name, address: (address, DEFAULT_PORT).into() })
        });
        Ok(Place {
            name: "kubernetes".to_owned(),
            pods,
            services: services.collect(),
            answering: Answering::There,
        })
    }

    /// Removes everything, without waiting until it is gone.
    pub(super) fn remove(mut self) -> anyhow::Result<()> {
        self.delete().context("remove what was made for the test")
    }

    fn delete(&mut self) -> anyhow::Result<()> {
        self.is_removed = true;
        let space = &*self.place.test_namespace;
        self.place.ask(&["delete", "namespace", space, "--wait=false"]).map(drop)
    }
}

impl Drop for Deployed {
    fn drop(&mut self) {
        if !self.is_removed {
            // The error that led here is the one that is told.
            let _ = self.delete();
        }
    }
}
