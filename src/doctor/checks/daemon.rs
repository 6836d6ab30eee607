//! `daemon`: whether it answers and is ready.

use std::io::ErrorKind;

use culvert_node::words::counted;

use crate::doctor::facts::Facts;
use crate::doctor::finding::Finding;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let status = match &facts.daemon {
        Ok(status) => status,
        Err(why) => {
            let remedy = match facts.unanswered {
                Some(ErrorKind::PermissionDenied) => return vec![Finding::skip(why)],
                Some(_) => {
                    "start it: systemctl start culvert; if it ends again: journalctl -u culvert"
                }
                None => {
                    "ps -C culvert -o pid,stat: kill -CONT PID, if its state is T; else its log says what \
                     it is busy with: journalctl -u culvert"
                }
            };
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
