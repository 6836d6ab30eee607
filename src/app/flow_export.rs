//! The file `flows.export`: flows as JSON lines, as `culvert flows --json` prints them.
//!
//! A thread of its own writes it, so that nobody waits for its disk. When the file is full it gets
//! another name, in place of the one before it, and a new one is begun: two are there at most.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use rustix::fs::OFlags;

use super::flows::FlowHub;
use crate::observe::FlowBatch;

/// Bytes of a file before another is begun: some hours of a busy node.
const FULL: u64 = 64 << 20;

/// How often the thread looks whether there are workers by now.
const PAUSE: Duration = Duration::from_secs(1);

/// Starts to write what `hub` hands out, once the node carries packets.
///
/// # Errors
///
/// The file cannot be made, or there is no thread for the writing.
pub(super) fn start(hub: Arc<FlowHub>, path: PathBuf) -> anyhow::Result<()> {
    open(&path)?;
    let write = move || {
        let seconds = loop {
            match hub.attach() {
                Ok(seconds) => break seconds,
                Err(_) => thread::sleep(PAUSE),
            }
        };
        let mut is_failing = false;
        while let Ok(batch) = seconds.recv() {
            match append(&path, &batch) {
                Ok(()) if is_failing => {
                    tracing::info!(path = %path.display(), "flows are exported again");
                    is_failing = false;
                }
                Err(error) if !is_failing => {
                    let reason = format!("{error:#}");
                    tracing::warn!(reason, "flows are not exported from now on");
                    is_failing = true;
                }
                Ok(()) | Err(_) => {}
            }
        }
    };
    thread::Builder::new()
        .name("flow-export".to_owned())
        .spawn(write)
        .context("starting the thread that exports flows")?;
    Ok(())
}

/// Appends the flows of a second.
fn append(path: &Path, batch: &FlowBatch) -> anyhow::Result<()> {
    if batch.flows.is_empty() {
        return Ok(());
    }
    let mut file = open(path)?;
    if file.metadata().with_context(|| named(path))?.len() >= FULL {
        let former = former(path);
        fs::rename(path, &former)
            .with_context(|| format!("renaming {} to {}", path.display(), former.display()))?;
        file = open(path)?;
    }
    let mut out = BufWriter::new(file);
    for flow in &batch.flows {
        serde_json::to_writer(&mut out, flow)
            .map_err(io::Error::from)
            .with_context(|| named(path))?;
        out.write_all(b"\n").with_context(|| named(path))?;
    }
    out.flush().with_context(|| named(path))
}

/// The name of a file that is full.
fn former(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// Opens a regular file that is no link, for its owner only where it is made.
fn open(path: &Path) -> anyhow::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .with_context(|| named(path))?;
    let is_file = file.metadata().with_context(|| named(path))?.is_file();
    anyhow::ensure!(
        is_file,
        "{}: not a regular file; name one, or one that is not there",
        named(path)
    );
    Ok(file)
}

fn named(path: &Path) -> String {
    format!("flows.export = \"{}\"", path.display())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;
    use crate::observe::{FLOW_SCHEMA, FlowDirection, FlowRecord, FlowWord};

    fn batch() -> FlowBatch {
        let flow = FlowRecord {
            schema: FLOW_SCHEMA,
            time: "2026-01-01T00:00:00Z".to_owned(),
            direction: FlowDirection::Egress,
            verdict: FlowWord::Forward,
            reason: None,
            source: None,
            destination: None,
            protocol: None,
            source_port: None,
            destination_port: None,
            source_pod: None,
            destination_pod: None,
            peer: Some("node2".to_owned()),
            outer: None,
            packets: 64,
            bytes: 6400,
        };
        FlowBatch { seconds: 1.0, flows: vec![flow.clone(), flow], others: 0, missed: 0 }
    }

    #[test]
    fn each_flow_is_a_line_and_a_full_file_makes_room() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("flows.jsonl");
        append(&path, &batch()).unwrap();
        append(&path, &batch()).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 4);
        let read: FlowRecord = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(read, batch().flows[0]);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);

        File::options().write(true).open(&path).unwrap().set_len(FULL).unwrap();
        append(&path, &batch()).unwrap();
        assert_eq!(fs::metadata(former(&path)).unwrap().len(), FULL);
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 2);
    }

    #[test]
    fn link_and_directory_get_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("link");
        symlink(directory.path().join("elsewhere"), &link).unwrap();
        let error = format!("{:#}", append(&link, &batch()).unwrap_err());
        assert!(error.contains("flows.export"), "{error}");
        assert!(append(directory.path(), &batch()).is_err());
        assert!(!directory.path().join("elsewhere").exists());
    }
}
