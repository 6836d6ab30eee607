//! `culvert replay`: what a node would do with each packet of a capture.
//!
//! Reads a capture as a stream, plays it to a node in memory (the daemon's own engine and data
//! path) and tells what became of each packet. Runs on the main thread; nothing is sent anywhere. A
//! slow reader of the output slows the replay down and costs nothing else.

mod classify;
mod expect;
mod keys;
mod report;
mod row;
mod stage;

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use culvert_dataplane::platform::tun;
use culvert_node::bounded_file;

use crate::app;
use crate::lifecycle::{INTERRUPTED, on_interrupt};
use crate::pcap::Reader;
use classify::Tunnel;
use culvert_node::words::counted;
pub use expect::{ExpectError, Expectation};
use keys::Sessions;
use report::{Form, Report};
pub(crate) use row::Direction;
use stage::{ReplayOptions, Stage};

/// Bytes that are written at once.
const OUTPUT_LEN: usize = 256 << 10;

/// Packets between two signs of life.
const PROGRESS: u64 = 1 << 17;

/// What `culvert replay` takes.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct ReplayArgs {
    /// pcap or pcapng file; `-` reads standard input.
    ///
    /// Ethernet (with VLAN tags), raw IP or Linux cooked frames. A frame that was cut off when it
    /// was captured is taken for as long as it was, with zeros for what is missing.
    capture: PathBuf,
    /// Subnet table; deploy/table.example.toml is one.
    #[arg(long, value_name = "FILE", required_unless_present = "config")]
    table: Option<PathBuf>,
    /// Name of the node in the table whose daemon would see the packets.
    #[arg(long, value_name = "NAME", required_unless_present = "config")]
    node: Option<String>,
    /// The daemon's configuration: VNI, port, MTU, pod networks. Without it: the defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Whether the kernel exchanges super-packets with the daemon. No verdict depends on it.
    #[arg(long, value_enum, default_value_t = Switch::On)]
    offload: Switch,
    /// Which way packets go. `auto`: UDP datagrams to the node's tunnel are ingress, all others
    /// egress.
    #[arg(long, value_enum, default_value_t = DirectionOption::Auto)]
    direction: DirectionOption,
    /// Take TCP packets that are longer than the MTU as they stand, not as what a kernel with TSO
    /// left to be cut.
    #[arg(long)]
    no_super_packets: bool,
    /// Print one JSON object a packet.
    #[arg(long, conflicts_with = "summary")]
    json: bool,
    /// Print only how many packets came to what.
    #[arg(long)]
    summary: bool,
    /// Write the resulting packets as pcapng, each with its verdict as comment; `-` is standard
    /// output.
    #[arg(short, long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Open what is sealed with the keys in this file, as `sealed.key_log` of the node or of its
    /// peer has written them. Without, it is skipped.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Compare with the verdicts in this file, print what differs, and exit with 1 if anything
    /// does.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "summary"])]
    expect: Option<PathBuf>,
    /// Write what happens into the file of --expect instead of comparing.
    #[arg(long, requires = "expect")]
    bless: bool,
}

const EXAMPLES: &str = "\
Examples:
  What would node1 do with what its pods sent?
    culvert replay pods.pcap --table table.toml --node node1
  Only the drops, by program:
    culvert replay pods.pcap --table table.toml --node node1 --json | jq 'select(.verdict == \"drop\")'
  Verdicts as comments in Wireshark:
    culvert replay pods.pcap --table table.toml --node node1 -w - | wireshark -k -i -
  What was sealed, with the keys that the node has logged (docs/sealed.md):
    culvert replay wire.pcap --table table.toml --node node1 --key-file esp_sa
  A test: write the expectation once, look at it, compare ever after:
    culvert replay pods.pcap --table table.toml --node node1 --expect pods.expect --bless
    culvert replay pods.pcap --table table.toml --node node1 --expect pods.expect

Exit codes: 0 done, and as expected; 1 a difference, or a file that cannot be read; 2 a command line
that makes no sense; 130 interrupted. docs/packet-tests.md has more.";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DirectionOption {
    Auto,
    Egress,
    Ingress,
}

