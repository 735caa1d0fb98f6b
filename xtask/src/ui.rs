//! What people read: plain lines, in colour on a terminal only.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::{env, thread};

const BOLD: &str = "1";
const GREEN: &str = "32";
const RED: &str = "31";
const BLUE: &str = "1;34";
const DIM: &str = "2";

/// Standard output of the automation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ui {
    style: Style,
}

#[derive(Debug, Clone, Copy)]
enum Style {
    Colour,
    Plain,
}

impl Ui {
    /// Colour on a terminal unless `NO_COLOR` says otherwise (<https://no-color.org>).
    pub(crate) fn new() -> Self {
        let wanted = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let style = if wanted && io::stdout().is_terminal() { Style::Colour } else { Style::Plain };
        Self { style }
    }

    /// Begins a chapter.
    pub(crate) fn chapter(&self, title: impl Display) {
        self.line(format!("\n{}", self.paint(BLUE, &format!("== {title}"))));
    }

    /// A plain line.
    pub(crate) fn say(&self, text: impl Display) {
        self.line(format!("   {text}"));
    }

    /// A command as one would type it.
    pub(crate) fn command(&self, text: impl Display) {
        self.line(format!("   {}", self.paint(BOLD, &format!("$ {text}"))));
    }

    /// Output of somebody else, indented.
    pub(crate) fn quote(&self, text: &str) {
        text.trim_end().lines().for_each(|line| self.line(format!("   {} {line}", self.paint(DIM, "|"))));
    }

    /// Something that held.
    pub(crate) fn good(&self, text: impl Display) {
        self.line(format!("   {} {text}", self.paint(GREEN, "ok  ")));
    }

    /// Something that did not hold.
    pub(crate) fn bad(&self, text: impl Display) {
        self.line(format!("   {} {text}", self.paint(RED, "FAIL")));
    }

    /// A bar that was not reached, which is no failure of the command.
    pub(crate) fn miss(&self, text: impl Display) {
        self.line(format!("   {} {text}", self.paint(RED, "miss")));
    }

    /// What is being done, on standard error, for commands whose output others read.
    pub(crate) fn note(&self, text: impl Display) {
        eprintln!("   {}", self.paint(DIM, &text.to_string()));
    }

    /// A result that stands at the margin.
    pub(crate) fn line(&self, text: impl Display) {
        // A reader that has seen enough (`| head`) is no reason to stop half-way and leave things behind.
        let _closed = writeln!(io::stdout(), "{text}");
    }

    /// The error that ends the program, with its causes, on standard error.
    pub(crate) fn error(&self, error: &anyhow::Error) {
        let mut causes = error.chain();
        if let Some(first) = causes.next() {
            eprintln!("{} {first}", self.paint(RED, "error:"));
        }
        causes.for_each(|cause| eprintln!("{} {cause}", self.paint(BOLD, "caused by:")));
    }

    fn paint(&self, code: &str, text: &str) -> String {
        match self.style {
            Style::Colour => format!("\x1b[{code}m{text}\x1b[0m"),
            Style::Plain => text.to_owned(),
        }
    }
}

/// Cores of the machine, for the headers of measurements.
pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
