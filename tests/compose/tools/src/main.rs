//! The program that the compose tests put into their containers.

mod lossy;
mod stream;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;

/// What the compose tests need inside a container.
#[derive(Debug, Parser)]
enum Tool {
    /// Be a link that loses and delays packets: whatever is routed to the TUN device comes back out
    /// of it, later, or never.
    Lossy(lossy::LossyLink),
    /// Take streams and check every byte.
    Serve {
        /// Where to listen.
        address: SocketAddr,
    },
    /// Send a stream until a file appears, and say how it went.
    Send {
        /// Where a server listens.
        address: SocketAddr,
        /// The file.
        #[arg(long)]
        until: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    match Tool::parse() {
        Tool::Lossy(link) => link.run(),
        Tool::Serve { address } => stream::serve(address),
        Tool::Send { address, until } => stream::send(address, &until),
    }
}
