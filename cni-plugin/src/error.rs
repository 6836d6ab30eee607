//! Why a verb failed, and what the container runtime is told.
//!
//! Owns the codes and the error document. Every variant names the key or object, its value, and the
//! way out; causes go into `details`.

use std::error::Error as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::{io, iter};

use serde_json::{Value, json};
use thiserror::Error;

use culvert_node::{ipam, netns};

use crate::netlink;

/// Why a verb failed.
#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error("environment variables {} are missing: CNI_COMMAND={command} needs them", names.join(", "))]
    MissingEnvironment { command: &'static str, names: Vec<&'static str> },
    #[error("environment variable {name} is {value:?}: {remedy}")]
    BadEnvironment { name: &'static str, value: String, remedy: String },
    #[error("config key cniVersion is {version:?}: this plugin speaks {supported}")]
    UnsupportedVersion { version: String, supported: String },
    #[error(
        "config key cniVersion is {version:?}, which has no {command}: set it to {since} or later"
    )]
    VerbNotInVersion { version: &'static str, command: &'static str, since: &'static str },
    #[error("cannot read the network configuration from stdin")]
    ReadConfig { source: io::Error },
    #[error(
        "the network configuration on stdin is longer than {limit_bytes} bytes: hand over one \
         plugin's configuration"
    )]
    ConfigTooLong { limit_bytes: u64 },
    #[error("the network configuration on stdin is not a JSON object")]
    DecodeConfig { source: serde_json::Error },
    #[error("config key {key} is {value}: {remedy}")]
    BadConfig { key: String, value: String, remedy: String },
    #[error("config key {key} is {value}, which is not supported: {remedy}")]
    UnsupportedKey { key: String, value: String, remedy: String },
    #[error(
        "network namespace {} does not exist: the container is gone, so nothing was set up",
        shown(.path)
    )]
    NetnsMissing { path: PathBuf, source: io::Error },
    #[error(
        "CNI_NETNS is {}, which is not a network namespace this plugin can enter: name the pod's, and \
         run the plugin as root",
        shown(.path)
    )]
    BadNetns { path: PathBuf, source: io::Error },
    #[error(
        "CNI_NETNS is {}, the namespace of the plugin itself: a pod needs a namespace of its own",
        shown(.path)
    )]
    OwnNetns { path: PathBuf },
    #[error(
        "the node is not ready: {} does not exist. Start the daemon (`culvert run`), or point config \
         key runDir at the daemon's run directory",
        shown(.path)
    )]
    NodeNotReady { path: PathBuf },
    #[error(
        "cannot read the node file {}: restart the daemon (`culvert run`), which writes it",
        shown(.path)
    )]
    NodeFile { path: PathBuf, source: io::Error },
    #[error(
        "the node is not ready: bridge {bridge} of the node file {} does not exist. Start or restart \
         the daemon (`culvert run`), which makes it",
        shown(.path)
    )]
    BridgeMissing { bridge: String, path: PathBuf },
    #[error(
        "interface {ifname} exists already in {}: choose another CNI_IFNAME, or remove it before ADD",
        shown(.netns)
    )]
    InterfaceTaken { ifname: String, netns: PathBuf },
    #[error(
        "host device {device} exists already: an ADD of the same interface of the same container \
         was never undone. Call DEL first"
    )]
    HostDeviceExists { device: String },
    #[error(
        "the requested MAC address {mac} is kept for the pod that has {address}: ask for that address \
         too, or for another MAC address, such as one that begins with 02"
    )]
    MacReserved { mac: String, address: IpAddr },
    #[error(
        "this node's MTU is {mtu} bytes, and the addresses of the pod need {min}: give the underlay a \
         larger MTU, or name subnets of the other family in config key ipam"
    )]
    NodeMtu { mtu: u16, min: u64 },
    #[error("cannot start a thread: the machine is short of memory or processes")]
    Thread { source: io::Error },
    #[error("device {device} vanished while it was set up: something else removed it")]
    Vanished { device: String },
    #[error(
        "cannot write {value} to {}: the plugin needs root and a writable /proc/sys", shown(.path)
    )]
    Sysctl { path: PathBuf, value: &'static str, source: io::Error },
    #[error("{}: {}", .0, remedy(.0))]
    Netlink(#[from] netlink::Error),
    #[error(
        "cannot have the kernel check what the pod sends: it needs nftables for bridges. Set config \
         key macspoofchk to false to do without"
    )]
    SourceCheck { source: culvert_nft::Error },
    #[error(
        "the pod has more addresses than the alias of its device {device} can hold (255 bytes), by \
         which the source check is kept up: ask for fewer"
    )]
    TooManyAddresses { device: String },
    #[error(
        "address {address} is in use by somebody else on the bridge: find out who, or set config key \
         enabledad to false"
    )]
    DuplicateAddress { address: ipnet::IpNet },
    #[error(
        "the kernel did not decide within 10 seconds whether the addresses of {device} are in use: \
         delete the pod, or set config key enabledad to false"
    )]
    UndecidedAddress { device: String },
    #[error(
        "network policies are enforced on this node, and its daemon does not answer on {}: look \
         whether it runs (`culvert status`). The runtime tries again", shown(.path)
    )]
    PolicyUnanswered { path: PathBuf, source: io::Error },
    #[error("network policies are enforced on this node, and do not know the pod: {why}")]
    PolicyRefused { why: String },
    #[error(
        "config key macspoofchk is false, and network policies are enforced on this node: they go by \
         the addresses that a pod sends from. Leave the key out, or switch policies off (policy.mode)"
    )]
    PolicyUnchecked,
    #[error(
        "config key runtimeConfig.portMappings asks for {port}, and that port of the node leads to \
         another pod, the one behind device {device}: delete that pod, or ask for another port"
    )]
    HostPortTaken { port: String, device: String },
    #[error(
        "this kernel cannot lead ports of the node to a pod: it needs nftables with nft_nat and \
         nft_fib_inet. Leave ports out, or chain the plugin portmap and give it the capability \
         portMappings"
    )]
    HostPortsUnsupported,
    #[error("cannot write down which ports of the node lead to the pod, in {}", shown(.path))]
    HostPortsFile { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Nftables(#[from] culvert_nft::Error),
    #[error(transparent)]
    Ipam(#[from] ipam::Error),
    #[error("CHECK found that {what}. Delete the pod, so that it is set up anew")]
    Mismatch { what: String },
    #[error("this node cannot take pods: {reason}")]
    Unavailable { reason: String },
    #[error("this node cannot take pods, and those that it has may not reach others: {reason}")]
    Limited { reason: String },
}

/// Kernel calls failed.
const CODE_KERNEL: u32 = 100;
/// No free address.
const CODE_NO_ADDRESS: u32 = 101;
/// The interface, the host device or the allocation exists already.
const CODE_EXISTS: u32 = 102;
/// CHECK found a difference.
const CODE_MISMATCH: u32 = 103;
/// The store of allocations cannot be used.
const CODE_STORE: u32 = 104;

/// Longest piece of somebody else's text that a message repeats, in bytes.
const SHOWN_BYTES: usize = 200;

/// Cuts a text that somebody else made down to what a message can carry.
pub(crate) fn shorten(text: &str) -> String {
    if text.len() <= SHOWN_BYTES {
        return text.to_owned();
    }
    let end = (0..=SHOWN_BYTES).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}… ({} bytes)", &text[..end], text.len())
}

/// A path that somebody else named, as a message can carry it: short, and without control
/// characters.
fn shown(path: &Path) -> String {
    let text = shorten(&path.to_string_lossy());
    text.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

/// What to do about a refusal by the kernel.
fn remedy(error: &netlink::Error) -> &'static str {
    use rustix::io::Errno;
    match error.errno() {
        Some(Errno::PERM | Errno::ACCESS) => {
            "the plugin needs root, with CAP_NET_ADMIN in the node's network namespace and the pod's"
        }
        Some(Errno::EXIST) if error.target.starts_with("default route") => {
            "another interface of the pod has one. Set config key isDefaultGateway to false here"
        }
        Some(Errno::EXIST) => {
            "something else made it at the same time, or a DEL is missing. Call DEL, then ADD again"
        }
        Some(Errno::AGAIN | Errno::BUSY | Errno::INTR) => {
            "the kernel was busy with other changes. Try again"
        }
        Some(Errno::NOBUFS | Errno::NOMEM) => "the machine is short of memory. Try again",
        Some(Errno::MFILE | Errno::NFILE) => {
            "too many files are open. Raise the limit (`ulimit -n`, fs.file-max)"
        }
        Some(Errno::NODEV) => "something else removed a device meanwhile. Try again",
        Some(Errno::NETUNREACH | Errno::HOSTUNREACH) => {
            "its gateway is in none of the pod's subnets. Name another in config key ipam.routes"
        }
        Some(Errno::XFULL) => "a Linux bridge has 1,023 ports at most. Delete pods of this node",
        Some(Errno::AFNOSUPPORT | Errno::OPNOTSUPP) => {
            "this kernel lacks what it needs. Compare `culvert check` with docs/operations.md"
        }
        _ => "nothing of it was kept; the kernel's log (`dmesg`) may say more",
    }
}

impl Error {
    /// What a refusal by nftables means to whoever attaches a pod that is to be checked.
    pub(crate) fn source_check(source: culvert_nft::Error) -> Self {
        if source.is_unsupported() { Self::SourceCheck { source } } else { source.into() }
    }

    /// The code of the CNI specification, or one of our own from 100 on.
    pub(crate) fn code(&self) -> u32 {
        match self {
            Self::UnsupportedVersion { .. } | Self::VerbNotInVersion { .. } => 1,
            Self::UnsupportedKey { .. } => 2,
            Self::NetnsMissing { .. } => 3,
            Self::MissingEnvironment { .. } | Self::BadEnvironment { .. } => 4,
            Self::ReadConfig { .. }
            | Self::NodeFile { .. }
            | Self::HostPortsFile { .. }
            | Self::Sysctl { .. }
            | Self::Thread { .. } => 5,
            Self::ConfigTooLong { .. } | Self::DecodeConfig { .. } => 6,
            Self::BadConfig { .. } | Self::TooManyAddresses { .. } | Self::PolicyUnchecked => 7,
            Self::BadNetns { .. } | Self::OwnNetns { .. } => 8,
            Self::NodeNotReady { .. }
            | Self::BridgeMissing { .. }
            | Self::NodeMtu { .. }
            | Self::PolicyUnanswered { .. }
            | Self::PolicyRefused { .. } => 11,
            Self::Unavailable { .. } => 50,
            Self::Limited { .. } => 51,
            Self::Netlink(_)
            | Self::Nftables(_)
            | Self::SourceCheck { .. }
            | Self::HostPortsUnsupported
            | Self::UndecidedAddress { .. }
            | Self::Vanished { .. } => CODE_KERNEL,
            Self::InterfaceTaken { .. }
            | Self::HostDeviceExists { .. }
            | Self::HostPortTaken { .. }
            | Self::MacReserved { .. }
            | Self::DuplicateAddress { .. } => CODE_EXISTS,
            Self::Mismatch { .. } => CODE_MISMATCH,
            Self::Ipam(error) => match error {
                ipam::Error::NoSubnet | ipam::Error::Exhausted { .. } => CODE_NO_ADDRESS,
                ipam::Error::NotInRange { .. } => 7,
                ipam::Error::AlreadyAllocated { .. }
                | ipam::Error::Taken { .. }
                | ipam::Error::MacTaken { .. } => CODE_EXISTS,
                ipam::Error::Replaced { .. }
                | ipam::Error::Import { .. }
                | ipam::Error::Look { .. }
                | ipam::Error::Directory { .. }
                | ipam::Error::Database { .. }
                | ipam::Error::UnknownSchema { .. }
                | ipam::Error::Corrupt { .. } => CODE_STORE,
            },
        }
    }

    /// The error and the chain of its causes, in one line.
    pub(crate) fn with_causes(&self) -> String {
        let causes = self.causes();
        iter::once(self.to_string()).chain(causes).collect::<Vec<_>>().join(": ")
    }

    /// The chain of causes below this error, outermost first.
    fn causes(&self) -> Vec<String> {
        let mut causes = Vec::new();
        let mut next = self.source();
        while let Some(cause) = next {
            // It may repeat what it could not read.
            causes.push(shorten(&cause.to_string()));
            next = cause.source();
        }
        causes
    }
}

/// A failed verb: the first error, which is never masked, and what went wrong while tidying up.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) first: Box<Error>,
    pub(crate) later: Vec<Error>,
}

