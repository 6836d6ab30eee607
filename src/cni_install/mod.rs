//! Putting the plugin where container runtimes look for it, and taking it away again.
//!
//! Owns the order: program first, network configuration last and only on a node that is ready,
//! because a runtime that finds the configuration starts pods. Each file appears whole, under a
//! name of its version, and a link that is replaced in one step says which version counts. Removing
//! goes the other way round. Never talks to a runtime, which notices by itself.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use culvert_dataplane::platform::clock;
use culvert_node::ipam::{Store, Survey, Surveyor};
use culvert_node::words::counted;
use culvert_node::{readiness, whole_file};

mod cli;
mod conflist;
#[cfg(test)]
mod tests;

pub(crate) use self::cli::{CniArgs, run};
use self::conflist::Conflist;

/// The plugin's program, as configurations name it.
const PROGRAM: &str = "culvert-cni";

/// The stock plugin that every runtime needs beside those of its networks.
const LOOPBACK: &str = "loopback";

/// Name of the network configuration. Runtimes take the first file of the directory.
const CONFLIST: &str = "10-culvert.conflist";

/// Where the network configuration is written, in the directory where it then is.
const ASIDE: &str = ".culvert-new";

/// How often to look whether the node is ready.
const READY_PAUSE: Duration = Duration::from_millis(100);

/// Where everything is.
#[derive(Clone, Debug)]
struct Places {
    /// Directory of plugins.
    bin_dir: PathBuf,
    /// Directory of network configurations.
    conf_dir: PathBuf,
    /// The daemon's run directory.
    run_dir: PathBuf,
    /// The plugin's state directory.
    state_dir: PathBuf,
}

/// Copies `plugin`, waits until the node is ready, and writes `conflist`. Says what was done.
fn install(
    places: &Places,
    plugin: &Path,
    conflist: &Conflist,
    patience: Duration,
) -> Result<Vec<String>> {
    for program in conflist.chained() {
        let path = places.bin_dir.join(&program);
        ensure!(
            path.exists(),
            "{} does not exist: install the plugin {program} there (Debian has it in \
             containernetworking-plugins), or leave it out of --chain",
            path.display()
        );
    }
    let mut done = vec![install_program(&places.bin_dir, plugin)?];
    done.extend(install_loopback(&places.bin_dir)?);
    wait_ready(places, patience)?;
    fs::create_dir_all(&places.conf_dir)
        .with_context(|| format!("create {}", places.conf_dir.display()))?;
    let path = places.conf_dir.join(CONFLIST);
    let text = conflist.text(&places.run_dir, &places.state_dir);
    write_conflist(&path, &text).with_context(|| format!("write {}", path.display()))?;
    done.push(format!("wrote {}", path.display()));
    Ok(done)
}

/// Removes what [`install`] put there, newest first. Says what was removed.
fn uninstall(places: &Places, force: bool) -> Result<Vec<String>> {
    let path = places.conf_dir.join(CONFLIST);
    if let Some(text) = read_if_there(&path)?
        && !conflist::is_ours(&text)
    {
        bail!(
            "{} has no plugin {PROGRAM} in it, so it is not ours: remove it by hand",
            path.display()
        );
    }
    if !force {
        refuse_with_pods(&places.state_dir, &mut Surveyor::open()?)?;
    }
    let mut done = Vec::new();
    remove(&path, &mut done)?;
    let loopback = places.bin_dir.join(LOOPBACK);
    if is_our_link(&loopback) {
        remove(&loopback, &mut done)?;
    }
    let link = places.bin_dir.join(PROGRAM);
    remove(&link, &mut done)?;
    for version in versions(&places.bin_dir)? {
        remove(&version, &mut done)?;
    }
    Ok(done)
}

/// Without the plugin nobody could take the network of running pods away.
fn refuse_with_pods(state_dir: &Path, survey: &mut dyn Survey) -> Result<()> {
    let pods = survey.look()?.pods;
    ensure!(
        pods.is_empty(),
        "running on this node: {} (device {} is one's), which could not be removed without the plugin: \
         drain the node first, or repeat with --force",
        counted(pods.len(), "pod"),
        pods.first().map_or("?", |pod| pod.device.as_str())
    );
    let Some(mut store) = Store::open(state_dir)? else {
        return Ok(());
    };
    let addresses = store.records()?.len();
    ensure!(
        addresses == 0,
        "pods of this node hold {}, and could not be removed without the plugin: drain the node first, \
         or repeat with --force",
        counted(addresses, "address")
    );
    Ok(())
}

