//! Members that lie. Whatever they send, everybody else goes on, tables stay bounded, and the counters tell.

use std::time::{Duration, Instant};

use gossip::wire::{Claim, KeyDigest, Message, Proven, Range, Rumour, proof_bytes};
use gossip::{
    Config, DropReason, Event, Gossip, Kind, MAX_VALUE, MemberState, MessageError, PeerId, Record, RecordKey,
};
use proptest::prelude::*;

use crate::signer::{TestKeys, peer, peer_record, secret_of, sign};
use crate::sim::{Sim, endpoint};
use crate::wire::messages;

const SECOND: Duration = Duration::from_secs(1);

/// Who lies in these tests.
const LIAR: u16 = 1;

#[test]
fn forged_deaths_are_refuted() {
    for claim in [Claim::Dead, Claim::Suspect { by: vec![peer(LIAR), peer(3), peer(4)] }] {
        let mut sim = Sim::fabric(1, 12);
        for _ in 0..5 {
            let incarnation = incarnation_at(&sim, 0, 2);
            let proof = sign(secret_of(2), &proof_bytes(peer(2), incarnation, Proven::Alive));
            let rumour = Rumour { subject: peer(2), incarnation, proof, claim: claim.clone() };
            tell_everyone(&mut sim, &Message::Rumours(vec![rumour]));
            sim.run(SECOND);
        }
        sim.run(20 * SECOND);
        assert_eq!(sim.deaths(), 0, "{}", sim.describe());
        assert!(sim.gossip(2).stats().refutations >= 5);
        assert!(sim.agreed() && sim.converged(), "{}", sim.describe());
    }
}

#[test]
fn nobody_is_accused_in_a_life_that_it_never_had() {
    let mut sim = Sim::fabric(2, 5);
    let before = incarnation_at(&sim, 0, 2);
    let rumour = Rumour { subject: peer(2), incarnation: u64::MAX, proof: [7; 64], claim: Claim::Dead };
    tell_everyone(&mut sim, &Message::Rumours(vec![rumour]));
    sim.run(10 * SECOND);
    assert_eq!(incarnation_at(&sim, 0, 2), before);
    assert_eq!(sim.gossip(2).stats().refutations, 0);
    assert_eq!(sim.gossip(0).stats().dropped(DropReason::BadProof), 1);
    assert_eq!(sim.gossip(2).stats().dropped(DropReason::BadProof), 1);
}

#[test]
fn nobody_says_goodbye_for_another() {
    let mut sim = Sim::fabric(3, 4);
    let incarnation = incarnation_at(&sim, 0, 2);
    // The proof that it lives is everybody's to have. It must not pass for a farewell.
    let proof = sign(secret_of(2), &proof_bytes(peer(2), incarnation, Proven::Alive));
    tell_everyone(
        &mut sim,
        &Message::Rumours(vec![Rumour { subject: peer(2), incarnation, proof, claim: Claim::Left }]),
    );
    sim.run(SECOND);
    assert_eq!(sim.state_at(0, 2), Some(MemberState::Alive));
}

#[test]
fn a_record_signed_by_another_is_quarantined_and_the_link_stays() {
    let mut sim = Sim::fabric(4, 4);
    sim.publish(2, 1, b"true");
    sim.run(SECOND);
    let forged = signed_by(LIAR, record(2, 1, u64::MAX, Some(b"forged")));
    tell_everyone(&mut sim, &Message::Push(vec![forged]));
    sim.run(SECOND);
    for n in [0, 2, 3] {
        assert_eq!(sim.endpoint_at(n, 2, 1).as_deref(), Some(&b"true"[..]));
        let stats = sim.gossip(n).stats();
        assert_eq!(stats.quarantined.get(&(peer(2), DropReason::BadSignature)), Some(&1));
        assert!(sim.gossip(n).neighbours().any(|id| id == peer(LIAR)), "the link is none the worse");
        let notice =
            Event::Quarantined { origin: peer(2), key: endpoint(1), reason: DropReason::BadSignature };
        assert!(sim.hosts[&n].events.iter().any(|(_, event)| *event == notice));
        assert!(!sim.hosts[&n].events.iter().any(|(_, event)| matches!(event, Event::CloneSuspected { .. })));
    }
}

