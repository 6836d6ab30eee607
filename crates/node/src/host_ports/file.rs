//! The file of a pod's ports, in the run directory: there from before the rules until after them.
//!
//! The run directory is in memory, so that nobody who reads waits for a disk, and it goes with the
//! machine, as pods do. A file whose device is gone is left over.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::PodPorts;
use crate::{bounded_file, whole_file};

/// Directory of the files, under the run directory.
const DIRECTORY: &str = "host-ports";

/// What the name of a file ends with.
const SUFFIX: &str = ".json";

fn path(run_dir: &Path, device: &str) -> PathBuf {
    run_dir.join(DIRECTORY).join(format!("{device}{SUFFIX}"))
}

/// Writes down what the pod has.
///
/// # Errors
///
/// What the file system says.
pub fn remember(run_dir: &Path, pod: &PodPorts) -> io::Result<()> {
    let text = serde_json::to_vec(pod)?;
    whole_file::write(&path(run_dir, &pod.device), |file| file.write_all(&text))
}

/// What the pod behind `device` has; none, if there is no file.
///
/// # Errors
///
/// What the file system says, and `InvalidData` if the file is not one of ours.
pub fn remembered(run_dir: &Path, device: &str) -> io::Result<Option<PodPorts>> {
    let text = match bounded_file::read(&path(run_dir, device), bounded_file::SMALL) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read?,
    };
    let pod: PodPorts = serde_json::from_slice(&text)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    if pod.device == device {
        Ok(Some(pod))
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "it is about another device"))
    }
}

/// Removes the file of the pod behind `device`; false, if there is none.
///
/// # Errors
///
/// What the file system says.
pub fn forget(run_dir: &Path, device: &str) -> io::Result<bool> {
    match fs::remove_file(path(run_dir, device)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        removed => removed.map(|()| true),
    }
}

/// What every pod of the node has, in the order of their devices. A file that cannot be read is
/// left out.
///
/// # Errors
///
/// What the file system says of the directory, unless there is none.
pub fn all(run_dir: &Path) -> io::Result<Vec<PodPorts>> {
    let entries = match fs::read_dir(run_dir.join(DIRECTORY)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read?,
    };
    let mut devices = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let device = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
        devices.extend(device.map(str::to_owned));
    }
    devices.sort();
    let read = devices.iter().filter_map(|device| remembered(run_dir, device).ok().flatten());
    Ok(read.collect())
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    #[test]
    fn what_was_written_down_is_read_and_forgotten() {
        let run = tempfile::tempdir().unwrap();
        let pod = example();
        assert_eq!(remembered(run.path(), &pod.device).unwrap(), None);
        assert_eq!(all(run.path()).unwrap(), []);
        assert!(!forget(run.path(), &pod.device).unwrap());
        remember(run.path(), &pod).unwrap();
        assert_eq!(remembered(run.path(), &pod.device).unwrap().as_ref(), Some(&pod));
        let other = PodPorts { device: "culv0".to_owned(), ..pod.clone() };
        remember(run.path(), &other).unwrap();
        assert_eq!(all(run.path()).unwrap(), [other.clone(), pod.clone()]);
        assert!(forget(run.path(), &pod.device).unwrap());
        assert_eq!(all(run.path()).unwrap(), [other]);
    }

    #[test]
    fn file_of_another_kind_is_left_out_of_the_list_and_an_error_by_itself() {
        let run = tempfile::tempdir().unwrap();
        let pod = example();
        remember(run.path(), &pod).unwrap();
        fs::write(path(run.path(), "culv1"), "{").unwrap();
        fs::copy(path(run.path(), &pod.device), path(run.path(), "culv2")).unwrap();
        fs::write(run.path().join(DIRECTORY).join(".culv3.json.new"), "{").unwrap();
        assert_eq!(all(run.path()).unwrap(), [pod]);
        for device in ["culv1", "culv2"] {
            let error = remembered(run.path(), device).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{device}");
        }
    }
}
