//! Whose turn it is among the queues of a TAP device. Goes on where it stopped, so that a queue that is always full cannot keep the
//! others waiting.

/// A round over some queues, 64 at most.
#[derive(Debug)]
pub struct Rota {
    count: usize,
    next: usize,
}

impl Rota {
    /// Over queues numbered from 0.
    pub fn new(count: usize) -> Rota {
        Rota { count, next: 0 }
    }

    /// The next queue among those that are ready (a bit each); `None` when none is.
    pub fn next(&mut self, ready: u64) -> Option<usize> {
        let turn =
            (0..self.count).map(|step| (self.next + step) % self.count).find(|at| ready & 1 << at != 0)?;
        self.next = (turn + 1) % self.count;
        Some(turn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_that_is_always_full_keeps_nobody_waiting() {
        let mut rota = Rota::new(8);
        // One frame in queue 7 comes up at once although queue 0 never empties, also when each batch takes a single turn.
        assert_eq!(rota.next(0b1000_0001), Some(0));
        assert_eq!(rota.next(0b1000_0001), Some(7));
        assert_eq!(rota.next(0b0000_0001), Some(0));
    }

    #[test]
    fn all_that_are_ready_come_up_equally_often() {
        let mut rota = Rota::new(64);
        let ready = 1 << 63 | 1 << 40 | 0b101;
        let turns: Vec<_> = (0..8).filter_map(|_| rota.next(ready)).collect();
        assert_eq!(turns, [0, 2, 40, 63, 0, 2, 40, 63]);
        assert_eq!(rota.next(0), None);
    }
}
