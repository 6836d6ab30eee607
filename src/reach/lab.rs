//! The pods of a lab.

use std::env;

use anyhow::Context as _;
use clap::Args;
use culvert_lab::{DEFAULT_NAME, Lab};

use super::plan::Pod;
use super::{Answering, Manner, Place, words};

#[derive(Debug, Args)]
pub(super) struct LabPlace {
    /// Name of the lab.
    #[arg(long, value_name = "NAME", default_value = DEFAULT_NAME)]
    name: String,
    #[command(flatten)]
    pub(super) manner: Manner,
}

impl LabPlace {
    pub(super) fn place(&self) -> anyhow::Result<Place> {
        let lab = Lab::open(&self.name)?;
        let own = env::current_exe().context("find this program")?;
        let pods = lab.nodes().iter().flat_map(|node| {
            let own = own.clone();
            node.pods().into_iter().map(move |pod| {
                let mut program = words(&["ip", "netns", "exec", pod.netns().name()]);
                program.push(own.clone().into());
                Pod {
                    node: node.name().to_owned(),
                    name: format!("pod{}", pod.index()),
                    addresses: pod.addresses().iter().map(ipnet::IpNet::addr).collect(),
                    program,
                }
            })
        });
        Ok(Place {
            name: format!("lab {}", self.name),
            pods: pods.collect(),
            services: Vec::new(),
            answering: Answering::Started,
        })
    }
}
