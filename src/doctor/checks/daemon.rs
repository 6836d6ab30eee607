//! `daemon`: whether it answers and is ready.

use culvert_node::words::counted;

use crate::doctor::facts::Facts;
use crate::doctor::finding::Finding;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let status = match &facts.daemon {
        Ok(status) => status,
        Err(why) if facts.is_barred => return vec![Finding::skip(why)],
        Err(why) => {
            let remedy = "start it (systemctl start culvert), or see why it hangs (ps, its log): \
                          journalctl -u culvert";
            return vec![Finding::fail(why, remedy)];
        }
    };
    if status.ready {
        let up = format!("ready, {}", counted(status.workers, "worker"));
        return vec![Finding::ok(up)];
    }
    let missing: Vec<String> =
        status.missing.iter().map(|missing| format!("{}: {}", missing.what, missing.why)).collect();
    vec![Finding::fail(
        format!("not ready; {}", missing.join("; ")),
        "the lines below say what is in its way; otherwise see its log: journalctl -u culvert",
    )]
}
