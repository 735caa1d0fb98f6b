//! Copying nearly everything: what a newcomer does, and whoever comes back after long, when comparing shows that most buckets differ.
//!
//! Each new link begins with a comparison, so a newcomer that compared with all its neighbours at once would be sent everything by each of
//! them, and would pass on to all others what they sent. So it copies from one at a time, and keeps to itself what only it did not know.

use std::time::{Duration, Instant};

use crate::gossip::Gossip;
use crate::keys::Keys;
use crate::peer::PeerId;
use crate::wire::ORIGIN_BUCKETS;

/// From so many differing buckets on nearly everything differs. Smaller fabrics do not have as many that are not empty, and need none of this.
const MANY_BUCKETS: usize = ORIGIN_BUCKETS / 2;

/// Others are compared with again when nothing new came from the peer for so long: some round trips, and a lost message.
const SILENCE: Duration = Duration::from_secs(1);

/// And in any case after so long, as nobody should have the say of what is known here. What several thousand peers say takes longer to
/// come, and goes on with another peer.
const LONGEST: Duration = Duration::from_secs(10);

/// A copy that is under way.
#[derive(Debug)]
pub(crate) struct Bulk {
    from: PeerId,
    began: Instant,
    last: Instant,
    who: Who,
}

/// What this peer was when the copy began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    /// It knew next to nothing, so nobody learns anything from it but what it says itself.
    Newcomer,
    /// It knows things that others may not know.
    Member,
}

impl Bulk {
    fn lasts(&self, now: Instant) -> bool {
        now < self.last + SILENCE && now < self.began + LONGEST
    }
}

impl<K: Keys> Gossip<K> {
    /// Whether to compare in depth with `from`, whose buckets differ in so many places: not while everything is copied from another peer.
    pub(crate) fn may_compare_all(&mut self, from: PeerId, theirs: &[u64], differing: usize) -> bool {
        if differing < MANY_BUCKETS {
            return true;
        }
        let now = self.now();
        match &mut self.bulk {
            Some(bulk) if bulk.lasts(now) && bulk.from == from => bulk.last = now,
            Some(bulk) if bulk.lasts(now) => return false,
            Some(_) | None => {
                let ours = self.store.buckets();
                let empty = ours.iter().zip(theirs).filter(|(ours, theirs)| **ours == 0 && **theirs != 0);
                let who = if empty.count() >= MANY_BUCKETS { Who::Newcomer } else { Who::Member };
                self.bulk = Some(Bulk { from, began: now, last: now, who });
            }
        }
        true
    }

    /// Whether everything is being copied from somebody else.
    pub(crate) fn copies_from_another(&self, from: PeerId) -> bool {
        self.bulk.as_ref().is_some_and(|bulk| bulk.from != from && bulk.lasts(self.now()))
    }

    /// Whether what comes from `from` is known to everybody but this peer.
    pub(crate) fn is_last_to_know(&self, from: PeerId) -> bool {
        let bulk = self.bulk.as_ref().filter(|bulk| bulk.from == from && bulk.lasts(self.now()));
        bulk.is_some_and(|bulk| bulk.who == Who::Newcomer)
    }

    /// Something new came from a peer.
    pub(crate) fn note_bulk(&mut self, from: PeerId) {
        let now = self.now();
        if let Some(bulk) = self.bulk.as_mut().filter(|bulk| bulk.from == from && bulk.lasts(now)) {
            bulk.last = now;
        }
    }
}
