//! Telling of what policies drop.
//!
//! The kernel hands over the first packets of each class of pods every second. Of these each
//! combination of ends is logged once a minute, and no more than so many a second, with the
//! policies that isolate the pod.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use culvert_policy::Plan;
use culvert_policy::plan::End;
use tokio::time::Instant;

use super::counters::policies;
use crate::platform::netlink::Logged;

/// How long a combination of ends is not told of again.
const SILENCE: Duration = Duration::from_secs(60);

/// Combinations that are remembered.
const REMEMBERED: usize = 1024;

/// Lines a second at most.
const LINES: u32 = 10;

/// What was told, and when.
#[derive(Debug, Default)]
pub(super) struct Drops {
    told: HashMap<What, Instant>,
    /// The second that is running, and its lines.
    second: Option<(Instant, u32)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct What {
    prefix: String,
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    port: Option<u16>,
}

impl Drops {
    /// Logs a packet that a rule of `plan` has dropped, if it is time.
    pub(super) fn tell(&mut self, logged: &Logged, plan: &Plan) {
        let Some(what) = what(logged) else { return };
        if !self.is_time(&what, Instant::now()) {
            return;
        }
        let What { prefix, source, destination, protocol, port } = &what;
        let class = plan.classes.get(prefix.as_str());
        let policies = class.map_or_else(|| prefix.clone(), policies);
        let port = port.map(|port| port.to_string()).unwrap_or_default();
        let what = if class.is_some_and(|class| class.end == End::Audit) {
            "a policy that is being tried out would drop this"
        } else {
            "dropped by policy"
        };
        tracing::info!(
            %source, %destination, protocol, port, policies, rules = prefix, "{what}"
        );
    }

    fn is_time(&mut self, what: &What, now: Instant) -> bool {
        let is_recent = |told: &Instant| now.duration_since(*told) < SILENCE;
        if self.told.get(what).is_some_and(is_recent) {
            return false;
        }
        match &mut self.second {
            Some((began, lines)) if now.duration_since(*began) < Duration::from_secs(1) => {
                if *lines == LINES {
                    return false;
                }
                *lines += 1;
            }
            over => *over = Some((now, 1)),
        }
        if self.told.len() == REMEMBERED {
            self.told.retain(|_, told| is_recent(told));
        }
        if self.told.len() == REMEMBERED {
            self.told.clear();
        }
        self.told.insert(what.clone(), now);
        true
    }
}

/// Whose packet it is, to whom.
fn what(logged: &Logged) -> Option<What> {
    let ends = Ends::of(&logged.packet)?;
    let Ends { source, destination, protocol, port } = ends;
    Some(What { prefix: logged.prefix.clone(), source, destination, protocol, port })
}

/// The ends of a packet of which the end may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ends {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    port: Option<u16>,
}

impl Ends {
    fn of(packet: &[u8]) -> Option<Self> {
        let (source, destination, protocol, behind): (IpAddr, IpAddr, u8, usize) =
            match packet.first()? >> 4 {
                4 => {
                    let address = |at: usize| -> Option<IpAddr> {
                        Some(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?.into())
                    };
                    let behind = usize::from(packet.first()? & 0x0f) * 4;
                    (address(12)?, address(16)?, *packet.get(9)?, behind)
                }
                6 => {
                    let address = |at: usize| -> Option<IpAddr> {
                        Some(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?.into())
                    };
                    (address(8)?, address(24)?, *packet.get(6)?, 40)
                }
                _ => return None,
            };
        const WITH_PORTS: [u8; 3] = [6, 17, 132];
        let port = packet
            .get(behind + 2..behind + 4)
            .filter(|_port| WITH_PORTS.contains(&protocol))
            .and_then(|port| port.try_into().ok())
            .map(u16::from_be_bytes);
        Some(Self { source, destination, protocol, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The headers of UDP from 10.244.1.2 to 10.244.2.3, port 53.
    fn packet() -> Vec<u8> {
        let mut packet = vec![0; 28];
        packet[0] = 0x45;
        packet[9] = 17;
        packet[12..16].copy_from_slice(&[10, 244, 1, 2]);
        packet[16..20].copy_from_slice(&[10, 244, 2, 3]);
        packet[22..24].copy_from_slice(&53_u16.to_be_bytes());
        packet
    }

    fn logged() -> Logged {
        Logged { prefix: "i-3b8d".to_owned(), packet: packet() }
    }

    #[test]
    fn ends_are_read_of_the_headers_alone() {
        let ends = Ends::of(&packet()).unwrap();
        assert_eq!(ends.source, IpAddr::from([10, 244, 1, 2]));
        assert_eq!(ends.destination, IpAddr::from([10, 244, 2, 3]));
        assert_eq!((ends.protocol, ends.port), (17, Some(53)));
        for length in 0..20 {
            assert_eq!(Ends::of(&packet()[..length]), None, "{length}");
        }
        assert_eq!(Ends::of(&packet()[..22]).unwrap().port, None);
    }

    #[test]
    fn one_combination_is_told_once_a_minute() {
        let mut drops = Drops::default();
        let what = what(&logged()).unwrap();
        let now = Instant::now();
        assert!(drops.is_time(&what, now));
        assert!(!drops.is_time(&what, now + SILENCE / 2));
        assert!(drops.is_time(&what, now + SILENCE));
    }

    #[test]
    fn flood_is_told_of_in_few_lines() {
        let mut drops = Drops::default();
        let now = Instant::now();
        let lines = (0..2 * REMEMBERED)
            .filter(|port| {
                let port = u16::try_from(*port).ok();
                drops.is_time(&What { port, ..what(&logged()).unwrap() }, now)
            })
            .count();
        assert_eq!(lines, LINES as usize);
    }
}
