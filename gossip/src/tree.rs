//! The broadcast tree: records are pushed along the links that brought them first, and only announced over all others.
//!
//! Plumtree (Leitão, Pereira, Rodrigues 2007), with names of records in the place of message ids. Every link begins eager. Whoever gets a
//! record twice asks for announcements over the second link; whoever misses what was announced asks for it, and for
//! pushes from then on. So each record travels about once to each peer, a broken branch mends itself, and what all
//! that misses is found by comparing digests.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::gossip::Gossip;
use crate::keys::Keys;
use crate::link::Pushing;
use crate::peer::PeerId;
use crate::record::{Record, RecordKey};
use crate::stats::DropReason;
use crate::wire::{self, Announcement, LIST_ROOM, Message};

/// How long a record that was announced may still come by itself: some hops of the tree. Shorter asks for what is on its way,
/// longer leaves those behind a lost message waiting.
const PATIENCE: Duration = Duration::from_millis(250);

/// Eager links that are kept although they bring what was there. A bare tree is deep, and each message that it loses costs a wait: among 300
/// peers a record takes 0.66 s to reach all (p99), with three links kept 0.27 s, with four 0.17 s; a flood over all eight takes 0.06 s. A
/// fourth link costs a fifth more bytes while a fleet starts; with less than three what is announced and asked for costs as much as it saves.
const MIN_EAGER: usize = 3;

/// Records that are waited for. Beyond that comparing digests finds them.
pub(crate) const MAX_MISSING: usize = 4_096;

/// Of these, first announced by one peer: its share among as many neighbours as a peer commonly has, so that none takes the room of all.
const MAX_MISSING_OF_ONE: usize = MAX_MISSING / 8;

/// Peers that are asked for one record, one after the other.
const MAX_ANNOUNCERS: usize = 3;

/// What was announced and has not come.
#[derive(Debug, Default)]
pub(crate) struct Missing {
    records: BTreeMap<(PeerId, RecordKey), Wanted>,
    /// When to ask for which, in order, as all wait equally long. May name what came meanwhile.
    schedule: VecDeque<Turn>,
    /// Entries of the schedule by who announced them first.
    first_of: BTreeMap<PeerId, usize>,
}

#[derive(Debug)]
struct Wanted {
    version: u64,
    announcers: Vec<PeerId>,
}

/// A record is to be asked for.
#[derive(Debug)]
struct Turn {
    at: Instant,
    origin: PeerId,
    key: RecordKey,
    first: PeerId,
}

impl Missing {
    /// How much is waited for, or has come since and is still in the list.
    pub(crate) fn len(&self) -> usize {
        self.schedule.len()
    }

