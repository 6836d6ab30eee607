//! Building a lab.
//!
//! Owns what can be chosen about a lab, and the order of things on the way up: description,
//! devices, files, daemons, pods. A step that fails leaves the rest to the end of the half-built
//! [`Lab`].

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use culvert_node::words::counted;
use overlay_proto::Family;

use super::files::{self, Description};
use super::interrupt;
use super::netns::Netns;
use super::network::Lab;
use super::plan::{Families, Plan};
use super::policy::{self, Policies};
use super::{teardown, topology};

/// What a builder calls with each thing that it builds.
type Progress = Box<dyn Fn(&str)>;

/// The description of a lab that is not built yet.
#[must_use]
pub struct LabBuilder {
    plan: Plan,
    culvert: Option<PathBuf>,
    plugin: Option<PathBuf>,
    /// TOML laid over the configuration of every node.
    config: Vec<String>,
    daemon_env: Vec<(String, String)>,
    own_tables: bool,
    daemons: bool,
    sealed: bool,
    policies: Option<Policies>,
    replace: bool,
    progress: Option<Progress>,
}

impl LabBuilder {
    /// The number of nodes.
    pub const fn nodes(mut self, nodes: u16) -> Self {
        self.plan.nodes = nodes;
        self
    }

    /// The number of pods on each node.
    pub const fn pods(mut self, pods: u16) -> Self {
        self.plan.pods = pods;
        self
    }

    /// The families of the pods.
    pub const fn families(mut self, families: Families) -> Self {
        self.plan.families = families;
        self
    }

    /// The family that nodes reach one another by.
    pub const fn underlay(mut self, family: Family) -> Self {
        self.plan.underlay = family;
        self
    }

    /// The underlay's MTU, in bytes; 1500 unless told otherwise.
    pub const fn underlay_mtu(mut self, bytes: u16) -> Self {
        self.plan.underlay_mtu = bytes;
        self
    }

    /// TOML that is laid over every daemon's configuration, key by key.
    pub fn config(mut self, toml: impl Into<String>) -> Self {
        self.config.push(toml.into());
        self
    }

    /// One more variable in every daemon's environment.
    pub fn daemon_env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.daemon_env.push((key.into(), value.into()));
        self
    }

    /// The daemon's program; this process's own unless told otherwise.
    pub fn culvert(mut self, program: impl Into<PathBuf>) -> Self {
        self.culvert = Some(program.into());
        self
    }

    /// The plugin's program; `culvert-cni` beside the daemon's unless told otherwise.
    pub fn plugin(mut self, program: impl Into<PathBuf>) -> Self {
        self.plugin = Some(program.into());
        self
    }

    /// Gives each node a subnet table file of its own, so that nodes can disagree.
    pub const fn own_tables(mut self) -> Self {
        self.own_tables = true;
        self
    }

    /// Gives each node a key, and the table the keys of all: what nodes send one another is sealed.
    /// With the mode `require` nothing else leaves them, with `prefer` it may until they have a
    /// session.
    pub fn sealed(mut self, mode: &str) -> Self {
        self.sealed = true;
        self.config(format!("[sealed]\nmode = \"{mode}\"\n"))
    }

    pub(super) const fn is_sealed(&self) -> bool {
        self.sealed
    }

    /// Has the daemons enforce the network policies in `directory`, which must exist. The lab
    /// writes an object for each of its pods there, with its node and its name as labels.
    ///
    /// # Errors
    ///
    /// There is no such directory.
    pub fn policies(mut self, directory: &Path) -> Result<Self> {
        let directory = policy::directory(directory)?;
        let value = toml::Value::from(directory.to_string_lossy().into_owned());
        let labels = self.policies.take().map(|policies| policies.labels).unwrap_or_default();
        self.policies = Some(Policies { directory, labels });
        Ok(self.config(format!("[policy]\ndirectory = {value}\n")))
    }

    /// Gives the pod called `pod`, such as `node1-pod1`, one more label; for policies.
    pub fn label(mut self, pod: &str, key: &str, value: &str) -> Self {
        let labels = &mut self.policies.get_or_insert_default().labels;
        labels.entry(pod.to_owned()).or_default().insert(key.to_owned(), value.to_owned());
        self
    }

    /// Builds the network and the files, starts no daemon, and attaches no pod.
    pub const fn without_daemons(mut self) -> Self {
        self.daemons = false;
        self
    }

    /// Takes down an older lab of the same name first, as one that a killed test left.
    pub const fn replace(mut self) -> Self {
        self.replace = true;
        self
    }

    /// Calls `progress` with the thing that is being built.
    pub fn progress(mut self, progress: impl Fn(&str) + 'static) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }

    /// Builds the lab. If that fails, nothing of it stays.
    ///
    /// # Errors
    ///
    /// It exists already, this process is not root, a program is missing, or a step failed.
    pub fn up(self) -> Result<Lab> {
        self.plan.check()?;
        ensure!(
            rustix::process::geteuid().is_root(),
            "a lab needs root: it makes network namespaces and devices (try `sudo`)"
        );
        let description = self.describe()?;
        if self.replace {
            teardown::down(&self.plan.name).context("remove the older lab")?;
        }
        if teardown::exists(&self.plan.name)? {
            bail!(files::exists(&self.plan.name));
        }
        description.create()?;
        let lab = Lab::begin(description);
        lab.build(&self)?;
        Ok(lab)
    }

    fn describe(&self) -> Result<Description> {
        let culvert = match &self.culvert {
            Some(path) => path.clone(),
            None => env::current_exe().context("find this program's own file")?,
        };
        let plugin = match &self.plugin {
            Some(path) => path.clone(),
            None => culvert.with_file_name("culvert-cni"),
        };
        // Programs that a lab without daemons does not call need not be there.
        if self.daemons {
            for program in [&culvert, &plugin] {
                ensure!(
                    program.is_file(),
                    "{} is missing: `cargo build --workspace` builds it",
                    program.display()
                );
            }
        }
        Ok(Description {
            plan: self.plan.clone(),
            culvert,
            plugin,
            daemon_env: self.daemon_env.clone(),
            own_tables: self.own_tables,
            policies: self.policies.clone().filter(|policies| policies.directory.is_absolute()),
        })
    }

    fn say(&self, what: &str) {
        if let Some(progress) = &self.progress {
            progress(what);
        }
    }
}

