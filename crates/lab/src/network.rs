//! A lab as a value: finding the things in it, changing them, and taking it down.
//!
//! Owns the end of a lab. A failure half way up, a panic, or the end of the value's life takes it
//! down, unless it was told to stay.

use std::env;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::thread;

use anyhow::{Result, bail, ensure};
use overlay_proto::Family;

use super::files::{self, Description};
use super::netns::Netns;
use super::node::Node;
use super::plan::{self, Place, Plan};
use super::pod::Pod;
use super::render::TableFile;
use super::teardown;

/// If this is in the environment, a lab stays when the thread that owns it panics.
const KEEP_VARIABLE: &str = "CULVERT_LAB_KEEP";

/// Nodes and pods on this machine.
#[derive(Debug)]
pub struct Lab {
    description: Description,
    nodes: Vec<Node>,
    switch: Netns,
    /// The nodes' public keys, if the lab was built with keys.
    keys: OnceLock<Vec<Vec<String>>>,
    end: End,
}

/// What the end of the value's life does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    TakeDown,
    Stay,
}

impl Lab {
    /// The lab `name`, which another program built. It stays when the value is dropped.
    ///
    /// # Errors
    ///
    /// There is no such lab.
    pub fn open(name: &str) -> Result<Self> {
        Ok(Self::of(Description::open(name)?, End::Stay))
    }

    /// A lab about to be built, which its end takes down.
    pub(super) fn begin(description: Description) -> Self {
        Self::of(description, End::TakeDown)
    }

    fn of(description: Description, end: End) -> Self {
        let plan = &description.plan;
        let nodes = (1..=plan.nodes).map(|node| Node::of(&description, node)).collect();
        let switch = Netns::named(plan.namespace(Place::Switch));
        Self { description, nodes, switch, keys: OnceLock::new(), end }
    }