/// Copies the program under a name of its version, and points the link at it.
fn install_program(bin_dir: &Path, plugin: &Path) -> Result<String> {
    let mut source = File::open(plugin).with_context(|| {
        format!("open {}: name the plugin's program with --plugin", plugin.display())
    })?;
    fs::create_dir_all(bin_dir).with_context(|| format!("create {}", bin_dir.display()))?;
    let name = format!("{PROGRAM}-{}", env!("CARGO_PKG_VERSION"));
    write_whole(&bin_dir.join(&name), 0o755, |file| io::copy(&mut source, file).map(drop))?;
    let link = bin_dir.join(PROGRAM);
    let partial = whole_file::partial_of(&link);
    remove_if_there(&partial).with_context(|| format!("remove {}", partial.display()))?;
    symlink(&name, &partial)
        .and_then(|()| fs::rename(&partial, &link))
        .with_context(|| format!("point {} to {name}", link.display()))?;
    // Processes that run an older one keep it.
    for version in versions(bin_dir)? {
        if version.file_name().is_some_and(|found| found != name.as_str()) {
            remove_if_there(&version).with_context(|| format!("remove {}", version.display()))?;
        }
    }
    Ok(format!("{} is {name}", link.display()))
}

/// Has our program be the plugin that runtimes call for every pod's loopback device, where there is
/// none: without it no pod starts.
fn install_loopback(bin_dir: &Path) -> Result<Option<String>> {
    let link = bin_dir.join(LOOPBACK);
    // One that leads nowhere is of no use to anybody.
    if link.exists() || (link.is_symlink() && !is_our_link(&link)) {
        return Ok(None);
    }
    remove_if_there(&link).with_context(|| format!("remove {}", link.display()))?;
    symlink(PROGRAM, &link).with_context(|| format!("point {} to {PROGRAM}", link.display()))?;
    Ok(Some(format!("{} is {PROGRAM}, because there was none", link.display())))
}

fn is_our_link(link: &Path) -> bool {
    fs::read_link(link).is_ok_and(|target| target == Path::new(PROGRAM))
}

/// Waits until the daemon says that the node is ready; with no patience at all nobody is asked.
fn wait_ready(places: &Places, patience: Duration) -> Result<()> {
    if patience.is_zero() {
        return Ok(());
    }
    let deadline = clock::now() + patience;
    loop {
        let Err(reason) = readiness::check(&places.run_dir, &places.state_dir) else {
            return Ok(());
        };
        if clock::now() >= deadline {
            bail!(
                "the node is not ready after {} s, so there is no network configuration yet: {reason}",
                patience.as_secs()
            );
        }
        thread::sleep(READY_PAUSE);
    }
}

/// The copies of the program, of whatever version.
fn versions(bin_dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(bin_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("list {}", bin_dir.display()))?,
    };
    let mut versions = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("list {}", bin_dir.display()))?;
        let name = entry.file_name();
        let rest = name.to_str().and_then(|name| name.strip_prefix(PROGRAM)?.strip_prefix('-'));
        if rest.is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit())) {
            versions.push(entry.path());
        }
    }
    versions.sort();
    Ok(versions)
}

/// Makes `path` appear in one step, with `text`.
///
/// containerd reads the directory anew whenever a file in it is written or renamed, and logs an
/// error each time that there is no configuration. So the file is written in a directory of its
/// own, which nobody watches; it then comes here by a name that nobody reads, because containerd
/// ignores files that come but not files that are renamed, and gets its name last.
fn write_conflist(path: &Path, text: &str) -> io::Result<()> {
    let partial = whole_file::partial_of(path);
    let aside = path.with_file_name(ASIDE);
    let written = aside.join(CONFLIST);
    whole_file::write(&written, |file| {
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.write_all(text.as_bytes())
    })?;
    fs::rename(&written, &partial)?;
    fs::rename(&partial, path)?;
    fs::remove_dir(&aside)?;
    let directory = path.parent().unwrap_or_else(|| Path::new("."));
    File::open(directory)?.sync_all()
}

/// Makes `path` appear in one step, with what `fill` writes.
fn write_whole(
    path: &Path,
    mode: u32,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<()> {
    whole_file::write(path, |file| {
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        fill(file)
    })
    .with_context(|| format!("write {}", path.display()))
}

fn read_if_there(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        text => text.map(Some).with_context(|| format!("read {}", path.display())),
    }
}

fn remove(path: &Path, done: &mut Vec<String>) -> Result<()> {
    if remove_if_there(path).with_context(|| format!("remove {}", path.display()))? {
        done.push(format!("removed {}", path.display()));
    }
    Ok(())
}

/// Removes a file, and says whether there was one.
fn remove_if_there(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
