//! Claims that skip what a peer has heard: they count when deeds or the owner confirm them, and deeds are no offers (ADR 0011).

use std::time::{Duration, Instant};

use gossip::{Kind, PeerId, RecordKey};
use ipam::{BlockRecord, Config, Ipam};

use crate::behaviour::{fabric, founder, peer};

/// What `ipam` has published about blocks, oldest first. All of it is durable.
fn published(ipam: &mut Ipam) -> Vec<(RecordKey, Option<Vec<u8>>)> {
    while ipam.poll_persist().is_some() {}
    let all = std::iter::from_fn(|| ipam.poll_publish()).filter(|publish| publish.key.kind == Kind::BLOCK);
    all.map(|publish| (publish.key, publish.value)).collect()
}

#[test]
fn a_deed_connects_a_claim_and_offers_nothing() {
    let now = Instant::now();
    let (mut giver, mut taker) = (founder("10.0.0.0/24", now), joiner(2, now));
    let old = published(&mut giver);
    for (key, value) in &old {
        taker.handle_record(peer(1), key, value.as_deref(), now).unwrap();
    }
    giver.handover(peer(2), now).unwrap();
    for (key, value) in published(&mut giver) {
        taker.handle_record(peer(1), &key, value.as_deref(), now).unwrap();
    }
    assert_eq!(taker.own_blocks(), ["10.0.0.0/24".parse().unwrap()]);
    let claims = published(&mut taker);
    for (key, value) in &claims {
        giver.handle_record(peer(2), key, value.as_deref(), now).unwrap();
    }
    let deeds = published(&mut giver);
    let (_, last) = deeds.last().expect("a deed");
    assert!(
        last.as_deref().is_some_and(|value| BlockRecord::decode(value).is_err()),
        "it is no record of a block"
    );

    // The recipient's disk goes back to before the gift, and the deed comes first.
    let mut again = joiner(2, now);
    let mut away = joiner(3, now);
    for ipam in [&mut again, &mut away] {
        for (key, value) in old.iter().chain(&deeds) {
            ipam.handle_record(peer(1), key, value.as_deref(), now).unwrap();
        }
        assert_eq!((ipam.own_blocks().len(), ipam.peer_of([10, 0, 0, 9].into())), (0, Some(peer(1))));
    }
    assert_eq!(published(&mut again), [], "it takes nothing up");
    // Whoever was away sees by the deed that the claim is right; nobody has to be asked.
    for (key, value) in &claims {
        away.handle_record(peer(2), key, value.as_deref(), now).unwrap();
    }
    assert_eq!(away.peer_of([10, 0, 0, 9].into()), Some(peer(2)));
    assert_eq!((away.stats().records_unconnected, away.stats().asked_owners), (0, 0));
}

fn joiner(n: u8, now: Instant) -> Ipam {
    Ipam::new(Config::new("10.0.0.0/24".parse().unwrap()), peer(n), u64::from(n), now)
}

#[test]
fn a_gift_of_an_earlier_life_is_remembered_by_its_deed() {
    let now = Instant::now();
    let mut ipam = founder("10.0.0.0/24", now);
    published(&mut ipam);
    ipam.handover(peer(2), now).unwrap();
    let gift = published(&mut ipam);
    let claim = BlockRecord { prefix: "10.0.0.0/24".parse().unwrap(), owner: peer(2), epoch: 3 };
    ipam.handle_record(peer(2), &claim.key(), Some(&claim.encode()), now).unwrap();
    let deed = published(&mut ipam);
    assert_ne!(gift, deed);
    // The disk goes back to before the gift, and the own deed comes back.
    let mut again = founder("10.0.0.0/24", now);
    published(&mut again);
    for (key, value) in &deed {
        again.handle_record(peer(1), key, value.as_deref(), now).unwrap();
    }
    assert_eq!(again.own_blocks(), []);
    assert_eq!(published(&mut again), deed, "it is said again as a deed, not as an offer");
}

#[test]
fn a_claim_that_skips_epochs_wins_nothing_from_who_was_away() {
    let mut world = fabric("10.0.0.0/24", 3);
    let (victim, away) = (world.hosts[1].id, 2);
    let theirs = world.ipam(1).own_blocks();
    let block = theirs[0];
    world.crash(away);
    world.run(Duration::from_secs(3));
    world.restart(away);
    // Peer 9 says that it had it for long, and gives it to whoever was away.
    for (owner, epoch) in [(peer(9), 40), (world.hosts[away].id, 41)] {
        let lie = BlockRecord { prefix: block, owner, epoch };
        world.with(away, |ipam, now| ipam.handle_record(peer(9), &lie.key(), Some(&lie.encode()), now));
    }
    assert_eq!(world.ipam(away).peer_of(block.addr()), Some(victim));
    assert_eq!(world.ipam(away).stats().records_unconnected, 2);
    // `run` checks that nobody is said to lie: until the owner was asked nobody knows.
    let asked = world.ipam(away).poll_timeout().map(|(_, why)| why);
    assert!(asked.is_some());
    assert_eq!(world.ipam(1).own_blocks(), theirs);
}

#[test]
fn who_missed_what_no_deed_tells_of_asks_the_owner() {
    let mut world = fabric("10.0.0.0/24", 3);
    let block = world.ipam(1).own_blocks()[0];
    world.crash(2);
    world.with(1, |ipam, now| ipam.handover(ipam_other(ipam), now).unwrap());
    // Longer than deeds stay published.
    world.run(Duration::from_secs(700));
    world.restart(2);
    world.run(Duration::from_secs(30));
    assert_eq!(world.ipam(2).peer_of(block.addr()), world.ipam(0).peer_of(block.addr()));
    assert_ne!(world.ipam(2).peer_of(block.addr()), Some(world.hosts[1].id));
    assert!(world.ipam(2).stats().asked_owners > 0);
}

/// Somebody else who owns space.
fn ipam_other(ipam: &Ipam) -> PeerId {
    ipam.blocks().map(|block| block.owner).find(|owner| *owner != ipam.me()).unwrap()
}
