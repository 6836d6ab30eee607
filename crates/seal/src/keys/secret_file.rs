//! Files that hold one secret of 32 bytes, as base64 on one line.
//!
//! Refuses what others than the owner may read. No secret lies in memory that is not zeroed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::{FlockOperation, OFlags};
use zeroize::Zeroizing;

use super::{Error, KEY_LEN};

/// 32 bytes as base64, with padding.
const TEXT_LEN: usize = 44;

/// The secret, the end of its line, and one byte more, by which a longer file is noticed.
const READ_LEN: usize = TEXT_LEN + 3;

/// What the base64 decoder takes as the room that 44 characters may need.
const DECODED_ROOM: usize = TEXT_LEN / 4 * 3;

pub(super) type Secret = Zeroizing<[u8; KEY_LEN]>;

/// Whether a file is there to be read.
pub(super) fn exists(path: &Path) -> Result<bool, Error> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(system("look at", path, source)),
    }
}

/// Reads the secret.
///
/// Links are followed: Kubernetes mounts each file of a Secret as one.
pub(super) fn read(path: &Path, remedy: &'static str) -> Result<Secret, Error> {
    let content = |problem: &str| Error::Content {
        path: path.to_owned(),
        problem: problem.to_owned(),
        remedy,
    };
    let mut file = open(path, rustix::process::geteuid().as_raw())?;
    let mut text = Zeroizing::new([0; READ_LEN]);
    let mut len = 0;
    while len < text.len() {
        match file.read(&mut text[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(system("read", path, source)),
        }
    }
    let line = text[..len].strip_suffix(b"\n").unwrap_or(&text[..len]);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return Err(content("empty"));
    }
    if line.len() != TEXT_LEN {
        return Err(content("not 44 characters of base64 on one line, as 32 bytes have"));
    }
    let mut bytes = Zeroizing::new([0; DECODED_ROOM]);
    match STANDARD.decode_slice(line, &mut bytes[..]) {
        Ok(KEY_LEN) => {}
        Ok(_) | Err(_) => return Err(content("not 32 bytes in base64")),
    }
    let mut secret = Secret::default();
    secret.copy_from_slice(&bytes[..KEY_LEN]);
    if *secret == [0; KEY_LEN] {
        return Err(content("32 zeros are no secret"));
    }
    Ok(secret)
}

/// Opens a regular file that only its owner may use, who is root or the user `ours`, without
/// waiting for anybody.
fn open(path: &Path, ours: u32) -> Result<File, Error> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .map_err(|source| system("open", path, source))?;
    let metadata = file.metadata().map_err(|source| system("look at", path, source))?;
    if !metadata.is_file() {
        return Err(Error::NotRegular { path: path.to_owned() });
    }
    if ![0, ours].contains(&metadata.uid()) {
        return Err(Error::Owner { path: path.to_owned(), owner: metadata.uid(), ours });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(Error::Mode { path: path.to_owned(), mode });
    }
    Ok(file)
}

/// Writes a new file that only its owner may use. It has its name when the disk has all of it.
///
/// The caller has the [`lock`] of the directory; that there is no such file yet is checked here
/// again.
pub(super) fn create(path: &Path, secret: &Secret) -> Result<(), Error> {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    let partial = Path::new(&name);
    match fs::remove_file(partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(system("remove", partial, error));
        }
        // Left behind when the machine stopped in the middle.
        _ => {}
    }
    let line = line_of(secret);
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(partial)?;
        file.write_all(&line[..])?;
        file.sync_all()
    };
    let linked = write()
        .map_err(|source| system("write", partial, source))
        // A link, because a rename would replace what is there.
        .and_then(|()| fs::hard_link(partial, path).map_err(|e| system("make", path, e)));
    let removed = fs::remove_file(partial).map_err(|source| system("remove", partial, source));
    linked.and(removed)?;
    sync_directory(path)
}

/// The line that holds the secret.
fn line_of(secret: &Secret) -> Zeroizing<[u8; TEXT_LEN + 1]> {
    let mut line = Zeroizing::new([b'\n'; TEXT_LEN + 1]);
    STANDARD
        .encode_slice(secret.as_slice(), &mut line[..TEXT_LEN])
        .expect("32 bytes are 44 characters of base64");
    line
}

