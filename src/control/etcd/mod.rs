//! The subnet table in etcd: every node claims its part, and follows the others'.
//!
//! [`Claims`] decides, and is pure: a simulation runs many nodes of it against a store in memory.
//! The driver here does what it asks, on the control runtime: the connection, and, on threads of
//! their own, the disk. It never takes anything away from the daemon because etcd is away. While
//! the daemon is slow the watch waits, and one that is left behind (a compaction) is a failure like
//! any other.

mod address;
mod client;
mod memory;
mod rpc;

use std::path::PathBuf;

use culvert_claims::etcd::{Claims, Ended, Identity, Memory, Request, Unwritten};
use culvert_dataplane::platform::clock;
use thiserror::Error;
use tonic::Streaming;

use self::address::{NoAddress, own_address};
use self::client::{CallError, Client, refused};
use self::memory::MemoryError;
use self::rpc::WatchResponse;
use super::source::{
    Backoff, Candidate, Link, Saved, SourceRequests, Update, configured, describe, held_addresses,
};
use crate::config::{Config, Etcd};

/// Why the driver could not do what it was asked.
#[derive(Debug, Error)]
enum Failure {
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Address(#[from] NoAddress),
}

/// Follows etcd for ever.
pub(super) async fn follow(etcd: Etcd, config: Config, mut link: Link) {
    let mut backoff = Backoff::new();
    let claims = loop {
        match open(&etcd, &config).await {
            Ok(claims) => break claims,
            Err(error) => link.say(Update::Lost(error.to_string())).await,
        }
        tokio::time::sleep(backoff.wait()).await;
    };
    let mut driver = Driver { state_dir: config.node.state_dir.clone(), etcd, config, claims };
    for attempt in 0.. {
        // Each member in its turn.
        let url = driver.etcd.endpoints[attempt % driver.etcd.endpoints.len()].clone();
        match driver.session(&url, &mut link, &mut backoff).await {
            Ok(Ended::Asked) => continue,
            Ok(Ended::Raced) => {}
            Ok(Ended::Failed(failure)) => link.say(Update::Lost(failure.to_string())).await,
            Err(failure) => link.say(Update::Lost(failure.to_string())).await,
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.wait()) => {}
            // Whoever asks for a reading has reason to believe that it works now.
            changed = link.requests.changed() => if changed.is_err() { return },
        }
    }
}

/// What this node remembers, and what its configuration says of it.
async fn open(etcd: &Etcd, config: &Config) -> Result<Claims, Failure> {
    let identity =
        Identity { prefix: etcd.prefix.clone(), lease: etcd.lease, parameters: configured(config) };
    let (node, source) = (config.node.clone(), describe(&config.table));
    let read = tokio::task::spawn_blocking(move || {
        let memory = memory::open(&node.state_dir, &node.name)?;
        // The other nodes that an earlier daemon knew, by the copy that it left.
        let saved = Saved::read(&node.state_dir, &node.name, &source).ok().flatten();
        Ok((
            memory,
            saved.map(|saved| saved.proposal().nodes().cloned().collect()).unwrap_or_default(),
        ))
    });
    let (memory, known): (Memory, Vec<Candidate>) =
        read.await.map_err(CallError::from)?.map_err(|error: MemoryError| error)?;
    Ok(Claims::new(identity, memory, known))
}

/// Does what the machine asks.
struct Driver {
    etcd: Etcd,
    config: Config,
    state_dir: PathBuf,
    claims: Claims,
}

impl Driver {
    /// Connects, and does what the machine asks until the session ends.
    async fn session(
        &mut self,
        url: &str,
        link: &mut Link,
        backoff: &mut Backoff,
    ) -> Result<Ended, Failure> {
        let mut requests = link.requests.borrow_and_update().clone();
        let mut client = Client::connect(url, &self.etcd).await?;
        let address = own_address(&self.config, self.claims.address(), url).await?;
        self.claims.set_keys(requests.keys);
        self.claims.begin(address);
        let mut watch = None;
        loop {
            let request = self.claims.request(clock::now());
            while let Some(update) = self.claims.update() {
                link.say(update).await;
            }
            let claims = &mut self.claims;
            match request {
                Request::Read { first, end } => {
                    let found = client.range(&first, &end).await?;
                    claims.read(&found);
                }
                Request::Keys(keys) => {
                    let mut found = Vec::with_capacity(keys.len());
                    for key in keys {
                        found.push(client.read(&key).await?);
                    }
                    claims.keys(found);
                }
                Request::Grant(ttl) => claims.granted(client.grant(ttl).await?),
                Request::KeepAlive(lease) => claims.kept(client.keep_alive(lease).await?),
                Request::Transact(transaction) => {
                    claims.transacted(client.transact(transaction).await?);
                }
                Request::Heard => {
                    link.heard().await;
                    let ready = link.requests.borrow().ready;
                    requests.ready = ready;
                    claims.heard(ready);
                }
                Request::Pods(subnets) => {
                    claims.pods(held_addresses(self.state_dir.clone(), subnets).await);
                }
                Request::Remember(memory) => {
                    let state_dir = self.state_dir.clone();
                    let write = move || memory::write(&memory, &state_dir);
                    let written = tokio::task::spawn_blocking(write).await;
                    claims.remembered(written.map_err(CallError::from)?.map_err(Unwritten::new));
                }
                Request::Watch { first, end, revision } => {
                    watch = Some(client.watch(&first, &end, revision).await?);
                    backoff.reset();
                    claims.watching(clock::now());
                }
                Request::Wait(until) => tokio::select! {
                    watched = next(&mut watch, url) => claims.watched(&watched?.into()),
                    () = tokio::time::sleep_until(until.into()) => {}
                    changed = link.requests.changed() => {
                        // The daemon is gone, which the caller sees too.
                        if changed.is_err() { return Ok(Ended::Raced) }
                        let now = link.requests.borrow_and_update().clone();
                        self.wish(std::mem::replace(&mut requests, now.clone()), now, url).await?;
                    }
                },
                Request::End(ended) => return Ok(ended),
            }
        }
    }

    /// Takes what the daemon has to say.
    async fn wish(
        &mut self,
        before: SourceRequests,
        now: SourceRequests,
        url: &str,
    ) -> Result<(), Failure> {
        if before.moves != now.moves {
            self.claims.moved(own_address(&self.config, self.claims.address(), url).await?);
        }
        if before.keys != now.keys {
            self.claims.set_keys(now.keys);
        }
        if before.ready != now.ready {
            self.claims.ready(now.ready);
        }
        if before.reloads != now.reloads {
            self.claims.reload();
        }
        Ok(())
    }
}

/// What the watch tells next.
async fn next(
    watch: &mut Option<Streaming<WatchResponse>>,
    url: &str,
) -> Result<WatchResponse, CallError> {
    let ended = || CallError::WatchEnded { url: url.to_owned() };
    let response = watch.as_mut().ok_or_else(ended)?.message().await;
    response.map_err(|status| refused("watching", status))?.ok_or_else(ended)
}
