//! Whether one thread is enough for a worker.
//!
//! One thread that serves both directions has the shorter round trips: half as many threads are woken for them. Two carry more, once
//! one of them is never idle. So the first thread does everything until it finds no rest, and then calls the second, which serves
//! the socket until both together have time to spare.
//!
//! Pure: the caller says what time it is.

use std::time::{Duration, Instant};

/// Without rest for so long, the first thread calls the second. A burst of a few super-frames is over sooner; a stream goes on for
/// thousands of times as long.
const NO_REST: Duration = Duration::from_millis(1);

/// How often the second thread looks back whether it is still needed.
const WINDOW: Duration = Duration::from_millis(4);

/// What a frame costs beyond its bytes, in bytes: a super-frame of 57 kB takes some forty times as long as a small frame.
const FRAME_WORK: u64 = 1_024;

/// Less work than this a second, in both directions, is done by one thread alone: about a fifth of what it can carry. Not measured
/// as time, since on a busy machine most of the time of a turn is that of others.
const ENOUGH: u64 = 150_000_000;

/// Work done: bytes, and frames as so many bytes.
pub fn work(frames: usize, bytes: usize) -> u64 {
    frames as u64 * FRAME_WORK + bytes as u64
}

/// What the first thread keeps in mind.
#[derive(Debug)]
pub struct FirstLoad {
    rested: Instant,
}

impl FirstLoad {
    /// Begins rested.
    pub fn new(now: Instant) -> FirstLoad {
        FirstLoad { rested: now }
    }

    /// It found nothing to do.
    pub fn rested(&mut self, now: Instant) {
        self.rested = now;
    }

    /// Whether the second thread is needed.
    pub fn is_too_much(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.rested) >= NO_REST
    }
}

/// What the second thread keeps in mind while it helps.
#[derive(Debug)]
pub struct SecondLoad {
    from: Instant,
    /// Work of both threads when the window began.
    done: u64,
}

impl SecondLoad {
    /// Begins a window. `done` is the work of both threads until now, counted from anywhere.
    pub fn new(now: Instant, done: u64) -> SecondLoad {
        SecondLoad { from: now, done }
    }

    /// Whether the first thread can do without it. Asked at any time; answers yes only when a window ends.
    pub fn is_spare(&mut self, now: Instant, done: u64) -> bool {
        let window = now.saturating_duration_since(self.from);
        if window < WINDOW {
            return false;
        }
        let micros = u64::try_from(window.as_micros()).unwrap_or(u64::MAX);
        let spare = done.wrapping_sub(self.done) < ENOUGH / 1_000_000 * micros;
        *self = SecondLoad::new(now, done);
        spare
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_micros(100);

    #[test]
    fn first_calls_after_a_millisecond_without_rest_and_not_before() {
        let start = Instant::now();
        let mut load = FirstLoad::new(start);
        assert!(!load.is_too_much(start + NO_REST - STEP));
        assert!(load.is_too_much(start + NO_REST));
        load.rested(start + NO_REST);
        assert!(!load.is_too_much(start + NO_REST + STEP));
    }

    #[test]
    fn second_stays_while_there_is_work_for_two() {
        let (exchange, stream) = (work(160, 160 * 100), work(50, 50 * 57_000));
        for (done, spare) in [(0, true), (exchange, true), (stream, false)] {
            let start = Instant::now();
            let mut load = SecondLoad::new(start, 7);
            let answers: Vec<bool> = (1..=40)
                .map(|step| load.is_spare(start + STEP * step, 7 + done * u64::from(step) / 40))
                .collect();
            assert!(answers[..39].iter().all(|spare| !spare), "only when the window ends");
            assert_eq!(answers[39], spare, "{done} in a window");
        }
    }

    #[test]
    fn windows_follow_each_other() {
        let start = Instant::now();
        let mut load = SecondLoad::new(start, 0);
        assert!(!load.is_spare(start + WINDOW, work(50, 2_850_000)));
        assert!(load.is_spare(start + WINDOW * 2, work(50, 2_850_000)), "quiet since the first window");
    }
}
