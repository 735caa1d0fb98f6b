//! Who is a member and how it is: the states of SWIM, with suspicion in the manner of Lifeguard.
//!
//! Transitions of a member, by what is heard of it:
//!
//! | heard | of an older incarnation | of the same one | of a newer one |
//! |---|---|---|---|
//! | alive | ignored | ignored | alive |
//! | suspect | ignored | alive → suspect; suspect: one more accuser | suspect |
//! | dead | ignored | alive → suspect, for the shortest time; suspect: shortened | suspect, for the shortest time; dead when unknown |
//! | left | ignored | left | left |
//!
//! A death told by others only raises a suspicion, so that its subject can contradict before anybody acts on it. Only a
//! suspicion that ran out here makes a member dead here. This module verifies nothing: the caller checks proofs first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::peer::PeerId;
use crate::planted::{Bug, planted};
use crate::stats::DropReason;
use crate::wire::{Claim, Class, MAX_ACCUSERS, Rumour, Standing};

/// Members at most, as many as there can be origins of records.
pub const MAX_MEMBERS: usize = crate::store::MAX_ORIGINS;

/// How a member is, as far as can be told from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberState {
    /// It answers, or nobody says otherwise.
    Alive,
    /// It does not answer somebody, and may still contradict.
    Suspect,
    /// It did not contradict in time.
    Dead,
    /// It said goodbye.
    Left,
}

/// A member, for showing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub id: PeerId,
    /// How it is.
    pub state: MemberState,
    /// Its own count of the times it started or contradicted. Zero until it was heard.
    pub incarnation: u64,
    /// Since when it is so.
    pub since: Instant,
}

/// What hearing of a member did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing that others need to hear.
    Nothing,
    /// It is alive and was not before.
    Up,
    /// It is alive as before, in a newer incarnation.
    Renewed,
    /// It was alive and is a suspect now.
    Suspected,
    /// It is a suspect still, with more behind it.
    Confirmed,
    /// It is dead now.
    Down,
    /// It left.
    Left,
}

/// What to do about a rumour before it may be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// It is about the past.
    Stale,
    /// Its proof is the one that was verified before.
    Proven,
    /// Its proof must be verified.
    Verify,
}

/// Everybody else.
#[derive(Debug)]
pub struct Membership {
    members: BTreeMap<PeerId, Entry>,
    deadlines: BTreeSet<(Instant, PeerId)>,
    running: usize,
    suspicion_min: Duration,
    suspicion_max: Duration,
}

#[derive(Debug)]
struct Entry {
    state: MemberState,
    incarnation: u64,
    /// Missing for a member that was only met and not heard yet.
    proof: Option<[u8; 64]>,
    since: Instant,
    /// In a box, as hardly anybody is ever suspected.
    suspicion: Option<Box<Suspicion>>,
}

#[derive(Debug)]
struct Suspicion {
    started: Instant,
    deadline: Instant,
    accusers: BTreeSet<PeerId>,
}

impl Membership {
    /// No members yet.
    pub fn new(config: &Config) -> Self {
        Membership {
            members: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            running: 0,
            suspicion_min: config.suspicion_min,
            suspicion_max: config.suspicion_max,
        }
    }

    /// All members, by id.
    pub fn iter(&self) -> impl Iterator<Item = Member> {
        self.members.iter().map(|(&id, entry)| entry.show(id))
    }

    /// How many members are known.
    pub(crate) fn count(&self) -> usize {
        self.members.len()
    }

    /// Whether nobody is dead and nobody has left.
    pub fn all_run(&self) -> bool {
        self.running == self.members.len()
    }

    /// One member.
    pub fn get(&self, id: PeerId) -> Option<Member> {
        self.members.get(&id).map(|entry| entry.show(id))
    }

    /// How a member is.
    pub fn state(&self, id: PeerId) -> Option<MemberState> {
        self.members.get(&id).map(|entry| entry.state)
    }

    /// How a member stands, if that can be proven to others.
    pub fn standing(&self, id: PeerId) -> Option<Standing> {
        let entry = self.members.get(&id)?;
        entry.proof?;
        Some(Standing { incarnation: entry.incarnation, class: entry.class() })
    }

