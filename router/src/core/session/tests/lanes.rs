//! The lane exchange alone, under every order of duplicates, losses and repetitions.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::world::{Seeded, carries};
use crate::core::fabric::FabricId;
use crate::core::hello::Capabilities;
use crate::core::identity::Identity;
use crate::core::session::lanes::{LaneAction, LaneContext, LaneError, LaneIds, Lanes};
use crate::core::session::random::Random;
use crate::core::session::{Cipher, LaneId, LaneKeys, RxLaneKey, TxLaneKey};

struct Side {
    identity: Identity,
    capabilities: Capabilities,
    lanes: Lanes,
    random: Random,
    ids: LaneIds,
    rx: BTreeMap<LaneId, RxLaneKey>,
    tx: Option<TxLaneKey>,
}

/// Two sides, the first with the lower id, and what is under way to each.
struct Pair {
    sides: [Side; 2],
    flying: [Vec<Vec<u8>>; 2],
    now: Instant,
}

impl Pair {
    fn new(capabilities: [Capabilities; 2]) -> Self {
        let mut identities = [Identity::from_seed([1; 64]), Identity::from_seed([2; 64])];
        identities.sort_by_key(Identity::peer_id);
        let [low, high] = identities;
        let side = |identity, capabilities, seed| {
            let mut stream = Seeded::new(seed);
            let mut random = Random::new(Box::new(move |buffer| stream.fill(buffer)));
            let ids = LaneIds::new(&mut random);
            let (lanes, rx) = (Lanes::default(), BTreeMap::new());
            Side { identity, capabilities, lanes, random, ids, rx, tx: None }
        };
        let sides = [side(low, capabilities[0], 1), side(high, capabilities[1], 2)];
        Self { sides, flying: [Vec::new(), Vec::new()], now: Instant::now() }
    }