impl Failure {
    /// Turns the errors that a teardown gathered into a verdict.
    pub(crate) fn unless_empty(errors: Vec<Error>) -> Result<(), Self> {
        let mut errors = errors.into_iter();
        match errors.next() {
            None => Ok(()),
            Some(first) => Err(Self { first: Box::new(first), later: errors.collect() }),
        }
    }

    /// The error document of the CNI specification.
    pub(crate) fn document(&self, cni_version: &str) -> Value {
        let mut document = json!({
            "cniVersion": cni_version,
            "code": self.first.code(),
            "msg": self.first.to_string(),
        });
        let details = self.details();
        if !details.is_empty() {
            document["details"] = Value::String(details);
        }
        document
    }

    fn details(&self) -> String {
        let mut parts = self.first.causes();
        parts.extend(self.later.iter().map(|error| format!("also: {}", error.with_causes())));
        parts.join("; ")
    }
}

impl From<netns::Failure> for Error {
    fn from(failure: netns::Failure) -> Self {
        match failure {
            netns::Failure::Missing { path, source } => Self::NetnsMissing { path, source },
            netns::Failure::Closed { path, source } => Self::BadNetns { path, source },
            netns::Failure::Own { path } => Self::OwnNetns { path },
            netns::Failure::Thread { source } => Self::Thread { source },
            netns::Failure::Netlink(error) => error.into(),
        }
    }
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { first: Box::new(error.into()), later: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn document_carries_code_message_and_causes() {
        let failure = Failure::from(Error::ReadConfig { source: io::Error::other("pipe burst") });
        assert_eq!(
            failure.document("1.0.0"),
            json!({
                "cniVersion": "1.0.0",
                "code": 5,
                "msg": "cannot read the network configuration from stdin",
                "details": "pipe burst",
            })
        );
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(shorten("ä"), "ä");
        let long = format!("x{}", "ä".repeat(200));
        let short = shorten(&long);
        assert!(short.starts_with("xää") && short.ends_with("… (401 bytes)"), "{short}");
    }

    #[test]
    fn later_errors_do_not_mask_the_first() {
        let failure = Failure {
            first: Box::new(Error::NodeNotReady { path: "/run/x/node.json".into() }),
            later: vec![Error::HostDeviceExists { device: "culv0".into() }],
        };
        let document = failure.document("0.4.0");
        assert_eq!(document["code"], 11);
        let details = document["details"].as_str().unwrap();
        assert!(details.starts_with("also: host device culv0"), "{details}");
    }
}
