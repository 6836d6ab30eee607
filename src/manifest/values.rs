//! What differs from cluster to cluster: the words of `--set` and of the Helm chart's values.

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;

/// Where a cluster comes from, as far as its nodes have plugins in other places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Distribution {
    /// kubeadm and whoever keeps to its places: RKE2, Talos, k0s, kind.
    #[default]
    Kubeadm,
    /// K3s from its releases of October 2024 on.
    K3s,
    /// MicroK8s.
    #[value(name = "microk8s")]
    MicroK8s,
    /// containerd of Debian and Ubuntu with its own configuration.
    Debian,
}

impl Distribution {
    /// Directories of plugins and of network configurations.
    pub(super) const fn directories(self) -> (&'static str, &'static str) {
        match self {
            Self::Kubeadm => (BIN_DIR, CONF_DIR),
            Self::K3s => {
                ("/var/lib/rancher/k3s/data/cni", "/var/lib/rancher/k3s/agent/etc/cni/net.d")
            }
            Self::MicroK8s => (
                "/var/snap/microk8s/current/opt/cni/bin",
                "/var/snap/microk8s/current/args/cni-network",
            ),
            Self::Debian => ("/usr/lib/cni", CONF_DIR),
        }
    }
}

/// Where `deploy/kubernetes` has them.
pub(super) const BIN_DIR: &str = "/opt/cni/bin";
pub(super) const CONF_DIR: &str = "/etc/cni/net.d";

/// The values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Values {
    /// Where the nodes find the image.
    pub(super) image: String,
    /// The pod networks.
    pub(super) cidrs: Vec<String>,
    /// The service networks.
    pub(super) service_cidrs: Vec<String>,
    /// Directory of plugins on the nodes.
    pub(super) cni_bin_dir: String,
    /// Directory of network configurations on the nodes.
    pub(super) cni_conf_dir: String,
    /// Whether a new daemon starts beside the old one: Kubernetes 1.25, or 1.22 with the feature
    /// gate `DaemonSetUpdateSurge`.
    pub(super) surge: bool,
    /// Whether the API server keeps each daemon to its own Node: Kubernetes 1.30.
    pub(super) own_node: bool,
    /// Whether nodes encrypt what they send one another.
    pub(super) sealed: String,
}

impl Values {
    pub(super) fn of(distribution: Distribution) -> Self {
        let (bin_dir, conf_dir) = distribution.directories();
        Self {
            image: "culvert:latest".to_owned(),
            cidrs: vec!["10.244.0.0/16".to_owned()],
            service_cidrs: vec!["10.96.0.0/12".to_owned()],
            cni_bin_dir: bin_dir.to_owned(),
            cni_conf_dir: conf_dir.to_owned(),
            surge: true,
            own_node: true,
            sealed: "prefer".to_owned(),
        }
    }

    /// Takes one `KEY=VALUE`.
    pub(super) fn set(&mut self, word: &str) -> Result<()> {
        let (key, value) =
            word.split_once('=').with_context(|| format!("--set {word:?}: write KEY=VALUE"))?;
        // What it becomes is text in quotes, in YAML and in TOML.
        ensure!(
            value.chars().all(|letter| !letter.is_control() && !['"', '\\'].contains(&letter)),
            "--set {key}: a value has no quotes, backslashes or control characters"
        );
        let text = || {
            ensure!(!value.is_empty(), "--set {key}: the value is empty");
            Ok(value.to_owned())
        };
        let directory = || {
            ensure!(value.starts_with('/'), "--set {key}={value}: write an absolute path");
            Ok(value.to_owned())
        };
        let choice =
            || value.parse().with_context(|| format!("--set {key}={value}: write true or false"));
        let list = || value.split(',').filter(|it| !it.is_empty()).map(str::to_owned).collect();
        match key {
            "image" => self.image = text()?,
            "cidrs" => self.cidrs = list(),
            "serviceCidrs" => self.service_cidrs = list(),
            "cniBinDir" => self.cni_bin_dir = directory()?,
            "cniConfDir" => self.cni_conf_dir = directory()?,
            "surge" => self.surge = choice()?,
            "ownNode" => self.own_node = choice()?,
            "sealed" => self.sealed = text()?,
            _ => bail!(
                "--set {key}: there is no such value; there are image, cidrs, serviceCidrs, \
                 cniBinDir, cniConfDir, surge, ownNode and sealed"
            ),
        }
        Ok(())
    }
}
