//! How long `culvert doctor` takes.
//!
//! On a node of three with some pods, and on one with a thousand peers: all of which answer, or
//! none of which does, which is as long as it can take. Each round has a call of each kind.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_lab::{Lab, Node, clock, interrupt, wait_until};
use serde::Serialize;

use crate::networks::{PREFIX, bypass_filters};
use crate::programs::Programs;
use crate::stand_ins::{Crowd, StandIns};

/// Nodes and pods of each, where a node is as it is in a small cluster.
const NODES: u16 = 3;
const PODS: u16 = 10;

/// Peers of a large one.
const PEERS: u32 = 1000;

/// How long a daemon may take for its table.
const LIMIT: Duration = Duration::from_secs(20);

/// Calls of one kind.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Calls {
    pub(super) what: &'static str,
    /// What each took.
    pub(super) seconds: Vec<f64>,
    /// How it is to end, and how many calls ended otherwise: on a busy machine the daemon does not
    /// answer in time, or peers do not.
    code: i32,
    pub(super) otherwise: usize,
    /// The most that the median may be.
    pub(super) limit: f64,
}

/// Calls doctor so often in each way.
pub(super) fn measure(programs: &Programs, calls: usize) -> Result<Vec<Calls>> {
    let small = Lab::builder(format!("{PREFIX}doctor"))
        .nodes(NODES)
        .pods(PODS)
        .culvert(&programs.culvert)
        .plugin(&programs.plugin)
        .replace()
        .up()?;
    bypass_filters(&small)?;
    let crowd = Crowd { peers: PEERS, present: PEERS };
    let large = StandIns::build("doctor-many", programs, crowd, "")?;
    large.node().start()?;
    large.lab.add_pod(1)?;
    wait_until(LIMIT, "the large table", || {
        let nodes = large.node().status().ok().and_then(|it| it["table"]["nodes"].as_u64());
        nodes == Some(u64::from(PEERS) + 1)
    })?;
    let kind = |what, limit, code| Calls { what, seconds: Vec::new(), code, otherwise: 0, limit };
    let mut found = vec![
        kind("doctor, 3 nodes, 10 pods", 1.0, 0),
        kind("doctor --peers, 3 nodes", 1.0, 0),
        kind("doctor, 1,000 peers", 1.0, 0),
        kind("doctor --peers, 1,000 that answer", 3.0, 0),
        kind("doctor --peers, 1,000 silent", 3.0, 1),
    ];
    for _ in 0..calls {
        interrupt::check()?;
        found[0].call(programs, small.node(1), &[])?;
        found[1].call(programs, small.node(1), &["--peers"])?;
        found[2].call(programs, large.node(), &[])?;
        large.while_answering(|_| found[3].call(programs, large.node(), &["--peers"]))?;
        found[4].call(programs, large.node(), &["--peers"])?;
    }
    Ok(found)
}

impl Calls {
    /// Makes one more call.
    fn call(&mut self, programs: &Programs, node: &Node, arguments: &[&str]) -> Result<()> {
        let mut command: Command = node.netns().command(&programs.culvert);
        command.arg("doctor").args(arguments);
        command.arg("--run-dir").arg(node.run_dir()).arg("--config").arg(node.config_path());
        let start = clock::now();
        let output = command.stdin(Stdio::null()).output().context("run culvert doctor")?;
        self.seconds.push(start.elapsed().as_secs_f64());
        let code = output.status.code();
        self.otherwise += usize::from(code != Some(self.code));
        ensure!(
            matches!(code, Some(0 | 1)) && !output.stdout.is_empty(),
            "doctor {arguments:?} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}
