//! The narrator: counts what was claimed and what held.

use std::time::Instant;

use anyhow::Result;
use lab::Host;

use crate::ui::Ui;

/// The narrator.
#[derive(Debug)]
pub(crate) struct Story<'a> {
    pub(crate) ui: &'a Ui,
    start: Instant,
    held: usize,
    failed: usize,
}

impl<'a> Story<'a> {
    pub(crate) fn new(ui: &'a Ui) -> Self {
        Self { ui, start: Instant::now(), held: 0, failed: 0 }
    }

    /// Claims something and shows it: the proof answers what was seen.
    pub(crate) fn claim(&mut self, what: &str, proof: impl FnOnce() -> Result<String>) {
        match proof() {
            Ok(seen) => {
                self.held += 1;
                let seen = if seen.is_empty() { seen } else { format!(": {seen}") };
                self.ui.good(format!("{what}{seen}"));
            }
            Err(error) => {
                self.failed += 1;
                self.ui.bad(format!("{what}: {error:#}"));
            }
        }
    }

    /// Claims that failed.
    pub(crate) fn failed(&self) -> usize {
        self.failed
    }

    /// All claims.
    pub(crate) fn claims(&self) -> usize {
        self.held + self.failed
    }

    /// The end of the story; when something failed, with what the routers said.
    pub(crate) fn verdict(&self, hosts: &[Host]) {
        let seconds = self.start.elapsed().as_secs_f64();
        match self.failed {
            0 => {
                self.ui.chapter("Verdict");
                self.ui.good(format!("all {} claims held, {seconds:.0} s", self.held));
            }
            failed => {
                hosts.iter().for_each(|host| self.ui.quote(&host.log_tail()));
                self.ui.chapter("Verdict");
                self.ui.bad(format!("{failed} of {} claims failed, {seconds:.0} s", self.claims()));
            }
        }
    }
}
