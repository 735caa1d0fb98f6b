//! Busy polling: how long a thread that has nothing to do keeps looking before it sleeps.
//!
//! To be woken costs more than most frames: another processor has to be interrupted, and one that halted has to start again. A
//! thread that looks on for some ten microseconds after its last frame meets the answer to what it just sent. Each turn offers the
//! processor to whoever else wants it, so what looking costs is mostly time in which nobody had anything to do; how much of it
//! may be in vain is bounded.
//!
//! Pure: the caller says what time it is.

use std::time::{Duration, Instant};

/// How long a thread looks on after its last frame, unless told otherwise. An exchange of two frames between containers on two
/// hosts takes 20 to 40 µs when no thread sleeps in between.
pub const DEFAULT_LOOK: Duration = Duration::from_micros(50);

/// The longest that may be asked for: what a sleeping thread would need several times over to wake.
pub const MAX_LOOK: Duration = Duration::from_millis(1);

/// Of the time that passes, this part may be spent looking in vain: one twentieth of a processor.
const BUDGET_PART: u32 = 20;

/// What was not spent is kept up to this: enough for a burst of requests after silence, a hundred looks of the default length.
const BUDGET_MOST: Duration = Duration::from_millis(5);

/// What to do when there was nothing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Idle {
    /// Offer the processor to others and look again.
    LookAgain,
    /// Sleep until something comes.
    Sleep,
}

/// The patience of one thread.
#[derive(Debug)]
pub struct BusyPoll {
    look: Duration,
    budget: Duration,
    /// When the budget was last added to.
    earned: Instant,
    /// When the thread last moved a frame, while it looks on.
    since: Option<Instant>,
}

impl BusyPoll {
    /// Looks on for `look` after each frame, `MAX_LOOK` at most; not at all if it is zero.
    pub fn new(look: Duration, now: Instant) -> BusyPoll {
        BusyPoll { look: look.min(MAX_LOOK), budget: BUDGET_MOST, earned: now, since: None }
    }

    /// The thread moved a frame: looking was not in vain.
    pub fn moved(&mut self, now: Instant) {
        self.since = Some(now);
    }

    /// The thread found nothing to do.
    pub fn idle(&mut self, now: Instant) -> Idle {
        let Some(since) = self.since else { return Idle::Sleep };
        let looked = now.saturating_duration_since(since);
        let earned = now.saturating_duration_since(self.earned) / BUDGET_PART;
        if looked < self.look.min(self.budget + earned) {
            return Idle::LookAgain;
        }
        self.budget = (self.budget + earned).min(BUDGET_MOST).saturating_sub(looked.min(self.look));
        self.earned = now;
        self.since = None;
        Idle::Sleep
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Duration = Duration::from_micros(50);
    const STEP: Duration = Duration::from_micros(5);

    /// Frames at these distances for a second; returns how long was spent looking, and how often it met the frame.
    fn second_of(gap: Duration, look: Duration) -> (Duration, u32) {
        let start = Instant::now();
        let mut poll = BusyPoll::new(look, start);
        let (mut now, mut looking, mut met) = (start, Duration::ZERO, 0);
        while now - start < Duration::from_secs(1) {
            poll.moved(now);
            let next = now + gap;
            loop {
                now += STEP;
                if now >= next {
                    met += 1;
                    break;
                }
                match poll.idle(now) {
                    Idle::LookAgain => looking += STEP,
                    Idle::Sleep => {
                        now = next;
                        break;
                    }
                }
            }
        }
        (looking, met)
    }

    #[test]
    fn quick_answers_are_met_and_cost_no_budget() {
        let (_, met) = second_of(Duration::from_micros(30), LOOK);
        assert!(met > 30_000, "{met}");
    }

    #[test]
    fn looking_in_vain_stays_within_the_budget() {
        for gap in [60, 100, 500, 2_000, 100_000] {
            let (looking, met) = second_of(Duration::from_micros(gap), LOOK);
            assert_eq!(met, 0, "{gap}");
            let most = Duration::from_secs(1) / BUDGET_PART + BUDGET_MOST + LOOK;
            assert!(looking <= most, "{gap} µs apart: {looking:?}");
        }
    }

    #[test]
    fn without_frames_and_when_switched_off_it_sleeps_at_once() {
        let now = Instant::now();
        let mut poll = BusyPoll::new(LOOK, now);
        assert_eq!(poll.idle(now), Idle::Sleep);
        let mut off = BusyPoll::new(Duration::ZERO, now);
        off.moved(now);
        assert_eq!(off.idle(now), Idle::Sleep);
    }

    #[test]
    fn nobody_looks_longer_than_the_limit() {
        let now = Instant::now();
        let mut poll = BusyPoll::new(Duration::from_secs(9), now);
        poll.moved(now);
        assert_eq!(poll.idle(now + MAX_LOOK - STEP), Idle::LookAgain);
        assert_eq!(poll.idle(now + MAX_LOOK), Idle::Sleep);
    }
}
