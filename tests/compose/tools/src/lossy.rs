//! A link that loses and delays, for kernels without netem.
//!
//! Owns a TUN device that gives back what it gets. One thread reads and decides, another one waits
//! and writes; between them are at most [`WAITING`] packets, and what comes on top is lost, as on
//! any link. What is routed through it, and where it goes then, is up to the routes of the machine.

use std::io::{Read as _, Write as _};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use culvert_lab::clock;
use tun::AbstractDevice as _;

/// Packets under way: 100 ms of 1500 bytes at 1 Gbit/s.
const WAITING: usize = 8192;
/// Longest packet of the underlay.
const PACKET_LEN: usize = 65_536;

#[derive(Args, Debug)]
pub(crate) struct LossyLink {
    /// Name of the TUN device.
    #[arg(long, default_value = "lossy0")]
    device: String,
    /// One packet of this many is lost; none if 0.
    #[arg(long, default_value_t = 0)]
    lose_one_in: u64,
    /// How late the others are, in milliseconds.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// Begin of the sequence that decides which packets are lost: the same losses for the same
    /// packets.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl LossyLink {
    /// Serves the device, for ever.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let mut config = tun::Configuration::default();
        config.tun_name(&self.device).up();
        let device = tun::Device::new(&config).context("create the TUN device")?;
        let name = device.tun_name().context("ask for the device's name")?;
        let (mut reader, mut writer) = device.split();
        let (sender, receiver) = mpsc::sync_channel::<(std::time::Instant, Vec<u8>)>(WAITING);
        thread::Builder::new().name("late".into()).spawn(move || {
            for (due, packet) in receiver {
                thread::sleep(due.saturating_duration_since(clock::now()));
                // A packet that the kernel refuses is one more that is lost.
                let _ = writer.write(&packet);
            }
        })?;
        let delay = Duration::from_millis(self.delay_ms);
        let mut dice = Dice(self.seed);
        let mut buffer = vec![0; PACKET_LEN];
        loop {
            let len = reader.read(&mut buffer).with_context(|| format!("read from {name}"))?;
            let lost = self.lose_one_in != 0 && dice.roll().is_multiple_of(self.lose_one_in);
            if let (false, Some(packet)) = (lost, buffer.get(..len)) {
                let _ = sender.try_send((clock::now() + delay, packet.to_vec()));
            }
        }
    }
}

/// Numbers without a pattern that a protocol could follow (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_loses_the_same_share_of_the_same_packets() {
        let lost = |seed| {
            let mut dice = Dice(seed);
            (0..10_000).filter(|_| dice.roll().is_multiple_of(50)).collect::<Vec<_>>()
        };
        assert_eq!(lost(7), lost(7));
        assert_ne!(lost(7), lost(8));
        // Of 10,000 packets with one in 50 lost, 200 ± 5 standard deviations of 14.
        assert!((130..=270).contains(&lost(7).len()), "{}", lost(7).len());
    }
}
