//! What others try: replay, damage, spoofing, floods, nonsense.

use std::time::Duration;

use proptest::prelude::*;

use crate::core::hello::{Reject, RejectReason};
use crate::core::session::{DropReason, Want};

use super::world::{FAIR, Sent, World, member};

fn connected(seed: u64) -> World {
    let mut world = World::new(seed, FAIR);
    world.add(member(1));
    world.add(member(2));
    world.introduce(0, 1);
    let other = world.id(1);
    world.with(0, |sessions, now| sessions.want(other, Want::Gossip, now));
    world.run(Duration::from_secs(20));
    assert!(world.has_lanes(0, 1));
    world
}

/// What must not change: who is up, with which lanes, at which address.
fn state(world: &World) -> String {
    let mut text = String::new();
    for node in &world.nodes {
        let rx: Vec<_> = node.rx.keys().collect();
        let tx: Vec<_> = node.tx.values().map(|key| key.lane).collect();
        let addresses: Vec<_> = node.up.keys().map(|peer| node.sessions.address(*peer)).collect();
        text += &format!("{:?} {rx:?} {tx:?} {addresses:?} {}\n", node.up, node.messages.len());
    }
    text
}

fn dropped(world: &World) -> u64 {
    world.nodes.iter().flat_map(|node| node.sessions.drops()).map(|(_, count)| count).sum()
}

#[test]
fn a_replay_of_everything_changes_nothing_and_is_counted() {
    let mut world = connected(1);
    let before = state(&world);
    let record = world.record.clone();
    let elsewhere = "10.6.6.6:666".parse().expect("an address");
    let counted = dropped(&world);
    for sent in &record {
        world.deliver(&Sent { from: elsewhere, ..sent.clone() });
    }
    let requests = record.iter().filter(|sent| sent.bytes[0] == 0x10).count() as u64;
    // A request is answered again, to no use for whoever replays it; everything else is dropped.
    assert_eq!(dropped(&world) - counted, record.len() as u64 - requests);
    assert_eq!(state(&world), before);
    world.run(Duration::from_secs(60));
    assert!(world.is_up(0, 1) && world.nodes.iter().all(|node| node.downs.is_empty()));
}

#[test]
fn a_replay_to_a_restarted_router_makes_no_session() {
    let mut world = connected(2);
    let record = world.record.clone();
    world.cut.insert((0, 1));
    world.restart(1, member(2));
    world.introduce(0, 1);
    let victim = world.address(1);
    for sent in record.iter().filter(|sent| sent.to == victim) {
        world.deliver(sent);
    }
    world.run(Duration::from_secs(30));
    assert!(world.nodes[1].up.is_empty());
}

#[test]
fn every_flipped_bit_is_dropped() {
    let mut world = connected(3);
    let record = world.record.clone();
    let before = state(&world);
    let mut kinds = std::collections::BTreeSet::new();
    for sent in record.iter().filter(|sent| kinds.insert((sent.bytes[0], sent.bytes.len()))) {
        let counted = dropped(&world);
        let mut damaged = 0;
        for bit in 0..sent.bytes.len() * 8 {
            // The magic of all 255 × 4 WireGuard kinds and of HELLO are one bit apart from others, all of which must be dropped too.
            let mut bytes = sent.bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            world.deliver(&Sent { bytes, ..sent.clone() });
            damaged += 1;
        }
        assert_eq!(dropped(&world) - counted, damaged, "kind {:#x}", sent.bytes[0]);
    }
    assert!(kinds.len() >= 6);
    assert_eq!(state(&world), before);
}

#[test]
fn no_answer_is_longer_than_its_question() {
    let mut world = connected(4);
    let mut datagrams = world.record.clone();
    let mut foreign = World::new(5, FAIR);
    foreign.add(super::world::Spec { fabric: 9, ..member(7) });
    foreign.add(super::world::Spec { secret: 9, ..member(8) });
    foreign.add(member(1));
    let victim = world.address(0);
    for node in 0..3 {
        foreign.with(node, |sessions, now| sessions.connect_address(victim, now));
    }
    datagrams.append(&mut foreign.record);
    let spoofed = "10.6.6.6:666".parse().expect("an address");
    for sent in datagrams {
        for node in 0..2 {
            let before = world.record.len();
            let to = world.address(node);
            world.deliver(&Sent { from: spoofed, to, ..sent.clone() });
            let answers: usize = world.record[before..]
                .iter()
                .filter(|answer| answer.to == spoofed)
                .map(|answer| answer.bytes.len())
                .sum();
            assert!(answers <= sent.bytes.len(), "kind {:#x}: {answers}", sent.bytes[0]);
        }
    }
}

#[test]
fn refusals_are_limited_in_rate() {
    let mut world = connected(4);
    let mut foreign = World::new(5, FAIR);
    foreign.add(super::world::Spec { fabric: 9, ..member(7) });
    let victim = world.address(0);
    foreign.with(0, |sessions, now| sessions.connect_address(victim, now));
    let before = world.record.len();
    for _ in 0..1000 {
        world.deliver(&foreign.record[0].clone());
    }
    assert_eq!(world.record.len() - before, 20);
    assert!(world.nodes[0].sessions.refused()[0].count >= 500);
}

