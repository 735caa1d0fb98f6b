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
pub const WINDOW: Duration = Duration::from_millis(4);

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
#[derive(Debug, Default)]
pub struct FirstLoad {
    /// Since when it has moved frames without rest.
    busy_since: Option<Instant>,
}

impl FirstLoad {
    /// It found nothing to do, or has been relieved.
    pub fn rested(&mut self) {
        self.busy_since = None;
    }

    /// It moved frames. Returns whether the second thread is needed.
    pub fn moved(&mut self, now: Instant) -> bool {
        let since = *self.busy_since.get_or_insert(now);
        now.saturating_duration_since(since) >= NO_REST
    }
}

/// What both threads have done, counted from anywhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Done {
    /// `work` of both threads.
    pub work: u64,
    /// How often the first thread found nothing to do.
    pub rests: u64,
}

/// What the second thread keeps in mind while it helps.
#[derive(Debug)]
pub struct SecondLoad {
    from: Instant,
    /// When the window began.
    done: Done,
}

impl SecondLoad {
    /// Begins a window.
    pub fn new(now: Instant, done: Done) -> SecondLoad {
        SecondLoad { from: now, done }
    }

    /// Whether the first thread can do without it. Asked at any time; answers yes only when a window ends in which the first
    /// thread rested: it may have little to do and yet be held up, by a socket whose buffer is full.
    pub fn is_spare(&mut self, now: Instant, done: Done) -> bool {
        let window = now.saturating_duration_since(self.from);
        if window < WINDOW {
            return false;
        }
        let micros = u64::try_from(window.as_micros()).unwrap_or(u64::MAX);
        let little = done.work.wrapping_sub(self.done.work) < ENOUGH / 1_000_000 * micros;
        let spare = little && done.rests != self.done.rests;
        *self = SecondLoad::new(now, done);
        spare
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_micros(100);
    const STREAM: u64 = 3_000_000;

    fn done(work: u64, rests: u64) -> Done {
        Done { work, rests }
    }

    #[test]
    fn first_calls_after_a_millisecond_without_rest_and_not_before() {
        let start = Instant::now();
        let mut load = FirstLoad::default();
        assert!(!load.moved(start));
        assert!(!load.moved(start + NO_REST - STEP));
        assert!(load.moved(start + NO_REST));
        load.rested();
        assert!(!load.moved(start + NO_REST + STEP));
    }

    #[test]
    fn sleep_is_not_work() {
        let start = Instant::now();
        let mut load = FirstLoad::default();
        load.moved(start);
        load.rested();
        assert!(!load.moved(start + Duration::from_secs(1)), "one frame after a second of silence");
    }

    #[test]
    fn second_stays_while_there_is_work_for_two() {
        let exchange = work(160, 160 * 100);
        for (total, spare) in [(0, true), (exchange, true), (STREAM, false)] {
            let start = Instant::now();
            let mut load = SecondLoad::new(start, done(7, 0));
            let answers: Vec<bool> = (1..=40)
                .map(|step| load.is_spare(start + STEP * step, done(7 + total * u64::from(step) / 40, 1)))
                .collect();
            assert!(answers[..39].iter().all(|spare| !spare), "only when the window ends");
            assert_eq!(answers[39], spare, "{total} in a window");
        }
    }

    #[test]
    fn second_stays_while_the_first_is_held_up() {
        let start = Instant::now();
        let mut load = SecondLoad::new(start, done(0, 5));
        assert!(!load.is_spare(start + WINDOW, done(0, 5)));
        assert!(load.is_spare(start + WINDOW * 2, done(0, 6)));
    }

    #[test]
    fn windows_follow_each_other() {
        let start = Instant::now();
        let mut load = SecondLoad::new(start, done(0, 0));
        assert!(!load.is_spare(start + WINDOW, done(STREAM, 1)));
        assert!(load.is_spare(start + WINDOW * 2, done(STREAM, 2)), "quiet since the first window");
    }
}
