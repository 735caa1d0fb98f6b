//! Removing peers that have been dead for long, without an operator: off unless a time is given (ADR 0010).
//!
//! Only the majority of the members removes anybody, so that of a partition one side at most gives away what the other side's containers
//! use. A peer counts as dead for as long as this one has seen it so, without a break, in one life, and from the majority's side.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gossip::PeerId;
use gossip::planted::{Bug, planted};

use crate::Ipam;
use crate::ipam::Presence;

/// How often dead peers are looked at. The time that they must be dead is minutes to weeks.
const LOOK: Duration = Duration::from_secs(10);

/// Between two looks that are further apart than this, this peer slept, and cannot say who was dead meanwhile.
const ASLEEP: Duration = Duration::from_secs(60);

/// How much later than the one before it each living peer acts, in order of ids, so that usually one does.
const RANK_PAUSE: Duration = Duration::from_secs(5);

/// Ranks that are told apart: past it several peers may act at once, which is harmless.
const RANKS: usize = 60;

/// Who has been dead since when.
#[derive(Debug, Default)]
pub(crate) struct Reclaiming {
    dead_since: BTreeMap<PeerId, Instant>,
    last_look: Option<Instant>,
    reclaimed: Vec<PeerId>,
}

impl Ipam {
    /// The failure detector has an opinion.
    pub(crate) fn note_presence(&mut self, peer: PeerId, presence: Presence, now: Instant) {
        match presence {
            Presence::Unreachable => {
                self.reclaiming.dead_since.entry(peer).or_insert(now);
            }
            // Who said goodbye has handed over, and what it left behind is the operator's to give away.
            Presence::Reachable | Presence::Left => {
                self.reclaiming.dead_since.remove(&peer);
            }
        }
    }

    pub(crate) fn next_reclaim(&self) -> Option<Instant> {
        self.config.reclaim_after?;
        let &earliest = self.reclaiming.dead_since.values().min()?;
        Some(self.reclaiming.last_look.map_or(earliest, |last| last + LOOK))
    }

    /// Removes whoever has been dead for long enough, if it is time to look.
    pub(crate) fn reclaim_due(&mut self, now: Instant) {
        let Some(after) = self.config.reclaim_after else { return };
        if self.next_reclaim().is_none_or(|at| now < at) {
            return;
        }
        let asleep =
            self.reclaiming.last_look.is_none_or(|last| now.saturating_duration_since(last) > ASLEEP);
        self.reclaiming.last_look = Some(now);
        let removed = &self.removals;
        self.reclaiming.dead_since.retain(|peer, _| !removed.is_removed(*peer));
        if asleep
            || !self.is_majority()
            || self.leaving.is_some()
            || self.removals.is_removed(self.me)
            || self.knows_no_owner()
        {
            self.reclaiming.dead_since.values_mut().for_each(|since| *since = now);
        }
        if self.reclaiming.dead_since.is_empty() {
            self.reclaiming.last_look = None;
        }
        let due = after + self.rank_pause();
        let dead = self.reclaiming.dead_since.iter();
        let dead = dead.filter(|(_, since)| now.saturating_duration_since(**since) >= due);
        for peer in dead.map(|(peer, _)| *peer).collect::<Vec<_>>() {
            self.reclaiming.dead_since.remove(&peer);
            self.reclaiming.reclaimed.push(peer);
            self.claim_removal(peer, now);
        }
    }

    /// Peers that were removed without an operator since the last call.
    pub fn poll_reclaimed(&mut self) -> Option<PeerId> {
        self.reclaiming.reclaimed.pop()
    }

    /// How long `peer` will still be waited for, at least, if it stays dead and this side stays the majority.
    pub fn reclaim_in(&self, peer: PeerId, now: Instant) -> Option<Duration> {
        let since = self.reclaiming.dead_since.get(&peer).filter(|_| self.is_majority())?;
        let due = *since + self.config.reclaim_after? + self.rank_pause();
        Some(due.saturating_duration_since(now))
    }

    /// Whether more than half of all members are here, this one included. Half is not enough: the other half may think the same.
    fn is_majority(&self) -> bool {
        let counts = |peer: &&PeerId| {
            !self.removals.is_removed(**peer) && self.presence(**peer) != Some(Presence::Left)
        };
        let members = 1 + self.members.iter().filter(counts).count();
        2 * (1 + self.living().count()) > members || planted(Bug::MinorityReclaims)
    }

    fn rank_pause(&self) -> Duration {
        let before = self.living().filter(|peer| *peer < self.me).count().min(RANKS);
        RANK_PAUSE * u32::try_from(before).expect("at most sixty")
    }

    fn living(&self) -> impl Iterator<Item = PeerId> + '_ {
        let here = |peer: &PeerId| {
            !self.removals.is_removed(*peer) && self.presence(*peer) == Some(Presence::Reachable)
        };
        self.members.iter().copied().filter(here)
    }
}
