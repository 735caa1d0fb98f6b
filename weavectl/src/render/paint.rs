//! Colour, which is never needed: it only repeats what the words say.

use std::io::IsTerminal;

/// Whether to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    /// Words alone.
    Plain,
    /// ANSI escape sequences.
    Colour,
}

/// What a piece of text means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Nothing in particular.
    Normal,
    /// As it should be.
    Good,
    /// Not well, and not harmful yet.
    Warn,
    /// Harmful.
    Bad,
    /// A heading.
    Strong,
}

impl Paint {
    /// Colour for a terminal, unless the user says no (<https://no-color.org>) or the terminal cannot.
    pub(crate) fn for_stream(stream: &impl IsTerminal) -> Paint {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        if stream.is_terminal() && !refused && !dumb { Paint::Colour } else { Paint::Plain }
    }

    /// `text` in a tone.
    pub(crate) fn tone(self, tone: Tone, text: &str) -> String {
        let code = match (self, tone) {
            (Paint::Plain, _) | (Paint::Colour, Tone::Normal) => return text.to_owned(),
            (Paint::Colour, Tone::Good) => "32",
            (Paint::Colour, Tone::Warn) => "33",
            (Paint::Colour, Tone::Bad) => "31",
            (Paint::Colour, Tone::Strong) => "1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// As it should be.
    pub(crate) fn good(self, text: &str) -> String {
        self.tone(Tone::Good, text)
    }

    /// Harmful.
    pub(crate) fn bad(self, text: &str) -> String {
        self.tone(Tone::Bad, text)
    }

    /// A heading.
    pub(crate) fn strong(self, text: &str) -> String {
        self.tone(Tone::Strong, text)
    }
}