impl Lab {
    /// Starts the description of a lab called `name`: three nodes with two IPv4 pods each.
    pub fn builder(name: impl Into<String>) -> LabBuilder {
        LabBuilder {
            plan: Plan {
                name: name.into(),
                nodes: 3,
                pods: 2,
                families: Families::Ipv4,
                underlay: Family::V4,
                underlay_mtu: 1500,
            },
            culvert: None,
            plugin: None,
            config: Vec::new(),
            daemon_env: Vec::new(),
            own_tables: false,
            daemons: true,
            sealed: false,
            policies: None,
            replace: false,
            progress: None,
        }
    }

    fn build(&self, builder: &LabBuilder) -> Result<()> {
        let plan = self.plan();
        builder.say(&format!("{} and the switch between them", counted(plan.nodes, "node")));
        topology::build(plan)?;
        self.write_files(builder)?;
        if !builder.daemons {
            return Ok(());
        }
        interrupt::check()?;

        builder.say("a daemon on each node");
        for node in self.nodes() {
            node.spawn()?;
        }
        for node in self.nodes() {
            node.wait_ready()?;
        }
        interrupt::check()?;

        if plan.pods > 0 {
            builder.say(&format!(
                "{}, attached by culvert-cni",
                counted(plan.nodes * plan.pods, "pod")
            ));
            self.attach_pods()?;
        }
        interrupt::check()
    }

    fn write_files(&self, builder: &LabBuilder) -> Result<()> {
        let overrides: Vec<&str> = builder.config.iter().map(String::as_str).collect();
        for node in self.nodes() {
            let dir = node.dir();
            fs::create_dir(dir).with_context(|| format!("create {}", dir.display()))?;
            node.write_config(&overrides)?;
        }
        if builder.sealed {
            self.learn_keys()?;
        }
        self.write_table(&self.table().to_toml())
    }

    /// Attaches the pods of all nodes at once, those of one node in their order, so that their
    /// addresses are in order too.
    fn attach_pods(&self) -> Result<()> {
        let pods = self.plan().pods;
        let namespaces: Vec<Netns> = self
            .nodes()
            .iter()
            .flat_map(|node| (1..=pods).map(|pod| node.unattached(pod).netns().clone()))
            .collect();
        Netns::create_all(&namespaces)?;
        thread::scope(|scope| {
            let attaching: Vec<_> = self
                .nodes()
                .iter()
                .map(|node| {
                    scope.spawn(move || {
                        (1..=pods).try_for_each(|pod| {
                            interrupt::check()?;
                            let attached = node.attach(pod).map(drop);
                            attached.map_err(|error| {
                                anyhow!("{error:#}; the daemon's log:{}", node.log_tail())
                            })
                        })
                    })
                })
                .collect();
            attaching.into_iter().try_for_each(|thread| {
                thread.join().unwrap_or_else(|_| Err(anyhow!("a thread that attached pods ended")))
            })
        })
    }
}
