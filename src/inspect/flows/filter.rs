//! Which flows are wanted.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use clap::builder::PossibleValuesParser;
use culvert_dataplane::engine::DropReason;
use culvert_dataplane::platform::clock;
use ipnet::IpNet;
use jiff::Timestamp;

use crate::observe::{FlowRecord, FlowWord, protocol_name};

/// What chooses flows on the command line; each that is given must be met.
#[derive(Debug, Default, Args)]
pub(crate) struct FilterArgs {
    /// Only from or to this pod: an address, or the beginning of a container's id on this node.
    #[arg(long, value_name = "POD")]
    pod: Option<String>,
    /// Only from or to this peer.
    #[arg(long, value_name = "NAME")]
    peer: Option<String>,
    /// Only from this address, network or pod.
    #[arg(long, value_name = "ADDRESS|CIDR|POD")]
    from: Option<Party>,
    /// Only to this address, network or pod.
    #[arg(long, value_name = "ADDRESS|CIDR|POD")]
    to: Option<Party>,
    /// Only with this source or destination port.
    #[arg(long)]
    port: Option<u16>,
    /// Only of this protocol: tcp, udp, icmp, icmpv6, sctp, or its number.
    #[arg(long, value_name = "PROTOCOL")]
    proto: Option<Protocol>,
    /// Only with this verdict.
    #[arg(long, value_enum)]
    verdict: Option<FlowWord>,
    /// Only dropped for this reason.
    #[arg(long, value_parser = reasons(), hide_possible_values = true)]
    reason: Option<String>,
    /// Only as old as this, such as 90s, 10m or 2h; or since a moment, such as
    /// 2026-01-01T12:00:00Z.
    #[arg(long, value_name = "AGE|TIME")]
    since: Option<Since>,
}

fn reasons() -> PossibleValuesParser {
    DropReason::ALL.into_iter().map(DropReason::as_str).collect::<Vec<_>>().into()
}

/// One end of a flow, as people name it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Party {
    Network(IpNet),
    Pod(String),
}

impl FromStr for Party {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Network(address.into()));
        }
        match text.parse() {
            Ok(network) => Ok(Self::Network(network)),
            Err(_) if text.is_empty() || text.contains(['/', ':']) => {
                Err("neither an address nor a network nor the name of a pod".to_owned())
            }
            Err(_) => Ok(Self::Pod(text.to_owned())),
        }
    }
}

impl Party {
    fn is(&self, address: Option<IpAddr>, pod: Option<&String>) -> bool {
        match self {
            Self::Network(network) => address.is_some_and(|address| network.contains(&address)),
            Self::Pod(name) => pod.is_some_and(|pod| pod.starts_with(name.as_str())),
        }
    }
}

/// A protocol as flows have it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Protocol(String);

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.to_ascii_lowercase();
        if let Ok(number) = text.parse() {
            return Ok(Self(protocol_name(number)));
        }
        let is_known = (0..=u8::MAX).any(|number| protocol_name(number) == text);
        if is_known {
            Ok(Self(text))
        } else {
            Err("no protocol; write tcp, udp, … or its number".to_owned())
        }
    }
}

/// A moment, by its age or by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    Age(Duration),
    Time(Timestamp),
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const WRONG: &str = "neither an age, such as 90s, 10m, 2h or 1d, nor a time of RFC 3339";
        if let Ok(time) = text.parse() {
            return Ok(Self::Time(time));
        }
        let unit = text.chars().last().ok_or(WRONG)?;
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return Err(WRONG.to_owned()),
        };
        let count: u64 = text.trim_end_matches(unit).parse().map_err(|_| WRONG)?;
        Ok(Self::Age(Duration::from_secs(count.saturating_mul(seconds))))
    }
}

/// Which flows are wanted.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    pod: Option<Party>,
    peer: Option<String>,
    from: Option<Party>,
    to: Option<Party>,
    port: Option<u16>,
    protocol: Option<Protocol>,
    verdict: Option<FlowWord>,
    reason: Option<String>,
    since: Option<Timestamp>,
}

