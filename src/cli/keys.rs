//! `culvert keys`: words and help.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::{ConfigArgs, say};
use crate::config::SealedMode;
use crate::control::secrets::{self, KeyRing};

/// How a key takes the place of another, for whoever asks for help.
const STEPS: &str = "\
A node changes its key in three steps, and loses no packet:

  1. culvert keys rotate   makes the next key. With etcd and Kubernetes the daemon publishes it
                           beside the present one; a table file gets the line that is printed.
  2. culvert keys switch   goes over to it, once every node has that table. Whenever this is
                           run, the daemon begins with no key that its table does not have.
  3. culvert keys retire   removes the key before it, ten seconds later at the earliest;
                           then a table file gets the line with the new key alone.

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
    /// Remove the former key of this node, which nobody uses any more.
    Retire(Target),
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
        KeysCommand::Retire(target) => (Step::Retire, target),
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
    let keys = step.take(key_file)?;
    if *json {
        say(serde_json::to_string_pretty(&keys)?)?;
    } else {
        say(keys)?;
    }
    Ok(())
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
