//! Virtual time: the queue of what is to happen, and the clock of each host, which may go wrong.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

/// Room below the first instant, for clocks that are late.
const HEADROOM: Duration = Duration::from_secs(30 * 24 * 3600);

/// What is to happen, in order of time, and of entry where times are equal.
#[derive(Debug)]
pub struct Queue<T> {
    heap: BinaryHeap<Reverse<(Duration, u64, Slot<T>)>>,
    serial: u64,
}

/// Lets the heap order by time and number alone. In a box, as the heap moves everything some times.
#[derive(Debug)]
struct Slot<T>(Box<T>);

impl<T> PartialEq for Slot<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl<T> Eq for Slot<T> {}
impl<T> PartialOrd for Slot<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Slot<T> {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Queue { heap: BinaryHeap::new(), serial: 0 }
    }
}

impl<T> Queue<T> {
    /// Adds something that happens at `at`.
    pub fn push(&mut self, at: Duration, what: T) {
        self.serial += 1;
        self.heap.push(Reverse((at, self.serial, Slot(Box::new(what)))));
    }

    /// Takes the next thing that happens not after `end`.
    pub fn pop(&mut self, end: Duration) -> Option<(Duration, T)> {
        if self.heap.peek()?.0.0 > end {
            return None;
        }
        let Reverse((at, _, Slot(what))) = self.heap.pop()?;
        Some((at, *what))
    }

    /// Drops what is not to happen any more.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.heap.retain(|Reverse((_, _, Slot(what)))| keep(what));
    }

    /// How much waits.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}

/// The monotonic clock of one host.
#[derive(Debug, Clone)]
pub struct LocalClock {
    base: Instant,
    /// How far it is ahead of the simulation's own time.
    ahead: i128,
    /// It stands still since then, at this reading.
    stopped: Option<Instant>,
}

impl LocalClock {
    /// A clock that is right. All of one simulation start at the same instant.
    pub fn new(start: Instant) -> LocalClock {
        LocalClock { base: start + HEADROOM, ahead: 0, stopped: None }
    }

    /// What it shows when the simulation is at `at`.
    pub fn read(&self, at: Duration) -> Instant {
        if let Some(stopped) = self.stopped {
            return stopped;
        }
        let nanos = at.as_nanos() as i128 + self.ahead;
        match u64::try_from(nanos) {
            Ok(nanos) => self.base + Duration::from_nanos(nanos),
            Err(_) => self.base - Duration::from_nanos(u64::try_from(-nanos).unwrap_or(0)),
        }
    }

    /// When the simulation is, as this clock shows `instant`; never if it stands still.
    pub fn when(&self, instant: Instant) -> Option<Duration> {
        if self.stopped.is_some() {
            return None;
        }
        let shown = instant.saturating_duration_since(self.base).as_nanos() as i128;
        Some(Duration::from_nanos(u64::try_from(shown - self.ahead).unwrap_or(0)))
    }

    /// It leaps ahead, as after a pause of the machine that it counts.
    pub fn leap(&mut self, by: Duration) {
        self.ahead += by.as_nanos() as i128;
    }

    /// It stands still, as the monotonic clock of a suspended machine does; all others leave it behind.
    pub fn stop(&mut self, at: Duration) {
        self.stopped = Some(self.read(at));
    }

    /// It goes on from where it stood.
    pub fn go(&mut self, at: Duration) {
        if let Some(stopped) = self.stopped.take() {
            let shown = stopped.saturating_duration_since(self.base).as_nanos() as i128;
            self.ahead = shown - at.as_nanos() as i128;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_happen_in_order_of_time_then_of_entry() {
        let mut queue = Queue::default();
        let second = Duration::from_secs(1);
        queue.push(2 * second, "c");
        queue.push(second, "a");
        queue.push(second, "b");
        let order: Vec<&str> = std::iter::from_fn(|| queue.pop(second)).map(|(_, what)| what).collect();
        assert_eq!(order, ["a", "b"]);
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn a_clock_that_stood_still_stays_behind_and_never_goes_back() {
        let second = Duration::from_secs(1);
        let mut clock = LocalClock::new(Instant::now());
        let before = clock.read(5 * second);
        clock.stop(5 * second);
        assert_eq!(clock.read(60 * second), before);
        assert_eq!(clock.when(before + second), None);
        clock.go(60 * second);
        assert_eq!(clock.read(61 * second), before + second);
        assert_eq!(clock.when(before + second), Some(61 * second));
        clock.leap(30 * second);
        assert_eq!(clock.read(61 * second), before + 31 * second);
    }
}
