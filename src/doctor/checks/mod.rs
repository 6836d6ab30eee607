//! The checks: each a function of the facts, under a name that stays.
//!
//! docs/operations.md has a row for each name; a test below holds both against each other.

mod accept_ra;
mod address_elsewhere;
mod blackhole;
mod clock;
mod conntrack;
mod daemon;
mod devices;
mod drops;
mod forward;
mod input;
mod ipam;
mod keys;
mod missing;
mod mtu;
mod neighbours;
mod offload;
mod output;
mod passage;
mod path;
mod peer;
mod pods;
mod policy;
mod port;
mod receive;
mod routes;
mod rp_filter;
mod rules;
mod table;
mod tun;

use super::facts::{Expected, Facts};
use super::finding::Finding;

/// A check.
enum Check {
    /// Of the facts alone.
    Of(fn(&Facts) -> Vec<Finding>),
    /// Of the facts, and of what was found before.
    After(fn(&Facts, &[Finding]) -> Vec<Finding>),
}

/// Every check with its name, in the order of a packet's way.
const ALL: [(&str, Check); 27] = [
    ("daemon", Check::Of(daemon::check)),
    ("devices", Check::Of(devices::check)),
    ("pods", Check::Of(pods::check)),
    ("routes", Check::Of(routes::check)),
    ("rules", Check::Of(rules::check)),
    ("forward", Check::Of(forward::check)),
    ("input", Check::Of(input::check)),
    ("output", Check::Of(output::check)),
    ("rp_filter", Check::Of(rp_filter::check)),
    ("accept_ra", Check::Of(accept_ra::check)),
    ("conntrack", Check::Of(conntrack::check)),
    ("receive", Check::Of(receive::check)),
    ("tun", Check::Of(tun::check)),
    ("offload", Check::Of(offload::check)),
    ("drops", Check::Of(drops::check)),
    ("mtu", Check::Of(mtu::check)),
    ("blackhole", Check::Of(blackhole::check)),
    ("port", Check::Of(port::check)),
    ("address_elsewhere", Check::Of(address_elsewhere::check)),
    ("neighbours", Check::Of(neighbours::check)),
    ("table", Check::Of(table::check)),
    ("ipam", Check::Of(ipam::check)),
    ("clock", Check::Of(clock::check)),
    ("peer", Check::After(peer::check)),
    ("path", Check::After(path::check)),
    ("keys", Check::Of(keys::check)),
    ("policy", Check::Of(policy::check)),
];

/// What all checks say.
pub(super) fn all(facts: &Facts) -> Vec<Finding> {
    let mut all = Vec::new();
    for (name, check) in &ALL {
        let found = match check {
            Check::Of(check) => check(facts),
            Check::After(check) => check(facts, &all),
        };
        all.extend(found.into_iter().map(|finding| Finding { check: name, ..finding }));
    }
    all
}

/// At most so many findings of one kind are shown.
const SHOWN: usize = 5;

/// The first of `findings`, and how many more there are.
fn some(mut findings: Vec<Finding>) -> Vec<Finding> {
    let more = findings.len().saturating_sub(SHOWN);
    if more > 0 {
        findings.truncate(SHOWN);
        if let Some(last) = findings.last_mut() {
            last.found += &format!(" (and {more} more)");
        }
    }
    findings
}

/// How what only a daemon keeps comes back: by one that is started, or that says what keeps it.
fn bring_up(facts: &Facts) -> &'static str {
    match facts.daemon {
        Err(_) => "start the daemon: systemctl start culvert",
        Ok(_) => {
            "the daemon runs, and should have it in seconds; its log says what keeps it: journalctl -u \
             culvert"
        }
    }
}

/// How the node is to be, or that nobody says it.
fn expected(facts: &Facts) -> Result<&Expected, Vec<Finding>> {
    facts.expected.as_ref().map_err(|why| vec![Finding::skip(why)])
}

#[cfg(test)]
mod tests {
    use super::super::facts::fixture::healthy;
    use super::super::finding::Verdict;
    use super::*;

    /// What a check says of these facts.
    pub(super) fn said(name: &str, facts: &Facts) -> Vec<Finding> {
        all(facts).into_iter().filter(|finding| finding.check == name).collect()
    }

    #[test]
    fn healthy_node_has_nothing_to_mend() {
        let facts = healthy();
        let findings = all(&facts);
        for (name, _) in &ALL {
            assert!(findings.iter().any(|finding| finding.check == *name), "{name}");
        }
        let bad = [Verdict::Warn, Verdict::Fail];
        let wrong: Vec<_> =
            findings.iter().filter(|finding| bad.contains(&finding.verdict)).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn every_check_has_its_row_in_the_documentation() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
        let text = std::fs::read_to_string(path).unwrap();
        let section = text.split("\n## ").find(|section| section.starts_with("Doctor")).unwrap();
        let table = section.split("| check |").nth(1).unwrap();
        let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let names: Vec<&str> = ALL.iter().map(|(name, _)| *name).collect();
        assert_eq!(rows.collect::<Vec<_>>(), names);
    }

    #[test]
    fn what_was_not_looked_at_is_skipped_with_the_reason() {
        let why = || Err("the kernel is asleep".to_owned());
        let facts = Facts {
            daemon: Err("nobody answers".to_owned()),
            expected: Err("nobody knows".to_owned()),
            kernel: Err("the kernel is asleep".to_owned()),
            firewall: Err("the kernel is asleep".to_owned()),
            sockets: Err("the kernel is asleep".to_owned()),
            overflows: None,
            tun_drops: None,
            tracked: Err("the kernel is asleep".to_owned()),
            parameters: Err("the kernel is asleep".to_owned()),
            holders: Err("the kernel is asleep".to_owned()),
            pod_holders: Err("the kernel is asleep".to_owned()),
            ipam: Err("the kernel is asleep".to_owned()),
            peers: None,
            tables: None,
            pods: Err("the kernel is asleep".to_owned()),
            neighbours: Err("the kernel is asleep".to_owned()),
            clock: crate::doctor::facts::Clock { is_synchronised: why(), future: None },
            ..healthy()
        };
        for finding in all(&facts) {
            let is_known = ["table", "daemon"].contains(&finding.check);
            assert!(finding.verdict == Verdict::Skip || is_known, "{finding:?}");
            assert!(!finding.found.is_empty());
        }
    }

    #[test]
    fn parameters_that_cannot_be_read_are_not_called_right() {
        let facts = Facts { parameters: Err("permission denied".to_owned()), ..healthy() };
        for check in ["rp_filter", "accept_ra"] {
            assert_eq!(said(check, &facts)[0].verdict, Verdict::Skip, "{check}");
        }
    }
}
