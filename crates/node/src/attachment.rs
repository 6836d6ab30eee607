//! What one call is about: one interface of one container in one network.
//!
//! Owns the rules for the three names and what is derived from them. A value that exists is valid,
//! so the names may go into file names, device names and messages. Never touches the kernel.

use std::fmt;

use thiserror::Error;

/// Longest name of a network device: the kernel's `IFNAMSIZ` less its terminating zero.
pub const MAX_IFNAME_BYTES: usize = 15;

/// Every host end starts with this, so that people and clean-up jobs can tell whose it is.
const HOST_DEVICE_PREFIX: &str = "culv";

/// Hexadecimal digits of the hash in a host end's name: all that the prefix leaves room for.
const HOST_DEVICE_DIGITS: usize = MAX_IFNAME_BYTES - HOST_DEVICE_PREFIX.len();

/// Network and interface of an attachment whose names nobody knows.
const UNNAMED: &str = "unknown";

/// A name that breaks a rule of the CNI specification, and the rule.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{rule}")]
pub struct InvalidName {
    rule: &'static str,
}

/// One interface of one container in one network.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attachment {
    network: String,
    container: String,
    ifname: String,
}

impl Attachment {
    /// Builds an attachment from the network's name, the container id and the interface's name.
    ///
    /// # Errors
    ///
    /// A name that the CNI specification forbids.
    pub fn new(network: &str, container: &str, ifname: &str) -> Result<Self, InvalidName> {
        check_identifier(network)?;
        check_identifier(container)?;
        check_ifname(ifname)?;
        Ok(Self {
            network: network.to_owned(),
            container: container.to_owned(),
            ifname: ifname.to_owned(),
        })
    }

    /// The attachment of a host end that does not say whose it is: a stand-in that follows from the
    /// device's name.
    #[must_use]
    pub fn unnamed(host_device: &str) -> Self {
        let readable = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '-' };
        let container = format!("of-{}", host_device.chars().map(readable).collect::<String>());
        Self { network: UNNAMED.to_owned(), container, ifname: UNNAMED.to_owned() }
    }

    /// Name of the network.
    #[must_use]
    pub fn network(&self) -> &str {
        &self.network
    }

    /// Id that the container runtime gave the container.
    #[must_use]
    pub fn container(&self) -> &str {
        &self.container
    }

    /// Name of the interface inside the container.
    #[must_use]
    pub fn ifname(&self) -> &str {
        &self.ifname
    }

    /// Name of the veth end on the host.
    ///
    /// It follows from the attachment alone, so that DEL finds the device without any state.
    #[must_use]
    pub fn host_device(&self) -> String {
        // None of the names can contain a zero byte, so no two attachments feed the same bytes.
        let mut hash = Fnv1a::new();
        for name in [&self.network, &self.container, &self.ifname] {
            hash.write(name.as_bytes());
            hash.write(&[0]);
        }
        let digits = format!("{:016x}", hash.finish());
        format!("{HOST_DEVICE_PREFIX}{}", &digits[..HOST_DEVICE_DIGITS])
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "interface {} of container {} in network {}",
            self.ifname, self.container, self.network
        )
    }
}

/// Checks a container id or a network's name.
pub fn check_identifier(name: &str) -> Result<(), InvalidName> {
    let rule = "needs a letter or digit first, then only letters, digits, `_`, `.` and `-`";
    let mut bytes = name.bytes();
    let starts_well = bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if starts_well && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)) {
        Ok(())
    } else {
        Err(InvalidName { rule })
    }
}

/// Names that stand for something else: for directories, and for the kernel's parameters of all
/// devices and of those to come.
const RESERVED_IFNAMES: [&str; 4] = [".", "..", "all", "default"];

/// Checks the name of an interface.
///
/// kernel: a `%d` in a name that is asked for becomes a number.
pub fn check_ifname(name: &str) -> Result<(), InvalidName> {
    let rule = if name.is_empty() {
        "must not be empty"
    } else if name.len() > MAX_IFNAME_BYTES {
        "must not be longer than 15 bytes"
    } else if RESERVED_IFNAMES.contains(&name) {
        "must not be `.`, `..`, `all` or `default`"
    } else if name.contains(|c: char| "/:%".contains(c) || c.is_whitespace() || c.is_control()) {
        "must not contain `/`, `:`, `%`, white space or control characters"
    } else {
        return Ok(());
    };
    Err(InvalidName { rule })
}

/// The 64-bit FNV-1a hash, followed by a mixing step that spreads it over the leading digits.
///
/// The standard library's hasher may change between releases; device names must not.
pub(crate) struct Fnv1a(u64);

impl Fnv1a {
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    pub(crate) fn finish(&self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed ^ (mixed >> 33)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn attachment(container: &str, ifname: &str) -> Attachment {
        Attachment::new("pods", container, ifname).unwrap()
    }

    #[test]
    fn names_of_the_specification_are_accepted() {
        for name in ["a", "0", "A.b-c_d", "cri-o.1"] {
            assert_eq!(check_identifier(name), Ok(()), "{name}");
        }
        for name in ["eth0", "a", "net1.100", "abcdefghijklmno"] {
            assert_eq!(check_ifname(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn names_that_could_leave_a_directory_are_rejected() {
        for name in ["", ".", "..", "../x", "a/b", "-a", "_a", "a b", "a\0", "ä"] {
            assert!(check_identifier(name).is_err(), "{name:?}");
        }
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "a:b",
            "a b",
            "a\tb",
            "abcdefghijklmnop",
            "a\0",
            "eth%d",
            "%",
            "all",
            "default",
            "a\u{2028}b",
        ] {
            assert!(check_ifname(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn stand_in_for_an_unknown_attachment_is_valid() {
        for device in ["culv9597bc6a7ab", "odd@name.7", "-x"] {
            let found = Attachment::unnamed(device);
            let again = Attachment::new(found.network(), found.container(), found.ifname());
            assert_eq!(again, Ok(found), "{device}");
        }
    }

    #[test]
    fn host_device_is_stable_and_fits() {
        let name = attachment("c1", "eth0").host_device();
        // A golden value: a plugin of tomorrow must find the devices of today.
        assert_eq!(name, GOLDEN_HOST_DEVICE);
        assert_eq!(name.len(), MAX_IFNAME_BYTES);
    }

    #[test]
    fn host_devices_of_different_attachments_differ() {
        let names: HashSet<_> =
            (0..10_000).map(|n| attachment(&format!("c{n}"), "eth0").host_device()).collect();
        assert_eq!(names.len(), 10_000);
        assert_ne!(attachment("ab", "c").host_device(), attachment("a", "bc").host_device());
    }

    const GOLDEN_HOST_DEVICE: &str = "culv9597bc6a7ab";
}
