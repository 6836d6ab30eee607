//! The targets: what Culvert must reach, what it aims at, and what it did.

use comfy_table::{Table, presets};
use serde::Serialize;

use super::Report;
use crate::growth::Point;
use crate::metric::{Better, Metric};
use crate::networks::BASELINE;
use crate::statistics::ratio;

/// The network that the targets are about.
pub(crate) const CULVERT: &str = "culvert";

/// The same daemon with offloads off.
const PLAIN: &str = "culvert-plain";

/// The same daemon where nodes seal, with either cipher.
const SEALED: &str = "culvert-sealed";
const SEALED_CHACHA: &str = "culvert-sealed-chacha";

/// A table that is as long as it gets, and one as short as it makes sense.
const LONG: u32 = 10_000;
const SHORT: u32 = 3;

/// A target and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Row {
    pub(crate) title: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    pub(crate) must: f64,
    pub(crate) aim: f64,
    /// None if it was not measured.
    pub(crate) measured: Option<f64>,
}

impl Row {
    /// Whether what must be reached is.
    pub(crate) fn is_reached(&self) -> bool {
        self.measured.is_some_and(|measured| self.within(measured, self.must))
    }

    fn within(&self, measured: f64, bound: f64) -> bool {
        match self.better {
            Better::Higher => measured >= bound,
            Better::Lower => measured <= bound,
        }
    }

    fn verdict(&self) -> &'static str {
        match self.measured {
            None => "not measured",
            Some(measured) if self.within(measured, self.aim) => "met, and the aim",
            Some(measured) if self.within(measured, self.must) => "met",
            Some(_) => "MISSED",
        }
    }
}

