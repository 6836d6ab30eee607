//! What is measured: runs, and the figures that each run gives.

use std::time::Duration;

use serde::Serialize;

use crate::networks::{Medium, Network};
use crate::settings::Effort;
use crate::traffic::ping_pong::{self, Transport};
use crate::traffic::tcp::{self, Stream};
use crate::traffic::udp::{Flow, Hunt};

/// A figure of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Metric {
    Tcp1,
    Tcp1Back,
    Tcp4,
    Tcp4Back,
    TcpBoth,
    Udp64,
    Udp512,
    Udp1400,
    TcpPingP50,
    TcpPingP99,
    UdpPingP50,
    UdpPingP99,
    Cpu1,
    Cpu4,
    DaemonCpu1,
    DaemonCpu4,
    DaemonMemory,
    WireTcp1,
    WireTcp1Back,
    WireTcp4,
    WireTcp4Back,
    WireUdp64,
    Mixed,
}

/// Which way a figure gets better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    Higher,
    Lower,
}

impl Metric {
    /// Every figure, in the order of the rows.
    pub(crate) const ALL: [Self; 23] = [
        Self::Tcp1,
        Self::Tcp1Back,
        Self::Tcp4,
        Self::Tcp4Back,
        Self::TcpBoth,
        Self::Udp64,
        Self::Udp512,
        Self::Udp1400,
        Self::TcpPingP50,
        Self::TcpPingP99,
        Self::UdpPingP50,
        Self::UdpPingP99,
        Self::Mixed,
        Self::WireTcp1,
        Self::WireTcp1Back,
        Self::WireTcp4,
        Self::WireTcp4Back,
        Self::WireUdp64,
        Self::Cpu1,
        Self::Cpu4,
        Self::DaemonCpu1,
        Self::DaemonCpu4,
        Self::DaemonMemory,
    ];

    /// What people call it.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Tcp1 => "TCP, 1 stream →",
            Self::Tcp1Back => "TCP, 1 stream ←",
            Self::Tcp4 => "TCP, 4 streams →",
            Self::Tcp4Back => "TCP, 4 streams ←",
            Self::TcpBoth => "TCP, 1 stream each way, sum",
            Self::Udp64 => "UDP, 64 bytes",
            Self::Udp512 => "UDP, 512 bytes",
            Self::Udp1400 => "UDP, 1400 bytes",
            Self::TcpPingP50 => "TCP ping-pong, p50 of ½ RTT",
            Self::TcpPingP99 => "TCP ping-pong, p99 of ½ RTT",
            Self::UdpPingP50 => "UDP ping-pong, p50 of ½ RTT",
            Self::UdpPingP99 => "UDP ping-pong, p99 of ½ RTT",
            Self::Cpu1 => "CPU of the machine, 1 stream",
            Self::Cpu4 => "CPU of the machine, 4 streams",
            Self::DaemonCpu1 => "CPU of the daemons, 1 stream",
            Self::DaemonCpu4 => "CPU of the daemons, 4 streams",
            Self::DaemonMemory => "memory of a daemon",
            Self::WireTcp1 => "wire: TCP, 1 stream →",
            Self::WireTcp1Back => "wire: TCP, 1 stream ←",
            Self::WireTcp4 => "wire: TCP, 4 streams →",
            Self::WireTcp4Back => "wire: TCP, 4 streams ←",
            Self::WireUdp64 => "wire: UDP, 64 bytes",
            Self::Mixed => "UDP to 8 peers, mixed",
        }
    }

    /// What it is counted in.
    pub(crate) const fn unit(self) -> &'static str {
        match self {
            Self::Tcp1
            | Self::Tcp1Back
            | Self::Tcp4
            | Self::Tcp4Back
            | Self::TcpBoth
            | Self::WireTcp1
            | Self::WireTcp1Back
            | Self::WireTcp4
            | Self::WireTcp4Back => "Gbit/s",
            Self::Udp64 | Self::Udp512 | Self::Udp1400 | Self::WireUdp64 | Self::Mixed => {
                "k packets/s"
            }
            Self::TcpPingP50 | Self::TcpPingP99 | Self::UdpPingP50 | Self::UdpPingP99 => "µs",
            Self::Cpu1 | Self::Cpu4 | Self::DaemonCpu1 | Self::DaemonCpu4 => "s/GB",
            Self::DaemonMemory => "MiB",
        }
    }

    /// Which way it gets better.
    pub(crate) const fn better(self) -> Better {
        match self {
            Self::Tcp1
            | Self::Tcp1Back
            | Self::Tcp4
            | Self::Tcp4Back
            | Self::TcpBoth
            | Self::Udp64
            | Self::Udp512
            | Self::Udp1400
            | Self::WireTcp1
            | Self::WireTcp1Back
            | Self::WireTcp4
            | Self::WireTcp4Back
            | Self::WireUdp64
            | Self::Mixed => Better::Higher,
            Self::TcpPingP50
            | Self::TcpPingP99
            | Self::UdpPingP50
            | Self::UdpPingP99
            | Self::Cpu1
            | Self::Cpu4
            | Self::DaemonCpu1
            | Self::DaemonCpu4
            | Self::DaemonMemory => Better::Lower,
        }
    }
}

