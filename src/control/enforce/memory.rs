//! What a source told last, on disk, for a start while the source is away.
//!
//! Owns one file under the state directory: a line that says whose objects they are, a line for
//! each object, and a line by which a file that is not whole is known. It is replaced in one step,
//! so that a power loss leaves the one before. A copy: the source has the original.

use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use culvert_node::{bounded_file, whole_file};
use culvert_policy::object::Object;
use culvert_policy::{read, write};
use serde::{Deserialize, Serialize};

use super::trial;

/// Name of the file under the state directory.
const FILE_NAME: &str = "policies.jsonl";

/// Largest file. Ten thousand pods have 4 MB.
const MOST: u64 = 64 << 20;

/// The form of the file, which grows when an older program would misread it.
const FORM: u32 = 1;

/// Whose objects they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    form: u32,
    node: String,
    source: String,
}

/// By what a whole file is known.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Tail {
    objects: usize,
    check: String,
}

/// What a file has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Remembered {
    /// There is none, or it is of another node or source.
    Nothing,
    /// These objects.
    Objects(Vec<Object>),
    /// Something that is not what was written, for this reason.
    Damaged(String),
}

/// Where the objects of a node from a source are kept.
#[derive(Clone, Debug)]
pub(super) struct Place {
    path: PathBuf,
    head: Head,
}

/// Objects that are to be kept.
#[derive(Debug)]
pub(crate) struct Memory {
    place: Place,
    objects: Vec<Object>,
}

impl Place {
    pub(super) fn new(state_dir: &Path, node: &str, source: &str) -> Self {
        let head = Head { form: FORM, node: node.to_owned(), source: source.to_owned() };
        Self { path: state_dir.join(FILE_NAME), head }
    }

    /// What to keep there.
    pub(super) fn memory(&self, objects: Vec<Object>) -> Memory {
        Memory { place: self.clone(), objects }
    }

    /// What is kept there.
    pub(super) fn read(&self) -> Remembered {
        let text = match bounded_file::read_text(&self.path, MOST) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Remembered::Nothing,
            Err(error) => return self.damaged(&error.to_string()),
            Ok(text) => text,
        };
        match self.understand(&text) {
            Ok(Some(objects)) => Remembered::Objects(objects),
            Ok(None) => Remembered::Nothing,
            Err(problem) => self.damaged(&problem),
        }
    }

    fn damaged(&self, problem: &str) -> Remembered {
        Remembered::Damaged(format!("{}: {problem}", self.path.display()))
    }

    fn understand(&self, text: &str) -> Result<Option<Vec<Object>>, String> {
        let not_whole = || "it is not whole".to_owned();
        let (body, tail) = text
            .strip_suffix('\n')
            .and_then(|text| text.rsplit_once('\n'))
            .ok_or_else(not_whole)?;
        let tail: Tail = serde_json::from_str(tail).map_err(|_error| not_whole())?;
        if tail.check != check(body.as_bytes()) {
            return Err("it is not what was written".to_owned());
        }
        let mut lines = body.lines();
        let head: Head = serde_json::from_str(lines.next().unwrap_or_default())
            .map_err(|error| format!("its first line: {error}"))?;
        if head != self.head {
            return Ok(None);
        }
        let mut objects = Vec::with_capacity(tail.objects);
        for line in lines {
            let document = serde_json::from_str(line).map_err(|error| error.to_string())?;
            objects.extend(read::value(&document).objects);
        }
        if objects.len() == tail.objects { Ok(Some(objects)) } else { Err(not_whole()) }
    }
}

