//! How full each bounded table is, so that a check from outside can see that none outgrows its bound.

use crate::detector::MAX_RELAYS;
use crate::gossip::{Gossip, MAX_CANDIDATES, MAX_QUARANTINE_EVENTS};
use crate::keys::Keys;
use crate::link::{Link, MAX_PUSHES, MAX_READY};
use crate::membership::MAX_MEMBERS;
use crate::mesh::{MAX_AVOIDED, NEEDY_EXTRA};
use crate::rumours::MAX_PARKED_RUMOURS;
use crate::tree::MAX_MISSING;

/// One table, or the fullest of several of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// Which.
    pub table: &'static str,
    /// Entries in it.
    pub held: usize,
    /// Entries that it may have.
    pub limit: usize,
}

impl Fill {
    /// The fill of one table.
    pub fn of(table: &'static str, held: usize, limit: usize) -> Fill {
        Fill { table, held, limit }
    }

    /// Whether the table has outgrown its bound.
    pub fn is_over(&self) -> bool {
        self.held > self.limit
    }
}

impl<K: Keys> Gossip<K> {
    /// All tables that others can fill.
    pub fn fill(&self) -> Vec<Fill> {
        let fullest = |count: fn(&Link) -> usize| self.links.values().map(count).max().unwrap_or(0);
        let mut fills = vec![
            Fill::of("ready messages for a neighbour", fullest(Link::ready), MAX_READY),
            Fill::of("records for a neighbour", fullest(Link::pushes), MAX_PUSHES),
            Fill::of("announcements for a neighbour", fullest(Link::announcements), MAX_PUSHES),
            Fill::of("rumours for a neighbour", fullest(|link| link.rumours.len()), MAX_MEMBERS + 1),
            Fill::of("members", self.membership.count(), MAX_MEMBERS),
            Fill::of("candidates", self.candidates.len(), MAX_CANDIDATES),
            Fill::of("parked rumours", self.parked_rumours.len(), MAX_PARKED_RUMOURS),
            Fill::of("missing records", self.missing.len(), MAX_MISSING),
            Fill::of("neighbours", self.mesh.neighbours().count(), self.config.max_degree + NEEDY_EXTRA),
            Fill::of("avoided peers", self.mesh.avoided(), MAX_AVOIDED),
            Fill::of("relayed probes", self.detector.relays(), MAX_RELAYS),
            Fill::of("quarantine notices", self.quarantine_events(), MAX_QUARANTINE_EVENTS),
        ];
        fills.extend(self.store.fill());
        fills
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_is_not_over() {
        assert!(!Fill::of("a", 3, 3).is_over());
        assert!(Fill::of("a", 4, 3).is_over());
    }
}