#[test]
fn a_flood_of_handshakes_meets_cookies_and_a_true_peer_passes() {
    let mut world = connected(6);
    let init = world.record.iter().find(|sent| sent.bytes[0] == 1).expect("an initiation").clone();
    let spoofed = "10.6.6.6:666".parse().expect("an address");
    for _ in 0..1000 {
        world.deliver(&Sent { from: spoofed, ..init.clone() });
    }
    let target = if init.to == world.address(0) { 0 } else { 1 };
    let under_load = world.nodes[target].sessions.dropped(DropReason::HandshakeUnderLoad);
    assert!(under_load >= 500, "{under_load}");
    world.restart(1 - target, member(u8::try_from(2 - target).expect("small")));
    let address = world.address(target);
    world.with(1 - target, |sessions, now| sessions.connect_address(address, now));
    let start = world.now;
    while !world.is_up(0, 1) && world.now < start + Duration::from_secs(10) {
        for _ in 0..100 {
            world.deliver(&Sent { from: spoofed, ..init.clone() });
        }
        world.run(Duration::from_millis(100));
    }
    assert!(world.is_up(0, 1), "the cookie must let the true peer pass");
}

#[test]
fn a_forged_reject_does_not_keep_the_true_answer_out() {
    let mut world = World::new(8, FAIR);
    world.add(member(1));
    world.add(member(2));
    let address = world.address(1);
    world.with(0, |sessions, now| sessions.connect_address(address, now));
    let hello = world.record[0].clone();
    let fabric = crate::core::fabric::FabricId([1; 16]);
    let reject = Reject::answer(&hello.bytes, RejectReason::Removed, fabric).expect("an answer");
    let bytes = reject.emit(None).as_bytes().to_vec();
    world.deliver(&Sent { from: hello.to, to: hello.from, bytes, ..hello });
    world.run(Duration::from_secs(1));
    assert!(world.is_up(0, 1));
}

#[test]
fn old_hellos_of_ours_do_not_make_a_clone() {
    let mut world = connected(9);
    let ours: Vec<Sent> = world.record.iter().filter(|sent| sent.bytes[0] == 0x10).cloned().collect();
    world.restart(0, member(1));
    let to = world.address(0);
    for sent in ours {
        world.deliver(&Sent { from: "10.6.6.6:666".parse().expect("an address"), to, ..sent });
    }
    world.run(Duration::from_secs(30));
    assert!(!world.nodes[0].sessions.is_quarantined());
    assert!(world.nodes[0].sessions.dropped(DropReason::HelloFromClone) >= 1);
}

#[test]
fn another_version_is_refused_with_ours() {
    let mut world = World::new(8, FAIR);
    world.add(member(1));
    world.add(member(2));
    let address = world.address(1);
    world.cut.insert((0, 1));
    world.with(0, |sessions, now| sessions.connect_address(address, now));
    let hello = world.record[0].clone();
    let mut later = hello.clone();
    later.bytes[1] = 9;
    world.deliver(&later);
    let reject = world.record.last().expect("an answer").clone();
    let parsed = Reject::parse(&reject.bytes).expect("a reject");
    assert_eq!((parsed.reason, parsed.oldest, parsed.newest), (RejectReason::Version, 1, 1));
    world.deliver(&reject);
    world.run(Duration::from_secs(4));
    let row = world.nodes[0].sessions.connections().next().expect("a row");
    let text = format!("refused by {address}: no version in common: it speaks 1 to 1, this router 1");
    assert_eq!(row.reason, Some(text));
}

#[test]
fn a_forged_initiation_leaves_nothing_behind() {
    let mut world = connected(12);
    // Made by another router of the fabric that claims the key of node 0: the timestamp inside does not open.
    let mut foreign = World::new(13, FAIR);
    foreign.add(member(1));
    foreign.add(super::world::Spec { secret: 9, ..member(2) });
    let init = world.record.iter().find(|sent| sent.bytes[0] == 1).expect("an initiation").clone();
    let mut bytes = init.bytes.clone();
    bytes[90] ^= 1;
    let to = init.to;
    let before = dropped(&world);
    world.deliver(&Sent { bytes, to, ..init });
    assert_eq!(dropped(&world), before + 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_at_any_time_are_survived(
        seed in any::<u64>(),
        junk in proptest::collection::vec((0u8..0x24, proptest::collection::vec(any::<u8>(), 0..1300)), 1..40),
        picks in proptest::collection::vec((any::<usize>(), any::<usize>(), any::<u8>()), 1..40),
    ) {
        let mut world = connected(seed);
        let record = world.record.clone();
        for (kind, mut bytes) in junk {
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            for node in 0..2 {
                let to = world.address(node);
                world.deliver(&Sent { to, bytes: bytes.clone(), ..record[0].clone() });
            }
        }
        for (which, at, value) in picks {
            let mut sent = record[which % record.len()].clone();
            let at = at % sent.bytes.len();
            sent.bytes[at] = value;
            sent.bytes.truncate(sent.bytes.len() - usize::from(value) % 3);
            world.deliver(&sent);
        }
        world.run(Duration::from_secs(20));
        prop_assert!(world.is_up(0, 1));
        prop_assert!(world.nodes.iter().all(|node| node.downs.is_empty()));
    }
}