#[test]
fn a_peer_record_with_foreign_keys_introduces_nobody() {
    let mut sim = Sim::fabric(5, 3);
    let mut forged = record(40, 0, 1, Some(&peer_record(LIAR)));
    forged.key = RecordKey::only(Kind::PEER);
    tell_everyone(&mut sim, &Message::Push(vec![signed_by(LIAR, forged)]));
    assert_eq!(sim.gossip(0).stats().dropped(DropReason::BadSignature), 1);
    assert_eq!(sim.state_at(0, 40), None);
}

#[test]
fn values_above_the_limit_are_refused() {
    let mut sim = Sim::fabric(6, 3);
    let long = signed_by(LIAR, record(LIAR, 1, u64::MAX, Some(&[0; MAX_VALUE + 1])));
    tell_everyone(&mut sim, &Message::Push(vec![long]));
    sim.run(SECOND);
    assert_eq!(sim.gossip(0).stats().dropped(DropReason::TooLong), 1);
    assert_eq!(sim.endpoint_at(0, LIAR, 1), None);
}

#[test]
fn a_version_far_ahead_is_its_origins_own_affair() {
    let mut sim = Sim::fabric(7, 3);
    let ahead = signed_by(LIAR, record(LIAR, 1, u64::MAX, Some(b"last word")));
    tell_everyone(&mut sim, &Message::Push(vec![ahead]));
    sim.run(10 * SECOND);
    assert_eq!(sim.endpoint_at(0, LIAR, 1).as_deref(), Some(&b"last word"[..]));
    assert!(sim.agreed(), "even itself survives it: {}", sim.describe());
}

#[test]
fn two_contents_with_one_version_are_noticed_and_settled() {
    let mut sim = Sim::fabric(8, 6);
    let one = signed_by(LIAR, record(LIAR, 1, 9 << 32, Some(b"one")));
    let other = signed_by(LIAR, record(LIAR, 1, 9 << 32, Some(b"other")));
    for (n, record) in [(0, one.clone()), (2, other.clone()), (3, one), (4, other)] {
        tell(&mut sim, n, &Message::Push(vec![record]));
    }
    sim.run(10 * SECOND);
    let noticed: u64 =
        sim.running().iter().map(|n| sim.gossip(*n).stats().dropped(DropReason::Equivocation)).sum();
    assert!(noticed > 0);
    assert!(sim.converged(), "{}", sim.describe());
}

#[test]
fn records_of_unknown_origins_are_parked_within_bounds_and_used_later() {
    let mut sim = Sim::fabric(9, 3);
    tell_everyone(&mut sim, &Message::Push(vec![signed_by(77, record(77, 1, 1, Some(b"early")))]));
    for n in 100..400 {
        let records = (0..4).map(|name| signed_by(n, record(n, name, 1, Some(b"flood")))).collect();
        tell(&mut sim, 0, &Message::Push(records));
    }
    assert!(sim.gossip(0).stats().dropped(DropReason::ParkingFull) > 500);
    let mut introduction = record(77, 0, 2, Some(&peer_record(77)));
    introduction.key = RecordKey::only(Kind::PEER);
    tell(&mut sim, 2, &Message::Push(vec![signed_by(77, introduction)]));
    assert_eq!(sim.endpoint_at(2, 77, 1).as_deref(), Some(&b"early"[..]));
    sim.run(5 * SECOND);
    assert_eq!(sim.endpoint_at(0, 77, 1).as_deref(), Some(&b"early"[..]), "what was shed is found again");
}