    /// When to ask for something.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.schedule.front().map(|turn| turn.at)
    }

    fn note(&mut self, announced: Announcement, from: PeerId, now: Instant) -> Result<(), DropReason> {
        let (id, version) = ((announced.origin, announced.record.key), announced.record.version);
        if let Some(wanted) = self.records.get_mut(&id) {
            wanted.version = wanted.version.max(version);
            if wanted.announcers.len() < MAX_ANNOUNCERS && !wanted.announcers.contains(&from) {
                wanted.announcers.push(from);
            }
            return Ok(());
        }
        let of_one = self.first_of.get(&from).copied().unwrap_or(0);
        if self.schedule.len() >= MAX_MISSING || of_one >= MAX_MISSING_OF_ONE {
            return Err(DropReason::AnnouncementShed);
        }
        self.first_of.insert(from, of_one + 1);
        let (origin, key) = id.clone();
        self.schedule.push_back(Turn { at: now + PATIENCE, origin, key, first: from });
        self.records.insert(id, Wanted { version, announcers: vec![from] });
        Ok(())
    }

    /// A record came.
    pub(crate) fn settle(&mut self, record: &Record) {
        // Most of the time nothing is missing, and the name need not be copied.
        if self.records.is_empty() {
            return;
        }
        let id = (record.origin, record.key.clone());
        if self.records.get(&id).is_some_and(|wanted| wanted.version <= record.version) {
            self.records.remove(&id);
        }
    }

    /// The records to be asked for now, and whom.
    fn due(&mut self, now: Instant) -> BTreeMap<(PeerId, PeerId), Vec<RecordKey>> {
        let mut asks: BTreeMap<(PeerId, PeerId), Vec<RecordKey>> = BTreeMap::new();
        while self.schedule.front().is_some_and(|turn| turn.at <= now)
            && let Some(Turn { origin, key, first, .. }) = self.schedule.pop_front()
        {
            let id = (origin, key);
            if let Some(wanted) = self.records.get_mut(&id) {
                let whom = wanted.announcers.remove(0);
                asks.entry((whom, origin)).or_default().push(id.1.clone());
                if !wanted.announcers.is_empty() {
                    self.schedule.push_back(Turn { at: now + PATIENCE, origin, key: id.1, first });
                    continue;
                }
                self.records.remove(&id);
            }
            self.forget_first(first);
        }
        asks
    }

    fn forget_first(&mut self, first: PeerId) {
        if let Some(count) = self.first_of.get_mut(&first) {
            *count -= 1;
            if *count == 0 {
                self.first_of.remove(&first);
            }
        }
    }
}

impl<K: Keys> Gossip<K> {
    /// `from` has these records.
    pub(crate) fn handle_announcements(&mut self, from: PeerId, all: Vec<Announcement>, now: Instant) {
        for announced in all {
            let Announcement { origin, record } = &announced;
            if self.store.covers(*origin, record) || self.store.is_removed(*origin) {
                if let Some(link) = self.links.get_mut(&from) {
                    link.unqueue_push(*origin, &record.key);
                }
                continue;
            }
            if let Err(reason) = self.missing.note(announced, from, now) {
                self.stats.count(reason);
            }
        }
    }

    /// Asks for what was announced and did not come.
    pub(crate) fn ask_for_missing(&mut self, now: Instant) {
        for ((whom, origin), keys) in self.missing.due(now) {
            let Some(link) = self.links.get_mut(&whom) else { continue };
            link.set_pushing(Pushing::Eager);
            self.stats.grafts += 1;
            for keys in wire::chunks(keys, wire::key_size) {
                self.send(whom, &Message::Graft { origin, keys });
            }
        }
    }

    /// `from` misses these records, and wants to be pushed to from now on.
    pub(crate) fn handle_graft(&mut self, from: PeerId, origin: PeerId, keys: &[RecordKey]) {
        if let Some(link) = self.links.get_mut(&from) {
            link.set_pushing(Pushing::Eager);
        }
        keys.iter().for_each(|key| self.push_to(from, origin, key));
    }

    /// `from` has what was pushed to it from others.
    pub(crate) fn handle_lazy(&mut self, from: PeerId) {
        if let Some(link) = self.links.get_mut(&from) {
            link.set_pushing(Pushing::Lazy);
        }
    }

    /// A record came a second time: this link is not of the tree.
    pub(crate) fn become_lazy(&mut self, from: PeerId) {
        if !self.is_eager(&from)
            || !self.mesh.is_neighbour(from)
            || self.mesh.neighbours().filter(|peer| self.is_eager(peer)).count() <= MIN_EAGER
        {
            return;
        }
        if let Some(link) = self.links.get_mut(&from) {
            link.set_pushing(Pushing::Lazy);
            self.send(from, &Message::Lazy);
        }
    }

    /// Whether records are pushed to a peer at once.
    pub(crate) fn is_eager(&self, peer: &PeerId) -> bool {
        self.links.get(peer).is_some_and(|link| link.pushing() == Pushing::Eager)
    }

