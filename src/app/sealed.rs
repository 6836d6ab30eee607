//! Sealed mode, as table, keys and data path come together in it.
//!
//! Owns the secrets in memory, and says what is wrong with this node's keys in the table. Never
//! seals anything: the data path does, with what it is handed here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use culvert_claims::NodeKeys;
use culvert_dataplane::engine::{Membership, NodeEntry, PeerKeys, SealedMode as Strictness};
use culvert_dataplane::platform::clock;
use culvert_dataplane::{DataPlane, SealedOptions};
use culvert_seal::Suites;
use culvert_seal::keys::{self, NodeKey, PublicKey};
use culvert_seal::mesh::{self, Event, Failure, Identity, What};

use super::OnMachine;
use super::key_log::{self, KeyLog};
use crate::config::{Config, SealedMode, TableSource};
use crate::control::secrets::{KeyRing, SecretFiles, Secrets, Use};
use crate::observe::SealedStatus;
use crate::platform::memory;

/// How strict this node is, if it seals.
pub(super) fn mode(config: &Config) -> Option<Strictness> {
    match config.sealed.mode {
        SealedMode::Off => None,
        SealedMode::Prefer => Some(Strictness::Prefer),
        SealedMode::Require => Some(Strictness::Require),
    }
}

/// The UDP port of what is sealed, if anything is in this table, here or between others.
pub(super) fn port(config: &Config, members: &Membership) -> Option<u16> {
    let has_keys = || members.entries().iter().any(|node| !node.tunnel_options.keys.is_empty());
    let is_in_use = config.sealed.mode == SealedMode::Require || has_keys();
    is_in_use.then_some(config.sealed.port)
}

/// The same, if this node listens there.
pub(super) fn own_port(config: &Config, members: &Membership) -> Option<u16> {
    port(config, members).filter(|_| config.sealed.mode != SealedMode::Off)
}

/// What handshakes are made of; the data path knows how many lanes it has.
fn mesh_config(config: &Config, members: &Membership) -> mesh::Config {
    mesh::Config {
        vni: members.overlay().vni,
        post_quantum: config.sealed.post_quantum,
        suites: config.sealed.ciphers.unwrap_or_else(Suites::of_this_machine),
        lanes: 0,
    }
}

/// The peers of `members` to seal toward.
pub(super) fn peers(config: &Config, members: &Membership) -> Vec<PeerKeys> {
    let sealing = members.peers().filter(|peer| !peer.tunnel_options.keys.is_empty());
    sealing
        .map(|peer| PeerKeys {
            name: peer.name.clone(),
            address: (peer.address, config.sealed.port).into(),
            keys: peer.tunnel_options.keys.iter().copied().collect(),
        })
        .collect()
}

/// What this machine's files would mean for its daemon: what ends its start, which are files that
/// it cannot use, and what it would complain of, which are keys that the table, where it is known,
/// has otherwise.
pub(super) fn look_at_files(config: &Config, members: Option<&Membership>) -> OnMachine {
    let mut found = OnMachine::default();
    let sealed = &config.sealed;
    if sealed.mode == SealedMode::Off || memory::conceal().is_err() {
        return found;
    }
    if let Err(error) = Secrets::psks(sealed) {
        found.add(&error);
    }
    let log = sealed.key_log.as_deref().and_then(|path| key_log::check(path).err());
    found.faults.extend(log.map(|error| format!("{error:#}")));
    // Where there is none, the daemon makes it.
    if sealed.key_file.symlink_metadata().is_ok() {
        match KeyRing::read(&sealed.key_file) {
            Ok(ring) => {
                let unlisted = members.and_then(|members| unlisted(config, &ring, members));
                found.hints.extend(unlisted);
            }
            Err(error) => found.add(&error),
        }
    }
    found
}

impl OnMachine {
    /// Whoever may not read a file does not know what the daemon, which is root, finds in it.
    fn add(&mut self, error: &keys::Error) {
        let denied = matches!(error, keys::Error::System { source, .. }
            if source.kind() == std::io::ErrorKind::PermissionDenied);
        let list = if denied { &mut self.hints } else { &mut self.faults };
        list.push(error.to_string());
    }
}

/// This node's secrets; none where nothing is sealed.
pub(super) struct Sealed {
    config: Arc<Config>,
    keys: Option<Keys>,
    key_log: Option<KeyLog>,
    /// Why the newest files are not used.
    unread: Option<String>,
    /// What is wrong with the keys that the table has of this node.
    unlisted: Option<String>,
    /// What was wrong when they were last compared.
    suspected: Option<String>,
    /// Peers with which sessions fail, and why.
    failing: BTreeMap<String, Failure>,
    /// The key that handshakes begin with, and since when.
    in_use: Option<(PublicKey, Instant)>,
}

struct Keys {
    files: SecretFiles,
    secrets: Secrets,
}

