//! Giving scraps back: what keeps the number of blocks near the number of peers after churn.
//!
//! A fabric that was nearly full has moved its last free addresses one by one, and every one of them is a block of its own. When they
//! are free again, their owner gives each to the peer that owns the other half of the block above, which folds the two into one. Of two
//! halves that are both free either side may give; moments differ by chance, so that they do not swap for ever. Nobody gives more than
//! half of what is free, and who has become poor by it asks for a share, which comes in one large block.

use std::time::{Duration, Instant};

use gossip::PeerId;
use ipnet::Ipv4Net;

use crate::Ipam;
use crate::ipam::{Presence, Trust};
use crate::map::Standing;
use crate::span::{Span, halves, mix, parent};

/// Blocks that are given back at once. More would be a burst of records, fewer would take longer than the churn took.
const GIFTS: usize = 4;

/// How much longer the pause is for each member, so that all peers of a fabric together give back some ten blocks a second at most.
const PAUSE_FOR_EACH_MEMBER: Duration = Duration::from_millis(100);

/// A peer with less than this part of an equal share is poor: the next burst of containers would have to wait for others.
const POOR: u64 = 16;

/// When scraps are looked for next.
#[derive(Debug, Default)]
pub(crate) struct Tidying {
    /// None when nothing has changed since the last look.
    next: Option<Instant>,
    looks: u64,
    /// An equal share of the range at the last look.
    share: u64,
}

impl Tidying {
    pub(crate) fn next_wakeup(&self) -> Option<Instant> {
        self.next
    }
}

impl Ipam {
    /// Something became free or changed its owner: there may be scraps.
    pub(crate) fn consider_tidying(&mut self, now: Instant) {
        if self.tidying.next.is_none() {
            self.tidying.next = Some(now + self.tidy_pause());
        }
    }

    /// Somebody looks for space, here or there: it stays where it is known to be.
    pub(crate) fn postpone_tidying(&mut self, now: Instant) {
        if self.tidying.next.is_some() {
            self.tidying.next = Some(now + self.tidy_pause());
        }
    }

    /// Gives some scraps back, if it is time.
    pub(crate) fn tidy_due(&mut self, now: Instant) {
        if self.tidying.next.is_none_or(|at| now < at) {
            return;
        }
        self.tidying.next = None;
        let owners = self.owners_within(self.range).len() as u64;
        self.tidying.share = self.range.size() / owners.max(1);
        let quiet = self.may_give(self.me, now).is_err() || self.trust == Trust::Unsure;
        if quiet {
            return;
        }
        let mut blocks: Vec<Ipv4Net> = self.space.free_runs(self.range).flat_map(Span::blocks).collect();
        blocks.sort_by_key(|block| std::cmp::Reverse(block.prefix_len()));
        let mut given = 0;
        for block in blocks {
            if Span::of(block).size() * 2 > self.space.free_count() || given == GIFTS {
                break;
            }
            if let Some(to) = self.owner_beside(block) {
                self.grant(block, to, now);
                given += 1;
            }
        }
        if given > 0 {
            self.stats.given_back += given as u64;
            self.consider_tidying(now);
        }
    }

    /// Whether a share should be asked for although there is some space.
    pub(crate) fn is_poor(&self) -> bool {
        let share = self.tidying.share;
        self.space.free_count() < share / POOR
            && self.peers.iter().any(|(peer, known)| {
                known.presence == Some(Presence::Reachable)
                    && known.free.is_some_and(|free| u64::from(free) >= share)
                    && !self.removals.is_removed(*peer)
            })
    }

    /// The peer that owns all of the other half of the block above, and has taken it up.
    fn owner_beside(&self, block: Ipv4Net) -> Option<PeerId> {
        let beside = halves(parent(block)?)?.into_iter().find(|half| *half != block)?;
        let owner = self.map.at(Span::of(beside).first)?.owner;
        let takes = owner != self.me
            && self.presence(owner) == Some(Presence::Reachable)
            && !self.removals.is_removed(owner)
            && self.map.all(Span::of(beside), |holding| {
                holding.owner == owner && holding.signer == owner && holding.standing == Standing::Clean
            });
        takes.then_some(owner)
    }

    /// Differs from peer to peer and from time to time.
    fn tidy_pause(&mut self) -> Duration {
        self.tidying.looks += 1;
        let members = u32::try_from(self.members.len()).unwrap_or(u32::MAX);
        let least = self.config.tidy_pause + PAUSE_FOR_EACH_MEMBER.saturating_mul(members);
        least + least.mul_f64((mix(self.seed ^ self.tidying.looks) % 1000) as f64 / 1000.0)
    }
}