    /// What to tell others of a member, if that can be proven to them.
    pub fn rumour(&self, id: PeerId) -> Option<Rumour> {
        let entry = self.members.get(&id)?;
        let claim = match (entry.state, &entry.suspicion) {
            (MemberState::Suspect, Some(suspicion)) => {
                Claim::Suspect { by: suspicion.accusers.iter().copied().collect() }
            }
            (MemberState::Alive | MemberState::Suspect, _) => Claim::Alive,
            (MemberState::Dead, _) => Claim::Dead,
            (MemberState::Left, _) => Claim::Left,
        };
        Some(Rumour { subject: id, incarnation: entry.incarnation, proof: entry.proof?, claim })
    }

    /// Notes somebody that was met and not heard of yet.
    pub fn meet(&mut self, id: PeerId, now: Instant) -> Result<Change, DropReason> {
        if self.members.contains_key(&id) {
            return Ok(Change::Nothing);
        }
        self.check_room()?;
        self.enter(id, MemberState::Alive, 0, None, now);
        Ok(Change::Up)
    }

    /// What a rumour needs before [`Membership::hear`].
    pub fn check(&self, rumour: &Rumour) -> Check {
        let Some(entry) = self.members.get(&rumour.subject) else { return Check::Verify };
        let said = rumour.standing();
        if entry.proof.is_none() || said.incarnation > entry.incarnation {
            return Check::Verify;
        }
        if said.incarnation < entry.incarnation || entry.class() > said.class {
            return Check::Stale;
        }
        match (&rumour.claim, entry.state) {
            (Claim::Left, MemberState::Left) => Check::Stale,
            (Claim::Left, _) => Check::Verify,
            (Claim::Dead, MemberState::Dead) => Check::Stale,
            (Claim::Alive, _) => Check::Stale,
            (Claim::Dead | Claim::Suspect { .. }, _) => Check::Proven,
        }
    }

    /// Applies a rumour whose proof is good. `from` counts as the accuser behind a death that is doubted here.
    pub fn hear(&mut self, rumour: &Rumour, from: PeerId, now: Instant) -> Result<Change, DropReason> {
        let id = rumour.subject;
        let Some(entry) = self.members.get(&id) else { return self.hear_of_stranger(rumour, now) };
        let before = entry.state;
        if rumour.incarnation > entry.incarnation || entry.proof.is_none() {
            let state = match rumour.claim {
                Claim::Left => MemberState::Left,
                Claim::Alive | Claim::Suspect { .. } | Claim::Dead => MemberState::Alive,
            };
            self.enter(id, state, rumour.incarnation, Some(rumour.proof), now);
        }
        let change = match &rumour.claim {
            Claim::Alive => Change::Nothing,
            Claim::Suspect { by } => self.accuse(id, by, now),
            Claim::Dead if planted(Bug::DeathBelieved) && before != MemberState::Dead => {
                self.enter(id, MemberState::Dead, rumour.incarnation, Some(rumour.proof), now);
                Change::Down
            }
            Claim::Dead => self.doubt_death(id, from, now),
            Claim::Left if before != MemberState::Left => {
                self.enter(id, MemberState::Left, rumour.incarnation, Some(rumour.proof), now);
                Change::Left
            }
            // It left again, in a life of which only the end was heard.
            Claim::Left => Change::Renewed,
        };
        Ok(match (change, before, &rumour.claim) {
            (Change::Nothing, MemberState::Alive, Claim::Alive) => Change::Renewed,
            (Change::Nothing, MemberState::Suspect | MemberState::Dead | MemberState::Left, Claim::Alive) => {
                Change::Up
            }
            (other, _, _) => other,
        })
    }

    /// Suspects a member that does not answer here.
    pub fn suspect(&mut self, id: PeerId, accuser: PeerId, now: Instant) -> Change {
        self.accuse(id, &[accuser], now)
    }

