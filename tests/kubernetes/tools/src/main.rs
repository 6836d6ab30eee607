//! What the tests with a real Kubernetes need beside it.

mod dns;
mod stream;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;

/// What the tests with a real Kubernetes need beside it.
#[derive(Debug, Parser)]
enum Tool {
    /// Answer questions about the names of Services and pods, as a pod of the cluster.
    Dns,
    /// Send every connection back what it says.
    Echo {
        /// Where to listen.
        address: SocketAddr,
    },
    /// Say something every few milliseconds to an echo until a file appears, and how it went.
    Stream {
        /// Where the echo listens.
        address: SocketAddr,
        /// The file.
        #[arg(long)]
        until: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    match Tool::parse() {
        Tool::Dns => dns::run(),
        Tool::Echo { address } => stream::echo(address),
        Tool::Stream { address, until } => stream::watch(address, &until),
    }
}