    fn with<T>(&mut self, at: usize, run: impl FnOnce(&mut Lanes, &mut LaneContext<'_>, Instant) -> T) -> T {
        let peer = self.sides[1 - at].identity.public();
        let side = &mut self.sides[at];
        let mut actions = Vec::new();
        let mut context = LaneContext {
            fabric: FabricId([1; 16]),
            me: side.identity.peer_id(),
            my_keys: side.identity.public(),
            peer: peer.peer_id(),
            peer_keys: peer,
            capabilities: side.capabilities,
            random: &mut side.random,
            ids: &mut side.ids,
            actions: &mut actions,
        };
        let result = run(&mut side.lanes, &mut context, self.now);
        for action in actions {
            match action {
                LaneAction::Send(message) => self.flying[1 - at].push(message.to_vec()),
                LaneAction::Ready(LaneKeys::Rx(key)) => {
                    assert!(side.rx.insert(key.lane, key).is_none(), "a lane twice");
                }
                LaneAction::Ready(LaneKeys::Tx(key)) => side.tx = Some(key),
                LaneAction::Retire(lane) => assert!(side.rx.remove(&lane).is_some()),
            }
        }
        self.check();
        result
    }

    /// What one side seals the other opens, at every moment.
    fn check(&self) {
        for (from, to) in [(0, 1), (1, 0)] {
            let Some(tx) = &self.sides[from].tx else { continue };
            let rx = self.sides[to].rx.get(&tx.lane).expect("a lane without receiver");
            assert!(tx.key == rx.key && tx.cipher == rx.cipher);
        }
    }

    fn deliver(&mut self, to: usize, which: usize) -> Result<(), LaneError> {
        let message = self.flying[to].remove(which);
        self.with(to, |lanes, context, now| lanes.handle(&message, context, now))
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        for at in 0..2 {
            self.with(at, |lanes, context, now| lanes.handle_timeout(context, now));
        }
    }

    fn start(&mut self) {
        for at in 0..2 {
            self.with(at, |lanes, context, now| lanes.start(context, now));
        }
    }

    fn settle(&mut self) {
        for _ in 0..100 {
            for to in 0..2 {
                while !self.flying[to].is_empty() {
                    let _ = self.deliver(to, 0);
                }
            }
            self.pass(Duration::from_millis(200));
        }
    }
}

#[test]
fn both_sides_get_keys_that_fit_and_the_old_ones_go() {
    let mut pair = Pair::new([Capabilities::AES; 2]);
    for round in 1..=3 {
        pair.start();
        pair.settle();
        for (from, to) in [(0, 1), (1, 0)] {
            let tx = pair.sides[from].tx.as_ref().expect("a key");
            assert!(carries(tx, &pair.sides[to].rx[&tx.lane]));
        }
        assert_eq!(pair.sides[0].lanes.completed(), round);
        assert_eq!(pair.sides[0].rx.len(), 1, "settling takes longer than an old lane lives");
    }
}

#[test]
fn the_higher_id_may_not_offer() {
    let mut pair = Pair::new([Capabilities::AES; 2]);
    pair.start();
    let offer = pair.flying[1][0].clone();
    let result = pair.with(0, |lanes, context, now| lanes.handle(&offer, context, now));
    assert_eq!(result, Err(LaneError::NotYourTurn));
}

#[test]
fn a_changed_message_gives_no_common_key() {
    // Inside a session nobody can change a message; if somebody could, the keys would differ or the exchange would fail.
    for at in [9, 41, 42, 46, 60] {
        let mut pair = Pair::new([Capabilities::AES; 2]);
        pair.start();
        pair.flying[1][0][at] ^= 1;
        let _ = pair.deliver(1, 0);
        let Some(answer) = pair.flying[0].pop() else { continue };
        let side = &mut pair.sides[0];
        let before = side.rx.len();
        let peer = pair.sides[1].identity.public();
        let side = &mut pair.sides[0];
        let mut actions = Vec::new();
        let mut context = LaneContext {
            fabric: FabricId([1; 16]),
            me: side.identity.peer_id(),
            my_keys: side.identity.public(),
            peer: peer.peer_id(),
            peer_keys: peer,
            capabilities: side.capabilities,
            random: &mut side.random,
            ids: &mut side.ids,
            actions: &mut actions,
        };
        let result = side.lanes.handle(&answer, &mut context, pair.now);
        assert_eq!(before, 0);
        for action in actions {
            if let LaneAction::Ready(LaneKeys::Tx(tx)) = action {
                let rx = pair.sides[1].rx.values().next().expect("the answerer has installed one");
                assert!(!carries(&tx, rx), "byte {at}");
            }
        }
        assert!(result.is_ok() || result == Err(LaneError::WrongCipher), "byte {at}: {result:?}");
    }
}

#[test]
fn a_cipher_that_does_not_follow_is_refused() {
    let mut pair = Pair::new([Capabilities::AES; 2]);
    pair.start();
    let _ = pair.deliver(1, 0);
    let mut answer = pair.flying[0][0].clone();
    assert_eq!(answer[42], 1, "the cipher of the answer");
    answer[42] = 2;
    let result = pair.with(0, |lanes, context, now| lanes.handle(&answer, context, now));
    assert_eq!(result, Err(LaneError::WrongCipher));
    assert!(pair.sides[0].tx.is_none());
}

#[test]
fn a_flood_of_offers_holds_a_bounded_number_of_lanes() {
    let mut pair = Pair::new([Capabilities::AES, Capabilities::default()]);
    pair.start();
    pair.settle();
    // The lane in use stays through all of it: `check` sees to that.
    for _ in 0..50 {
        pair.start();
        let last = pair.flying[1].len() - 1;
        let _ = pair.deliver(1, last);
        pair.pass(Duration::from_millis(10));
    }
    assert!(pair.sides[1].rx.len() <= 8);
    pair.settle();
    assert_eq!(pair.sides[1].tx.as_ref().map(|key| key.cipher), Some(Cipher::ChaCha20Poly1305));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// `check` runs after every step.
    #[test]
    fn no_order_of_events_leaves_a_lane_without_receiver(
        steps in proptest::collection::vec((0u8..10, 0usize..2, any::<usize>()), 1..120),
    ) {
        let mut pair = Pair::new([Capabilities::AES; 2]);
        pair.start();
        for (what, to, which) in steps {
            let waiting = pair.flying[to].len();
            match what {
                0 => pair.start(),
                1 => pair.pass(Duration::from_millis(500)),
                2 => pair.pass(Duration::from_secs(4)),
                3 if waiting > 0 => drop(pair.flying[to].remove(which % waiting)),
                4 if waiting > 0 => {
                    let copy = pair.flying[to][which % waiting].clone();
                    pair.flying[to].push(copy);
                }
                _ if waiting > 0 => drop(pair.deliver(to, which % waiting)),
                _ => {}
            }
        }
        pair.settle();
        pair.start();
        pair.settle();
        for side in &pair.sides {
            prop_assert!(side.tx.is_some() && side.rx.len() == 1);
        }
    }
}