    /// Ends the suspicions that ran out. A member of which `evidence` says that it was heard since the suspicion began is
    /// given as long again. Gives back who died.
    pub fn handle_timeout(
        &mut self,
        now: Instant,
        evidence: impl Fn(PeerId, Instant) -> bool,
    ) -> Vec<PeerId> {
        let mut dead = Vec::new();
        while let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= now
        {
            self.deadlines.pop_first();
            let entry = self.members.get_mut(&id).expect("deadlines are those of members");
            let suspicion = entry.suspicion.as_mut().expect("deadlines are those of suspicions");
            if evidence(id, suspicion.started) {
                suspicion.started = now;
                suspicion.deadline = now + self.suspicion_max;
                self.deadlines.insert((suspicion.deadline, id));
                continue;
            }
            let (incarnation, proof) = (entry.incarnation, entry.proof);
            self.enter(id, MemberState::Dead, incarnation, proof, now);
            dead.push(id);
        }
        dead
    }

    /// When [`Membership::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Forgets a member.
    pub fn forget(&mut self, id: PeerId) -> Option<MemberState> {
        let entry = self.members.remove(&id)?;
        if let Some(suspicion) = entry.suspicion {
            self.deadlines.remove(&(suspicion.deadline, id));
        }
        self.running -= entry.state.runs();
        Some(entry.state)
    }

    fn hear_of_stranger(&mut self, rumour: &Rumour, now: Instant) -> Result<Change, DropReason> {
        self.check_room()?;
        let (state, change) = match rumour.claim {
            Claim::Alive | Claim::Suspect { .. } => (MemberState::Alive, Change::Up),
            Claim::Dead => (MemberState::Dead, Change::Down),
            Claim::Left => (MemberState::Left, Change::Left),
        };
        self.enter(rumour.subject, state, rumour.incarnation, Some(rumour.proof), now);
        if let Claim::Suspect { by } = &rumour.claim {
            self.accuse(rumour.subject, by, now);
        }
        Ok(change)
    }

    fn accuse(&mut self, id: PeerId, by: &[PeerId], now: Instant) -> Change {
        let (min, max, helpers) = self.suspicion_bounds();
        let Some(entry) = self.members.get_mut(&id) else { return Change::Nothing };
        let change = match entry.state {
            MemberState::Dead | MemberState::Left => return Change::Nothing,
            MemberState::Alive => {
                let accusers = by.iter().copied().take(MAX_ACCUSERS).collect();
                entry.suspicion = Some(Box::new(Suspicion { started: now, deadline: now, accusers }));
                (entry.state, entry.since) = (MemberState::Suspect, now);
                Change::Suspected
            }
            MemberState::Suspect => {
                let suspicion = entry.suspicion.as_mut().expect("a suspect has a suspicion");
                let before = suspicion.accusers.len();
                suspicion.accusers.extend(by.iter().copied().take(MAX_ACCUSERS - before));
                if suspicion.accusers.len() == before {
                    return Change::Nothing;
                }
                Change::Confirmed
            }
        };
        let suspicion = entry.suspicion.as_mut().expect("just made or there before");
        self.deadlines.remove(&(suspicion.deadline, id));
        let confirmations = suspicion.accusers.len().saturating_sub(1);
        suspicion.deadline = suspicion.started + suspicion_time(min, max, confirmations, helpers);
        self.deadlines.insert((suspicion.deadline, id));
        change
    }

    fn doubt_death(&mut self, id: PeerId, from: PeerId, now: Instant) -> Change {
        let change = self.accuse(id, &[from], now);
        let (min, _, _) = self.suspicion_bounds();
        if let Some(suspicion) = self.members.get_mut(&id).and_then(|entry| entry.suspicion.as_mut()) {
            self.deadlines.remove(&(suspicion.deadline, id));
            suspicion.deadline = suspicion.deadline.min(suspicion.started + min);
            self.deadlines.insert((suspicion.deadline, id));
        }
        change
    }

    fn enter(
        &mut self,
        id: PeerId,
        state: MemberState,
        incarnation: u64,
        proof: Option<[u8; 64]>,
        now: Instant,
    ) {
        self.forget(id);
        self.running += state.runs();
        self.members.insert(id, Entry { state, incarnation, proof, since: now, suspicion: None });
    }

    fn check_room(&self) -> Result<(), DropReason> {
        if self.members.len() < MAX_MEMBERS { Ok(()) } else { Err(DropReason::MembersFull) }
    }