/// Every target, and what `report` says about it.
pub(crate) fn check(report: &Report) -> Vec<Row> {
    use Better::{Higher, Lower};
    let to_kernel = |metric| report.figures.ratio(CULVERT, BASELINE, metric);
    let to_plain = |metric| report.figures.ratio(CULVERT, PLAIN, metric);
    let sealed = |metric| report.figures.ratio(SEALED, CULVERT, metric);
    let chacha = |metric| report.figures.ratio(SEALED_CHACHA, CULVERT, metric);
    // Of the two ways the one that did worse: a pod network is as fast as its slow direction.
    let worse = |a: Option<f64>, b: Option<f64>| a.zip(b).map(|(a, b)| a.min(b));
    let long = point(&report.growth.tables, LONG);
    let short = point(&report.growth.tables, SHORT);
    let growth = long.zip(short).and_then(|(long, short)| ratio(&long.gbits, &short.gbits));
    let row =
        |title, unit, better, must, aim, measured| Row { title, unit, better, must, aim, measured };
    // Implementations of WireGuard that are measured where they are installed.
    let others = [
        ("sealed: TCP, 1 stream, the slower way, to wireguard-go", "wireguard-go", 2.5, 3.0),
        ("sealed: TCP, 1 stream, the slower way, to gotatun", "gotatun", 4.5, 5.0),
        ("sealed: TCP, 1 stream, the slower way, to boringtun", "boringtun", 10.0, 11.0),
    ]
    .into_iter()
    .filter_map(|(title, other, must, aim)| {
        let to_other = |metric| report.figures.ratio(SEALED, other, metric);
        let measured = worse(to_other(Metric::Tcp1), to_other(Metric::Tcp1Back))?;
        Some(row(title, "×", Higher, must, aim, Some(measured)))
    });
    let rows = [
        row(
            "TCP, 1 stream, the slower way, to kernel VXLAN",
            "×",
            Higher,
            0.75,
            1.0,
            worse(to_kernel(Metric::Tcp1), to_kernel(Metric::Tcp1Back)),
        ),
        row(
            "TCP, 4 streams, the slower way, to kernel VXLAN",
            "×",
            Higher,
            0.40,
            0.6,
            worse(to_kernel(Metric::Tcp4), to_kernel(Metric::Tcp4Back)),
        ),
        row(
            "wire: TCP, 1 stream, the slower way, to kernel VXLAN",
            "×",
            Higher,
            0.80,
            1.0,
            worse(to_kernel(Metric::WireTcp1), to_kernel(Metric::WireTcp1Back)),
        ),
        row(
            "wire: TCP, 4 streams, the slower way, to kernel VXLAN",
            "×",
            Higher,
            0.65,
            0.9,
            worse(to_kernel(Metric::WireTcp4), to_kernel(Metric::WireTcp4Back)),
        ),
        row("64-byte UDP, to kernel VXLAN", "×", Higher, 0.70, 1.0, to_kernel(Metric::Udp64)),
        row(
            "mixed UDP to 8 peers, to kernel VXLAN",
            "×",
            Higher,
            0.70,
            1.0,
            to_kernel(Metric::Mixed),
        ),
        row(
            "TCP ping-pong p50, to kernel VXLAN",
            "×",
            Lower,
            1.35,
            1.1,
            to_kernel(Metric::TcpPingP50),
        ),
        row(
            "TCP, 1 stream, the slower way, to offloads off",
            "×",
            Higher,
            5.0,
            8.0,
            worse(to_plain(Metric::Tcp1), to_plain(Metric::Tcp1Back)),
        ),
        row(
            "sealed: TCP, 1 stream, the slower way, to plain",
            "×",
            Higher,
            0.75,
            0.82,
            worse(sealed(Metric::Tcp1), sealed(Metric::Tcp1Back)),
        ),
        row(
            "sealed with ChaCha20: TCP, 1 stream, the slower way, to plain",
            "×",
            Higher,
            0.45,
            0.50,
            worse(chacha(Metric::Tcp1), chacha(Metric::Tcp1Back)),
        ),
        row("sealed: 64-byte UDP, to plain", "×", Higher, 0.85, 0.93, sealed(Metric::Udp64)),
        row(
            "sealed: TCP ping-pong p50, to plain",
            "×",
            Lower,
            1.08,
            1.03,
            sealed(Metric::TcpPingP50),
        ),
        row(
            "sealed: UDP ping-pong p50, to plain",
            "×",
            Lower,
            1.08,
            1.03,
            sealed(Metric::UdpPingP50),
        ),
        row(
            "sealed: wire: TCP, 1 stream, the slower way, to plain",
            "×",
            Higher,
            0.75,
            0.82,
            worse(sealed(Metric::WireTcp1), sealed(Metric::WireTcp1Back)),
        ),
        row(
            "sealed: wire: 64-byte UDP, to plain",
            "×",
            Higher,
            0.85,
            0.93,
            sealed(Metric::WireUdp64),
        ),
        row(
            "sealed: CPU of the daemons, TCP, 1 stream, to plain",
            "×",
            Lower,
            1.35,
            1.28,
            sealed(Metric::DaemonCpu1),
        ),
        row("TCP with a table of 10,000 nodes, to 3 nodes", "×", Higher, 0.97, 1.0, growth),
        row(
            "memory of a daemon with 10,000 nodes",
            " MiB",
            Lower,
            64.0,
            32.0,
            long.and_then(|long| long.memory_mib),
        ),
        row(
            "codec and lookups for one packet, hot, the slower side",
            " ns",
            Lower,
            30.0,
            15.0,
            report.hot_path.as_ref().map(|hot| hot.long_table.slower_ns()),
        ),
    ];
    rows.into_iter().chain(others).collect()
}

/// The targets as text.
pub(crate) fn render(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["target", "must", "aim", "measured", ""]);
    for row in rows {
        let bound = match row.better {
            Better::Higher => "≥",
            Better::Lower => "≤",
        };
        let value = |value: f64| format!("{value:.2}{}", row.unit);
        table.add_row([
            row.title.to_owned(),
            format!("{bound} {}", value(row.must)),
            format!("{bound} {}", value(row.aim)),
            row.measured.map_or_else(|| "–".to_owned(), value),
            row.verdict().to_owned(),
        ]);
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

fn point(points: &[Point], size: u32) -> Option<&Point> {
    points.iter().find(|point| point.size == size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_minds_which_way_is_better() {
        let row = |better, measured| Row {
            title: "",
            unit: "",
            better,
            must: if better == Better::Higher { 0.5 } else { 2.0 },
            aim: 1.0,
            measured,
        };
        let verdict = |better, measured| row(better, measured).verdict();
        assert_eq!(verdict(Better::Higher, Some(0.4)), "MISSED");
        assert_eq!(verdict(Better::Higher, Some(0.5)), "met");
        assert_eq!(verdict(Better::Higher, Some(1.0)), "met, and the aim");
        assert_eq!(verdict(Better::Lower, Some(2.1)), "MISSED");
        assert_eq!(verdict(Better::Lower, Some(1.5)), "met");
        assert_eq!(verdict(Better::Lower, Some(0.9)), "met, and the aim");
        assert!(!row(Better::Lower, None).is_reached());
    }
}
