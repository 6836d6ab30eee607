//! Files that appear in one step: whoever reads one finds the old content or the new, after a crash
//! and after a power loss too.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// What a file may be for whom, before the process's mask cuts it: as `File::create` has it.
const MODE: u32 = 0o666;

/// The same of a file that nobody but its owner may read.
const PRIVATE: u32 = 0o600;

/// Makes `path` appear in one step with what `fill` writes, and its directory before, if there is
/// none. One process at a time writes a path.
///
/// # Errors
///
/// What `fill` or the file system says. Then there is what was there before.
pub fn write(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    lasting(MODE, path, fill)
}

/// The same, of a file that is nobody else's to read.
///
/// # Errors
///
/// As those of [`write()`].
pub fn write_private(
    path: &Path,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    lasting(PRIVATE, path, fill)
}

fn lasting(
    mode: u32,
    path: &Path,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let file = partial(mode, path, fill)?;
    // Else a power loss could leave the name without the content,
    file.as_file().sync_all()?;
    file.persist(path)?;
    // or the old content.
    File::open(directory_of(path))?.sync_all()
}

fn directory_of(path: &Path) -> &Path {
    path.parent().unwrap_or_else(|| Path::new("."))
}

/// The same, of a file that is nobody else's to read, and of no use after a power loss: what there
/// is then may be the old content, the new one, or neither.
///
/// # Errors
///
/// As those of [`write()`].
pub fn write_passing(
    path: &Path,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    partial(PRIVATE, path, fill)?.persist(path)?;
    Ok(())
}

/// What will be the file, with what `fill` writes.
fn partial(
    mode: u32,
    path: &Path,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<NamedTempFile> {
    let directory = directory_of(path);
    fs::create_dir_all(directory)?;
    let partial = partial_of(path);
    // One name, so that processes that are killed leave one file and not ever more.
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = tempfile::Builder::new()
        .prefix(partial.file_name().unwrap_or_default())
        .rand_bytes(0)
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(directory)?;
    fill(file.as_file_mut())?;
    Ok(file)
}

/// The name of `path` while it is not whole yet: one that nobody takes for a file of his.
#[must_use]
pub fn partial_of(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.new"))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_whole_and_nothing_is_left_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("made/a.json");
        // What a killed process left.
        fs::create_dir(path.parent().unwrap()).unwrap();
        fs::write(partial_of(&path), "half").unwrap();
        for content in ["old", "new"] {
            write(&path, |file| file.write_all(content.as_bytes())).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        assert_eq!(names(path.parent().unwrap()), ["a.json"]);
        let plain = directory.path().join("plain");
        fs::write(&plain, "").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&path), mode(&plain));
    }

    #[test]
    fn a_private_file_is_its_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.json");
        write(&path, |file| file.write_all(b"old")).unwrap();
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        write_passing(&path, |file| file.write_all(b"new")).unwrap();
        assert_eq!(mode(), 0o600);
        write(&path, |file| file.write_all(b"old")).unwrap();
        write_private(&path, |file| file.write_all(b"new")).unwrap();
        assert_eq!(mode(), 0o600);
    }

    #[test]
    fn a_failure_leaves_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.json");
        write(&path, |file| file.write_all(b"old")).unwrap();
        let full = write(&path, |file| {
            file.write_all(b"half")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert_eq!(full.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names(directory.path()), ["a.json"]);
    }
}