    /// Its shape and addresses.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.description.plan
    }

    /// Its nodes, in their order.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Node `node`, counted from 1.
    ///
    /// # Panics
    ///
    /// There is no such node.
    #[must_use]
    #[track_caller]
    pub fn node(&self, node: u16) -> &Node {
        let found = usize::from(node).checked_sub(1).and_then(|index| self.nodes.get(index));
        found.unwrap_or_else(|| panic!("no node {node} in a lab of {}", self.nodes.len()))
    }

    /// Pod `pod` of node `node`, both counted from 1.
    ///
    /// # Panics
    ///
    /// There is no such pod.
    #[must_use]
    #[track_caller]
    pub fn pod(&self, node: u16, pod: u16) -> Pod {
        let found = self.node(node).pod(pod);
        found.unwrap_or_else(|| panic!("no pod {pod} is attached to node {node}"))
    }

    /// Every attached pod, in the order of nodes.
    #[must_use]
    pub fn pods(&self) -> Vec<Pod> {
        self.nodes.iter().flat_map(Node::pods).collect()
    }

    /// The namespace of the underlay switch, which is also the world outside the cluster.
    #[must_use]
    pub const fn switch(&self) -> &Netns {
        &self.switch
    }

    /// An address outside the cluster, which the switch answers for.
    #[must_use]
    pub fn outside(&self, family: Family) -> IpAddr {
        plan::outside(family)
    }

    /// The namespace at `place`.
    ///
    /// # Errors
    ///
    /// There is none; the error lists the places there are.
    pub fn netns(&self, place: Place) -> Result<Netns> {
        let netns = Netns::named(self.plan().namespace(place));
        if netns.exists() {
            return Ok(netns);
        }
        let places: Vec<String> = self.places()?.iter().map(ToString::to_string).collect();
        bail!("the lab `{}` has no {place}; it has {}", self.plan().name, places.join(", "))
    }

    /// Every place that has a namespace.
    ///
    /// # Errors
    ///
    /// The names of namespaces cannot be read.
    pub fn places(&self) -> Result<Vec<Place>> {
        let names = Netns::names()?;
        let mut places: Vec<Place> =
            names.iter().filter_map(|found| plan::place_of(&self.plan().name, found)).collect();
        places.sort_unstable();
        Ok(places)
    }

    /// The subnet table that follows from the plan: a start for one that differs.
    #[must_use]
    pub fn table(&self) -> TableFile {
        let mut table = TableFile::of(self.plan());
        for (node, keys) in table.nodes.iter_mut().zip(self.keys.get().into_iter().flatten()) {
            node.public_keys.clone_from(keys);
        }
        table
    }

    /// Has each node make its key, and remembers the public ones for the table.
    pub(super) fn learn_keys(&self) -> Result<()> {
        let keys = self.nodes.iter().map(Node::public_keys).collect::<Result<_>>()?;
        // Once, while the lab is built.
        let _ = self.keys.set(keys);
        Ok(())
    }

    /// Replaces the subnet table of every node, in one step each.
    ///
    /// # Errors
    ///
    /// A file cannot be written.
    pub fn write_table(&self, text: &str) -> Result<()> {
        let mut paths: Vec<PathBuf> = self.nodes.iter().map(Node::table_path).collect();
        paths.dedup();
        paths.iter().try_for_each(|path| files::write(path, text))
    }

    /// Replaces the subnet table of one node.
    ///
    /// # Errors
    ///
    /// The lab was built without [`own_tables`](super::LabBuilder::own_tables), or the file cannot
    /// be written.
    pub fn write_table_of(&self, node: u16, text: &str) -> Result<()> {
        ensure!(self.description.own_tables, "the nodes of this lab share one subnet table");
        files::write(&self.node(node).table_path(), text)
    }

    /// Attaches one more pod to node `node`.
    ///
    /// # Errors
    ///
    /// Those of [`Node::add_pod`].
    pub fn add_pod(&self, node: u16) -> Result<Pod> {
        self.node(node).add_pod()
    }

    /// Detaches pod `pod` of node `node` and removes it.
    ///
    /// # Errors
    ///
    /// Those of [`Node::remove_pod`].
    pub fn remove_pod(&self, node: u16, pod: u16) -> Result<()> {
        self.node(node).remove_pod(pod)
    }

    /// Lets the lab stay when the value is dropped.
    pub const fn keep(&mut self) {
        self.end = End::Stay;
    }

    /// Takes the lab down: daemons first, all at once, then everything else.
    ///
    /// # Errors
    ///
    /// Something could not be removed; the rest is.
    pub fn down(mut self) -> Result<()> {
        self.end = End::Stay;
        self.take_down()
    }

    fn take_down(&self) -> Result<()> {
        let removed = teardown::down(&self.plan().name);
        self.nodes.iter().for_each(Node::collect);
        removed.map(drop)
    }

    /// Says, to whoever reads about the panic, what the daemons said and where to look.
    fn explain_panic(&self, kept: bool) {
        let mut text = format!("lab `{}`:\n", self.plan().name);
        for node in &self.nodes {
            let state = match node.pid() {
                Some(pid) => format!("daemon {pid}"),
                None => "no daemon".to_owned(),
            };
            text += &format!("  {}, {state}; end of its log:{}\n", node.name(), node.log_tail());
        }
        if kept {
            text += "  it stays; look inside with\n";
            for place in self.places().unwrap_or_default() {
                let netns = Netns::named(self.plan().namespace(place));
                text += &format!("    {}\n", netns.shell_line());
            }
            let option = files::option(&self.plan().name);
            text += &format!("  and remove it with `culvert lab down{option}`\n");
        } else {
            text += &format!("  set {KEEP_VARIABLE}=1 to keep it and look inside with\n");
            text += &format!("    {}\n", self.node(1).netns().shell_line());
        }
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.end == End::Stay {
            return;
        }
        if thread::panicking() {
            let kept = env::var_os(KEEP_VARIABLE).is_some();
            self.explain_panic(kept);
            if kept {
                return;
            }
        }
        if let Err(error) = self.take_down() {
            let name = &self.plan().name;
            let text = format!("lab `{name}`: not all of it could be removed: {error:#}\n");
            let _ = io::stderr().write_all(text.as_bytes());
        }
    }
}
