//! A tar archive (POSIX.1-1988, ustar): regular files with short names, one after the other.

use std::io::{self, Write};

const BLOCK: usize = 512;

/// Longest name that a header has room for.
const MAX_NAME: usize = 100;

/// An archive that is being written.
pub(super) struct Archive<W> {
    out: W,
    /// Seconds since 1970, of every file.
    time: u64,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W, time: u64) -> Self {
        Self { out, time }
    }

    /// Adds a file that its owner may read.
    ///
    /// # Errors
    ///
    /// The name is too long, or what the writer says.
    pub(super) fn add(&mut self, name: &str, contents: &[u8]) -> io::Result<()> {
        self.out.write_all(&self.header(name, contents.len())?)?;
        self.out.write_all(contents)?;
        let rest = contents.len() % BLOCK;
        if rest > 0 {
            self.out.write_all(&[0; BLOCK][rest..])?;
        }
        Ok(())
    }

    /// Ends the archive.
    ///
    /// # Errors
    ///
    /// What the writer says.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()
    }

    fn header(&self, name: &str, len: usize) -> io::Result<[u8; BLOCK]> {
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(io::Error::other(format!("{name} is no name for a file of an archive")));
        }
        let mut header = [0; BLOCK];
        let mut put = |at: usize, text: &str| {
            header[at..at + text.len()].copy_from_slice(text.as_bytes());
        };
        put(0, name);
        put(100, "0000600\0");
        put(108, "0000000\0");
        put(116, "0000000\0");
        put(124, &format!("{len:011o}\0"));
        put(136, &format!("{:011o}\0", self.time & 0o77_777_777_777));
        // The sum is made with blanks in its place.
        put(148, "        ");
        put(156, "0");
        put(257, "ustar\x0000");
        put(265, "root");
        put(297, "root");
        let sum: u32 = header.iter().copied().map(u32::from).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn tar_reads_what_is_written() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes, 1_767_225_600);
        let long = "x".repeat(1000);
        let files = [("culvert-support/a.json", "{}\n"), ("culvert-support/b.txt", long.as_str())];
        for (name, text) in files {
            archive.add(name, text.as_bytes()).unwrap();
        }
        archive.finish().unwrap();
        assert_eq!(bytes.len() % BLOCK, 0);

        let directory = tempfile::tempdir().unwrap();
        let mut tar = Command::new("tar")
            .args(["-x", "-f", "-", "-C"])
            .arg(directory.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        tar.stdin.take().unwrap().write_all(&bytes).unwrap();
        assert!(tar.wait().unwrap().success());
        for (name, text) in files {
            assert_eq!(std::fs::read_to_string(directory.path().join(name)).unwrap(), text);
        }
    }

    #[test]
    fn name_without_room_is_refused() {
        let mut archive = Archive::new(Vec::new(), 0);
        assert!(archive.add(&"n".repeat(101), b"").is_err());
        assert!(archive.add("", b"").is_err());
    }
}
