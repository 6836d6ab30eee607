//! `culvert capture`: packets of a running daemon, for people or as pcapng.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use culvert_node::node_file::DEFAULT_RUN_DIR;
use culvert_node::words::counted;
use etherparse::{LaxSlicedPacket, TransportSlice};
use overlay_proto::InnerPacket;

use super::absent;
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
    /// End after N packets. One that passes counts twice: among the pods, and on the underlay.
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
    let pod = args.pod.map(|pod| pod.to_string());
    absent::say(&args.run_dir, pod.as_deref().as_slice(), None);
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
        "{} captured, {lost} lost because they came faster than they were read",
        counted(packets, "packet")
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
        Some((source, destination)) => {
            let upper = Upper::of(frame.bytes);
            let Upper { name, source_port, destination_port, detail } = upper;
            writeln!(
                out,
                "{name}{source}{source_port} > {destination}{destination_port}{detail}, {bytes} bytes"
            )
        }
        None => writeln!(out, "no IP packet, {bytes} bytes"),
    }
}

/// What is behind the IP header, in words; empty where it was cut off or is something else.
#[derive(Debug, Default, PartialEq, Eq)]
struct Upper {
    name: &'static str,
    source_port: String,
    destination_port: String,
    detail: String,
}

impl Upper {
    fn of(bytes: &[u8]) -> Self {
        let packet = LaxSlicedPacket::from_ip(bytes).ok();
        let ports = |name, source: u16, destination: u16, detail| Self {
            name,
            source_port: format!(" {source}"),
            destination_port: format!(" {destination}"),
            detail,
        };
        match packet.and_then(|packet| packet.transport) {
            Some(TransportSlice::Tcp(tcp)) => {
                let flags = [
                    ("SYN", tcp.syn()),
                    ("FIN", tcp.fin()),
                    ("RST", tcp.rst()),
                    ("PSH", tcp.psh()),
                    ("ACK", tcp.ack()),
                ];
                let set = flags.iter().filter(|(_, is_set)| *is_set).map(|(name, _)| *name);
                let detail = format!(" {}", set.collect::<Vec<_>>().join("+"));
                ports("tcp ", tcp.source_port(), tcp.destination_port(), detail)
            }
            Some(TransportSlice::Udp(udp)) => {
                ports("udp ", udp.source_port(), udp.destination_port(), String::new())
            }
            Some(TransportSlice::Icmpv4(icmp)) => {
                let (kind, code) = (icmp.type_u8(), icmp.code_u8());
                Self { name: "icmp ", detail: kind_of(kind, code, [8, 0]), ..Self::default() }
            }
            Some(TransportSlice::Icmpv6(icmp)) => {
                let (kind, code) = (icmp.type_u8(), icmp.code_u8());
                Self { name: "icmp6 ", detail: kind_of(kind, code, [128, 129]), ..Self::default() }
            }
            Some(TransportSlice::Igmp(_)) => Self { name: "igmp ", ..Self::default() },
            None => Self::default(),
        }
    }
}

/// A message of ICMP in words; `echo` are the numbers of request and reply.
fn kind_of(kind: u8, code: u8, echo: [u8; 2]) -> String {
    let [request, reply] = echo;
    if kind == request {
        " echo request".to_owned()
    } else if kind == reply {
        " echo reply".to_owned()
    } else {
        format!(" type {kind} code {code}")
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

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    #[test]
    fn line_says_protocol_ports_and_flags() {
        let builder = || PacketBuilder::ipv4([10, 244, 1, 2], [10, 244, 2, 2], 64);
        let said = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = Vec::new();
            write(&mut bytes);
            let Upper { name, source_port, destination_port, detail } = Upper::of(&bytes);
            format!("{name}a{source_port} > b{destination_port}{detail}")
        };
        let tcp = said(&|bytes| builder().tcp(40_000, 80, 0, 0).syn().write(bytes, &[]).unwrap());
        assert_eq!(tcp, "tcp a 40000 > b 80 SYN");
        let udp = said(&|bytes| builder().udp(40_000, 53).write(bytes, &[0; 4]).unwrap());
        assert_eq!(udp, "udp a 40000 > b 53");
        let icmp =
            said(&|bytes| builder().icmpv4_echo_request(1, 1).write(bytes, &[0; 4]).unwrap());
        assert_eq!(icmp, "icmp a > b echo request");
        // What was cut off says nothing of it.
        assert_eq!(said(&|bytes| bytes.extend([0x45; 20])), "a > b");
    }
}
