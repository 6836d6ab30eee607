//! The containers of docker-compose.yml, as the engine lists them.
//!
//! Owns the calls of `docker` and the label by which nodes and daemons of the simulation are told
//! from other containers. Changes nothing.

use std::io;
use std::process::Command;

use anyhow::{Context as _, bail};
use clap::Args;

/// What docker-compose.yml says of a container: `node` of the machines with pods, `daemon` of
/// their daemons.
const ROLE: &str = "culvert.role";
const PROJECT: &str = "com.docker.compose.project";

/// Which cluster is meant.
#[derive(Clone, Debug, Args)]
pub(crate) struct Project {
    /// The project of Compose; the only one that runs, unless named.
    #[arg(long, env = "COMPOSE_PROJECT_NAME", value_name = "NAME")]
    project: Option<String>,
}

/// A container that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Container {
    /// By which `docker exec` knows it, also after Compose has made it anew.
    pub(crate) name: String,
    /// Its service: node1, daemon1.
    pub(crate) service: String,
}

/// The containers with this role of the cluster that is meant, by their services, and the name of
/// the project.
///
/// # Errors
///
/// There is no docker, it fails, or it is not clear which cluster is meant.
pub(crate) fn containers(meant: &Project, role: &str) -> anyhow::Result<(String, Vec<Container>)> {
    let form = format!("{{{{.Names}}}} {{{{.Label \"{PROJECT}\"}}}} {{{{.Label \"{SERVICE}\"}}}}");
    let filter = format!("label={ROLE}={role}");
    let listed = output(docker().args(["ps", "--filter", &filter, "--format", &form]))?;
    choose(&listed, meant.project.as_deref())
}

const SERVICE: &str = "com.docker.compose.service";

/// Takes the containers of the project that is meant from a list: name, project and service a line.
fn choose(listed: &str, meant: Option<&str>) -> anyhow::Result<(String, Vec<Container>)> {
    let all: Vec<(&str, Container)> = listed
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (name, project, service) = (words.next()?, words.next()?, words.next()?);
            Some((project, Container { name: name.to_owned(), service: service.to_owned() }))
        })
        .filter(|(project, _)| meant.is_none_or(|meant| *project == meant))
        .collect();
    let Some((project, _)) = all.first() else {
        match meant {
            Some(meant) => bail!("no nodes run in the project \"{meant}\" of Compose"),
            None => bail!("no nodes run: bring them up by `docker compose up -d`"),
        }
    };
    if let Some((other, _)) = all.iter().find(|(other, _)| other != project) {
        bail!("there are several clusters: name one by --project, such as {project} or {other}");
    }
    let project = (*project).to_owned();
    let mut containers: Vec<Container> = all.into_iter().map(|(_, container)| container).collect();
    containers.sort_by(|one, other| one.service.cmp(&other.service));
    Ok((project, containers))
}

/// The program.
pub(crate) fn docker() -> Command {
    Command::new("docker")
}

/// What docker prints; what it complains about becomes the error.
pub(crate) fn output(docker: &mut Command) -> anyhow::Result<String> {
    let output = docker.output().map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            return anyhow::anyhow!("there is no docker on the PATH; install it");
        }
        anyhow::Error::new(error)
    });
    let output = output.context("run docker")?;
    if !output.status.success() {
        bail!("docker: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_cluster_is_meant_and_one_of_several_is_named() {
        let one = "demo_node2_1 demo node2\ndemo_node1_1 demo node1\n";
        let (project, found) = choose(one, None).unwrap();
        assert_eq!(project, "demo");
        let services: Vec<_> = found.iter().map(|it| (&*it.name, &*it.service)).collect();
        assert_eq!(services, [("demo_node1_1", "node1"), ("demo_node2_1", "node2")]);

        let two = "demo_node2_1 demo node2\nother_node1_1 other node1\n";
        let error = choose(two, None).unwrap_err().to_string();
        assert!(error.contains("such as demo or other"), "{error}");
        assert_eq!(choose(two, Some("other")).unwrap().1.len(), 1);
        assert!(choose(two, Some("third")).unwrap_err().to_string().contains("\"third\""));
        assert!(choose("", None).unwrap_err().to_string().contains("docker compose up -d"));
    }
}
