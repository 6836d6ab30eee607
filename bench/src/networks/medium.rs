//! What lies between the nodes: veth pairs as they come, or made to carry what a wire would.
//!
//! A veth pair passes super-packets of 64 KiB on uncut, tunnel headers and all, so that whoever
//! leaves cutting to the end of the way never pays for it. No wire does that.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use culvert_lab::{Lab, Netns};

use super::program;

/// What lies between the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Medium {
    /// The lab's veth pairs and bridge.
    Veth,
    /// The same with the nodes' interfaces as simple network cards, which cut TCP and nothing
    /// inside tunnels or UDP, a switch that passes frames on one by one, and GRO where they arrive.
    Wire,
}

/// A node's interface on the underlay.
const INTERFACE: &str = "eth0";

/// What a simple network card cannot cut (the names of `ethtool -K`).
const CUT: [&str; 3] =
    ["tx-udp-segmentation", "tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation"];

/// Bytes of a frame, on average, while bulk crosses a wire of MTU 1500: full frames, and a few that
/// are not.
const FRAME: std::ops::RangeInclusive<u64> = 1300..=1514;

impl Medium {
    /// Lays it between the nodes of `lab`.
    pub(super) fn lay(self, lab: &Lab) -> Result<()> {
        let (cut, join) = match self {
            Self::Veth => ("on", "off"),
            Self::Wire => ("off", "on"),
        };
        for node in lab.nodes() {
            let mut ethtool = node.netns().command("ethtool");
            ethtool.args(["-K", INTERFACE, "gro", join]);
            program::run(ethtool.args(CUT.iter().flat_map(|feature| [*feature, cut])))?;
            // The switch's port toward it has its name.
            let mut ethtool = lab.switch().command("ethtool");
            program::run(ethtool.args(["-K", node.name(), "tso", cut]))?;
        }
        Ok(())
    }
}

/// Frames and bytes that have arrived at a node so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrived {
    frames: u64,
    bytes: u64,
}

impl Arrived {
    /// What has arrived in the namespace of a node.
    pub(super) fn at(netns: &Netns) -> Result<Self> {
        let read = || fs::read_to_string("/proc/thread-self/net/dev");
        let text = netns.run(read)?.context("read /proc/thread-self/net/dev")?;
        Self::parse(&text).with_context(|| format!("find {INTERFACE} in /proc/thread-self/net/dev"))
    }

    fn parse(text: &str) -> Option<Self> {
        let line = |line: &str| {
            line.trim_start().strip_prefix(INTERFACE)?.strip_prefix(':').map(str::to_owned)
        };
        let line = text.lines().find_map(line)?;
        let mut fields = line.split_whitespace().map_while(|field| field.parse().ok());
        Some(Self { bytes: fields.next()?, frames: fields.next()? })
    }

    /// Checks that what has arrived since was cut as a wire wants it.
    pub(crate) fn check_cut(self, now: Self) -> Result<()> {
        let average = (now.bytes - self.bytes) / (now.frames - self.frames).max(1);
        ensure!(
            FRAME.contains(&average),
            "frames of {average} bytes on average arrived at {INTERFACE}, not {} to {}: this is no wire",
            FRAME.start(),
            FRAME.end()
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_one_interface_are_read_and_judged() {
        let text = "Inter-|   Receive\n face |bytes    packets errs\n    lo:  9 9 0 0\n\
                    veth0: 1 1 0\n  eth0: 3000 2 0 0 0 0 0 0 77 7 0\n";
        let then = Arrived::parse(text).unwrap();
        assert_eq!(then, Arrived { frames: 2, bytes: 3000 });
        assert_eq!(Arrived::parse("lo: 1 1 1\n"), None);
        let later =
            |frames: u64, len: u64| Arrived { frames: 2 + frames, bytes: 3000 + frames * len };
        assert!(then.check_cut(later(1000, 1490)).is_ok());
        for (frames, len) in [(1000, 1299), (1000, 60_000), (0, 0)] {
            assert!(then.check_cut(later(frames, len)).is_err(), "{frames} of {len}");
        }
    }
}
