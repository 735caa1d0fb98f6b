//! No table outgrows its bound, and nobody sends more than its budget however much goes wrong.

use std::time::Duration;

use gossip::Fill;

use super::World;
use crate::history::Subject;
use crate::model::{Check, Failure};

/// Larger fabrics are not watched so closely.
const MAX_HOSTS: usize = 64;
/// How often the tables of one host are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// The time over which a busy host's bytes are counted.
const WINDOW: Duration = Duration::from_secs(10);
/// Bytes that one router may send in [`WINDOW`] while everything goes wrong. Most lives stay below a
/// hundredth of it; where a router and its copy run at once a neighbour sends more than a tenth.
const BUSY_BYTES: u64 = 40_000_000;
/// Datagrams that one router may send in [`WINDOW`].
const BUSY_DATAGRAMS: u64 = 100_000;

/// What a host sends in the present window.
#[derive(Debug, Clone, Default)]
pub(crate) struct Busy {
    window: u128,
    bytes: u64,
    datagrams: u64,
    /// The most in any window.
    pub(super) most: (u64, u64),
}

impl Busy {
    pub(super) fn count(&mut self, now: Duration, bytes: usize) {
        let window = now.as_millis() / WINDOW.as_millis();
        if window != self.window {
            (self.window, self.bytes, self.datagrams) = (window, 0, 0);
        }
        self.bytes += bytes as u64;
        self.datagrams += 1;
        self.most = (self.most.0.max(self.bytes), self.most.1.max(self.datagrams));
    }

    fn is_over(&self) -> bool {
        self.bytes > BUSY_BYTES || self.datagrams > BUSY_DATAGRAMS
    }
}

impl World {
    pub(super) fn check_tables(&mut self, host: u16) -> Result<(), Failure> {
        let held = &mut self.held[usize::from(host)];
        if self.hosts.len() > MAX_HOSTS || self.now < held.looked + LOOK {
            return Ok(());
        }
        held.looked = self.now;
        let fills = self.hosts[usize::from(host)].router.iter().flat_map(|router| router.node.fill());
        within_bounds(host, fills)
    }

    pub(super) fn check_busy(&self, host: u16) -> Result<(), Failure> {
        let Busy { bytes, datagrams, .. } = self.held[usize::from(host)].busy;
        if !self.held[usize::from(host)].busy.is_over() {
            return Ok(());
        }
        let text =
            format!("host {host} sends {bytes} bytes in {datagrams} datagrams within {} s", WINDOW.as_secs());
        Err(Failure { check: Check::Budget, text, subject: Subject::All })
    }
}

fn within_bounds(host: u16, fills: impl IntoIterator<Item = Fill>) -> Result<(), Failure> {
    match fills.into_iter().find(Fill::is_over) {
        None => Ok(()),
        Some(Fill { table, held, limit }) => {
            let text = format!("host {host} holds {held} {table}, want at most {limit}");
            Err(Failure { check: Check::Limits, text, subject: Subject::All })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_outgrows_its_bound_is_noticed() {
        assert!(within_bounds(0, [Fill::of("a", 3, 3)]).is_ok());
        let failure = within_bounds(0, [Fill::of("a", 3, 3), Fill::of("b", 9, 8)]).expect_err("b is over");
        assert_eq!(
            (failure.check, failure.text.as_str()),
            (Check::Limits, "host 0 holds 9 b, want at most 8")
        );
    }

    #[test]
    fn bytes_are_counted_by_window() {
        let mut busy = Busy::default();
        busy.count(Duration::ZERO, BUSY_BYTES as usize);
        assert!(!busy.is_over());
        busy.count(WINDOW, 1);
        assert!(!busy.is_over(), "another window");
        busy.count(WINDOW, BUSY_BYTES as usize);
        assert!(busy.is_over());
        assert_eq!(busy.most, (BUSY_BYTES + 1, 2));
    }
}