impl Memory {
    /// Writes the file, in place of the one before.
    ///
    /// # Errors
    ///
    /// Whatever the file system says; there is too much to be kept. Of the latter no older file
    /// stays either, because nobody would ever replace it.
    pub(crate) fn write(&self) -> io::Result<()> {
        let Self { place: Place { path, head }, objects } = self;
        // Who is where, and who may speak with whom, is not everybody's to know.
        let written = whole_file::write_private(path, |file| {
            let mut out = Checked::new(BufWriter::new(file));
            out.line(&serde_json::to_vec(head)?)?;
            for object in objects {
                out.line(&serde_json::to_vec(&write::value(object))?)?;
            }
            trial::reached("memory");
            out.finish(objects.len())
        });
        if written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::FileTooLarge) {
            std::fs::remove_file(path)?;
        }
        written
    }
}

/// A file that is being written.
struct Checked<W> {
    out: W,
    check: u64,
    written: u64,
}

impl<W: io::Write> Checked<W> {
    const fn new(out: W) -> Self {
        Self { out, check: START, written: 0 }
    }

    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        self.written += line.len() as u64 + 1;
        if self.written > MOST {
            let problem = format!("policies and pods have more than {MOST} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, problem));
        }
        // The check is of the lines and what is between them, without the last end of line.
        if self.written > line.len() as u64 + 1 {
            self.check = add(self.check, b"\n");
        }
        self.check = add(self.check, line);
        self.out.write_all(line)?;
        self.out.write_all(b"\n")
    }

    fn finish(mut self, objects: usize) -> io::Result<()> {
        let tail = Tail { objects, check: shown(self.check) };
        self.out.write_all(&serde_json::to_vec(&tail)?)?;
        self.out.write_all(b"\n")?;
        self.out.flush()
    }
}

/// FNV-1a: against disks and cut files, not against people who may write here.
const START: u64 = 0xcbf2_9ce4_8422_2325;

fn add(check: u64, bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(check, |check, byte| (check ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

fn check(bytes: &[u8]) -> String {
    shown(add(START, bytes))
}

fn shown(check: u64) -> String {
    format!("{check:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::enforce::fixture::objects;

    fn place(directory: &Path) -> Place {
        Place::new(directory, "node1", "directory /policies")
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let place = place(directory.path());
        assert_eq!(place.read(), Remembered::Nothing);
        for objects in [objects(), Vec::new(), objects()] {
            place.memory(objects.clone()).write().unwrap();
            assert_eq!(place.read(), Remembered::Objects(objects));
        }
        let names: Vec<_> = std::fs::read_dir(directory.path()).unwrap().flatten().collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }

    #[test]
    fn objects_of_another_node_or_source_do_not_count() {
        let directory = tempfile::tempdir().unwrap();
        place(directory.path()).memory(objects()).write().unwrap();
        for (node, source) in [("node2", "directory /policies"), ("node1", "Kubernetes")] {
            let other = Place::new(directory.path(), node, source);
            assert_eq!(other.read(), Remembered::Nothing);
        }
    }

    #[test]
    fn no_part_of_a_file_and_no_other_byte_passes_for_the_whole() {
        let directory = tempfile::tempdir().unwrap();
        let place = place(directory.path());
        place.memory(objects()).write().unwrap();
        let path = directory.path().join(FILE_NAME);
        let whole = std::fs::read(&path).unwrap();
        let mut damaged: Vec<Vec<u8>> =
            (0..whole.len()).map(|length| whole[..length].to_vec()).collect();
        damaged.extend((0..whole.len()).map(|at| {
            let mut other = whole.clone();
            other[at] ^= 1;
            other
        }));
        // A line that is missing, and one that is there twice.
        let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
        damaged.push([&lines[..2], &lines[3..]].concat().concat());
        damaged.push([&lines[..2], &lines[1..]].concat().concat());
        for bytes in damaged {
            std::fs::write(&path, &bytes).unwrap();
            let read = place.read();
            assert!(matches!(&read, Remembered::Damaged(_)), "{read:?}");
        }
    }

    #[test]
    fn file_that_would_be_too_large_is_none() {
        let mut out = Checked { written: MOST - 4, ..Checked::new(Vec::new()) };
        out.line(b"123").unwrap();
        assert_eq!(out.line(b"").unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
