//! What a thread asks of the file system, call by call, while a tape runs.
//!
//! SQLite is linked into this program, and so are these functions, which SQLite and the standard
//! library thus call in place of libc's. Each does the same by a system call and writes it down, if
//! it is about a file in the directory of the tape. SQLite's `-shm` is left out: it is memory that
//! processes share, and the first one to open the store makes it anew.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use libc::{off_t, size_t, ssize_t};

/// Number of a file on the tape. A name may lead to one file first and to another later.
pub(crate) type FileId = usize;

#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A file is first heard of, by this name.
    Create {
        file: FileId,
        name: String,
    },
    Write {
        file: FileId,
        at: usize,
        bytes: Vec<u8>,
    },
    Cut {
        file: FileId,
        length: usize,
    },
    Flush {
        file: FileId,
    },
    Rename {
        from: String,
        to: String,
    },
    Remove {
        name: String,
    },
    FlushDirectory,
    /// The test has been told that a call is done.
    Answer,
}

#[derive(Debug)]
struct Tape {
    directory: PathBuf,
    events: Vec<Event>,
    /// Files by their inodes, which the file system may give to others later.
    files: HashMap<u64, FileId>,
    made: FileId,
}

thread_local! {
    static TAPE: RefCell<Option<Tape>> = const { RefCell::new(None) };
}

/// Begins to write down what this thread does in `directory`.
pub(crate) fn start(directory: &Path) {
    let directory = directory.to_owned();
    let tape = Tape { directory, events: Vec::new(), files: HashMap::new(), made: 0 };
    TAPE.set(Some(tape));
}

/// Notes that a call is done.
pub(crate) fn answer() {
    with(|tape| tape.events.push(Event::Answer));
}

/// Ends the tape.
pub(crate) fn stop() -> Vec<Event> {
    TAPE.take().expect("a tape runs").events
}

fn with(note: impl FnOnce(&mut Tape)) {
    // Threads write while they end, too.
    let _ended = TAPE.try_with(|tape| {
        if let Ok(mut tape) = tape.try_borrow_mut()
            && let Some(tape) = &mut *tape
        {
            note(tape);
        }
    });
}

impl Tape {
    /// The name in the directory that `path` has; none for what is elsewhere or does not count.
    fn name(&self, path: &Path) -> Option<String> {
        let name = path.strip_prefix(&self.directory).ok()?.to_str()?;
        (!name.ends_with("-shm")).then(|| name.to_owned())
    }

    /// The file that `descriptor` leads to, if it counts.
    fn file(&mut self, descriptor: c_int) -> Option<FileId> {
        let link = format!("/proc/self/fd/{descriptor}");
        let name = self.name(&fs::read_link(&link).ok()?)?;
        let inode = fs::metadata(&link).expect("the file is open").ino();
        if name.is_empty() {
            return None;
        }
        Some(self.known(inode, name))
    }

    /// The file with this inode, which is called `name` if it was not heard of before.
    fn known(&mut self, inode: u64, name: String) -> FileId {
        if let Some(file) = self.files.get(&inode) {
            return *file;
        }
        let file = self.made;
        self.made += 1;
        self.files.insert(inode, file);
        self.events.push(Event::Create { file, name });
        file
    }

    fn write(&mut self, descriptor: c_int, at: off_t, bytes: &[u8]) {
        if let Some(file) = self.file(descriptor) {
            let at = at.try_into().expect("an offset");
            self.events.push(Event::Write { file, at, bytes: bytes.to_vec() });
        }
    }

    fn flush(&mut self, descriptor: c_int) {
        let path = fs::read_link(format!("/proc/self/fd/{descriptor}"));
        if path.is_ok_and(|path| path == self.directory) {
            self.events.push(Event::FlushDirectory);
        } else if let Some(file) = self.file(descriptor) {
            self.events.push(Event::Flush { file });
        }
    }
}

/// # Safety
///
/// As `write(2)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn write(descriptor: c_int, bytes: *const c_void, count: size_t) -> ssize_t {
    let mut at = 0;
    // SAFETY: a system call without pointers.
    with(|_| at = unsafe { libc::lseek(descriptor, 0, libc::SEEK_CUR) });
    // SAFETY: the caller's promise.
    let written = unsafe { libc::syscall(libc::SYS_write, descriptor, bytes, count) } as ssize_t;
    // SAFETY: the kernel has just read that much.
    unsafe { note_write(descriptor, at, bytes, written) };
    written
}