/// Runs the command.
///
/// # Errors
///
/// A file that cannot be read or written, or that is wrong.
pub(crate) fn run(args: ReplayArgs) -> anyhow::Result<ExitCode> {
    let offline =
        app::offline(args.config.as_deref(), args.table.as_deref(), args.node.as_deref())?;
    let form = args.form();
    let expectation = match &args.expect {
        Some(path) if !args.bless => Some(read_expectation(path)?),
        _ => None,
    };
    let mut ports = vec![offline.config.underlay.port];
    ports.extend(offline.table.peers().iter().map(|peer| peer.endpoint.port()));
    ports.sort_unstable();
    ports.dedup();
    // What is dropped on its way in is shown with the port of the configuration.
    let own = ports.iter().position(|port| *port == offline.config.underlay.port);
    ports.swap(0, own.unwrap_or_default());
    let sessions =
        args.key_file.as_deref().map(|path| Sessions::read(path, &offline)).transpose()?;
    let tunnel = Tunnel {
        address: offline.address(),
        ports,
        sealed_port: offline.sealed_port(),
        opens: sessions.as_ref().map(|sessions| sessions.slots.clone()).unwrap_or_default(),
    };
    let options = ReplayOptions {
        offload: match args.offload {
            Switch::On => tun::Offload::TcpUdp,
            Switch::Off => tun::Offload::None,
        },
        direction: match args.direction {
            DirectionOption::Auto => None,
            DirectionOption::Egress => Some(Direction::Egress),
            DirectionOption::Ingress => Some(Direction::Ingress),
        },
        super_packets: !args.no_super_packets,
        flows: matches!(form, Form::Table | Form::Json),
        results: args.write.is_some(),
    };
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    on_interrupt(move || flag.store(true, Ordering::Relaxed)).context("watching for Ctrl-C")?;

    let mut reader = Reader::open(source(&args.capture)?)
        .with_context(|| format!("reading {}", args.capture.display()))?;
    let out = BufWriter::with_capacity(OUTPUT_LEN, io::stdout().lock());
    let results = args.write.as_deref().map(results).transpose()?;
    let mut report = Report::new(form, out, results, expectation)?;
    let mut stage = Stage::new(&offline.table, tunnel, sessions, options);
    let played = play(&mut reader, &mut stage, &mut report, &interrupted);
    if let Ok(Progress::Whole | Progress::Interrupted) = played
        && reader.lost() > 0
    {
        warn(&format!("the capturing program has lost {}", counted(reader.lost(), "packet")));
    }
    let same = report.finish()?;
    if let (true, Some(path)) = (args.bless, &args.expect) {
        std::fs::write(path, report.blessed())
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(match played.with_context(|| format!("replaying {}", args.capture.display()))? {
        Progress::Interrupted => ExitCode::from(INTERRUPTED),
        Progress::Whole if same => ExitCode::SUCCESS,
        Progress::Whole => ExitCode::FAILURE,
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Whole,
    Interrupted,
}

fn play<R: Read>(
    reader: &mut Reader<R>,
    stage: &mut Stage<'_>,
    report: &mut Report<impl Write>,
    interrupted: &AtomicBool,
) -> anyhow::Result<Progress> {
    let lively = io::stderr().is_terminal();
    let mut packets = 0_u64;
    let end = loop {
        if interrupted.load(Ordering::Relaxed) {
            break Ok(Progress::Interrupted);
        }
        match reader.next_frame() {
            Ok(Some(frame)) => stage.take(&frame, |row, results| report.show(row, results))?,
            // Ctrl-C ends the program at the other end of a pipe, too.
            Ok(None) if interrupted.load(Ordering::Relaxed) => break Ok(Progress::Interrupted),
            Ok(None) => break Ok(Progress::Whole),
            // What came before it counts.
            Err(error) => break Err(error.into()),
        }
        packets += 1;
        if lively && packets.is_multiple_of(PROGRESS) {
            progress(&format!("\r{packets} packets, {} MiB", reader.position() >> 20));
        }
    };
    stage.play(|row, results| report.show(row, results))?;
    if lively && packets >= PROGRESS {
        progress("\r\x1b[K");
    }
    end
}

impl ReplayArgs {
    fn form(&self) -> Form {
        let to_stdout = self.write.as_deref() == Some(Path::new("-"));
        match (&self.expect, self.bless) {
            (Some(_), true) => Form::Bless,
            (Some(_), false) => Form::Expect,
            (None, _) if to_stdout => Form::Nothing,
            (None, _) if self.json => Form::Json,
            (None, _) if self.summary => Form::Summary,
            (None, _) => Form::Table,
        }
    }
}

fn source(path: &Path) -> anyhow::Result<Box<dyn Read>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin().lock()));
    }
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    Ok(Box::new(file))
}

fn results(path: &Path) -> anyhow::Result<Box<dyn Write>> {
    if path == Path::new("-") {
        return Ok(Box::new(BufWriter::with_capacity(OUTPUT_LEN, io::stdout())));
    }
    let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    Ok(Box::new(BufWriter::with_capacity(OUTPUT_LEN, file)))
}

fn read_expectation(path: &Path) -> anyhow::Result<Expectation> {
    let text = bounded_file::read_text(path, bounded_file::LARGE).with_context(|| {
        format!("reading {}; --bless writes it from what happens now", path.display())
    })?;
    Expectation::parse(&text).map_err(|error| anyhow::anyhow!("{}:{error}", path.display()))
}

fn warn(text: &str) {
    progress(&format!("culvert: {text}\n"));
}

fn progress(text: &str) {
    // Where standard error is gone there is nobody left to tell.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
