//! What the lab's commands print for people.
//!
//! Owns standard output and whether it takes colours. A reader that went away is an error, which
//! ends the command.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};

/// Standard output.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    pub(super) colour: Colour,
}

/// Whether text may carry colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    Plain,
    Ansi,
}

/// What a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Heading,
    Good,
    Bad,
    Aside,
}

impl Colour {
    pub(super) fn paint(self, tone: Tone, text: impl Display) -> String {
        // Select Graphic Rendition (ECMA-48): bold, green, red, faint.
        let code = match tone {
            Tone::Heading => 1,
            Tone::Good => 32,
            Tone::Bad => 31,
            Tone::Aside => 2,
        };
        match self {
            Self::Plain => text.to_string(),
            Self::Ansi => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }
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