/// # Safety
///
/// As `pwrite(2)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite64(
    descriptor: c_int,
    bytes: *const c_void,
    count: size_t,
    at: off_t,
) -> ssize_t {
    // SAFETY: the caller's promise.
    let written = unsafe { libc::syscall(libc::SYS_pwrite64, descriptor, bytes, count, at) };
    // SAFETY: the kernel has just read that much.
    unsafe { note_write(descriptor, at, bytes, written as ssize_t) };
    written as ssize_t
}

/// # Safety
///
/// As `pwrite(2)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite(
    descriptor: c_int,
    bytes: *const c_void,
    count: size_t,
    at: off_t,
) -> ssize_t {
    // SAFETY: the caller's promise.
    unsafe { pwrite64(descriptor, bytes, count, at) }
}

/// # Safety
///
/// As many bytes as were written can be read.
unsafe fn note_write(descriptor: c_int, at: off_t, bytes: *const c_void, written: ssize_t) {
    if let Ok(length @ 1..) = usize::try_from(written) {
        // SAFETY: the caller's promise.
        let bytes = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), length) };
        with(|tape| tape.write(descriptor, at, bytes));
    }
}

#[unsafe(no_mangle)]
extern "C" fn ftruncate64(descriptor: c_int, length: off_t) -> c_int {
    // SAFETY: a system call without pointers.
    let done = unsafe { libc::syscall(libc::SYS_ftruncate, descriptor, length) } as c_int;
    if done == 0 {
        with(|tape| {
            if let Some(file) = tape.file(descriptor) {
                let length = length.try_into().expect("a length");
                tape.events.push(Event::Cut { file, length });
            }
        });
    }
    done
}

#[unsafe(no_mangle)]
extern "C" fn ftruncate(descriptor: c_int, length: off_t) -> c_int {
    ftruncate64(descriptor, length)
}

#[unsafe(no_mangle)]
extern "C" fn fsync(descriptor: c_int) -> c_int {
    // Nothing is flushed: the machine that loses its power is the one of the tape.
    with(|tape| tape.flush(descriptor));
    0
}

#[unsafe(no_mangle)]
extern "C" fn fdatasync(descriptor: c_int) -> c_int {
    fsync(descriptor)
}

/// # Safety
///
/// As `rename(2)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    let here = libc::AT_FDCWD;
    // SAFETY: the caller's promise.
    let done = unsafe { libc::syscall(libc::SYS_renameat2, here, from, here, to, 0) } as c_int;
    if done == 0 {
        // SAFETY: the kernel has just read both.
        let [from, to] = [from, to].map(|path| unsafe { path_of(path) });
        with(|tape| {
            if let (Some(from), Some(name)) = (tape.name(&from), tape.name(&to)) {
                // One that nobody has written to is heard of for the first time.
                let inode = fs::metadata(&to).expect("it was renamed").ino();
                tape.known(inode, from.clone());
                let to = name;
                tape.events.push(Event::Rename { from, to });
            }
        });
    }
    done
}

/// # Safety
///
/// As `unlink(2)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    let mut inode = None;
    with(|_| {
        // SAFETY: the caller's promise.
        inode = fs::metadata(unsafe { path_of(path) }).ok().map(|found| found.ino());
    });
    // SAFETY: the caller's promise.
    let done = unsafe { libc::syscall(libc::SYS_unlinkat, libc::AT_FDCWD, path, 0) } as c_int;
    if done == 0 {
        // SAFETY: the kernel has just read it.
        let path = unsafe { path_of(path) };
        with(|tape| {
            if let Some(name) = tape.name(&path) {
                inode.map(|inode| tape.files.remove(&inode));
                tape.events.push(Event::Remove { name });
            }
        });
    }
    done
}

/// # Safety
///
/// A string that ends with a zero.
unsafe fn path_of(path: *const c_char) -> PathBuf {
    // SAFETY: the caller's promise.
    let path = unsafe { CStr::from_ptr(path) };
    PathBuf::from(std::ffi::OsStr::from_bytes(path.to_bytes()))
}
