//! `daemon`: whether it answers and is ready.

use std::io::ErrorKind;

use culvert_node::words::counted;

use crate::doctor::facts::Facts;
use crate::doctor::finding::Finding;
use crate::platform::listener::Listener;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let status = match &facts.daemon {
        Ok(status) => status,
        Err(why) => {
            let log = "its log says what it is busy with: journalctl -u culvert";
            return vec![match (facts.unanswered, facts.listener) {
                (Some(ErrorKind::PermissionDenied), _) => Finding::skip(why),
                (Some(_), _) => Finding::fail(
                    why,
                    "start it: systemctl start culvert; if it ends again: journalctl -u culvert",
                ),
                (None, Some(Listener { pid, state: Some('T') })) => Finding::fail(
                    format!("{why}; process {pid} is stopped (state T)"),
                    format!("kill -CONT {pid}"),
                ),
                (None, Some(Listener { pid, .. })) => {
                    Finding::fail(why, format!("top -H -p {pid}; {log}"))
                }
                (None, None) => Finding::fail(
                    why,
                    format!(
                        "ps -C culvert -o pid,stat: kill -CONT PID, if its state is T; else {log}"
                    ),
                ),
            }];
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

#[cfg(test)]
mod tests {
    use super::super::tests::said;
    use super::*;
    use crate::doctor::facts::fixture::healthy;

    #[test]
    fn process_that_is_stopped_is_named_with_its_state() {
        let with = |state| {
            let listener = Some(Listener { pid: 4711, state });
            said("daemon", &Facts { daemon: Err("no answer".to_owned()), listener, ..healthy() })
                .remove(0)
        };
        let stopped = with(Some('T'));
        assert!(stopped.found.ends_with("process 4711 is stopped (state T)"), "{stopped:?}");
        assert_eq!(stopped.remedy.as_deref(), Some("kill -CONT 4711"));
        let busy = with(Some('R'));
        assert!(busy.remedy.as_ref().unwrap().starts_with("top -H -p 4711; "), "{busy:?}");
        assert!(!busy.found.contains("stopped (state"), "{busy:?}");
    }
}