/// What `--measures` chooses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Measure {
    /// TCP throughput of one stream, each way, and the CPU it takes.
    #[value(name = "tcp-1")]
    Tcp1,
    /// TCP throughput of four streams, each way, and the CPU it takes.
    #[value(name = "tcp-4")]
    Tcp4,
    /// TCP throughput of a stream each way at once.
    TcpBoth,
    /// Packets per second with 64 bytes of payload.
    #[value(name = "udp-64")]
    Udp64,
    /// Packets per second with 512 bytes of payload.
    #[value(name = "udp-512")]
    Udp512,
    /// Packets per second with 1400 bytes of payload.
    #[value(name = "udp-1400")]
    Udp1400,
    /// Latency of TCP messages.
    TcpPing,
    /// Latency of UDP messages.
    UdpPing,
    /// TCP of one and of four streams, and small packets, where packets cross the underlay at their
    /// size on a wire.
    Wire,
    /// Small and full packets, mixed, to the pods of eight peers at once.
    Mixed,
    /// Growth: throughput and memory as the table gets longer.
    Tables,
    /// Growth: throughput and memory as more peers talk at once.
    Peers,
    /// What encoding, decoding and looking up cost per packet.
    HotPath,
}

/// About how long the search for a rate takes: most take seven trials, each with a wait for
/// stragglers.
pub(crate) fn hunt_duration(settings: &Effort) -> Duration {
    7 * (settings.udp_trial + Duration::from_millis(30))
}

/// One thing that is run on a network, once in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Run {
    Tcp { streams: usize, way: Way, medium: Medium },
    TcpBoth,
    Udp { payload_len: usize, medium: Medium },
    Ping(Transport),
}

/// From which pod to which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Forth,
    Back,
}

impl Measure {
    /// What it runs on each network: nothing, if it is not one of the comparison.
    pub(crate) fn runs(self) -> Vec<Run> {
        let tcp = |streams, medium| {
            [Way::Forth, Way::Back].map(|way| Run::Tcp { streams, way, medium }).to_vec()
        };
        let udp = |payload_len, medium| vec![Run::Udp { payload_len, medium }];
        match self {
            Self::Tcp1 => tcp(1, Medium::Veth),
            Self::Tcp4 => tcp(4, Medium::Veth),
            Self::TcpBoth => vec![Run::TcpBoth],
            Self::Udp64 => udp(64, Medium::Veth),
            Self::Udp512 => udp(512, Medium::Veth),
            Self::Udp1400 => udp(1400, Medium::Veth),
            Self::TcpPing => vec![Run::Ping(Transport::Tcp)],
            Self::UdpPing => vec![Run::Ping(Transport::Udp)],
            Self::Wire => {
                [tcp(1, Medium::Wire), tcp(4, Medium::Wire), udp(64, Medium::Wire)].concat()
            }
            Self::Mixed | Self::Tables | Self::Peers | Self::HotPath => Vec::new(),
        }
    }
}

