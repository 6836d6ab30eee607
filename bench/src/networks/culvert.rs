//! Culvert, as a user installs it: its daemon on each node, pods attached by its plugin.

use anyhow::{Context as _, Result};
use culvert_lab::Lab;

use super::{Network, Recipe};
use crate::programs::Programs;
use crate::traffic::Pod;

pub(crate) struct Culvert {
    name: String,
    about: String,
    programs: Programs,
    /// TOML laid over the lab's configuration.
    config: String,
    /// Whether the nodes have keys, and have to seal.
    sealed: bool,
}

impl Culvert {
    /// The network `name` of these programs.
    pub(crate) fn new(name: &str, programs: &Programs) -> Self {
        Self {
            name: name.to_owned(),
            about: "culvert with its defaults".to_owned(),
            programs: programs.clone(),
            config: String::new(),
            sealed: false,
        }
    }

    /// The same where nodes seal all that they send one another, by `cipher`.
    pub(crate) fn sealed(mut self, cipher: &str) -> Self {
        self.sealed = true;
        self.with_config(&format!("[sealed]\nciphers = [\"{cipher}\"]"))
            .with_about(&format!("culvert that seals, with {cipher}"))
    }

    pub(crate) fn with_config(mut self, toml: &str) -> Self {
        toml.clone_into(&mut self.config);
        self
    }

    pub(crate) fn with_about(mut self, about: &str) -> Self {
        about.clone_into(&mut self.about);
        self
    }
}

impl Recipe for Culvert {
    fn name(&self) -> &str {
        &self.name
    }

    fn about(&self) -> String {
        self.about.clone()
    }

    fn build(&self, lab: String) -> Result<Network> {
        let mut builder = Lab::builder(lab)
            .nodes(2)
            .pods(1)
            .culvert(&self.programs.culvert)
            .plugin(&self.programs.plugin)
            .config(&self.config)
            .replace();
        if self.sealed {
            builder = builder.sealed("require");
        }
        let lab = builder.up()?;
        let pods = [1, 2].map(|node| Pod::from(&lab.pod(node, 1)));
        let daemons = lab.nodes().iter().map(culvert_lab::Node::pid).collect::<Option<_>>();
        let daemons = daemons.context("a daemon has ended")?;
        let mut network = Network::new(lab, pods);
        network.daemons = daemons;
        Ok(network)
    }
}