impl Sealed {
    /// Reads this node's secrets, and makes its key if there is none yet.
    ///
    /// # Errors
    ///
    /// A file that is there and cannot be used, or a key that cannot be made.
    pub(super) async fn open(config: Arc<Config>) -> anyhow::Result<Self> {
        let sealed = &config.sealed;
        let keys = match sealed.mode {
            SealedMode::Off => None,
            SealedMode::Prefer | SealedMode::Require => {
                // Before there is a key in memory.
                memory::conceal()?;
                std::fs::create_dir_all(&config.node.state_dir)
                    .with_context(|| format!("making {}", config.node.state_dir.display()))?;
                let files = SecretFiles::new(sealed.clone());
                let (files, secrets) = read(files, SecretFiles::read_or_make).await?;
                let secrets = secrets.context(
                    "this node has no key to seal with (sealed.mode = \"off\" does without)",
                )?;
                Some(Keys { files, secrets })
            }
        };
        if let (Some(path), None) = (&sealed.key_log, &keys) {
            let path = path.display();
            tracing::warn!(%path, "sealed.key_log is without effect: sealed.mode is \"off\"");
        }
        let key_log = match sealed.key_log.clone().filter(|_| keys.is_some()) {
            None => None,
            Some(path) => {
                tracing::warn!(
                    path = %path.display(),
                    "sealed.key_log is set: whoever reads that file reads all traffic of this node"
                );
                let open = tokio::task::spawn_blocking(move || KeyLog::open(path));
                Some(open.await.context("opening the key log")??)
            }
        };
        Ok(Self {
            config,
            keys,
            key_log,
            unread: None,
            unlisted: None,
            suspected: None,
            failing: BTreeMap::new(),
            in_use: None,
        })
    }

    /// Is as strict as `config` says from now on, which is the configuration in force otherwise.
    pub(super) fn go_by(&mut self, config: Arc<Config>) {
        self.config = config;
    }

    /// By what peers are to know this node.
    pub(super) fn public_keys(&self) -> NodeKeys {
        self.keys.as_ref().map(|keys| keys.secrets.ring.public()).unwrap_or_default()
    }

    /// What handshakes are made with by the table `members`; none where nothing is sealed.
    pub(super) fn identity(&self, members: &Membership) -> Option<Identity> {
        let listed = members.local().tunnel_options.keys;
        self.keys.as_ref().map(|keys| keys.secrets.identity(listed))
    }

    /// How the data path seals, which has the table `members` first.
    pub(super) fn options(&self, members: &Membership) -> Option<SealedOptions> {
        Some(SealedOptions {
            port: self.config.sealed.port,
            mode: mode(&self.config)?,
            config: mesh_config(&self.config, members),
            identity: self.identity(members)?,
            key_log: self.key_log.as_ref().map(KeyLog::lines),
        })
    }

    /// Hands the data path what it needs for the table `members`.
    pub(super) fn hand_over(&mut self, plane: &DataPlane, members: &Membership) {
        let Some(identity) = self.identity(members) else { return };
        self.begin_with(&identity, clock::now());
        plane.set_keys(identity, peers(&self.config, members));
    }

    /// Takes note of the key that handshakes begin with from now on.
    fn begin_with(&mut self, identity: &Identity, now: Instant) {
        let first = identity.keys.first().map(|key| *key.public());
        if first != self.in_use.map(|(key, _)| key) {
            self.in_use = first.map(|key| (key, now));
        }
    }

    /// Says what people should know of `event`: a problem once, and its end.
    pub(super) fn note(&mut self, event: Event) {
        let Event { peer, what } = event;
        if let What::Failed(_, failure) = what {
            tracing::warn!(peer, problem = %failure, "no sealed session with a peer");
            self.failing.insert(peer, failure);
        } else if self.failing.remove(&peer).is_some() && matches!(what, What::Established(..)) {
            tracing::info!(peer, %what, "the problem with a peer's sessions is over");
        } else {
            tracing::debug!(peer, %what, "sealed");
        }
    }

    /// Forgets what was wrong with peers that `members` does not have.
    pub(super) fn forget_others(&mut self, members: &Membership) {
        if !self.failing.is_empty() {
            self.failing.retain(|name, _| members.peers().any(|peer| peer.name == *name));
        }
    }

