//! The picture for the README: each network's figures as parts of kernel VXLAN's.
//!
//! Owns drawing. Colours change with the reader's light or dark setting, which a picture that a
//! page embeds still learns of; the background is the page's.

use std::fmt::Write as _;

use super::{Report, three_digits};
use crate::metric::{Better, Metric};
use crate::networks::BASELINE;

/// The figures that are drawn; the others are in the table.
const METRICS: [Metric; 11] = [
    Metric::Tcp1,
    Metric::Tcp4,
    Metric::TcpBoth,
    Metric::Udp64,
    Metric::Udp512,
    Metric::Udp1400,
    Metric::Mixed,
    Metric::WireTcp1,
    Metric::WireTcp4,
    Metric::WireUdp64,
    Metric::TcpPingP50,
];

const WIDTH: f64 = 760.0;
/// Room for the names of figures, left of the bars.
const LEFT: f64 = 190.0;
/// Room for the numbers, right of the longest bar.
const RIGHT: f64 = 130.0;
const TOP: f64 = 62.0;
/// From one line of the legend to the next; there is room for two.
const LEGEND_LINE: f64 = 15.0;
const BAR: f64 = 13.0;
const GAP: f64 = 14.0;
const FOOT: f64 = 30.0;

/// Longest bar, as a ratio: one that goes beyond is cut and says its number.
const MOST: f64 = 1.6;

/// Bars of light and dark pages, by place among the networks. Culvert's own stand out.
const COLOURS: [(&str, &str); 9] = [
    ("#8c959f", "#8b949e"),
    ("#57606a", "#b1bac4"),
    ("#0969da", "#4493f8"),
    ("#80ccff", "#1f6feb"),
    ("#1b7c83", "#39c5cf"),
    ("#76e3ea", "#1b7c83"),
    ("#bf8700", "#d29922"),
    ("#8250df", "#ab7df8"),
    ("#1a7f37", "#3fb950"),
];

/// One group of bars.
struct Group {
    title: String,
    /// For each network its place, and its ratio and figure.
    bars: Vec<(usize, f64, String)>,
}

/// Draws `report`.
pub(crate) fn draw(report: &Report) -> String {
    let names: Vec<&str> = report.networks.iter().map(|network| network.name.as_str()).collect();
    let groups: Vec<Group> = METRICS.iter().filter_map(|metric| group(report, *metric)).collect();
    picture(&names, &groups, &report.machine.summary())
}

fn group(report: &Report, metric: Metric) -> Option<Group> {
    let bars: Vec<(usize, f64, String)> = report
        .networks
        .iter()
        .enumerate()
        .filter_map(|(place, network)| {
            let ratio = report.figures.ratio(&network.name, BASELINE, metric)?;
            let median = report.figures.summary(&network.name, metric)?.median;
            // Bars show speed, so that longer is better in all of them.
            let speed = match metric.better() {
                Better::Higher => ratio,
                Better::Lower => ratio.recip(),
            };
            Some((place, speed, format!("{} {}", three_digits(median), metric.unit())))
        })
        .collect();
    let inverse = match metric.better() {
        Better::Higher => "",
        Better::Lower => ", inverse",
    };
    let title = metric.title().trim_end_matches(" →").replace(" of ½ RTT", "");
    (!bars.is_empty()).then(|| Group { title: title + inverse, bars })
}

fn picture(names: &[&str], groups: &[Group], caption: &str) -> String {
    let bars: usize = groups.iter().map(|group| group.bars.len()).sum();
    let height = TOP + bars as f64 * BAR + groups.len() as f64 * GAP + FOOT;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" \
         width=\"{WIDTH}\" height=\"{height:.0}\" role=\"img\" \
         aria-label=\"Speed of pod networks, relative to kernel VXLAN\">\n"
    );
    svg += &style(names.len());
    let _ = writeln!(svg, "<text x=\"0\" y=\"14\" class=\"h\">Relative to kernel VXLAN</text>");
    svg += &legend(names);
    let bottom = height - FOOT;
    let one = LEFT + scale(1.0);
    let _ = writeln!(svg, "<path d=\"M{one:.1} {:.1}V{bottom:.1}\" class=\"one\"/>", TOP - 8.0);
    let mut y = TOP;
    for group in groups {
        let middle = y + group.bars.len() as f64 * BAR / 2.0 + 4.0;
        let title = escape(&group.title);
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{middle:.1}\" class=\"e\">{title}</text>",
            LEFT - 10.0
        );
        for (place, ratio, figure) in &group.bars {
            let (width, text) = (scale(*ratio), y + BAR - 3.5);
            let _ = writeln!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{:.1}\" \
                 class=\"c{place}\"><title>{}</title></rect>",
                BAR - 2.0,
                escape(names.get(*place).copied().unwrap_or_default()),
            );
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{text:.1}\">{ratio:.2} <tspan class=\"f\">{}</tspan></text>",
                LEFT + width + 5.0,
                escape(figure)
            );
            y += BAR;
        }
        y += GAP;
    }
    let _ = writeln!(
        svg,
        "<text x=\"0\" y=\"{:.1}\" class=\"f\">{}</text>",
        height - 8.0,
        escape(caption)
    );
    svg + "</svg>\n"
}

