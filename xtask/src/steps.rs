//! A list of checks: each is timed, a failure does not keep the next from running, the last line sums up.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::cargo::Counts;
use crate::ui::Ui;

/// The list while it runs.
#[derive(Debug)]
pub(crate) struct Steps<'a> {
    ui: &'a Ui,
    start: Instant,
    done: Vec<Done>,
}

#[derive(Debug)]
struct Done {
    name: &'static str,
    time: Duration,
    counts: Counts,
}

impl<'a> Steps<'a> {
    pub(crate) fn new(ui: &'a Ui) -> Self {
        Self { ui, start: Instant::now(), done: Vec::new() }
    }

    /// Runs a check. One that fails without a failed test counts as one.
    pub(crate) fn run(&mut self, name: &'static str, check: impl FnOnce() -> Result<Counts>) {
        self.ui.chapter(name);
        let start = Instant::now();
        let counts = check().unwrap_or_else(|error| {
            self.ui.error(&error);
            Counts { passed: 0, failed: 1 }
        });
        let done = Done { name, time: start.elapsed(), counts };
        self.report(&done);
        self.done.push(done);
    }

    /// Prints the times and the sum.
    pub(crate) fn finish(self) -> Result<()> {
        self.ui.chapter(format!("all checks, {:.0} s", self.start.elapsed().as_secs_f64()));
        self.done.iter().for_each(|done| self.report(done));
        let mut sum = Counts::default();
        self.done.iter().for_each(|done| sum.add(done.counts));
        self.ui.line(format!("\n{} passed, {} failed", sum.passed, sum.failed));
        if sum.failed > 0 {
            bail!(
                "{} of the checks above failed",
                self.done.iter().filter(|done| done.counts.failed > 0).count()
            );
        }
        Ok(())
    }

    fn report(&self, done: &Done) {
        let seconds = done.time.as_secs_f64();
        let text = format!("{:<34} {seconds:>6.1} s", done.name);
        let tests = match done.counts {
            Counts { passed: 0, .. } => String::new(),
            Counts { passed, failed: 0 } => format!("  {passed} tests"),
            Counts { passed, failed } => format!("  {passed} tests passed, {failed} failed"),
        };
        match done.counts.failed {
            0 => self.ui.good(format!("{text}{tests}")),
            _ => self.ui.bad(format!("{text}{tests}")),
        }
    }
}
