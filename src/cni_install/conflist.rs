//! The network configuration list that runtimes read.

use std::path::Path;

use clap::ValueEnum;
use culvert_node::node_file::{DEFAULT_RUN_DIR, DEFAULT_STATE_DIR};
use serde_json::{Value, json};

use super::PROGRAM;

/// The files of `deploy/cni`, which are also the start of what is installed.
const FILE_1_0_0: &str = include_str!("../../deploy/cni/10-culvert.conflist");
const FILE_1_1_0: &str = include_str!("../../deploy/cni/10-culvert-1.1.0.conflist");

/// Version of the CNI specification that the configuration asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Version {
    /// Every runtime knows it.
    #[default]
    #[value(name = "1.0.0")]
    V1_0_0,
    /// Runtimes also ask for STATUS and call GC; the chained plugins have to know it as well.
    #[value(name = "1.1.0")]
    V1_1_0,
}

/// A stock plugin that can stand behind ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Chained {
    /// Has ports of the node lead to pods (hostPort), in place of our plugin.
    Portmap,
    /// Limits the rate of pods.
    Bandwidth,
    /// Lets pods through a firewall that drops by default.
    Firewall,
    /// Sets kernel parameters of pods.
    Tuning,
}

impl Chained {
    fn entry(self) -> Value {
        match self {
            Self::Portmap => json!({"type": "portmap", "capabilities": {"portMappings": true}}),
            Self::Bandwidth => json!({"type": "bandwidth", "capabilities": {"bandwidth": true}}),
            Self::Firewall => json!({"type": "firewall"}),
            Self::Tuning => json!({"type": "tuning"}),
        }
    }
}

/// A network configuration list to write.
#[derive(Clone, Debug, Default)]
pub(super) struct Conflist {
    pub(super) version: Version,
    pub(super) chain: Vec<Chained>,
}

impl Conflist {
    /// Names of the other plugins' programs.
    pub(super) fn chained(&self) -> Vec<String> {
        let entries = self.chain.iter().map(|chained| chained.entry());
        entries.filter_map(|entry| entry["type"].as_str().map(str::to_owned)).collect()
    }

    /// The file's text.
    pub(super) fn text(&self, run_dir: &Path, state_dir: &Path) -> String {
        let file = match self.version {
            Version::V1_0_0 => FILE_1_0_0,
            Version::V1_1_0 => FILE_1_1_0,
        };
        let mut list: Value = serde_json::from_str(file).expect("a test reads the shipped files");
        let ours = &mut list["plugins"][0];
        for (key, dir, default) in
            [("runDir", run_dir, DEFAULT_RUN_DIR), ("stateDir", state_dir, DEFAULT_STATE_DIR)]
        {
            if dir != Path::new(default) {
                ours[key] = json!(dir);
            }
        }
        if self.chain.contains(&Chained::Portmap) {
            // Whoever chains it wants it to do that, and it alone.
            ours["capabilities"] = json!({});
        }
        if let Some(plugins) = list["plugins"].as_array_mut() {
            plugins.extend(self.chain.iter().map(|chained| chained.entry()));
        }
        format!("{list:#}\n")
    }
}

/// Whether a configuration list has our plugin in it.
pub(super) fn is_ours(text: &str) -> bool {
    let list: Value = serde_json::from_str(text).unwrap_or_default();
    let plugins = list["plugins"].as_array();
    plugins.is_some_and(|plugins| plugins.iter().any(|plugin| plugin["type"] == PROGRAM))
}