    /// Shortest and longest suspicion for the fabric as it is now, and how many could confirm one.
    fn suspicion_bounds(&self) -> (Duration, Duration, usize) {
        let scale = (self.running.max(10) as f64).log10();
        let helpers = self.running.saturating_sub(1).min(MAX_ACCUSERS - 1);
        (self.suspicion_min.mul_f64(scale), self.suspicion_max.mul_f64(scale), helpers)
    }
}

impl Entry {
    fn class(&self) -> Class {
        match self.state {
            MemberState::Alive | MemberState::Suspect => Class::Alive,
            MemberState::Dead => Class::Dead,
            MemberState::Left => Class::Left,
        }
    }

    fn show(&self, id: PeerId) -> Member {
        Member { id, state: self.state, incarnation: self.incarnation, since: self.since }
    }
}

impl MemberState {
    /// One for a member that may be running, for counting.
    fn runs(self) -> usize {
        match self {
            MemberState::Alive | MemberState::Suspect => 1,
            MemberState::Dead | MemberState::Left => 0,
        }
    }
}

impl Rumour {
    /// What the rumour says for good.
    pub fn standing(&self) -> Standing {
        let class = match self.claim {
            Claim::Alive | Claim::Suspect { .. } => Class::Alive,
            Claim::Dead => Class::Dead,
            Claim::Left => Class::Left,
        };
        Standing { incarnation: self.incarnation, class }
    }
}

