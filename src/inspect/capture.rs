//! `culvert capture`: packets of a running daemon, for people or as pcapng.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use culvert_node::node_file::DEFAULT_RUN_DIR;
use overlay_proto::InnerPacket;

use crate::lifecycle::on_interrupt;
use crate::observe::{self, CaptureQuery, CaptureStream as _};
use crate::pcap::{Frame, Reader};

/// What `culvert capture` takes.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct CaptureArgs {
    /// Write pcapng to this file instead of printing lines; `-` is standard output.
    #[arg(short, long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Only packets from or to this pod. Of what leaves sealed, not the datagrams: they do not say
    /// whose they are.
    #[arg(long, value_name = "ADDRESS")]
    pod: Option<IpAddr>,
    /// Only packets from or to this peer.
    #[arg(long, value_name = "NAME")]
    peer: Option<String>,
    /// Only packets that are dropped.
    #[arg(long)]
    drops: bool,
    /// Only every Nth of them.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    sample: u32,
    /// End after N packets.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Bytes to keep of each packet.
    #[arg(long, value_name = "BYTES", default_value_t = 65_535, value_parser = clap::value_parser!(u32).range(1..=65_600))]
    snaplen: u32,
    /// Directory of the daemon's admin socket.
    #[arg(long, env = "CULVERT_RUN_DIR", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    run_dir: PathBuf,
}

const EXAMPLES: &str = "\
Examples:
  What is dropped, and why?
    culvert capture --drops
  Both sides of the tunnel, of one pod, in Wireshark:
    culvert capture --pod 10.244.1.2 -w - | wireshark -k -i -
  A hundred packets to look at later; verdict and peer are in frame.comment:
    culvert capture --count 100 -w packets.pcapng
    tshark -r packets.pcapng -T fields -e frame.comment

The daemon never waits for this command: what it cannot keep up with is lost, and counted at the end.
Outer headers are rebuilt: addresses, ports, length and ECN are those on the wire.

Exit codes: 0 done, also after Ctrl-C; 1 no daemon answers, or it refuses; 2 a command line that makes
no sense.";

/// Runs the command.
///
/// # Errors
///
/// No daemon answers, it refuses, or the output cannot be written.
pub(crate) fn run(args: &CaptureArgs) -> anyhow::Result<ExitCode> {
    let query = CaptureQuery {
        pod: args.pod,
        peer: args.peer.clone(),
        drops: args.drops,
        sample: args.sample,
        count: args.count,
        snap_len: args.snaplen as usize,
    };
    let stream = observe::open_capture(&args.run_dir, &query)?;
    let closing = stream.try_clone().context("following the capture")?;
    // The daemon sends what it still has, and its counts, when it sees that nothing more is asked.
    on_interrupt(move || {
        let _ = closing.shutdown(Shutdown::Write);
    })
    .context("watching for Ctrl-C")?;
    let packets = match args.write.as_deref() {
        None => follow(stream, io::sink(), |frame| line(frame, &mut io::stdout().lock()))?,
        Some(path) if path == Path::new("-") => follow(stream, io::stdout(), |_| Ok(()))?,
        Some(path) => {
            let file =
                File::create(path).with_context(|| format!("creating {}", path.display()))?;
            follow(stream, file, |_| Ok(()))?
        }
    };
    let (packets, lost) = packets;
    // Where standard error is gone there is nobody left to tell.
    let _ = writeln!(
        io::stderr().lock(),
        "{packets} packets captured, {lost} lost because they came faster than they were read"
    );
    Ok(ExitCode::SUCCESS)
}

/// Reads to the end; returns how many packets there were and how many were lost.
fn follow(
    source: impl Read,
    copy: impl Write,
    mut show: impl FnMut(&Frame<'_>) -> io::Result<()>,
) -> anyhow::Result<(u64, u64)> {
    let failed = std::cell::RefCell::new(None);
    let mut reader = Reader::open(Tee { source, copy, failed: &failed })?;
    let mut packets = 0;
    loop {
        match reader.next_frame() {
            Ok(Some(frame)) => {
                show(&frame)?;
                packets += 1;
            }
            Ok(None) => return Ok((packets, reader.lost())),
            Err(error) => {
                // A broken pipe is for the caller to recognise.
                return Err(failed.take().map_or_else(|| error.into(), anyhow::Error::from));
            }
        }
    }
}

/// Copies what is read.
struct Tee<'a, R, W> {
    source: R,
    copy: W,
    failed: &'a std::cell::RefCell<Option<io::Error>>,
}

impl<R: Read, W: Write> Read for Tee<'_, R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.source.read(buffer)?;
        if let Err(error) = self.copy.write_all(&buffer[..len]).and_then(|()| self.copy.flush()) {
            let kind = error.kind();
            *self.failed.borrow_mut() = Some(error);
            return Err(kind.into());
        }
        Ok(len)
    }
}

/// Prints a packet for people: seconds, side, what became of it, and what it is.
fn line(frame: &Frame<'_>, out: &mut impl Write) -> io::Result<()> {
    let (seconds, rest) = (frame.timestamp_ns / 1_000_000_000, frame.timestamp_ns % 1_000_000_000);
    let side = if frame.interface == 0 { "inner" } else { "outer" };
    write!(out, "{seconds}.{:06} {side} {}: ", rest / 1000, frame.comment.unwrap_or("-"))?;
    let bytes = frame.original_len;
    match addresses(frame.bytes) {
        Some((source, destination)) => writeln!(out, "{source} > {destination}, {bytes} bytes"),
        None => writeln!(out, "no IP packet, {bytes} bytes"),
    }
}

/// Addresses of a packet that may have been cut off.
fn addresses(bytes: &[u8]) -> Option<(IpAddr, IpAddr)> {
    if let Ok(packet) = InnerPacket::parse(bytes) {
        return Some((packet.source(), packet.destination()));
    }
    let at = |start: usize| bytes.get(start..)?.first_chunk::<4>().map(|a| IpAddr::from(*a));
    let at6 = |start: usize| bytes.get(start..)?.first_chunk::<16>().map(|a| IpAddr::from(*a));
    match bytes.first()? >> 4 {
        4 => Some((at(12)?, at(16)?)),
        6 => Some((at6(8)?, at6(24)?)),
        _ => None,
    }
}