fn style(networks: usize) -> String {
    let (mut light, mut dark) = (String::new(), String::new());
    for place in 0..networks {
        let (on_light, on_dark) = COLOURS[place % COLOURS.len()];
        let _ = write!(light, ".c{place}{{fill:{on_light}}}");
        let _ = write!(dark, ".c{place}{{fill:{on_dark}}}");
    }
    format!(
        "<style>text{{font:11px -apple-system,\"Segoe UI\",Helvetica,Arial,sans-serif;fill:#1f2328}}\
         .h{{font-size:14px;font-weight:600}}.e{{text-anchor:end}}.f{{fill:#59636e}}\
         .one{{stroke:#59636e;stroke-dasharray:3 3;fill:none}}{light}\
         @media(prefers-color-scheme:dark){{text{{fill:#f0f6fc}}.f{{fill:#9198a1}}\
         .one{{stroke:#9198a1}}{dark}}}</style>\n"
    )
}

fn legend(names: &[&str]) -> String {
    let mut svg = String::new();
    let (mut x, mut y) = (0.0, 25.0);
    for (place, name) in names.iter().enumerate() {
        // A letter of this font is less than seven wide.
        let width = 34.0 + name.len() as f64 * 6.5;
        if x > 0.0 && x + width > WIDTH {
            (x, y) = (0.0, y + LEGEND_LINE);
        }
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{y:.0}\" width=\"11\" height=\"11\" class=\"c{place}\"/>\
             <text x=\"{:.1}\" y=\"{:.0}\">{}</text>",
            x + 16.0,
            y + 10.0,
            escape(name)
        );
        x += width;
    }
    svg
}

/// The length of a bar for `ratio`.
fn scale(ratio: f64) -> f64 {
    ratio.clamp(0.0, MOST) / MOST * (WIDTH - LEFT - RIGHT)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bar_has_its_network_and_numbers() {
        let group = |title: &str, bars| Group { title: title.to_owned(), bars };
        let svg = picture(
            &["kernel-vxlan", "culvert"],
            &[
                group("a < b", vec![(0, 1.0, "12.0 Gbit/s".into()), (1, 0.8, "9.6 Gbit/s".into())]),
                group("c", vec![(1, 99.0, "1 µs".into())]),
            ],
            "a machine & its kernel",
        );
        assert_eq!(svg.matches("<rect").count(), 2 + 3, "legend and bars");
        assert!(svg.contains("0.80 <tspan class=\"f\">9.6 Gbit/s</tspan>"), "{svg}");
        assert!(svg.contains("a &lt; b") && svg.contains("machine &amp; its"), "{svg}");
        assert!(svg.contains("prefers-color-scheme:dark"));
        assert_eq!(svg.matches('<').count(), svg.matches('>').count());
    }

    #[test]
    fn a_long_legend_has_two_lines() {
        let names = ["a-network-with-a-long-name"; 5];
        let legend = legend(&names);
        assert_eq!(legend.matches("y=\"25\"").count(), 3, "{legend}");
        assert_eq!(legend.matches("y=\"40\"").count(), 2, "{legend}");
    }

    #[test]
    fn bars_that_are_too_long_are_cut() {
        assert_eq!(scale(99.0), scale(MOST));
        assert_eq!(scale(MOST), WIDTH - LEFT - RIGHT);
        assert_eq!(scale(f64::INFINITY), scale(MOST));
    }
}