/// Lifeguard: the more confirm, the less time is left, by a logarithm so that the first one counts most.
fn suspicion_time(min: Duration, max: Duration, confirmations: usize, possible: usize) -> Duration {
    if possible == 0 {
        return max;
    }
    let share = ((confirmations + 1) as f64).ln() / ((possible + 1) as f64).ln();
    max - max.saturating_sub(min).mul_f64(share.min(1.0))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    const SUBJECT: PeerId = PeerId([7; 16]);

    fn rumour(incarnation: u64, claim: Claim) -> Rumour {
        Rumour { subject: SUBJECT, incarnation, proof: [0; 64], claim }
    }

    fn by(id: u8) -> Claim {
        Claim::Suspect { by: vec![PeerId([id; 16])] }
    }

    fn member_in(state: MemberState, now: Instant) -> Membership {
        let mut membership = Membership::new(&Config::default());
        let claim = match state {
            MemberState::Alive => Claim::Alive,
            MemberState::Suspect => by(1),
            MemberState::Dead => Claim::Dead,
            MemberState::Left => Claim::Left,
        };
        membership.hear(&rumour(5, claim), PeerId([1; 16]), now).unwrap();
        assert_eq!(membership.state(SUBJECT), Some(state));
        membership
    }

    #[test]
    fn transition_table() {
        let now = Instant::now();
        let mut table = String::new();
        for state in [MemberState::Alive, MemberState::Suspect, MemberState::Dead, MemberState::Left] {
            for claim in [Claim::Alive, by(2), Claim::Dead, Claim::Left] {
                for incarnation in [4, 5, 6] {
                    let mut membership = member_in(state, now);
                    let heard = rumour(incarnation, claim.clone());
                    let what = match &claim {
                        Claim::Suspect { .. } => "Suspect".to_owned(),
                        other => format!("{other:?}"),
                    };
                    let check = membership.check(&heard);
                    let outcome = match check {
                        Check::Stale => "-".to_owned(),
                        Check::Proven | Check::Verify => {
                            let change = membership.hear(&heard, PeerId([3; 16]), now).unwrap();
                            format!("{check:?} {change:?} -> {:?}", membership.state(SUBJECT).unwrap())
                        }
                    };
                    table += &format!("{state:?} 5 + {what} {incarnation}: {outcome}\n");
                }
            }
        }
        expect![[r#"
            Alive 5 + Alive 4: -
            Alive 5 + Alive 5: -
            Alive 5 + Alive 6: Verify Renewed -> Alive
            Alive 5 + Suspect 4: -
            Alive 5 + Suspect 5: Proven Suspected -> Suspect
            Alive 5 + Suspect 6: Verify Suspected -> Suspect
            Alive 5 + Dead 4: -
            Alive 5 + Dead 5: Proven Suspected -> Suspect
            Alive 5 + Dead 6: Verify Suspected -> Suspect
            Alive 5 + Left 4: -
            Alive 5 + Left 5: Verify Left -> Left
            Alive 5 + Left 6: Verify Left -> Left
            Suspect 5 + Alive 4: -
            Suspect 5 + Alive 5: -
            Suspect 5 + Alive 6: Verify Up -> Alive
            Suspect 5 + Suspect 4: -
            Suspect 5 + Suspect 5: Proven Confirmed -> Suspect
            Suspect 5 + Suspect 6: Verify Suspected -> Suspect
            Suspect 5 + Dead 4: -
            Suspect 5 + Dead 5: Proven Confirmed -> Suspect
            Suspect 5 + Dead 6: Verify Suspected -> Suspect
            Suspect 5 + Left 4: -
            Suspect 5 + Left 5: Verify Left -> Left
            Suspect 5 + Left 6: Verify Left -> Left
            Dead 5 + Alive 4: -
            Dead 5 + Alive 5: -
            Dead 5 + Alive 6: Verify Up -> Alive
            Dead 5 + Suspect 4: -
            Dead 5 + Suspect 5: -
            Dead 5 + Suspect 6: Verify Suspected -> Suspect
            Dead 5 + Dead 4: -
            Dead 5 + Dead 5: -
            Dead 5 + Dead 6: Verify Suspected -> Suspect
            Dead 5 + Left 4: -
            Dead 5 + Left 5: Verify Left -> Left
            Dead 5 + Left 6: Verify Left -> Left
            Left 5 + Alive 4: -
            Left 5 + Alive 5: -
            Left 5 + Alive 6: Verify Up -> Alive
            Left 5 + Suspect 4: -
            Left 5 + Suspect 5: -
            Left 5 + Suspect 6: Verify Suspected -> Suspect
            Left 5 + Dead 4: -
            Left 5 + Dead 5: -
            Left 5 + Dead 6: Verify Suspected -> Suspect
            Left 5 + Left 4: -
            Left 5 + Left 5: -
            Left 5 + Left 6: Verify Renewed -> Left
        "#]]
        .assert_eq(&table);
    }

    #[test]
    fn suspicion_runs_out_sooner_when_confirmed() {
        let now = Instant::now();
        let config = Config::default();
        let mut membership = member_in(MemberState::Suspect, now);
        for id in 10..14 {
            membership.meet(PeerId([id; 16]), now).unwrap();
        }
        assert_eq!(membership.poll_timeout(), Some(now + config.suspicion_max));
        membership.hear(&rumour(5, by(2)), PeerId([2; 16]), now).unwrap();
        let confirmed = membership.poll_timeout().unwrap();
        assert!(confirmed < now + config.suspicion_max);
        membership.hear(&rumour(5, by(3)), PeerId([3; 16]), now).unwrap();
        assert_eq!(membership.poll_timeout(), Some(now + config.suspicion_min));
        assert_eq!(
            membership.hear(&rumour(5, by(4)), PeerId([4; 16]), now),
            Ok(Change::Nothing),
            "enough accusers"
        );
        assert_eq!(membership.handle_timeout(now + config.suspicion_min, |_, _| false), [SUBJECT]);
        assert_eq!(membership.poll_timeout(), None);
    }

    #[test]
    fn suspicion_refutal() {
        let now = Instant::now();
        let mut membership = member_in(MemberState::Suspect, now);
        assert_eq!(membership.hear(&rumour(6, Claim::Alive), SUBJECT, now), Ok(Change::Up));
        assert_eq!(membership.poll_timeout(), None);
    }

    #[test]
    fn whoever_is_heard_does_not_die() {
        let now = Instant::now();
        let mut membership = member_in(MemberState::Suspect, now);
        let deadline = membership.poll_timeout().unwrap();
        assert!(membership.handle_timeout(deadline, |_, _| true).is_empty());
        assert_eq!(membership.state(SUBJECT), Some(MemberState::Suspect));
        assert!(membership.poll_timeout().unwrap() > deadline);
    }
}
