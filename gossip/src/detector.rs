//! Finds out which neighbours do not answer: probes, repeats, helpers, and doubt in oneself (Lifeguard).
//!
//! It knows neighbours by id only and decides nothing about members: a failed round is reported, and others judge.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::peer::PeerId;
use crate::rng::Rng;

/// Lifeguard's limit of the doubt in oneself: a peer in trouble probes nine times slower, and no slower than that.
const MAX_DOUBT: u32 = 8;

/// Direct probes in one round. At 5 % loss each way, one in a thousand rounds fails by chance.
const ATTEMPTS: u32 = 3;

/// Rounds in a row that must fail before a neighbour is accused. An accusation goes to everybody, and so does its contradiction: with
/// one round, what a fabric sends for nothing at 5 % loss would grow with its size; two fail by chance once in a million times.
const ROUNDS: u32 = 2;

/// Probes under way for others. Each neighbour may ask for some; beyond that somebody is flooding.
pub(crate) const MAX_RELAYS: usize = 64;

/// A round begins by this part of the period early when that of another neighbour begins: probes that leave together are answered
/// together, which costs fewer wake-ups. More would probe noticeably more often.
const EARLY: u32 = 4;

/// What is to be done about probing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Send a probe.
    Probe { to: PeerId, nonce: u32 },
    /// Ask helpers to probe; tell [`Detector::asked`] how many.
    AskHelpers { target: PeerId, nonce: u32 },
    /// Nobody got an answer for some rounds.
    Failed { peer: PeerId },
}

/// What an answer was good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It ends a round of ours.
    Ours,
    /// It belongs to a request of `to`.
    Relay { to: PeerId, nonce: u32 },
    /// Nobody waits for it.
    Stray,
}

#[derive(Debug)]
pub(crate) struct Detector {
    watched: BTreeMap<PeerId, Watch>,
    relays: BTreeMap<u32, Relay>,
    doubt: u32,
    period: Duration,
    timeout: Duration,
}

#[derive(Debug)]
struct Watch {
    next_round: Instant,
    round: Option<Round>,
    /// Rounds that failed since the last answer.
    failed: u32,
}

impl Watch {
    fn answered(&mut self) {
        self.round = None;
        self.failed = 0;
    }
}

#[derive(Debug)]
struct Round {
    nonce: u32,
    ends: Instant,
    attempts: u32,
    next_attempt: Instant,
    /// Helpers that were asked and did not say that they heard.
    silent_helpers: u32,
    helped: Helped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Helped {
    NotAsked,
    Asked,
}

#[derive(Debug)]
struct Relay {
    target: PeerId,
    requester: PeerId,
    nonce: u32,
    expires: Instant,
}

impl Detector {
    pub(crate) fn new(config: &Config) -> Self {
        let (period, timeout) = (config.probe_period, config.probe_timeout);
        Detector { watched: BTreeMap::new(), relays: BTreeMap::new(), doubt: 0, period, timeout }
    }

    /// Probes under way for others.
    pub(crate) fn relays(&self) -> usize {
        self.relays.len()
    }

    /// Begins to probe a neighbour, at once.
    pub(crate) fn watch(&mut self, peer: PeerId, now: Instant) {
        self.watched.entry(peer).or_insert(Watch { next_round: now, round: None, failed: 0 });
    }

    /// No longer probes a neighbour.
    pub(crate) fn unwatch(&mut self, peer: PeerId) {
        self.watched.remove(&peer);
    }

    /// A neighbour probes us, so it lives; our answer tells it of us what a probe would. Our own next round waits a little longer than it
    /// needs for its next: of two neighbours one probes, for both.
    pub(crate) fn handle_probe(&mut self, from: PeerId, now: Instant) {
        if let Some(watch) = self.watched.get_mut(&from)
            && watch.round.is_none()
        {
            watch.next_round = now + self.period + self.period / EARLY;
        }
    }

    /// One plus the doubt in oneself.
    pub(crate) fn multiplier(&self) -> u32 {
        1 + self.doubt
    }