    /// The next message of announcements to `to`.
    pub(crate) fn next_announcements(&mut self, to: PeerId) -> Option<Message> {
        let link = self.links.get_mut(&to)?;
        let (mut all, mut room) = (Vec::new(), LIST_ROOM);
        while let Some((origin, key)) = link.next_announcement() {
            // What was dropped since it was queued is simply not announced.
            let Some(record) = self.store.key_digest(origin, &key) else { continue };
            let size = wire::announcement_size(&key);
            if size > room {
                link.announce_again(origin, key);
                break;
            }
            room -= size;
            all.push(Announcement { origin, record });
        }
        (!all.is_empty()).then_some(Message::Announce(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Kind;
    use crate::wire::KeyDigest;

    fn announced(name: u32, version: u64) -> Announcement {
        let key = RecordKey::new(Kind::ENDPOINT, name.to_be_bytes());
        Announcement { origin: PeerId([1; 16]), record: KeyDigest { key, version, check: 0 } }
    }

    fn record(name: u32, version: u64) -> Record {
        let Announcement { origin, record: KeyDigest { key, .. } } = announced(name, version);
        Record { origin, key, version, value: None, signature: [0; 64] }
    }

    #[test]
    fn announcers_are_asked_in_turn_until_the_record_comes() {
        let (mut missing, mut now) = (Missing::default(), Instant::now());
        let peers = [2, 3, 4, 5].map(|n| PeerId([n; 16]));
        for peer in peers.into_iter().chain(peers) {
            missing.note(announced(7, 1), peer, now).expect("there is room");
        }
        assert!(missing.due(now).is_empty(), "it may still come by itself");
        for peer in &peers[..MAX_ANNOUNCERS] {
            now = missing.poll_timeout().expect("something is missing");
            let asked: Vec<_> = missing.due(now).into_keys().collect();
            assert_eq!(asked, [(*peer, PeerId([1; 16]))]);
        }
        assert_eq!(missing.poll_timeout(), None, "comparing digests finds the rest");
    }

    #[test]
    fn what_came_is_not_asked_for_and_an_old_version_is_not_it() {
        let (mut missing, now) = (Missing::default(), Instant::now());
        for name in [1, 2] {
            missing.note(announced(name, 5), PeerId([2; 16]), now).expect("there is room");
        }
        missing.settle(&record(1, 4));
        missing.settle(&record(2, 6));
        let asks = missing.due(now + PATIENCE);
        assert_eq!(asks.into_values().collect::<Vec<_>>(), [vec![announced(1, 5).record.key]]);
    }

    #[test]
    fn a_flood_of_announcements_is_bounded() {
        let (mut missing, now) = (Missing::default(), Instant::now());
        let from = |n: u32| PeerId([(n % 16) as u8; 16]);
        let shed = (0..10_000).filter(|n| missing.note(announced(*n, 1), from(*n), now).is_err()).count();
        assert_eq!(shed, 10_000 - MAX_MISSING);
        for n in 0..10_000 {
            missing.settle(&record(n, 1));
            let _ = missing.note(announced(n, 1), from(n), now);
        }
        assert!(missing.records.len() <= MAX_MISSING && missing.schedule.len() <= MAX_MISSING);
    }

    #[test]
    fn one_that_floods_leaves_room_for_others() {
        let (mut missing, mut now) = (Missing::default(), Instant::now());
        let (liar, honest) = (PeerId([2; 16]), PeerId([3; 16]));
        for round in 0..3 {
            let names = 100_000 * round..100_000 * round + 10_000;
            let kept = names.filter(|n| missing.note(announced(*n, 1), liar, now).is_ok()).count();
            assert_eq!(kept, MAX_MISSING_OF_ONE, "as much in each round");
            missing.note(announced(100_000 * round + 99_999, 1), honest, now).expect("there is room");
            now += PATIENCE;
            let asked: usize = missing.due(now).into_values().map(|keys| keys.len()).sum();
            assert_eq!(asked, MAX_MISSING_OF_ONE + 1);
        }
        assert!(missing.records.is_empty() && missing.schedule.is_empty() && missing.first_of.is_empty());
    }
}
