//! What is heard of members, and what follows from it: for the records, the mesh, the caller, and everybody else.

use std::time::Instant;

use crate::gossip::{Event, Gossip};
use crate::keys::{Keys, Verdict};
use crate::membership::{Change, Check, MemberState};
use crate::peer::PeerId;
use crate::planted::{Bug, planted};
use crate::stats::DropReason;
use crate::wire::{Rumour, Standing, proof_bytes};

/// Members whose keys are not known yet, of which the newest rumour is kept until they are.
pub(crate) const MAX_PARKED_RUMOURS: usize = 256;

/// Over which links a change is told at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// All: somebody may have to contradict before time runs out.
    All,
    /// Those of the broadcast tree: nobody waits for it, and what gets lost is found by comparing digests. When a fleet starts,
    /// everybody hears of everybody, and over all links it would be several times over.
    Tree,
    /// Nobody but its subject: all others know.
    Nobody,
}

impl<K: Keys> Gossip<K> {
    /// Somebody says something of a member.
    pub(crate) fn hear(&mut self, rumour: Rumour, from: PeerId, now: Instant) {
        let subject = rumour.subject;
        if subject == self.me {
            return self.hear_of_self(&rumour, from, now);
        }
        if self.store.is_removed(subject) {
            return self.stats.count(DropReason::RemovedOrigin);
        }
        match self.membership.check(&rumour) {
            Check::Stale => {
                if self.standing(subject) > Some(rumour.standing()) {
                    self.tell(from, subject);
                }
                if planted(Bug::RumourEchoed) {
                    self.mesh
                        .neighbours()
                        .collect::<Vec<_>>()
                        .into_iter()
                        .for_each(|to| self.tell(to, subject));
                }
                return;
            }
            Check::Proven => {}
            Check::Verify => {
                if !self.links.get_mut(&from).is_some_and(|link| link.may_verify()) {
                    return self.stats.count(DropReason::VerifyBudget);
                }
                let bytes = proof_bytes(subject, rumour.incarnation, rumour.claim.needs());
                match self.keys.verify(subject, &bytes, &rumour.proof) {
                    Verdict::Good => {}
                    Verdict::Bad => return self.stats.count(DropReason::BadProof),
                    Verdict::UnknownOrigin => return self.park_rumour(rumour, from),
                }
            }
        }
        let before = self.membership.state(subject);
        match self.membership.hear(&rumour, from, now) {
            Ok(change) => {
                let was_gone = matches!(before, Some(MemberState::Dead | MemberState::Left));
                if was_gone && matches!(change, Change::Suspected) {
                    // Accused in a life that we had not heard of: it lives until the suspicion runs out.
                    self.emit(Event::MemberUp(subject));
                }
                let reach = match before {
                    None if self.is_last_to_know(from) => Reach::Nobody,
                    None => Reach::Tree,
                    Some(_) => Reach::All,
                };
                self.settle(subject, change, reach, Some(from), now);
            }
            Err(reason) => self.stats.count(reason),
        }
    }

    /// The keys of an origin became known.
    pub(crate) fn replay_rumour(&mut self, subject: PeerId, now: Instant) {
        if let Some((rumour, from)) = self.parked_rumours.remove(&subject) {
            self.hear(rumour, from, now);
        }
    }

    /// Ends the suspicions that ran out.
    pub(crate) fn end_suspicions(&mut self, now: Instant) {
        let links = &self.links;
        let heard = |peer, since| links.get(&peer).is_some_and(|link| link.last_heard > since);
        for peer in self.membership.handle_timeout(now, heard) {
            self.stats.deaths += 1;
            self.settle(peer, Change::Down, Reach::All, None, now);
        }
    }

    /// Draws the consequences of a change and passes it on, except to whom it came from.
    pub(crate) fn settle(
        &mut self,
        subject: PeerId,
        change: Change,
        reach: Reach,
        from: Option<PeerId>,
        now: Instant,
    ) {
        let gone = match change {
            Change::Nothing => return,
            Change::Renewed | Change::Confirmed => false,
            Change::Up => {
                self.candidates.remove(&subject);
                self.mesh.look_soon(now);
                self.emit(Event::MemberUp(subject));
                false
            }
            Change::Suspected => {
                self.emit(Event::MemberSuspect(subject));
                false
            }
            Change::Down => {
                self.emit(Event::MemberDown(subject));
                true
            }
            Change::Left => {
                self.emit(Event::MemberLeft(subject));
                true
            }
        };
        tracing::debug!(member = %subject, ?change, "membership");
        if gone {
            let actions = self.mesh.handle_gone(subject, now);
            self.perform(actions, now);
        }
        self.store.set_standing(subject, self.standing(subject));
        self.last_change = now;
        self.last_graph_change = now;
        let mut hearers: Vec<PeerId> = match reach {
            Reach::All => self.mesh.neighbours().collect(),
            Reach::Tree => self.mesh.neighbours().filter(|peer| self.is_eager(peer)).collect(),
            Reach::Nobody => Vec::new(),
        };
        // Whoever is accused must hear it, to be able to contradict.
        hearers.push(subject);
        for peer in hearers.into_iter().filter(|peer| Some(*peer) != from) {
            self.tell(peer, subject);
        }
    }

    /// What can be told of a member, this peer included.
    pub(crate) fn rumour(&self, id: PeerId) -> Option<Rumour> {
        if id == self.me { Some(self.own.rumour(id)) } else { self.membership.rumour(id) }
    }

    /// How a member stands, this peer included.
    pub(crate) fn standing(&self, id: PeerId) -> Option<Standing> {
        if id == self.me { Some(self.own.standing()) } else { self.membership.standing(id) }
    }

    fn park_rumour(&mut self, rumour: Rumour, from: PeerId) {
        if let Some((known, _)) = self.parked_rumours.get(&rumour.subject) {
            if known.standing() >= rumour.standing() {
                return;
            }
        } else if self.parked_rumours.len() >= MAX_PARKED_RUMOURS {
            self.stats.count(DropReason::RumourParkingFull);
            self.parked_rumours.pop_first();
        }
        self.parked_rumours.insert(rumour.subject, (rumour, from));
    }
}