    /// Somebody accused us wrongly: perhaps it is us that is slow.
    pub(crate) fn doubt(&mut self) {
        self.doubt = (self.doubt + 1).min(MAX_DOUBT);
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant, rng: &mut Rng) -> Vec<Action> {
        self.relays.retain(|_, relay| relay.expires > now);
        let (period, timeout) = (self.period * self.multiplier(), self.timeout);
        let mut actions = Vec::new();
        let mut doubts = 0;
        let idle = |watch: &Watch| watch.round.as_ref().is_none_or(|round| round.ends <= now);
        let begins = self.watched.values().any(|watch| idle(watch) && watch.next_round <= now);
        let (due, next) = match begins {
            true => (now + period / EARLY, now + rng.jitter(period)),
            false => (now, now),
        };
        for (&peer, watch) in &mut self.watched {
            if let Some(round) = &watch.round
                && round.ends <= now
            {
                // Helpers that heard us show that the trouble is elsewhere.
                doubts += match round.helped {
                    Helped::NotAsked => 1,
                    Helped::Asked => round.silent_helpers,
                };
                watch.round = None;
                watch.failed += 1;
                if watch.failed >= ROUNDS {
                    actions.push(Action::Failed { peer });
                }
            }
            match &mut watch.round {
                None if begins && watch.next_round <= due => {
                    let nonce = rng.next() as u32;
                    watch.next_round = next;
                    watch.round = Some(Round {
                        nonce,
                        ends: watch.next_round,
                        attempts: 1,
                        next_attempt: now + timeout,
                        silent_helpers: 0,
                        helped: Helped::NotAsked,
                    });
                    actions.push(Action::Probe { to: peer, nonce });
                }
                Some(round) if round.next_attempt <= now && round.attempts < ATTEMPTS => {
                    let nonce = round.nonce;
                    round.attempts += 1;
                    round.next_attempt = now + timeout;
                    actions.push(Action::Probe { to: peer, nonce });
                    if round.helped == Helped::NotAsked {
                        actions.push(Action::AskHelpers { target: peer, nonce });
                    }
                }
                Some(_) | None => {}
            }
        }
        self.doubt = (self.doubt + doubts).min(MAX_DOUBT);
        actions
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let watches = self.watched.values().map(|watch| match &watch.round {
            None => watch.next_round,
            Some(round) if round.attempts < ATTEMPTS => round.next_attempt.min(round.ends),
            Some(round) => round.ends,
        });
        watches.min()
    }

    /// So many helpers were asked about `target`.
    pub(crate) fn asked(&mut self, target: PeerId, helpers: u32) {
        if let Some(round) = self.watched.get_mut(&target).and_then(|watch| watch.round.as_mut())
            && helpers > 0
        {
            (round.helped, round.silent_helpers) = (Helped::Asked, helpers);
        }
    }

    /// A probe came back from `from`.
    pub(crate) fn handle_ack(&mut self, from: PeerId, nonce: u32) -> Answer {
        if let Some(watch) = self.watched.get_mut(&from)
            && watch.round.as_ref().is_some_and(|round| round.nonce == nonce)
        {
            watch.answered();
            self.doubt = self.doubt.saturating_sub(1);
            return Answer::Ours;
        }
        match self.relays.get(&nonce) {
            Some(relay) if relay.target == from => {
                let answer = Answer::Relay { to: relay.requester, nonce: relay.nonce };
                self.relays.remove(&nonce);
                answer
            }
            Some(_) | None => Answer::Stray,
        }
    }

    /// A helper got an answer. The nonce tells whose; it is only known to helpers that were asked.
    pub(crate) fn handle_relayed_ack(&mut self, nonce: u32) -> Option<PeerId> {
        let (&peer, watch) = self.round_of(nonce)?;
        watch.answered();
        self.doubt = self.doubt.saturating_sub(1);
        Some(peer)
    }

    /// A helper heard us.
    pub(crate) fn handle_nack(&mut self, nonce: u32) {
        if let Some((_, watch)) = self.round_of(nonce)
            && let Some(round) = &mut watch.round
        {
            round.silent_helpers = round.silent_helpers.saturating_sub(1);
        }
    }

    /// Begins a probe on behalf of `requester`. Gives back its nonce, or nothing when too many are under way.
    pub(crate) fn relay(
        &mut self,
        requester: PeerId,
        target: PeerId,
        nonce: u32,
        now: Instant,
        rng: &mut Rng,
    ) -> Option<u32> {
        if self.relays.len() >= MAX_RELAYS {
            return None;
        }
        let ours = rng.next() as u32;
        self.relays.insert(ours, Relay { target, requester, nonce, expires: now + self.period });
        Some(ours)
    }

