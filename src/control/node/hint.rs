//! What this machine lacks for all that a node can do, though it is ready without.

use std::fmt;

use crate::platform::sysctl::Sysctls;

/// There while br_netfilter is.
const BRIDGE_NETFILTER: &str = "net/bridge/bridge-nf-call-iptables";

/// Something that works less well than it could, and the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// The bridge hands frames to the rules of IP only by br_netfilter, which is not loaded.
    NoBridgeNetfilter,
    /// The port of a pod of that name has lost its note, and nothing says what it said.
    NoNote(String),
}

impl Hint {
    /// Those that apply to the machine of these parameters. A parameter that cannot be read is for
    /// those to complain of who need its value.
    #[must_use]
    pub(crate) fn of(sysctls: &Sysctls) -> Vec<Self> {
        match sysctls.read(BRIDGE_NETFILTER) {
            Ok(None) => vec![Self::NoBridgeNetfilter],
            Ok(Some(_)) | Err(_) => Vec::new(),
        }
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBridgeNetfilter => f.write_str(
                "the kernel module br_netfilter is not loaded: a service that leads a pod to another \
                 pod of the same node does not answer, unless the proxy translates the source too. Run \
                 `modprobe br_netfilter` on the node, and put the name into a file in \
                 /etc/modules-load.d for the next boot",
            ),
            Self::NoNote(device) => write!(
                f,
                "the note on {device}, the port of a pod, is gone (`ip link show {device}`: its alias): \
                 the pod may send from any address, and its own may be given to another. Delete the \
                 pod, so that it is plugged in anew"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn module_that_is_not_loaded_is_named_with_the_remedy() {
        let root = tempfile::tempdir().unwrap();
        let sysctls = Sysctls::at(root.path());
        let hints = Hint::of(&sysctls);
        assert_eq!(hints, [Hint::NoBridgeNetfilter]);
        assert!(hints[0].to_string().contains("modprobe br_netfilter"));
        fs::create_dir_all(root.path().join("net/bridge")).unwrap();
        // Whatever it says: a bridge of ours has an option of its own.
        fs::write(root.path().join(BRIDGE_NETFILTER), "0\n").unwrap();
        assert_eq!(Hint::of(&sysctls), []);
    }
}
