//! Kernel parameters under `/proc/sys`.
//!
//! Owns reading and writing one parameter. Never decides a value. Runs on the caller's thread and in
//! its network namespace: the kernel resolves `/proc/sys/net` for the task that opens the file.

use std::io;
use std::path::PathBuf;

use crate::platform::{Error, Result};

/// Where the kernel shows its parameters.
const ROOT: &str = "/proc/sys";

/// Reads the parameter `key`, written with slashes: `net/ipv4/ip_forward`.
///
/// Absent is an answer: its device or its protocol does not exist.
///
/// # Errors
///
/// Whatever opening or reading the file says, other than that it does not exist.
pub fn read(key: &str) -> Result<Option<String>> {
    match std::fs::read_to_string(path(key)) {
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
pub fn write(key: &str, value: &str) -> Result<()> {
    std::fs::write(path(key), value).map_err(|error| {
        let name = dotted(key);
        let refused = matches!(
            error.kind(),
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
        );
        let error = if refused {
            io::Error::new(
                error.kind(),
                format!(
                    "{error}; {ROOT} cannot be written from here: run `sysctl -w {name}={value}` on \
                     the node, or give the daemon's container a writable {ROOT} (privileged)"
                ),
            )
        } else {
            error
        };
        Error::new("write sysctl", format!("{name}={value}"), error)
    })
}

/// The name by which `sysctl(8)` knows `key`: dots for slashes, and slashes for a device's own dots.
#[must_use]
pub fn dotted(key: &str) -> String {
    key.chars()
        .map(|letter| match letter {
            '/' => '.',
            '.' => '/',
            other => other,
        })
        .collect()
}

fn path(key: &str) -> PathBuf {
    PathBuf::from(ROOT).join(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_parameter_is_an_answer() {
        let value = read("net/ipv4/conf/no-such-device/rp_filter").expect("readable");
        assert_eq!(value, None);
    }

    #[test]
    fn device_name_with_a_dot_keeps_its_meaning() {
        assert_eq!(dotted("net/ipv4/conf/eth0.7/rp_filter"), "net.ipv4.conf.eth0/7.rp_filter");
    }

    #[test]
    fn refused_write_names_the_parameter_and_the_remedy() {
        // The kernel's version is readable by everybody and writable by nobody.
        let error = write("kernel/osrelease", "9").expect_err("read-only parameter");
        let text = error.to_string();
        assert!(text.contains("kernel.osrelease=9"), "{text}");
        assert!(text.contains("sysctl -w"), "{text}");
    }
}