    fn round_of(&mut self, nonce: u32) -> Option<(&PeerId, &mut Watch)> {
        self.watched
            .iter_mut()
            .find(|(_, watch)| watch.round.as_ref().is_some_and(|round| round.nonce == nonce))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: PeerId = PeerId([1; 16]);
    const HELPER: PeerId = PeerId([2; 16]);

    fn start() -> (Detector, Rng, Instant) {
        let now = Instant::now();
        let mut detector = Detector::new(&Config::default());
        detector.watch(PEER, now);
        (detector, Rng::new(1), now)
    }

    /// `helpers` of those that are asked hear us and hear nothing of the peer.
    fn run_until_failed(detector: &mut Detector, rng: &mut Rng, start: Instant, helpers: u32) -> Vec<Action> {
        let (mut all, mut now) = (Vec::new(), start);
        while !all.contains(&Action::Failed { peer: PEER }) {
            now = detector.poll_timeout().expect("something is watched").max(now);
            let actions = detector.handle_timeout(now, rng);
            for action in &actions {
                if let Action::AskHelpers { target, nonce } = *action {
                    detector.asked(target, helpers);
                    (0..helpers).for_each(|_| detector.handle_nack(nonce));
                }
            }
            all.extend(actions);
        }
        all
    }

    #[test]
    fn silence_is_probed_repeatedly_then_reported() {
        let (mut detector, mut rng, now) = start();
        let actions = run_until_failed(&mut detector, &mut rng, now, 0);
        let nonces = actions.iter().filter_map(|action| match action {
            Action::Probe { nonce, .. } => Some(*nonce),
            Action::AskHelpers { .. } | Action::Failed { .. } => None,
        });
        let nonces: Vec<u32> = nonces.collect();
        assert_eq!(nonces[..3], [nonces[0]; 3], "{actions:?}");
        assert_eq!(nonces[3..6], [nonces[3]; 3], "{actions:?}");
        assert_ne!(nonces[0], nonces[3], "two rounds before anybody is accused");
        assert!(actions.iter().any(|action| matches!(action, Action::AskHelpers { .. })));
        assert_eq!(detector.multiplier(), 3, "without helpers the fault may be ours");
    }

    #[test]
    fn one_lost_round_accuses_nobody() {
        let (mut detector, mut rng, start) = start();
        let mut now = start;
        let mut rounds = 0;
        let mut last = 0;
        while rounds < 20 {
            now = detector.poll_timeout().expect("something is watched").max(now);
            for action in detector.handle_timeout(now, &mut rng) {
                match action {
                    Action::Probe { nonce, .. } if nonce != last => {
                        last = nonce;
                        rounds += 1;
                        if rounds % 2 == 0 {
                            assert_eq!(detector.handle_ack(PEER, nonce), Answer::Ours);
                        }
                    }
                    Action::Probe { .. } | Action::AskHelpers { .. } => {}
                    Action::Failed { .. } => panic!("accused after round {rounds}"),
                }
            }
        }
    }

    #[test]
    fn of_two_neighbours_one_probes_for_both() {
        let (mut one, mut rng, start) = start();
        let mut other = Detector::new(&Config::default());
        other.watch(HELPER, start + Duration::from_millis(10));
        let (mut now, mut probes) = (start, 0);
        while now < start + Duration::from_secs(100) {
            let next = one.poll_timeout().min(other.poll_timeout());
            now = next.expect("both watch").max(now);
            for (this, that, me, peer) in [(0, 1, HELPER, PEER), (1, 0, PEER, HELPER)] {
                let both = [&mut one, &mut other];
                for action in both[this].handle_timeout(now, &mut rng) {
                    let Action::Probe { nonce, .. } = action else { panic!("{action:?}") };
                    probes += 1;
                    both[that].handle_probe(me, now);
                    assert_eq!(both[this].handle_ack(peer, nonce), Answer::Ours);
                }
            }
        }
        assert!((100..140).contains(&probes), "{probes} in 100 s");
    }

    #[test]
    fn an_answer_ends_the_round() {
        let (mut detector, mut rng, now) = start();
        let [Action::Probe { nonce, .. }] = detector.handle_timeout(now, &mut rng)[..] else {
            panic!("one probe")
        };
        assert_eq!(detector.handle_ack(HELPER, nonce), Answer::Stray, "somebody else cannot answer");
        assert_eq!(detector.handle_ack(PEER, nonce), Answer::Ours);
        assert_eq!(detector.handle_ack(PEER, nonce), Answer::Stray);
    }

    #[test]
    fn rounds_of_several_neighbours_begin_together() {
        let (mut detector, mut rng, start) = start();
        let mut now = start;
        for late in 0..8u8 {
            detector.watch(PeerId([10 + late; 16]), start + Duration::from_millis(110) * u32::from(late));
        }
        let mut turns = 0;
        let mut probes = 0;
        while now < start + Duration::from_secs(60) {
            now = detector.poll_timeout().expect("something is watched").max(now);
            let actions = detector.handle_timeout(now, &mut rng);
            turns += u32::from(now > start + Duration::from_secs(10));
            for action in actions {
                let Action::Probe { to, nonce } = action else { panic!("{action:?}") };
                probes += 1;
                assert_eq!(detector.handle_ack(to, nonce), Answer::Ours);
            }
        }
        assert!(turns < 70, "{turns} turns in 50 s");
        assert!((9 * 45..9 * 75).contains(&probes), "{probes} probes of 9 neighbours in 60 s");
    }

    #[test]
    fn helpers_that_hear_us_take_the_doubt_away() {
        let (mut detector, mut rng, now) = start();
        run_until_failed(&mut detector, &mut rng, now, 2);
        assert_eq!(detector.multiplier(), 1);
    }

    #[test]
    fn a_relay_hands_the_answer_to_whom_it_belongs() {
        let (mut detector, mut rng, now) = start();
        let ours = detector.relay(HELPER, PEER, 77, now, &mut rng).unwrap();
        assert_eq!(detector.handle_ack(HELPER, ours), Answer::Stray);
        assert_eq!(detector.handle_ack(PEER, ours), Answer::Relay { to: HELPER, nonce: 77 });
        let started = (0..1000).filter(|&n| detector.relay(HELPER, PEER, n, now, &mut rng).is_some()).count();
        assert_eq!(started, MAX_RELAYS);
    }
}
