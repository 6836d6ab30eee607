//! Drawing who reaches whom, as a matrix.
//!
//! Owns text only.

use std::time::Duration;

use crate::paint::{Colour, Tone};

/// What one pod found when it tried another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// Row and column are the same pod.
    Itself,
    /// It answered after this time.
    Answered(Duration),
    /// It did not; the word says what happened instead.
    Failed(&'static str),
}

/// A pod as the matrix names it: its node and its own name there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// The node.
    pub node: String,
    /// The pod.
    pub pod: String,
}

/// Least width of a column: the longest word for a failure, and a space.
const WIDTH: usize = 8;

/// Space between the columns of one node and the next.
const GAP: &str = "  ";

/// Draws `rows`, each the cells of one pod, in the order of `labels`. Times are in milliseconds.
#[must_use]
pub fn draw(labels: &[Label], rows: &[Vec<Cell>], colour: Colour) -> String {
    let longest = labels.iter().map(|label| label.node.len().max(label.pod.len())).max();
    let width = longest.map_or(WIDTH, |longest| WIDTH.max(longest + 1));
    let names: Vec<String> = labels.iter().map(|l| format!("{}-{}", l.node, l.pod)).collect();
    let margin = names.iter().map(String::len).max().unwrap_or(0);

    let mut nodes = format!("{:margin$}", "");
    let mut pods = nodes.clone();
    let mut last: Option<&str> = None;
    for label in labels {
        let new = last != Some(label.node.as_str());
        let (gap, node) = if new { (GAP, label.node.as_str()) } else { ("", "") };
        nodes += &format!("{gap}{node:>width$}");
        pods += &format!("{gap}{:>width$}", label.pod);
        last = Some(&label.node);
    }

    let mut text = format!("{}\n{}\n", nodes.trim_end(), pods);
    for (name, row) in names.iter().zip(rows) {
        text += &format!("{name:margin$}");
        let mut last: Option<&str> = None;
        for (label, cell) in labels.iter().zip(row) {
            if last != Some(label.node.as_str()) {
                text += GAP;
            }
            last = Some(&label.node);
            text += &paint(*cell, width, colour);
        }
        text.push('\n');
    }
    text
}

fn paint(cell: Cell, width: usize, colour: Colour) -> String {
    // Padded before it is painted: a colour takes characters, but no place.
    match cell {
        Cell::Itself => colour.paint(Tone::Aside, format_args!("{:>width$}", "·")),
        Cell::Answered(time) => {
            colour.paint(Tone::Good, format_args!("{:>width$}", milliseconds(time)))
        }
        Cell::Failed(word) => colour.paint(Tone::Bad, format_args!("{word:>width$}")),
    }
}

/// `time` in milliseconds, with as many digits as tell something.
#[must_use]
pub fn milliseconds(time: Duration) -> String {
    let milliseconds = time.as_secs_f64() * 1e3;
    if milliseconds < 10.0 { format!("{milliseconds:.2}") } else { format!("{milliseconds:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_columns_line_up_under_their_nodes() {
        let text = draw(&labels(), &rows(), Colour::Plain);
        assert_eq!(
            text,
            "               node1             node2\n            \
             \x20   pod1    pod2      pod1\n\
             node1-pod1         ·    0.05      0.31\n\
             node1-pod2      0.06       ·      lost\n\
             node2-pod1        12    0.30         ·\n"
        );
    }

    #[test]
    fn colours_change_no_place() {
        let mut text = draw(&labels(), &rows(), Colour::Ansi);
        for code in ["\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[0m"] {
            assert!(text.contains(code), "{code:?}");
            text = text.replace(code, "");
        }
        assert_eq!(text, draw(&labels(), &rows(), Colour::Plain));
    }

    fn labels() -> Vec<Label> {
        [("node1", "pod1"), ("node1", "pod2"), ("node2", "pod1")]
            .map(|(node, pod)| Label { node: node.into(), pod: pod.into() })
            .into()
    }

    fn rows() -> Vec<Vec<Cell>> {
        let ms = |us| Cell::Answered(Duration::from_micros(us));
        vec![
            vec![Cell::Itself, ms(50), ms(310)],
            vec![ms(60), Cell::Itself, Cell::Failed("lost")],
            vec![ms(12_345), ms(300), Cell::Itself],
        ]
    }
}