/// Makes the directory's entries durable.
pub(super) fn sync_directory(path: &Path) -> Result<(), Error> {
    let directory = directory_of(path);
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| system("flush", directory, source))
}

/// Keeps other processes from changing keys in the directory of `path` until it is dropped.
pub(super) fn lock(path: &Path) -> Result<File, Error> {
    let directory = directory_of(path);
    let file = File::open(directory).map_err(|source| system("open", directory, source))?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive)
        .map_err(|source| system("lock", directory, source.into()))?;
    Ok(file)
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

pub(super) fn system(op: &'static str, path: &Path, source: io::Error) -> Error {
    Error::System { op, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn write(path: &Path, text: &[u8], mode: u32) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    const GOOD: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

    #[test]
    fn one_line_of_base64_is_read_with_or_without_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("psk");
        for end in ["", "\n", "\r\n"] {
            write(&path, format!("{GOOD}{end}").as_bytes(), 0o600);
            assert_eq!(*read(&path, "").unwrap(), [1; KEY_LEN]);
        }
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(*read(&link, "").unwrap(), [1; KEY_LEN]);
    }

    #[test]
    fn what_is_no_secret_is_refused_by_what_is_wrong_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("psk");
        let zeros = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let two_lines = format!("{GOOD}\n{GOOD}\n");
        let not_canonical = GOOD.replace("QE=", "QF=");
        let cases: [(&[u8], &str); 8] = [
            (b"", "empty"),
            (b"\n", "empty"),
            (&GOOD.as_bytes()[..43], "not 44 characters"),
            (two_lines.as_bytes(), "not 44 characters"),
            (&[7; 32], "not 44 characters"),
            (&[b'!'; 44], "not 32 bytes in base64"),
            (not_canonical.as_bytes(), "not 32 bytes in base64"),
            (zeros.as_bytes(), "32 zeros are no secret"),
        ];
        for (text, problem) in cases {
            write(&path, text, 0o600);
            let error = read(&path, "do this").unwrap_err().to_string();
            assert!(error.contains(problem) && error.ends_with("; do this"), "{error}");
            let said = String::from_utf8_lossy(text);
            assert!(said.trim().is_empty() || !error.contains(said.trim()), "{error}");
        }
    }

    #[test]
    fn what_others_may_use_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("psk");
        for mode in [0o640, 0o604, 0o620, 0o601] {
            write(&path, GOOD.as_bytes(), mode);
            let error = read(&path, "").unwrap_err().to_string();
            assert!(error.contains(&format!("mode {mode:04o}")), "{error}");
        }
        for mode in [0o600, 0o400] {
            write(&path, GOOD.as_bytes(), mode);
            assert!(read(&path, "").is_ok());
        }
    }

    #[test]
    fn what_another_user_may_change_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("psk");
        write(&path, GOOD.as_bytes(), 0o600);
        let mut owner = fs::metadata(&path).unwrap().uid();
        if owner == 0 {
            assert!(open(&path, 7).is_ok(), "root may");
            owner = 7;
            std::os::unix::fs::chown(&path, Some(owner), None).unwrap();
        }
        assert!(open(&path, owner).is_ok());
        for ours in [0, owner + 1] {
            let error = open(&path, ours).unwrap_err();
            assert!(matches!(error, Error::Owner { owner: of, .. } if of == owner), "{error}");
        }
    }

    #[test]
    fn nothing_but_a_regular_file_is_read_or_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        for path in [fifo.as_path(), Path::new("/dev/zero"), directory.path()] {
            let error = read(path, "").unwrap_err();
            assert!(matches!(error, Error::NotRegular { .. }), "{error}");
        }
    }

    #[test]
    fn a_file_is_made_whole_for_its_owner_and_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.key");
        // What a machine leaves behind that stopped in the middle.
        write(&directory.path().join("node.key.partial"), b"half", 0o600);
        let first = Zeroizing::new([1; KEY_LEN]);
        create(&path, &first).unwrap();
        assert_eq!(*read(&path, "").unwrap(), *first);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let error = create(&path, &Zeroizing::new([2; KEY_LEN])).unwrap_err();
        assert!(error.to_string().starts_with("cannot make"), "{error}");
        assert_eq!(*read(&path, "").unwrap(), *first);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
