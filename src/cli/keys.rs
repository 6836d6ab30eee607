//! `culvert keys`: words and help.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use culvert_seal::keys::NodeKey;
use serde::Serialize;

use super::{ConfigArgs, say};
use crate::config::SealedMode;
use crate::control::secrets::{self, KeyRing};
use crate::observe::{self, Document, PeerStatus, Status};

/// For how long a key is in use before the one before it may go: sessions with that one are renewed
/// within five seconds, and the peer's first packet in the new one comes soon after.
const RETIRE_AFTER: Duration = Duration::from_secs(10);

/// How a key takes the place of another, for whoever asks for help.
const STEPS: &str = "\
A node changes its key in three steps, and loses no packet:

  1. culvert keys rotate   makes the next key. With etcd and Kubernetes the daemon publishes it
                           beside the present one; a table file gets the line that is printed.
  2. culvert keys switch   goes over to it, once every node has that table. Whenever this is
                           run, the daemon begins with no key that its table does not have.
  3. culvert keys retire   removes the key before it, ten seconds later at the earliest: it
                           refuses while that may be in use. Then a table file gets the line
                           with the new key alone.

The daemon notices each step within a second, or at once by SIGHUP. A next key that nobody went
over to is taken back by removing its file.";

#[derive(Debug, Args)]
#[command(after_long_help = STEPS, after_help = "Run with --help for the steps of a change.")]
pub(super) struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Show this node's public keys, and the line with them for the subnet table. Makes the node's
    /// key if there is none yet.
    Show(Target),
    /// Make the next key of this node. Peers learn it beside the present one, which stays in use.
    Rotate(Target),
    /// Go over to the next key. The one before is accepted until it is retired.
    Switch(Target),
    /// Remove the former key of this node, which nobody uses any more. Refused while somebody may.
    Retire(RetireArgs),
}

#[derive(Debug, Args)]
struct RetireArgs {
    #[command(flatten)]
    target: Target,
    /// Remove it although somebody may use it still; packets are lost until there are new sessions.
    #[arg(long)]
    force: bool,
}

/// Whose keys, and how they are shown.
#[derive(Debug, Args)]
struct Target {
    #[command(flatten)]
    source: ConfigArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Show,
    Rotate,
    Switch,
    Retire,
}