impl FilterArgs {
    /// The pods and the peer that it names.
    pub(super) fn named(&self) -> (Vec<&str>, Option<&str>) {
        let parties = [&self.from, &self.to].into_iter().flatten();
        let by_name = parties.filter_map(|party| match party {
            Party::Pod(name) => Some(name.as_str()),
            Party::Network(_) => None,
        });
        let pods = self.pod.as_deref().into_iter().chain(by_name).collect();
        (pods, self.peer.as_deref())
    }

    /// The filter; ages count from now.
    pub(super) fn filter(&self) -> Filter {
        self.at(Timestamp::from_nanosecond(clock::unix_nanos().into()).unwrap_or_default())
    }

    fn at(&self, now: Timestamp) -> Filter {
        let pod = self.pod.as_ref().map(|pod| match pod.parse::<IpAddr>() {
            Ok(address) => Party::Network(address.into()),
            Err(_) => Party::Pod(pod.clone()),
        });
        let since = self.since.map(|since| match since {
            Since::Time(time) => time,
            Since::Age(age) => now.checked_sub(age).unwrap_or(Timestamp::MIN),
        });
        Filter {
            pod,
            peer: self.peer.clone(),
            from: self.from.clone(),
            to: self.to.clone(),
            port: self.port,
            protocol: self.proto.clone(),
            verdict: self.verdict,
            reason: self.reason.clone(),
            since,
        }
    }
}

impl Filter {
    /// Whether `flow` is one of them.
    pub(crate) fn wants(&self, flow: &FlowRecord) -> bool {
        let source = |party: &Party| party.is(flow.source, flow.source_pod.as_ref());
        let destination = |party: &Party| party.is(flow.destination, flow.destination_pod.as_ref());
        let ports = [flow.source_port, flow.destination_port];
        self.pod.as_ref().is_none_or(|pod| source(pod) || destination(pod))
            && self.from.as_ref().is_none_or(source)
            && self.to.as_ref().is_none_or(destination)
            && self.peer.as_ref().is_none_or(|peer| flow.peer.as_ref() == Some(peer))
            && self.port.is_none_or(|port| ports.contains(&Some(port)))
            && self.protocol.as_ref().is_none_or(|it| flow.protocol.as_ref() == Some(&it.0))
            && self.verdict.is_none_or(|verdict| flow.verdict == verdict)
            && self.reason.as_ref().is_none_or(|reason| {
                flow.reason.is_some_and(|found| found.as_str() == reason)
            })
            // A time that cannot be read is no reason to hide what somebody looks for.
            && self.since.is_none_or(|since| {
                flow.time.parse::<Timestamp>().map_or(true, |time| time >= since)
            })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::inspect::flows::sum::tests::flow;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        filter: FilterArgs,
    }

    fn wants(line: &str) -> bool {
        let words = std::iter::once("flows").chain(line.split_whitespace());
        let now = "2026-01-01T00:10:00Z".parse().unwrap();
        Line::try_parse_from(words).unwrap().filter.at(now).wants(&flow())
    }

    #[test]
    fn each_filter_takes_what_it_names_and_nothing_else() {
        for (filter, good, bad) in [
            ("--pod", "10.244.1.2", "10.244.1.3"),
            ("--pod", "4f1d", "f1d2"),
            ("--pod", "10.244.2.3", "node2"),
            ("--peer", "node2", "node"),
            ("--from", "10.244.1.0/24", "10.244.2.0/24"),
            ("--from", "4f1d2c", "10.244.2.3"),
            ("--to", "10.244.2.3", "10.244.1.2"),
            ("--port", "80", "81"),
            ("--port", "40000", "4000"),
            ("--proto", "TCP", "udp"),
            ("--proto", "6", "17"),
            ("--verdict", "drop", "forward"),
            ("--reason", "too_big", "no_owner"),
            ("--since", "10m", "9m"),
            ("--since", "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"),
        ] {
            assert!(wants(&format!("{filter} {good}")), "{filter} {good}");
            assert!(!wants(&format!("{filter} {bad}")), "{filter} {bad}");
        }
        assert!(wants(""));
        assert!(!wants("--port 80 --peer node3"), "all of them must be met");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in
            ["--reason because", "--since soon", "--since 5y", "--proto quic", "--from 10.0.0.0/33"]
        {
            let words = std::iter::once("flows").chain(line.split_whitespace());
            assert!(Line::try_parse_from(words).is_err(), "{line}");
        }
    }
}
