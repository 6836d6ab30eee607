//! The node's end of a pod's cable, and the note about the pod that is written on it.
//!
//! Owns the text of the note, which is the alias of the device: whose the pod is, which addresses
//! it has, and how its port is to be. From the note alone the daemon restores the source check, and
//! daemon and plugin restore a lost address store. The note lives and dies with the device.

use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;
use overlay_proto::Mac;

use crate::attachment::Attachment;
use crate::pod_mac;

/// The group of devices that the nodes' ends of pods' cables are in.
///
/// The node takes no IP packet from a device of this group: what a pod sends comes by the bridge,
/// and what comes otherwise has passed none of the rules for pods. The kernel gives every device
/// group 0; ours has the number of our routes and addresses.
pub const DEVICE_GROUP: u32 = 0xcf;

/// The group addresses 01:80:c2:00:00:0X that a pod's port forwards, as bits: all that the kernel
/// lets a port forward. It always drops 01:80:c2:00:00:01.
///
/// kernel: by default a bridge does not forward frames to these addresses. It learns from them and
/// hands them to the port's own device, past the bridge's rules.
pub const FORWARDED_GROUPS: u16 = 0xfffd;

/// How the note about a pod begins.
const NOTE_PREFIX: &str = "culvert pod ";

/// Longest alias of a device (the kernel's `IFALIASZ` less its terminating zero).
const MAX_NOTE_BYTES: usize = 255;

/// The node's end of a pod's cable: what was decided about it when the pod was attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPort {
    /// Name of the device.
    pub device: String,
    /// Whose it is; none, if the names do not fit the note.
    pub attachment: Option<Attachment>,
    /// MAC address of the pod.
    pub mac: Mac,
    /// Addresses of the pod, each with the prefix length of its subnet. A note that is short of
    /// room leaves the prefix lengths out; each address then counts as a subnet of its own.
    pub addresses: Vec<IpNet>,
    /// Whether the pod may send from these only.
    pub is_checked: bool,
    /// Whether the bridge may send a frame back to the pod that it came from.
    pub hairpin: bool,
    /// Whether the pod reaches no other isolated pod of the node by way of the bridge.
    pub isolated: bool,
}

impl PodPort {
    /// The note about the pod, for its port's alias; none when it has more addresses than fit.
    ///
    /// What a rebuilt address store can do without is left out first: the owner, then the prefix
    /// lengths.
    #[must_use]
    pub fn note(&self) -> Option<String> {
        let mut start = format!("{NOTE_PREFIX}{}", self.mac);
        for (flag, is_set) in
            [("checked", self.is_checked), ("hairpin", self.hairpin), ("isolated", self.isolated)]
        {
            if is_set {
                let _infallible = write!(start, " {flag}");
            }
        }
        let list = |show: fn(&IpNet) -> String| {
            self.addresses.iter().fold(start.clone(), |note, address| note + " " + &show(address))
        };
        let (whole, bare) = (list(IpNet::to_string), list(|address| address.addr().to_string()));
        let owned = self.attachment.as_ref().map(|attachment| {
            let (network, container) = (attachment.network(), attachment.container());
            format!("{whole} {network}/{container}/{}", attachment.ifname())
        });
        owned.into_iter().chain([whole, bare]).find(|note| note.len() <= MAX_NOTE_BYTES)
    }

    /// Whose the pod is, or a stand-in if the note had no room for that.
    #[must_use]
    pub fn owner(&self) -> Attachment {
        self.attachment.clone().unwrap_or_else(|| Attachment::unnamed(&self.device))
    }

    /// Reads the note on a device; none, if the alias is something else.
    #[must_use]
    pub fn from_note(device: &str, alias: &str) -> Option<Self> {
        let mut words = alias.strip_prefix(NOTE_PREFIX)?.split(' ');
        let mut port = Self {
            device: device.to_owned(),
            attachment: None,
            mac: pod_mac::parse(words.next()?)?,
            addresses: Vec::new(),
            is_checked: false,
            hairpin: false,
            isolated: false,
        };
        for word in words {
            match word {
                "checked" => port.is_checked = true,
                "hairpin" => port.hairpin = true,
                "isolated" => port.isolated = true,
                word => match parse_address(word) {
                    Some(address) => port.addresses.push(address),
                    None => port.attachment = Some(parse_owner(word)?),
                },
            }
        }
        Some(port)
    }
}

fn parse_address(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse().ok().map(|address: IpAddr| address.into()))
}

fn parse_owner(text: &str) -> Option<Attachment> {
    let mut names = text.split('/');
    let attachment = Attachment::new(names.next()?, names.next()?, names.next()?).ok()?;
    names.next().is_none().then_some(attachment)
}

/// A pod's port, for the tests of this crate.
#[cfg(test)]
pub(crate) fn example() -> PodPort {
    PodPort {
        device: "culv9597bc6a7ab".to_owned(),
        attachment: Some(Attachment::new("pods", "c1", "eth0").unwrap()),
        mac: Mac::new([0x0a, 0x58, 10, 244, 1, 2]),
        addresses: vec!["10.244.1.2/24".parse().unwrap(), "fd00:1::2/64".parse().unwrap()],
        is_checked: true,
        hairpin: true,
        isolated: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn note_reads_back() {
        let note = example().note().unwrap();
        let text = "culvert pod 0a:58:0a:f4:01:02 checked hairpin 10.244.1.2/24 fd00:1::2/64 \
                    pods/c1/eth0";
        assert_eq!(note, text);
        assert_eq!(PodPort::from_note(&example().device, &note), Some(example()));
        let foreign = format!("{note} whatever");
        assert_eq!(PodPort::from_note("culv0", &foreign), None);
    }

    #[test]
    fn an_alias_that_is_no_note_is_none() {
        let mac = "0a:58:0a:f4:01:02";
        for alias in [
            "",
            "culvert: overlay",
            "culvert pod",
            "culvert pod x",
            "culvert pod 0a:58",
            &format!("culvert pod {mac} a/b"),
            &format!("culvert pod {mac} a/b/c/d"),
        ] {
            assert_eq!(PodPort::from_note("culv0", alias), None, "{alias}");
        }
    }

    #[test]
    fn note_that_does_not_fit_loses_its_owner_first_and_its_prefix_lengths_next() {
        let address: IpNet = "fd00:1234:5678:9abc:def0:1234:5678:9abc/64".parse().unwrap();
        let long = Attachment::new("pods", &"c".repeat(200), "eth0").unwrap();
        let crowded = PodPort { attachment: Some(long), ..example() };
        let note = crowded.note().unwrap();
        let found = PodPort::from_note(&crowded.device, &note).unwrap();
        assert_eq!(found, PodPort { attachment: None, ..crowded });
        let note = PodPort { addresses: vec![address; 5], ..example() }.note().unwrap();
        let found = PodPort::from_note("culv0", &note).unwrap();
        assert_eq!(found.addresses, vec![IpNet::from(address.addr()); 5]);
        assert!(PodPort { addresses: vec![address; 6], ..example() }.note().is_none());
    }
}