#[test]
fn floods_of_every_kind_are_bounded_and_others_are_served() {
    let mut sim = Sim::fabric(10, 5);
    for n in [0, 2, 3, 4] {
        (0..200).for_each(|name| sim.publish(n, name, b"content"));
    }
    sim.run(5 * SECOND);
    let ask_all = Message::Origins { mask: u64::MAX, range: Range::all(), entries: Vec::new() };
    let turned = Range { after: Some(endpoint(9)), upto: Some(endpoint(3)) };
    let entries = vec![KeyDigest { key: endpoint(5), version: u64::MAX, check: 0 }];
    let keys = Message::Keys { origin: peer(2), mask: u16::MAX, range: turned, entries };
    let want = Message::Want { origin: peer(2), keys: (0..60).map(endpoint).collect() };
    let request = Message::ProbeRequest { nonce: 1, target: peer(2) };
    let now = Instant::now();
    sim.with(0, |gossip, at| {
        for _ in 0..3000 {
            for message in [&ask_all, &keys, &want, &request, &Message::Digest { root: 1 }, &Message::Prune] {
                assert_eq!(gossip.handle_message(peer(LIAR), &message.emit(), at), Ok(()));
            }
        }
        assert!(gossip.waiting() < 3000, "{}", gossip.waiting());
        assert!(gossip.stats().dropped(DropReason::CompareBudget) > 1000);
        assert!(gossip.stats().dropped(DropReason::QueueShed) > 1000);
        assert!(gossip.stats().dropped(DropReason::RelayFull) > 1000);
    });
    assert!(now.elapsed() < 20 * SECOND, "every message has its bound");
    sim.publish(0, 1000, b"new");
    sim.run(SECOND);
    assert_eq!(sim.endpoint_at(3, 0, 1000).as_deref(), Some(&b"new"[..]));
    sim.run(30 * SECOND);
    assert_eq!(sim.deaths(), 0, "{}", sim.describe());
}

#[test]
fn messages_without_a_link_and_without_sense_are_counted() {
    let mut sim = Sim::fabric(11, 2);
    let stranger = sim.with(0, |gossip, now| gossip.handle_message(peer(50), &Message::Prune.emit(), now));
    assert_eq!(stranger, Err(MessageError::NoLink { from: peer(50) }));
    let nonsense = sim.with(0, |gossip, now| gossip.handle_message(peer(1), b"\x01\xff\xff", now));
    assert!(matches!(nonsense, Err(MessageError::Decode(_))));
    assert_eq!(sim.gossip(0).stats().dropped(DropReason::NoLink), 1);
    assert_eq!(sim.gossip(0).stats().dropped(DropReason::Malformed), 1);
}

proptest! {
    #[test]
    fn no_message_makes_a_peer_panic(conversation in prop::collection::vec((messages(), 0..3000u64), 1..40)) {
        let mut now = Instant::now();
        let mut gossip = Gossip::new(Config::default(), peer(0), 1, TestKeys::of(0), 1, now);
        gossip.publish(RecordKey::only(Kind::PEER), peer_record(0), now).expect("it fits");
        gossip.handle_link_up(peer(1), now);
        gossip.handle_link_up(peer(2), now);
        for (message, pause) in conversation {
            let _ = gossip.handle_message(peer(1), &message.emit(), now);
            now += Duration::from_millis(pause);
            gossip.handle_timeout(now);
            while gossip.poll_transmit().is_some() {}
            while gossip.poll_event().is_some() {}
        }
    }
}

fn tell(sim: &mut Sim, n: u16, message: &Message) {
    let result = sim.with(n, |gossip, now| gossip.handle_message(peer(LIAR), &message.emit(), now));
    assert!(matches!(result, Ok(()) | Err(MessageError::NoLink { .. })), "{result:?}");
}

fn tell_everyone(sim: &mut Sim, message: &Message) {
    for n in sim.running().into_iter().filter(|n| *n != LIAR) {
        tell(sim, n, message);
    }
}

fn record(origin: u16, name: u32, version: u64, value: Option<&[u8]>) -> Record {
    let value = value.map(Into::into);
    Record { origin: peer(origin), key: endpoint(name), version, value, signature: [0; 64] }
}

fn signed_by(signer: u16, mut record: Record) -> Record {
    record.signature = sign(secret_of(signer), &record.signing_bytes());
    record
}

fn incarnation_at(sim: &Sim, n: u16, other: u16) -> u64 {
    let id: PeerId = peer(other);
    sim.gossip(n).members().find(|member| member.id == id).expect("it is a member").incarnation
}
