//! Making a failing plan smaller: fewer faults, fewer hosts, a shorter time, as long as the same check fails.

use std::time::{Duration, Instant};

use crate::model::Check;
use crate::plan::Plan;
use crate::run::{Outcome, run};

/// Makes a plan smaller until nothing more can be left out or the time is over. Answers it with how it fails.
pub fn shrink(plan: &Plan, outcome: Outcome, patience: Duration) -> (Plan, Outcome) {
    let Err(failed) = &outcome.result else { return (plan.clone(), outcome) };
    let mut best =
        Best { check: failed.failure.check, plan: plan.clone(), outcome, end: Instant::now() + patience };
    best.try_shorter();
    let mut chunk = best.plan.acts.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        while at < best.plan.acts.len() {
            if !best.try_plan(best.plan.without(at, chunk)) {
                at += chunk;
            }
        }
        if chunk == 1 {
            break;
        }
        chunk = chunk.div_ceil(2);
    }
    best.try_fewer_hosts();
    best.try_calmer();
    best.try_shorter();
    (best.plan, best.outcome)
}

struct Best {
    check: Check,
    plan: Plan,
    outcome: Outcome,
    end: Instant,
}

impl Best {
    /// Takes a plan that fails in the same way.
    fn try_plan(&mut self, plan: Plan) -> bool {
        if Instant::now() >= self.end || plan == self.plan {
            return false;
        }
        let outcome = run(&plan);
        let same = outcome.result.as_ref().is_err_and(|failed| failed.failure.check == self.check);
        if same {
            (self.plan, self.outcome) = (plan, outcome);
        }
        same
    }

    /// Leaves out what comes after the failure, or all after the last act.
    fn try_shorter(&mut self) {
        let Err(failed) = &self.outcome.result else { return };
        let mut plan = self.plan.clone();
        plan.acts.retain(|(at, _)| *at <= failed.at);
        let last = plan.acts.last().map_or(Duration::ZERO, |(at, _)| *at);
        plan.length = plan.length.min(failed.at);
        self.try_plan(plan.clone());
        plan.length = plan.length.min(last + Duration::from_secs(1));
        self.try_plan(plan);
    }

    fn try_fewer_hosts(&mut self) {
        loop {
            let mut plan = self.plan.clone();
            plan.peers -= 1;
            let named = plan.acts.iter().map(|(_, act)| act.highest_host()).max().unwrap_or(0);
            if plan.peers < 2 || named >= plan.peers || !self.try_plan(plan) {
                return;
            }
        }
    }

    fn try_calmer(&mut self) {
        let fair = Plan { weather: crate::network::Weather::FAIR, ..self.plan.clone() };
        self.try_plan(fair);
        let plain = Plan { natted: 0, ..self.plan.clone() };
        self.try_plan(plain);
    }
}