impl Run {
    /// What people call it.
    pub(crate) const fn title(self) -> &'static str {
        self.metric().title()
    }

    /// The figure that it is mainly about.
    pub(crate) const fn metric(self) -> Metric {
        use Medium::{Veth, Wire};
        use Way::{Back, Forth};
        match self {
            Self::Tcp { streams: 1, way: Forth, medium: Veth } => Metric::Tcp1,
            Self::Tcp { streams: 1, way: Back, medium: Veth } => Metric::Tcp1Back,
            Self::Tcp { streams: _, way: Forth, medium: Veth } => Metric::Tcp4,
            Self::Tcp { streams: _, way: Back, medium: Veth } => Metric::Tcp4Back,
            Self::Tcp { streams: 1, way: Forth, medium: Wire } => Metric::WireTcp1,
            Self::Tcp { streams: 1, way: Back, medium: Wire } => Metric::WireTcp1Back,
            Self::Tcp { streams: _, way: Forth, medium: Wire } => Metric::WireTcp4,
            Self::Tcp { streams: _, way: Back, medium: Wire } => Metric::WireTcp4Back,
            Self::TcpBoth => Metric::TcpBoth,
            Self::Udp { payload_len: _, medium: Wire } => Metric::WireUdp64,
            Self::Udp { payload_len: 0..=64, medium: Veth } => Metric::Udp64,
            Self::Udp { payload_len: 65..=512, medium: Veth } => Metric::Udp512,
            Self::Udp { payload_len: _, medium: Veth } => Metric::Udp1400,
            Self::Ping(Transport::Tcp) => Metric::TcpPingP50,
            Self::Ping(Transport::Udp) => Metric::UdpPingP50,
        }
    }

    /// What must lie between the nodes.
    const fn medium(self) -> Medium {
        match self {
            Self::Tcp { medium, .. } | Self::Udp { medium, .. } => medium,
            Self::TcpBoth | Self::Ping(_) => Medium::Veth,
        }
    }

    /// About how long it takes.
    pub(crate) fn duration(self, settings: &Effort) -> Duration {
        match self {
            Self::Tcp { .. } | Self::TcpBoth => settings.tcp.warm_up + settings.tcp.window,
            Self::Udp { .. } => hunt_duration(settings),
            Self::Ping(_) => settings.ping,
        }
    }

    /// Runs it on `network`. `last`, if known, is what the main figure was in the round before.
    pub(crate) fn on(
        self,
        network: &Network,
        settings: &Effort,
        last: Option<f64>,
    ) -> anyhow::Result<Vec<(Metric, f64)>> {
        let [first, second] = &network.pods;
        let main = self.metric();
        network.lay(self.medium())?;
        match self {
            Self::Tcp { streams, way, medium } => {
                let (from, to, receiver) = match way {
                    Way::Forth => (first, second, 1),
                    Way::Back => (second, first, 0),
                };
                let streams = vec![Stream { from, to }; streams];
                let arrived = network.arrived(receiver)?;
                let moved = tcp::bulk(&streams, settings.tcp, &network.daemons)?;
                if medium == Medium::Wire {
                    arrived.check_cut(network.arrived(receiver)?)?;
                }
                let mut figures = vec![(main, moved.gbits())];
                if way == Way::Forth && medium == Medium::Veth {
                    let (machine, daemons) = moved.cpu_per_gigabyte();
                    let (cpu, daemon_cpu) = if streams.len() == 1 {
                        (Metric::Cpu1, Metric::DaemonCpu1)
                    } else {
                        (Metric::Cpu4, Metric::DaemonCpu4)
                    };
                    figures.push((cpu, machine));
                    if !network.daemons.is_empty() {
                        figures.push((daemon_cpu, daemons));
                    }
                }
                Ok(figures)
            }
            Self::TcpBoth => {
                let streams =
                    [Stream { from: first, to: second }, Stream { from: second, to: first }];
                let moved = tcp::bulk(&streams, settings.tcp, &network.daemons)?;
                Ok(vec![(main, moved.gbits())])
            }
            Self::Udp { payload_len, medium: _ } => {
                let mut flow = Flow::open(first, &[(second, payload_len)])?;
                let hunt = Hunt::near(last, settings.udp_trial);
                Ok(vec![(main, flow.highest_rate(hunt)? / 1000.0)])
            }
            Self::Ping(transport) => {
                let latency = ping_pong::run(transport, first, second, settings.ping)?;
                let p99 = match transport {
                    Transport::Tcp => Metric::TcpPingP99,
                    Transport::Udp => Metric::UdpPingP99,
                };
                let micros = |time: Duration| time.as_secs_f64() * 1e6;
                Ok(vec![(main, micros(latency.p50)), (p99, micros(latency.p99))])
            }
        }
    }
}