/// A node's keys, and what became of them.
#[derive(Debug, Serialize)]
struct Keys {
    #[serde(skip_serializing_if = "Option::is_none")]
    done: Option<&'static str>,
    key_file: PathBuf,
    keys: Vec<Key>,
    table_line: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_step: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct Key {
    r#use: &'static str,
    public_key: String,
    id: String,
}

pub(super) fn run(args: &KeysArgs) -> anyhow::Result<()> {
    let (step, Target { source, json }) = match &args.command {
        KeysCommand::Show(target) => (Step::Show, target),
        KeysCommand::Rotate(target) => (Step::Rotate, target),
        KeysCommand::Switch(target) => (Step::Switch, target),
        KeysCommand::Retire(args) => (Step::Retire, &args.target),
    };
    let config = source.read()?;
    if config.sealed.mode == SealedMode::Off {
        bail!("sealed.mode is \"off\", and this node has no keys; set it to \"prefer\"");
    }
    secrets::conceal()?;
    let key_file = config.sealed.key_file.as_path();
    if key_file.starts_with(&config.node.state_dir) {
        std::fs::create_dir_all(&config.node.state_dir)
            .with_context(|| format!("making {}", config.node.state_dir.display()))?;
    }
    if matches!(&args.command, KeysCommand::Retire(args) if !args.force) {
        // Where no daemon answers, nobody has a session.
        let status = observe::query(&config.node.run_dir).ok();
        let current = NodeKey::read(key_file)?.public().to_string();
        let since = secrets::since_switch(key_file)?;
        if let Some(why) = use_of_former(since, status.as_ref(), &current) {
            bail!("the former key is not removed: {why}; --force removes it, and loses packets");
        }
    }
    let keys = step.take(key_file)?;
    if *json {
        say(Document::first(&keys).text()?)?;
    } else {
        say(keys)?;
    }
    Ok(())
}

/// Why the former key may still be in use, and what to do; `since_switch` is how long ago the node
/// went over to the key `current`, by its files.
fn use_of_former(
    since_switch: Option<Duration>,
    status: Option<&Status>,
    current: &str,
) -> Option<String> {
    let too_soon = |used: f64| {
        let left = RETIRE_AFTER.as_secs_f64() - used;
        (left > 0.0).then(|| {
            format!(
                "this node has used the present one for {used:.0} s, and sessions come over to it \
                 within {} s; try again in {:.0} s",
                RETIRE_AFTER.as_secs(),
                left.ceil()
            )
        })
    };
    let Some(status) = status.filter(|status| !status.sealed.public_keys.is_empty()) else {
        return too_soon(since_switch?.as_secs_f64());
    };
    if status.sealed.public_keys[0] != current {
        let why = status.sealed.error.as_deref();
        let why = why.unwrap_or("it has not noticed the switch yet; try again in a second");
        return Some(format!("this node's daemon still uses it: {why}"));
    }
    let used = status.sealed.in_use_seconds;
    let used = used.into_iter().chain(since_switch.map(|since| since.as_secs_f64()));
    if let Some(why) = used.reduce(f64::min).and_then(too_soon) {
        return Some(why);
    }
    let with_it = |peer: &&PeerStatus| peer.session.as_ref().is_some_and(|it| it.with_former_key);
    let mut peers = status.peers.iter().filter(with_it);
    let first = peers.next()?;
    let others = match peers.count() {
        0 => String::new(),
        count => format!(" and {count} more"),
    };
    Some(format!(
        "the session with {}{others} was made with it; it is renewed with the next traffic and ends \
         within three minutes, try again then",
        first.name
    ))
}

impl Step {
    fn take(self, key_file: &Path) -> anyhow::Result<Keys> {
        let (done, next_step) = match self {
            Self::Show => (None, None),
            Self::Rotate => {
                let made = secrets::rotate(key_file)?;
                let done = if made { "made the next key" } else { "there is a next key already" };
                let then = "once every node has a table with both keys: culvert keys switch";
                (Some(done), Some(then))
            }
            Self::Switch => {
                secrets::switch(key_file)?;
                let then = "ten seconds later at the earliest: culvert keys retire";
                (Some("went over to the next key"), Some(then))
            }
            Self::Retire => {
                secrets::retire(key_file)?;
                let then = "in a table file, write the new line into this node's entry";
                (Some("removed the former key"), Some(then))
            }
        };
        let ring = KeyRing::read_or_make(key_file)?;
        let keys = ring.with_uses().map(|(usage, key)| Key {
            r#use: usage.as_str(),
            public_key: key.public().to_string(),
            id: key.id().to_string(),
        });
        Ok(Keys {
            done,
            key_file: key_file.to_owned(),
            keys: keys.collect(),
            table_line: ring.line(),
            next_step,
        })
    }
}

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(done) = self.done {
            writeln!(f, "{done}\n")?;
        }
        for Key { r#use, public_key, id } in &self.keys {
            writeln!(f, "{:<8} {public_key}  id {id}", r#use)?;
        }
        writeln!(
            f,
            "\nfor this node's entry in a table file (etcd and Kubernetes have it from the daemon):"
        )?;
        write!(f, "{}", self.table_line)?;
        match self.next_step {
            Some(step) => write!(f, "\n\nnext: {step}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::{SealedStatus, SessionStatus, Spoken};

    fn peer(name: &str, with_former_key: bool) -> PeerStatus {
        PeerStatus {
            name: name.to_owned(),
            address: [192, 168, 1, 12].into(),
            subnets: Vec::new(),
            codec: Spoken::Esp,
            port: 4500,
            sealed: Some("aes-256-gcm".to_owned()),
            plain: false,
            session: Some(SessionStatus {
                suite: "aes-256-gcm".to_owned(),
                post_quantum: true,
                role: "initiator".to_owned(),
                age_seconds: 3.0,
                renewal_in_seconds: 100.0,
                with_former_key,
            }),
            path: Default::default(),
            session_error: None,
            mtu: 1438,
            egress: Default::default(),
            ingress: Default::default(),
            last_heard_seconds: None,
        }
    }

    /// What a daemon says that has begun with `key` for so long.
    fn status(key: &str, seconds: f64, peers: Vec<PeerStatus>) -> Status {
        let sealed = SealedStatus {
            public_keys: vec![key.to_owned(), "another".to_owned()],
            in_use_seconds: Some(seconds),
            ..SealedStatus::default()
        };
        Status { sealed, peers, ..Status::default() }
    }

    #[test]
    fn a_former_key_is_retired_when_nobody_uses_it_any_more() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let says = |since, status: Option<&Status>, part: &str| {
            let why = use_of_former(since, status, "new");
            assert!(why.as_ref().is_some_and(|why| why.contains(part)), "{part}: {why:?}");
        };
        // Without a daemon, the files say when it was.
        says(seconds(3), None, "try again in 7 s");
        assert_eq!(use_of_former(seconds(10), None, "new"), None);
        assert_eq!(use_of_former(None, None, "new"), None);
        let off = Status::default();
        says(seconds(3), Some(&off), "try again in 7 s");

        says(seconds(600), Some(&status("old", 900.0, vec![])), "daemon still uses it");
        // The table has got it late.
        says(seconds(600), Some(&status("new", 2.5, vec![])), "try again in 8 s");
        // The daemon was started before, and the switch is not that old.
        says(seconds(4), Some(&status("new", 90.0, vec![])), "try again in 6 s");
        let old = status("new", 90.0, vec![peer("a", false), peer("b", true), peer("c", true)]);
        says(seconds(90), Some(&old), "the session with b and 1 more was made with it");
        let over = status("new", 90.0, vec![peer("a", false)]);
        assert_eq!(use_of_former(seconds(90), Some(&over), "new"), None);
    }

    #[test]
    fn each_step_says_what_it_did_and_what_follows() {
        let directory = tempfile::tempdir().unwrap();
        let key_file = directory.path().join("node.key");
        let uses = |keys: &Keys| keys.keys.iter().map(|key| key.r#use).collect::<Vec<_>>();
        let shown = Step::Show.take(&key_file).unwrap();
        assert_eq!((uses(&shown), shown.done), (vec!["current"], None));
        let key = &shown.keys[0].public_key;
        assert_eq!(shown.table_line, format!("public_keys = [\"{key}\"]"));
        assert!(shown.to_string().ends_with(&shown.table_line), "{shown}");

        assert!(Step::Switch.take(&key_file).is_err());
        let rotated = Step::Rotate.take(&key_file).unwrap();
        assert_eq!(uses(&rotated), ["current", "next"]);
        assert!(rotated.to_string().starts_with("made the next key\n"), "{rotated}");
        let switched = Step::Switch.take(&key_file).unwrap();
        assert_eq!(uses(&switched), ["current", "former"]);
        assert_eq!(switched.keys[1].public_key, *key);
        assert!(switched.to_string().ends_with("culvert keys retire"), "{switched}");
        let retired = Step::Retire.take(&key_file).unwrap();
        assert_eq!(uses(&retired), ["current"]);
        let json = serde_json::to_value(&retired).unwrap();
        assert_eq!(json["keys"][0]["use"], "current");
        assert_eq!(json["keys"][0]["public_key"], rotated.keys[1].public_key);
    }
}
