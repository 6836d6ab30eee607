//! What the store knows about one address.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use overlay_proto::Mac;

use crate::attachment::Attachment;

/// Where the kernel says which boot this is: a random identifier, new each time.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// An address that an attachment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// The pod's address.
    pub address: IpAddr,
    /// The subnet that it is of.
    pub subnet: IpNet,
    /// The pod's way out: the bridge's address in the subnet, unless the request named another.
    pub gateway: IpAddr,
}

impl Allocation {
    /// The address together with the subnet's prefix length, as an interface carries it.
    #[must_use]
    pub fn interface_address(&self) -> IpNet {
        IpNet::new_assert(self.address, self.subnet.prefix_len())
    }

    /// The pod's default gateway.
    #[must_use]
    pub fn gateway(&self) -> IpAddr {
        self.gateway
    }
}

/// An allocation with everything the store knows about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who holds the address.
    pub attachment: Attachment,
    /// The address and its subnet.
    pub allocation: Allocation,
    /// The pod's network namespace at the time of ADD.
    pub netns: Namespace,
    /// The veth end on the host; empty if it is not known.
    pub host_device: String,
    /// MAC address of the pod, if it is known.
    pub mac: Option<Mac>,
    /// The kernel's number of the network namespace that the host end is in; 0 if it is not known.
    pub host_netns: u64,
    /// The boot in which the address was handed out; empty if that is not known.
    pub boot: String,
    /// When the address was handed out, in seconds since 1970.
    pub allocated_at: i64,
}

/// A network namespace, by its path and by what makes a later one at the same path another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Where it was found; empty if nobody knows.
    pub path: PathBuf,
    /// Its inode: the kernel's number of the namespace. 0 if nobody knows.
    pub inode: u64,
}

impl Namespace {
    /// The namespace at `path`, as it is now.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), inode: inode(path).unwrap_or(0) }
    }

    /// Whether the path still leads to this namespace; no answer if it was never known.
    #[must_use]
    pub fn is_there(&self) -> Option<bool> {
        if self.path.as_os_str().is_empty() {
            return None;
        }
        Some(inode(&self.path).is_some_and(|inode| self.inode == 0 || inode == self.inode))
    }
}

fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|file| file.ino())
}

/// Which boot of the machine this is; empty where the kernel does not say.
#[must_use]
pub fn boot_id() -> String {
    fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_there_until_its_path_leads_elsewhere() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("netns");
        assert_eq!(Namespace::default().is_there(), None);
        assert_eq!(Namespace::at(&path).is_there(), Some(false));
        fs::write(&path, "").unwrap();
        let first = Namespace::at(&path);
        assert_eq!(first.is_there(), Some(true));
        // A second file while the first exists cannot have its inode.
        let second = dir.path().join("second");
        fs::write(&second, "").unwrap();
        fs::rename(&second, &path).unwrap();
        assert_eq!(first.is_there(), Some(false));
        assert_eq!(Namespace { inode: 0, ..first }.is_there(), Some(true));
    }

    #[test]
    fn the_boot_has_an_identifier() {
        assert_eq!(boot_id().len(), 36);
        assert_eq!(boot_id(), boot_id());
    }
}
