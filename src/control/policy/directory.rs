//! Policies, pods and namespaces as files of a directory.
//!
//! The directory is looked at a few times a second, as the table file is, and for the same reasons.
//! It counts as a whole: one file that makes no sense changes nothing of what was read before.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_node::bounded_file;
use culvert_policy::object::{Key, Namespace, Object};
use culvert_policy::read::{self, Finding, Gravity};

use super::{Link, PolicyUpdate, Question};
use crate::config::Complaint;
use crate::control::stamp::{Stamp, stamp};
use crate::platform::allocator;

/// How often the directory is looked at: a change is to take effect within a second.
const INTERVAL: Duration = Duration::from_millis(200);

/// Most files, each of which is looked at five times a second.
const MOST_FILES: usize = 10_000;

/// Endings of names of files that are read. Others may lie beside them.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// What a directory has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    /// Every object, in the order of files; a namespace for each that others name.
    pub(crate) objects: Vec<Object>,
    /// What is wrong with them, each with its file.
    pub(crate) findings: Vec<(PathBuf, Finding)>,
}

/// Why a directory says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DirectoryError {
    /// It, or a file in it, is not there or not for us.
    #[error(transparent)]
    Unreadable(Complaint),
    /// A file is no YAML, or two say the same.
    #[error(transparent)]
    Malformed(Complaint),
}

/// The files of a directory that are read, and the state of each.
type Look = BTreeMap<PathBuf, Option<Stamp>>;

/// Reads the directory, and again whenever it is another or somebody asks.
pub(super) async fn follow(path: PathBuf, mut link: Link) {
    loop {
        let reading = path.clone();
        let reader = tokio::task::spawn_blocking(move || {
            // Before the content, so that a change in between is noticed as one.
            let seen = look(&reading).ok();
            let contents = read(&reading);
            allocator::give_back();
            (seen, contents)
        });
        let Ok((seen, contents)) = reader.await else { return };
        link.say(told(contents)).await;
        loop {
            let asked = tokio::select! {
                () = tokio::time::sleep(INTERVAL) => None,
                question = link.questions.recv() => match question {
                    Some(question) => Some(question),
                    None => return,
                }
            };
            match asked {
                Some(Question::Reload) => break,
                // A pod can only be new here if a file is.
                Some(Question::Pod(..)) | None => {
                    let looking = path.clone();
                    let now = tokio::task::spawn_blocking(move || look(&looking).ok()).await;
                    let Ok(now) = now else { return };
                    if now != seen {
                        break;
                    }
                }
            }
        }
    }
}

fn told(contents: Result<Contents, DirectoryError>) -> PolicyUpdate {
    match contents {
        Err(DirectoryError::Unreadable(complaint)) => {
            PolicyUpdate::Lost { kind: None, why: complaint.to_string() }
        }
        Err(DirectoryError::Malformed(complaint)) => PolicyUpdate::Refused(complaint.to_string()),
        Ok(Contents { objects, findings }) => {
            let wrong = findings.iter().find(|(_, finding)| finding.gravity == Gravity::Wrong);
            if let Some((file, finding)) = wrong {
                return PolicyUpdate::Refused(format!("{}: {finding}", file.display()));
            }
            let findings = findings.into_iter().map(|(_, finding)| finding).collect();
            PolicyUpdate::Everything { objects, findings }
        }
    }
}

/// Reads every file of the directory at `path`.
///
/// # Errors
///
/// The first file that cannot be read, is no YAML, or has an object that another one has.
pub(crate) fn read(path: &Path) -> Result<Contents, DirectoryError> {
    let unreadable = |path: &Path, error: io::Error| {
        let complaint = Complaint::of_file(path, format!("cannot be read: {error}"));
        DirectoryError::Unreadable(complaint.remedy("create it, or name another directory"))
    };
    let files = look(path).map_err(|error| unreadable(path, error))?;
    let mut contents = Contents::default();
    let mut places: BTreeMap<Key, PathBuf> = BTreeMap::new();
    for file in files.into_keys() {
        let text = bounded_file::read_text(&file, bounded_file::LARGE)
            .map_err(|error| unreadable(&file, error))?;
        let read = read::text(&text).map_err(|error| {
            let complaint = Complaint::of_file(&file, error.to_string());
            let line = error.line().and_then(|line| usize::try_from(line).ok());
            DirectoryError::Malformed(line.into_iter().fold(complaint, Complaint::line))
        })?;
        for object in &read.objects {
            if let Some(other) = places.insert(object.key(), file.clone()) {
                let problem = format!("{} is in {} as well", object.key(), other.display());
                let complaint = Complaint::of_file(&file, problem);
                return Err(DirectoryError::Malformed(complaint.remedy("remove one of the two")));
            }
        }
        contents.objects.extend(read.objects);
        contents.findings.extend(read.findings.into_iter().map(|it| (file.clone(), it)));
    }
    contents.objects.extend(unwritten(&contents.objects));
    Ok(contents)
}

/// Namespaces that objects name and nobody wrote down.
fn unwritten(objects: &[Object]) -> Vec<Object> {
    let mut named: BTreeSet<&str> = BTreeSet::new();
    let mut written: BTreeSet<&str> = BTreeSet::new();
    for object in objects {
        match object {
            Object::Namespace(namespace) => _ = written.insert(&namespace.name),
            Object::Pod(pod) => _ = named.insert(&pod.namespace),
            Object::NetworkPolicy(policy) => _ = named.insert(&policy.namespace),
            Object::Node(_) | Object::ClusterNetworkPolicy(_) => {}
        }
    }
    let missing = named.difference(&written);
    missing.map(|name| Object::Namespace(Namespace::without_labels(name))).collect()
}

/// The files that are read, and their states.
fn look(path: &Path) -> io::Result<Look> {
    let mut files = Look::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let ending = file.extension().unwrap_or_default().to_string_lossy();
        // What begins with a dot is what editors and mounted ConfigMaps have for themselves.
        if name.starts_with('.') || !ENDINGS.contains(&&*ending) {
            continue;
        }
        let state = stamp(&file);
        files.insert(file, state);
        if files.len() > MOST_FILES {
            let problem = format!("it has more than {MOST_FILES} files");
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, problem));
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests;
