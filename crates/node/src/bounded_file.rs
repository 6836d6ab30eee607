//! Reading files that somebody named: regular ones, up to a size.
//!
//! A path from a configuration may lead to anything: a FIFO, on which opening waits for a writer
//! that never comes; a device that never ends; a file that somebody lets grow. Each would stop or
//! kill whoever reads it, so that everything here that reads a file by such a path does it by these
//! functions.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

/// For what people write by hand, and what programs hand over: configurations, keys, tokens.
pub const SMALL: u64 = 1 << 20;

/// For lists of all nodes: ten thousand have 1 to 2 MB.
pub const LARGE: u64 = 16 << 20;

/// Reads the file whole.
///
/// # Errors
///
/// It is not there or not for us; `InvalidInput` if it is not a regular file, `FileTooLarge` if it
/// has more than `limit` bytes.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = open(path, limit)?;
    let mut bytes = Vec::new();
    // It may grow meanwhile, or not know its own length, as files of the kernel's do.
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(too_large(limit));
    }
    Ok(bytes)
}

/// Reads the file whole, as text.
///
/// # Errors
///
/// As [`read`]; `InvalidData` if it is not UTF-8.
pub fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    String::from_utf8(read(path, limit)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not text in UTF-8"))
}

/// Opens the file without waiting for anybody.
fn open(path: &Path, limit: u64) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let metadata = file.metadata()?;
    let kind = metadata.file_type();
    if !kind.is_file() {
        let what = if kind.is_dir() {
            "a directory"
        } else if kind.is_fifo() {
            "a FIFO"
        } else if kind.is_socket() {
            "a socket"
        } else {
            "a device"
        };
        let problem = format!("it is {what}, not a regular file");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
    }
    if metadata.len() > limit { Err(too_large(limit)) } else { Ok(file) }
}

fn too_large(limit: u64) -> io::Error {
    let problem = format!("it has more than {limit} bytes");
    io::Error::new(io::ErrorKind::FileTooLarge, problem)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_regular_file_is_read_up_to_the_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "twelve bytes").unwrap();
        assert_eq!(read_text(&path, 12).unwrap(), "twelve bytes");
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(read_text(&link, 12).unwrap(), "twelve bytes");
        assert_eq!(read(&path, 11).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(
            read(&directory.path().join("none"), 1).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        std::fs::write(&path, [0xff]).unwrap();
        assert_eq!(read_text(&path, 12).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn nothing_but_a_regular_file_is_read_or_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let socket = directory.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        let zeros = directory.path().join("zeros");
        std::os::unix::fs::symlink("/dev/zero", &zeros).unwrap();
        for (path, what) in [
            (fifo.as_path(), "a FIFO"),
            (zeros.as_path(), "a device"),
            (directory.path(), "a directory"),
        ] {
            let error = read(path, SMALL).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
            assert!(error.to_string().contains(what), "{error}");
        }
        // A socket cannot be opened at all.
        assert!(read(&socket, SMALL).is_err());
    }

    #[test]
    fn a_file_that_says_it_is_empty_and_is_not_has_a_limit_too() {
        // Files of the kernel's have no length.
        let path = Path::new("/proc/self/status");
        assert!(!read(path, SMALL).unwrap().is_empty());
        assert_eq!(read(path, 10).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
