//! Colours of what is printed for people.

use std::fmt::Display;

/// Whether text may carry colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Text alone.
    Plain,
    /// Text for a terminal.
    Ansi,
}

/// What a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// A line that says what follows.
    Heading,
    /// As it should be.
    Good,
    /// Not as it should be.
    Bad,
    /// Of less weight.
    Aside,
}

impl Colour {
    /// `text` in the colour of `tone`.
    pub fn paint(self, tone: Tone, text: impl Display) -> String {
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
