//! The pods of docker-compose.yml: namespaces inside the containers that are machines.

use clap::Args;

use super::plan::Pod;
use super::{Answering, Manner, Place, words};
use crate::compose::{Project, containers, docker, output};

#[derive(Debug, Args)]
pub(super) struct ComposePlace {
    #[command(flatten)]
    project: Project,
    #[command(flatten)]
    pub(super) manner: Manner,
}

impl ComposePlace {
    pub(super) fn place(&self) -> anyhow::Result<Place> {
        let (project, nodes) = containers(&self.project, "node")?;
        let mut pods = Vec::new();
        for node in nodes {
            let said = output(docker().args(["exec", &node.name, "pod", "list"]))?;
            for name in said.lines().map(str::trim).filter(|name| !name.is_empty()) {
                let address = output(docker().args(["exec", &node.name, "pod", "address", name]))?;
                let exec = ["docker", "exec", "--interactive", &node.name];
                pods.push(Pod {
                    node: node.service.clone(),
                    name: name.to_owned(),
                    addresses: address.split_whitespace().flat_map(str::parse).collect(),
                    program: words(&[&exec[..], &["pod", "exec", name, "culvert"]].concat()),
                });
            }
        }
        let services = Vec::new();
        let name = format!("compose {project}");
        Ok(Place { name, pods, services, answering: Answering::Started })
    }
}
