//! Where words go: data to standard output, progress and errors to standard error.

use std::io::{self, ErrorKind, IsTerminal, Write};

use serde::Serialize;
use serde_json::json;

use crate::failure::{FAILED, Failure};
use crate::render::paint::Paint;

/// Columns where there is no terminal.
const WIDTH: usize = 80;

/// Rows of one table on a terminal: more scroll away what stands above them, and a fabric may have a thousand peers.
const ROWS: usize = 40;

/// How data is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// `--json`
    Json,
}

/// The two streams.
pub(crate) struct Ui {
    format: Format,
}

impl Ui {
    /// With data in this format.
    pub(crate) fn new(format: Format) -> Ui {
        Ui { format }
    }

    /// How data is written.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Whether data may have colour.
    pub(crate) fn paint(&self) -> Paint {
        Paint::for_stream(&io::stdout())
    }

    /// Columns of a line of data: the terminal's, or what fits a file that somebody reads.
    pub(crate) fn width(&self) -> usize {
        let terminal = rustix::termios::tcgetwinsize(io::stdout()).ok();
        terminal.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0).unwrap_or(WIDTH)
    }

    /// Rows of a table: a screenful on a terminal, all of them for whoever reads or searches the rest.
    pub(crate) fn rows(&self) -> usize {
        if io::stdout().is_terminal() { ROWS } else { usize::MAX }
    }

    /// Data: as JSON when asked for, otherwise what `text` makes of it.
    pub(crate) fn data<T: Serialize>(
        &mut self,
        value: &T,
        text: impl FnOnce(&T, Paint) -> String,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Text => {
                let text = text(value, self.paint());
                self.raw(text.as_bytes())
            }
            Format::Json => self.json(value),
        }
    }

    /// Data as JSON.
    pub(crate) fn json<T: Serialize>(&mut self, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|error| Failure::new(FAILED, "cannot write JSON").because(error.to_string()))?;
        self.raw(format!("{text}\n").as_bytes())
    }

    /// Bytes to standard output.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Ok(()) => Ok(()),
            // `weavectl ps | head -1` is not an error.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(Failure::of_io("cannot write to standard output", &error)),
        }
    }

    /// Progress. A closed standard error stops nothing.
    pub(crate) fn note(&mut self, text: &str) {
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// The last words of a command that failed.
    pub(crate) fn failure(&mut self, failure: &Failure) {
        let paint = Paint::for_stream(&io::stderr());
        self.note(failure_text(failure, self.format, paint).trim_end());
    }
}

/// `error:` what failed, `caused by:` the chain, `hint:` the command to type next.
pub(crate) fn failure_text(failure: &Failure, format: Format, paint: Paint) -> String {
    match format {
        Format::Json => {
            json!({ "error": { "exit": failure.exit, "message": failure.what, "causes": failure.causes, "hint": failure.hint } })
                .to_string()
        }
        Format::Text => {
            let mut text = format!("{} {}\n", paint.bad("error:"), failure.what);
            for cause in &failure.causes {
                text.push_str(&format!("{} {cause}\n", paint.strong("caused by:")));
            }
            if let Some(hint) = &failure.hint {
                text.push_str(&format!("{} {hint}\n", paint.good("hint:")));
            }
            text
        }
    }
}
