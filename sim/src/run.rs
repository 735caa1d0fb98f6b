//! Running a plan to its end, or to the first check that fails.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::history::Subject;
use crate::model::{Check, Failure};
use crate::plan::Plan;
use crate::world::{Counts, Cryptography, Settled, World};

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// How a plan ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Hash over everything that happened.
    pub trace: u64,
    /// What was counted.
    pub counts: Counts,
    /// Answers that were an address, and those that were a reason.
    pub answers: (u64, u64),
    /// Virtual time that passed.
    pub virtual_time: Duration,
    /// Real time that it took.
    pub real_time: Duration,
    /// The end, or what went wrong.
    pub result: Result<Settled, Failed>,
}

/// What went wrong, and when.
#[derive(Debug, Clone)]
pub struct Failed {
    /// What.
    pub failure: Failure,
    /// When.
    pub at: Duration,
    /// In which step.
    pub step: u64,
    /// What had happened to the address or record concerned.
    pub history: String,
}

/// Runs a plan. Assertions of the code under test count as failures.
pub fn run(plan: &Plan) -> Outcome {
    run_with(plan, Cryptography::CHEAPEST)
}

/// The same with that cryptography; only the time that it takes depends on it.
pub fn run_with(plan: &Plan, cryptography: Cryptography) -> Outcome {
    let start = Instant::now();
    let mut world = World::with(plan, cryptography);
    let ran = catch_unwind(AssertUnwindSafe(|| {
        world.run(plan.length)?;
        world.settle()
    }));
    let result = ran.unwrap_or_else(|_| {
        let text = PANIC.take().unwrap_or_else(|| "a panic without a message".to_owned());
        Err(Failure { check: Check::NoPanic, text, subject: Subject::All })
    });
    let result = result.map_err(|failure| Failed {
        at: world.now,
        step: world.counts.steps,
        history: world.history.tell(failure.subject),
        failure,
    });
    Outcome {
        trace: world.trace,
        counts: world.counts.clone(),
        answers: (world.model.attached, world.model.refused),
        virtual_time: world.now,
        real_time: start.elapsed(),
        result,
    }
}

/// Keeps panics from being printed, since they are findings that are told with their history.
pub fn catch_panics() {
    std::panic::set_hook(Box::new(|info| {
        let text = match info.payload().downcast_ref::<String>() {
            Some(text) => text.clone(),
            None => info.payload().downcast_ref::<&str>().copied().unwrap_or("panic").to_owned(),
        };
        let place = info.location().map(|at| format!("{}:{}", at.file(), at.line())).unwrap_or_default();
        PANIC.set(Some(format!("{text} ({place})")));
    }));
}