    /// Waits until a file with a secret is another.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(super) async fn changed(&mut self) {
        match &mut self.keys {
            Some(keys) => keys.files.changed().await,
            None => std::future::pending().await,
        }
    }

    /// Reads the files again. What cannot be read leaves things as they were.
    pub(super) async fn reread(&mut self) {
        let Some(Keys { files, secrets: before }) = self.keys.take() else { return };
        let known = files.clone();
        let (files, read) = match read(files, SecretFiles::read).await {
            Ok((files, read)) => (files, read.map_err(anyhow::Error::from)),
            Err(stopped) => (known, Err(stopped)),
        };
        let (secrets, unread) = match read {
            Ok(secrets) => {
                if secrets.ring.public() != before.ring.public() {
                    tracing::info!(keys = %secrets.ring.line(), "this node's keys have changed");
                }
                if !secrets.has_psks_of(&before) {
                    tracing::info!("the secrets of the cluster have changed");
                }
                (secrets, None)
            }
            Err(error) => (before, Some(format!("{error:#}"))),
        };
        if let Some(reason) = unread.as_ref().filter(|_| self.unread != unread) {
            tracing::error!(reason, "the new keys are refused; the old ones stay");
        }
        self.unread = unread;
        self.keys = Some(Keys { files, secrets });
    }

    /// Whether a table that was just taken must have this node's keys: its author wrote them, and
    /// no source that hears of them in a moment.
    pub(super) fn is_listed_by_hand(&self) -> bool {
        is_by_hand(&self.config)
    }

    /// Says so if the table `members` has other keys of this node than its files.
    pub(super) fn check(&mut self, members: &Membership) {
        let keys = self.keys.as_ref();
        let found = keys.and_then(|keys| unlisted(&self.config, &keys.secrets.ring, members));
        // A source that is told of this node's keys needs a moment to say so.
        let is_certain = self.is_listed_by_hand() || found == self.suspected;
        self.suspected.clone_from(&found);
        let unlisted = found.filter(|_| is_certain);
        if unlisted != self.unlisted {
            if let Some(reason) = &unlisted {
                tracing::warn!(reason, "this node's keys and the subnet table differ");
            }
            self.unlisted = unlisted;
        }
    }

    /// Since when handshakes begin with the first key of the [`status`](Self::status).
    pub(super) fn in_use_since(&self) -> Option<Instant> {
        self.in_use.map(|(_, since)| since)
    }

    /// How it stands.
    pub(super) fn status(&self) -> SealedStatus {
        let in_use = self.in_use.as_ref().map(|(key, _)| key);
        let keys = self.public_keys();
        let others = keys.iter().filter(|key| Some(*key) != in_use);
        SealedStatus {
            mode: self.config.sealed.mode.as_str().to_owned(),
            public_keys: in_use.into_iter().chain(others).map(ToString::to_string).collect(),
            error: self.unread.clone().or_else(|| self.unlisted.clone()),
            failing: self.failing.iter().map(|(peer, why)| format!("{peer}: {why}")).collect(),
            key_log: self.key_log.as_ref().map(|log| log.path().display().to_string()),
            ..SealedStatus::default()
        }
    }
}

/// Reads the files where that holds up nobody.
async fn read(
    mut files: SecretFiles,
    how: fn(&mut SecretFiles) -> Result<Secrets, keys::Error>,
) -> anyhow::Result<(SecretFiles, Result<Secrets, keys::Error>)> {
    let read = tokio::task::spawn_blocking(move || {
        let secrets = how(&mut files);
        (files, secrets)
    });
    read.await.context("reading this node's keys")
}

/// Whether people write this node's keys into the table.
fn is_by_hand(config: &Config) -> bool {
    matches!(config.table, TableSource::File { .. })
}

/// What is wrong with the keys that the table has of this node, and what to do.
fn unlisted(config: &Config, ring: &KeyRing, members: &Membership) -> Option<String> {
    let problem = problem(config.sealed.mode, ring, members)?;
    let remedy = if is_by_hand(config) {
        format!("write into its entry: {}", ring.line())
    } else {
        "the table's source has not taken what this node says of itself; its log says why"
            .to_owned()
    };
    Some(format!("{problem}; {remedy}"))
}

fn problem(mode: SealedMode, ring: &KeyRing, members: &Membership) -> Option<&'static str> {
    let keys: Vec<(Use, &Arc<NodeKey>)> = ring.with_uses().collect();
    let own = &members.local().tunnel_options;
    let lacks = |wanted: Use| {
        keys.iter().any(|(usage, key)| *usage == wanted && !own.keys.has(key.public()))
    };
    let is_own = |listed: &PublicKey| keys.iter().any(|(_, key)| key.public() == listed);
    let is_sealing = |peer: &Arc<NodeEntry>| !peer.tunnel_options.keys.is_empty();
    if own.codec.is_some() {
        // It speaks with nobody who seals.
        return None;
    }
    if own.keys.is_empty() {
        return if mode == SealedMode::Require {
            Some("the table has no key of this node, so that it speaks with nobody")
        } else if members.peers().any(is_sealing) {
            Some("the table has keys, but none of this node, so that its traffic is plain")
        } else {
            None
        };
    }
    if !own.keys.iter().any(is_own) {
        Some("the table has another key of this node, so that no peer understands it")
    } else if lacks(Use::Current) {
        Some("the table lacks this node's present key, so that it goes on with another of its own")
    } else if lacks(Use::Next) {
        Some("the table lacks this node's next key")
    } else if !own.keys.iter().all(is_own) {
        Some("the table has a key that this node does not have any more")
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
