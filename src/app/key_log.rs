//! The file `sealed.key_log`: keys of sessions, for Wireshark.
//!
//! A thread of its own writes it, so that nobody waits for its disk. Each line is a look at what
//! has the name by then: a file that was emptied or removed goes on, and one that others may read,
//! or a link, gets nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use anyhow::{Context as _, bail};
use culvert_seal::LogLine;
use rustix::fs::OFlags;
use rustix::io::Errno;

/// Lines that wait for the disk: two for each session.
const LINES: usize = 1024;

/// The file, and the thread that writes it.
pub(super) struct KeyLog {
    path: PathBuf,
    lines: SyncSender<LogLine>,
}

impl KeyLog {
    /// Makes the file, if it is not there, and starts to write what comes. The thread ends with the
    /// last of those who have the sender.
    ///
    /// # Errors
    ///
    /// There is something that must not have keys, or the file cannot be made.
    pub(super) fn open(path: PathBuf) -> anyhow::Result<Self> {
        open(&path)?;
        let (lines, receiver) = sync_channel(LINES);
        let written = path.clone();
        std::thread::Builder::new()
            .name("key-log".to_owned())
            .spawn(move || write(&written, &receiver))
            .context("starting the thread that writes the key log")?;
        Ok(Self { path, lines })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What lines are handed over by.
    pub(super) fn lines(&self) -> SyncSender<LogLine> {
        self.lines.clone()
    }
}

/// Whether what is at `path`, if anything, may have keys.
///
/// # Errors
///
/// It must not, and why.
pub(super) fn check(path: &Path) -> anyhow::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| named(path)),
    };
    if metadata.is_symlink() {
        bail!(link(path));
    }
    check_metadata(path, &metadata)
}

fn write(path: &Path, lines: &Receiver<LogLine>) {
    let mut is_failing = false;
    while let Ok(line) = lines.recv() {
        match append(path, line.as_bytes()) {
            Ok(()) if is_failing => {
                tracing::info!(path = %path.display(), "the key log is written again");
                is_failing = false;
            }
            Err(error) if !is_failing => {
                let reason = format!("{error:#}");
                tracing::warn!(reason, "keys of sessions are missing in the key log from now on");
                is_failing = true;
            }
            Ok(()) | Err(_) => {}
        }
    }
}

/// Appends the whole line or nothing: with half of one the next would be lost too.
fn append(path: &Path, line: &[u8]) -> anyhow::Result<()> {
    let mut file = open(path)?;
    let before = file.metadata().with_context(|| named(path))?.len();
    if let Err(error) = file.write_all(line) {
        // On a full disk there is room for less.
        let _ = file.set_len(before);
        return Err(error).with_context(|| named(path));
    }
    Ok(())
}

/// Opens what only its owner may use, and makes it if it is not there, without waiting for anybody.
fn open(path: &Path) -> anyhow::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(flags.bits().cast_signed())
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if Errno::from_io_error(&error) == Some(Errno::LOOP) => bail!(link(path)),
        Err(error) => return Err(error).with_context(|| named(path)),
    };
    check_metadata(path, &file.metadata().with_context(|| named(path))?)?;
    Ok(file)
}

fn check_metadata(path: &Path, metadata: &fs::Metadata) -> anyhow::Result<()> {
    let (named, path) = (named(path), path.display());
    if !metadata.is_file() {
        bail!("{named}: not a regular file; name one, or one that is not there yet");
    }
    let ours = rustix::process::geteuid().as_raw();
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if ![0, ours].contains(&owner) {
        bail!(
            "{named}: belongs to user {owner}, who could read all traffic of this node; remove it, \
             or run `chown {ours} {path}`"
        );
    }
    if mode & 0o077 != 0 {
        bail!(
            "{named}: mode {mode:04o} lets others than its owner use it, and whoever reads it reads \
             all traffic of this node; run `chmod 600 {path}`"
        );
    }
    Ok(())
}

fn link(path: &Path) -> String {
    format!("{}: a symbolic link, which leads wherever its owner likes; name the file", named(path))
}

fn named(path: &Path) -> String {
    format!("sealed.key_log = \"{}\"", path.display())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn lines_go_to_a_file_for_its_owner_whatever_became_of_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("esp_sa");
        check(&path).unwrap();
        append(&path, b"one\n").unwrap();
        append(&path, b"two\n").unwrap();
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"one\ntwo\n".to_vec(), 0o600));
        check(&path).unwrap();
        fs::remove_file(&path).unwrap();
        append(&path, b"three\n").unwrap();
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"three\n".to_vec(), 0o600));
    }

    #[test]
    fn what_others_may_read_or_have_put_there_gets_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        let refused = |path: &Path, part: &str| {
            for refusal in [check(path), append(path, b"secret\n")] {
                let text = format!("{:#}", refusal.unwrap_err());
                assert!(text.starts_with("sealed.key_log = \"/") && text.contains(part), "{text}");
            }
            assert!(fs::read(&file).unwrap().is_empty());
        };
        fs::write(&file, "").unwrap();
        for mode in [0o644, 0o640, 0o602, 0o610] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            refused(&file, &format!("mode {mode:04o}"));
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let link = directory.path().join("link");
        symlink(&file, &link).unwrap();
        refused(&link, "a symbolic link");
        refused(Path::new("/dev/null"), "not a regular file");
        let text = format!("{:#}", append(directory.path(), b"secret\n").unwrap_err());
        assert!(text.contains("Is a directory"), "{text}");
        append(&file, b"line\n").unwrap();
    }
}
