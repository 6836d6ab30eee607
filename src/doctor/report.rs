//! The answer, for people and for programs.

use std::fmt;

use culvert_node::words::counted;
use serde::Serialize;

use super::finding::{Finding, Verdict};

/// Columns before what was found.
const INDENT: usize = 26;

/// Everything that was found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// Name of the node; empty where nobody could say it.
    node: String,
    /// Version of this program.
    version: &'static str,
    /// Release of the kernel.
    kernel: String,
    /// Hash of the table; empty where there is none.
    table: String,
    /// Nodes in the table.
    nodes: usize,
    /// What the checks say, in their order.
    checks: Vec<Finding>,
    failures: usize,
    warnings: usize,
}

/// Whom the answer is about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heading {
    pub(crate) node: String,
    pub(crate) kernel: String,
    pub(crate) table: String,
    pub(crate) nodes: usize,
}

impl Report {
    pub(super) fn new(heading: Heading, checks: Vec<Finding>) -> Self {
        let count = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
        let Heading { node, kernel, table, nodes } = heading;
        Self {
            node,
            version: env!("CARGO_PKG_VERSION"),
            kernel,
            table,
            nodes,
            failures: count(Verdict::Fail),
            warnings: count(Verdict::Warn),
            checks,
        }
    }

    /// Whether something is in the way of packets.
    pub(super) const fn has_failed(&self) -> bool {
        self.failures > 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = if self.node.is_empty() { "unknown node" } else { &self.node };
        write!(f, "{node}  culvert {}  kernel {}", self.version, self.kernel)?;
        if !self.table.is_empty() {
            write!(f, "  table {} ({})", self.table, counted(self.nodes, "node"))?;
        }
        writeln!(f)?;
        for Finding { check, peer, verdict, found, remedy } in &self.checks {
            let about = peer.as_ref().map_or_else(String::new, |peer| format!("{peer}: "));
            writeln!(f, "  {verdict:<4}  {check:<17} {about}{found}")?;
            if let Some(remedy) = remedy {
                writeln!(f, "{:INDENT$}{remedy}", "")?;
            }
        }
        write!(f, "{}, {}", counted(self.failures, "failure"), counted(self.warnings, "warning"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_has_a_line_and_its_remedy_another() {
        let heading = Heading {
            node: "node1".to_owned(),
            kernel: "6.18.44".to_owned(),
            table: "9f31c2aa".to_owned(),
            nodes: 3,
        };
        let named = |check, finding| Finding { check, ..finding };
        let checks = vec![
            named("devices", Finding::ok("culvert0 up")),
            named("peer", Finding::fail("no answer", "start it").about("node2")),
            named("policy", Finding::skip("there is none")),
        ];
        let report = Report::new(heading, checks);
        assert!(report.has_failed());
        let version = env!("CARGO_PKG_VERSION");
        let expected = format!(
            "node1  culvert {version}  kernel 6.18.44  table 9f31c2aa (3 nodes)\n  \
             ok    devices           culvert0 up\n  \
             FAIL  peer              node2: no answer\n                          start it\n  \
             skip  policy            there is none\n\
             1 failure, 0 warnings"
        );
        assert_eq!(report.to_string(), expected);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["checks"][1]["verdict"], "fail");
        assert_eq!(json["checks"][1]["peer"], "node2");
    }
}
