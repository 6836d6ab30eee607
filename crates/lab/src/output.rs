//! What the lab's commands print for people.
//!
//! Owns standard output and whether it takes colours. A reader that went away is an error, which
//! ends the command.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};

use culvert_reach::{Colour, Tone};

/// Standard output.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    pub(super) colour: Colour,
}

impl Output {
    /// Standard output, with colours on a terminal.
    pub(super) fn new() -> Self {
        let terminal = io::stdout().is_terminal();
        Self { colour: if terminal { Colour::Ansi } else { Colour::Plain } }
    }

    pub(super) fn line(self, text: impl Display) -> io::Result<()> {
        writeln!(io::stdout().lock(), "{text}")
    }

    /// A line that says what follows, after an empty one.
    pub(super) fn heading(self, text: impl Display) -> io::Result<()> {
        self.line(format_args!("\n{}", self.colour.paint(Tone::Heading, text)))
    }

    /// The lines of `text`, set off from the left.
    pub(super) fn block(self, text: &str) -> io::Result<()> {
        text.trim_end()
            .lines()
            .try_for_each(|line| self.line(format_args!("  {}", line.trim_end())))
    }

    /// The outcome of one check.
    pub(super) fn outcome(self, good: bool, text: impl Display) -> io::Result<()> {
        let mark = if good {
            self.colour.paint(Tone::Good, "ok  ")
        } else {
            self.colour.paint(Tone::Bad, "FAIL")
        };
        self.line(format_args!("  {mark}  {text}"))
    }
}
