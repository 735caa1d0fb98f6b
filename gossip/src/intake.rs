//! Records that come from others: checked in order of cost, parked or refused or taken in, and passed on once.

use std::sync::Arc;
use std::time::Instant;

use crate::gossip::{Event, Gossip};
use crate::keys::{Keys, Verdict};
use crate::link::Queued;
use crate::peer::PeerId;
use crate::planted::{Bug, planted};
use crate::record::{Kind, Record, RecordKey};
use crate::stats::DropReason;
use crate::store::Judgement;

impl<K: Keys> Gossip<K> {
    /// A record came from `from`.
    pub(crate) fn take_in(&mut self, record: Record, from: PeerId, now: Instant) {
        if !record.within_limits() {
            return self.quarantine(&record, DropReason::TooLong);
        }
        if self.store.is_removed(record.origin) {
            return self.stats.count(DropReason::RemovedOrigin);
        }
        if planted(Bug::KindsDropped) && record.key.kind > Kind::FREE_SPACE {
            return;
        }
        let judgement = self.store.judge(&record);
        match judgement {
            Judgement::Repeated => return self.note_repeated(&record, from),
            Judgement::Stale if record.origin != self.me => return,
            Judgement::Stale | Judgement::News | Judgement::Equivocation => {}
        }
        if !self.links.get_mut(&from).is_some_and(|link| link.may_verify()) {
            return self.stats.count(DropReason::VerifyBudget);
        }
        if record.origin == self.me {
            return self.take_in_own(record, from, now);
        }
        match self.authenticate(&record) {
            Verdict::Good => self.take_in_genuine(record, judgement, from, now),
            Verdict::Bad => self.quarantine(&record, DropReason::BadSignature),
            Verdict::UnknownOrigin => {
                for _ in 0..self.store.park(record) {
                    self.stats.count(DropReason::ParkingFull);
                }
            }
        }
    }

    /// A record that is held came again: `from` has it.
    pub(crate) fn note_repeated(&mut self, record: &Record, from: PeerId) {
        self.stats.records_repeated += 1;
        if let Some(link) = self.links.get_mut(&from) {
            link.unqueue_push(record.origin, &record.key);
        }
        self.become_lazy(from);
    }

    /// The store changed under a key: keeps it within bounds and passes the record on to all neighbours but `from`.
    pub(crate) fn after_change(
        &mut self,
        origin: PeerId,
        key: &RecordKey,
        from: Option<PeerId>,
        now: Instant,
    ) {
        if self.store.shed_tombstone(origin) {
            self.stats.count(DropReason::TombstoneShed);
        }
        self.store.set_standing(origin, self.standing(origin));
        self.last_change = now;
        if key.kind == Kind::ADJACENCY {
            self.last_graph_change = now;
        }
        if let Some(from) = from {
            self.note_bulk(from);
            if let Some(link) = self.links.get_mut(&from) {
                link.unqueue_push(origin, key);
            }
            if self.is_last_to_know(from) {
                return;
            }
        }
        for peer in self.mesh.neighbours() {
            let Some(link) = self.links.get_mut(&peer).filter(|_| Some(peer) != from) else { continue };
            match link.queue_news(origin, key, now) {
                Queued::Yes => {}
                Queued::Full => self.stats.count(DropReason::PushShed),
            }
        }
    }

    fn authenticate(&mut self, record: &Record) -> Verdict {
        if record.key.kind == Kind::PEER
            && let Some(value) = &record.value
            && !self.keys.introduce(record.origin, value)
        {
            return Verdict::Bad;
        }
        self.keys.verify(record.origin, &record.signing_bytes(), &record.signature)
    }

    fn take_in_genuine(&mut self, record: Record, judgement: Judgement, from: PeerId, now: Instant) {
        let (origin, key, value) = (record.origin, record.key.clone(), record.value.clone());
        if judgement == Judgement::Equivocation {
            self.quarantine(&record, DropReason::Equivocation);
            let stays = |held: &Record| !record.supersedes(held) || planted(Bug::EquivocationKept);
            if self.store.get(origin, &key).is_some_and(stays) {
                return;
            }
        }
        let record = self.keys.keep(record);
        let previous = match self.store.insert(Arc::clone(&record), now) {
            Ok(previous) => previous,
            Err(reason) => return self.quarantine(&record, reason),
        };
        self.missing.settle(&record);
        self.stats.records_accepted += 1;
        self.after_change(origin, &key, Some(from), now);
        if previous.and_then(|previous| previous.value.clone()) != value {
            self.emit(Event::RecordChanged { origin, key: key.clone(), value });
        }
        if key.kind == Kind::PEER {
            self.meet_origin(origin, from, now);
        }
    }

    /// The keys of an origin are known now: what waited for them can be checked.
    fn meet_origin(&mut self, origin: PeerId, from: PeerId, now: Instant) {
        self.replay_rumour(origin, now);
        for record in self.store.unpark(origin) {
            self.take_in(record, from, now);
        }
    }
}
