//! Kernel parameters: the files that are usually under `/proc/sys`.
//!
//! Owns reading and writing one parameter. Never decides a value. Runs on the caller's thread and
//! in its network namespace: the kernel resolves `/proc/sys/net` for the task that opens the file,
//! wherever that directory is mounted.

use std::io;
use std::path::{Path, PathBuf};

use culvert_dataplane::platform::{Error, Result};
use culvert_node::bounded_file;

/// Where the kernel shows its parameters, unless somebody has mounted them elsewhere.
pub(crate) const DEFAULT_ROOT: &str = "/proc/sys";

/// The kernel's parameters, as a directory shows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sysctls {
    root: PathBuf,
}

impl Default for Sysctls {
    fn default() -> Self {
        Self::at(Path::new(DEFAULT_ROOT))
    }
}

impl Sysctls {
    /// The parameters under `root`, which has the directory `net` of `/proc/sys`.
    #[must_use]
    pub(crate) fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Reads the parameter `key`, written with slashes: `net/ipv4/ip_forward`.
    ///
    /// Absent is an answer: its device or its protocol does not exist.
    ///
    /// # Errors
    ///
    /// Whatever opening or reading the file says, other than that it does not exist.
    pub(crate) fn read(&self, key: &str) -> Result<Option<String>> {
        match bounded_file::read_text(&self.root.join(key), bounded_file::SMALL) {
            Ok(value) => Ok(Some(value.trim_end().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::new("read sysctl", dotted(key), error)),
        }
    }

    /// Sets the parameter `key`, written with slashes, to `value`.
    ///
    /// # Errors
    ///
    /// Whatever writing the file says; where the file system is read-only, with the remedy.
    pub(crate) fn write(&self, key: &str, value: &str) -> Result<()> {
        std::fs::write(self.root.join(key), value).map_err(|error| {
            let name = dotted(key);
            let refused = matches!(
                error.kind(),
                io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
            );
            let error = if refused {
                io::Error::new(
                    error.kind(),
                    format!(
                        "{error}; {} cannot be written from here: in a container, mount the node's \
                         /proc/sys/net at /host/proc/sys/net and set node.sysctl_dir to \
                         \"/host/proc/sys\", or run `sysctl -w {name}={value}` on the node",
                        self.root.display()
                    ),
                )
            } else {
                error
            };
            Error::new("write sysctl", format!("{name}={value}"), error)
        })
    }
}

/// The name by which `sysctl(8)` knows `key`: dots for slashes, and slashes for a device's own
/// dots.
#[must_use]
pub(crate) fn dotted(key: &str) -> String {
    key.chars()
        .map(|letter| match letter {
            '/' => '.',
            '.' => '/',
            other => other,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_parameter_is_an_answer() {
        let value =
            Sysctls::default().read("net/ipv4/conf/no-such-device/rp_filter").expect("readable");
        assert_eq!(value, None);
    }

    #[test]
    fn device_name_with_a_dot_keeps_its_meaning() {
        assert_eq!(dotted("net/ipv4/conf/eth0.7/rp_filter"), "net.ipv4.conf.eth0/7.rp_filter");
    }

    #[test]
    fn refused_write_names_the_parameter_and_the_remedy() {
        // The kernel's version is readable by everybody and writable by nobody.
        let error =
            Sysctls::default().write("kernel/osrelease", "9").expect_err("read-only parameter");
        let text = error.to_string();
        assert!(text.contains("kernel.osrelease=9"), "{text}");
        assert!(text.contains("sysctl -w"), "{text}");
        assert!(text.contains("node.sysctl_dir"), "{text}");
    }

    #[test]
    fn parameters_are_found_where_they_are_mounted() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(directory.path().join("net/ipv4")).expect("created");
        let sysctls = Sysctls::at(directory.path());
        assert_eq!(sysctls.read("net/ipv4/ip_forward").expect("readable"), None);
        sysctls.write("net/ipv4/ip_forward", "1").expect("written");
        assert_eq!(sysctls.read("net/ipv4/ip_forward").expect("readable").as_deref(), Some("1"));
    }
}
