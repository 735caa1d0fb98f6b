//! What happens in a healthy fabric: sessions come, last, move, and go.

use std::time::Duration;

use crate::core::hello::Capabilities;
use crate::core::session::{
    Channel, Cipher, ConnectionState, DownReason, DropReason, Failure, Newer, Refusal, SessionEvent, Want,
};

use super::world::{FAIR, FOUL, Spec, World, advert, carries, member};

const MINUTE: Duration = Duration::from_secs(60);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Two members that know of each other; the first wants the second.
fn wanted_pair(seed: u64, weather: super::world::Weather) -> World {
    let mut world = World::new(seed, weather);
    world.add(member(1));
    world.add(member(2));
    world.introduce(0, 1);
    let other = world.id(1);
    world.with(0, |sessions, now| sessions.want(other, Want::Gossip, now));
    world
}

#[test]
fn a_wanted_peer_gets_a_session_and_lanes() {
    let mut world = wanted_pair(1, FAIR);
    let took = world.run_until(MINUTE, |w| w.is_up(0, 1) && w.has_lanes(0, 1));
    assert!(took < Duration::from_millis(100), "took {took:?}");
    for (a, b) in [(0, 1), (1, 0)] {
        let tx = &world.nodes[a].tx[&world.id(b)];
        let rx = &world.nodes[b].rx[&tx.lane];
        assert!(carries(tx, rx));
        assert_eq!(tx.cipher, Cipher::Aes256Gcm);
    }
    let forth = &world.nodes[0].tx[&world.id(1)].key;
    let back = &world.nodes[1].tx[&world.id(0)].key;
    assert!(forth != back, "one key for both directions");
    let row = world.nodes[0].sessions.connections().next().expect("a row");
    assert_eq!(row.state, ConnectionState::Ready);
}

#[test]
fn a_target_finds_its_peer_and_keeps_it() {
    for seed in 0..5 {
        let mut world = World::new(seed, FOUL);
        world.add(member(1));
        world.add(member(2));
        let address = world.address(1);
        world.with(0, |sessions, now| sessions.connect_address(address, now));
        world.run_until(MINUTE, |w| w.is_up(0, 1) && w.has_lanes(0, 1));
        assert!(world.has_lanes(0, 1), "seed {seed}");
        world.run(10 * MINUTE);
        assert!(world.is_up(0, 1) && world.nodes[0].downs.is_empty(), "seed {seed}");
        assert_eq!(world.nodes[0].sessions.connections().count(), 1);
    }
}

#[test]
fn a_bad_network_delays_and_never_breaks() {
    for seed in 0..10 {
        let mut world = wanted_pair(seed, FOUL);
        world.run_until(MINUTE, |w| w.is_up(0, 1) && w.has_lanes(0, 1));
        assert!(world.has_lanes(0, 1), "seed {seed}");
        let before = world.nodes[0].switches;
        // Every step checks that each sending lane has its receiver.
        world.run(10 * MINUTE);
        assert!(world.is_up(0, 1), "seed {seed}");
        assert!(world.nodes[0].downs.is_empty(), "seed {seed}: {:?}", world.nodes[0].downs);
        assert!(world.nodes[0].switches >= before + 4, "seed {seed}: lanes were not renewed");
    }
}

#[test]
fn simultaneous_open_converges_to_one_session() {
    for seed in 0..20 {
        let mut world = wanted_pair(seed, if seed % 2 == 0 { FAIR } else { FOUL });
        let first = world.id(0);
        world.with(1, |sessions, now| sessions.want(first, Want::Gossip, now));
        world.run_until(MINUTE, |w| w.is_up(0, 1) && w.has_lanes(0, 1));
        assert!(world.has_lanes(0, 1), "seed {seed}");
        world.run(MINUTE);
        assert!(world.nodes.iter().all(|node| node.downs.is_empty()), "seed {seed}");
    }
}

#[test]
fn five_peers_make_a_full_mesh() {
    let mut world = World::new(7, FOUL);
    for seed in 1..=5 {
        world.add(member(seed));
    }
    for a in 0..5 {
        for b in 0..a {
            world.introduce(a, b);
            let other = world.id(b);
            world.with(a, |sessions, now| sessions.want(other, Want::Gossip, now));
        }
    }
    let all = |w: &World| (0..5).all(|a| (0..a).all(|b| w.has_lanes(a, b)));
    world.run_until(MINUTE, all);
    assert!(all(&world));
}

#[test]
fn a_killed_peer_is_back_within_two_seconds_of_speaking() {
    for (seed, killed) in [(1, 0), (2, 1), (3, 0), (4, 1)] {
        let mut world = wanted_pair(seed, FAIR);
        let other = 1 - killed;
        world.run(seconds(10));
        world.restart(killed, member(u8::try_from(killed + 1).expect("small")));
        let address = world.address(other);
        let switches = world.nodes[other].switches;
        world.with(killed, |sessions, now| sessions.connect_address(address, now));
        let back = |w: &World| w.is_up(0, 1) && w.nodes[other].switches > switches && w.has_lanes(0, 1);
        let took = world.run_until(MINUTE, back);
        assert!(took < seconds(2), "seed {seed}: took {took:?}");
        world.run(5 * MINUTE);
        assert_eq!(world.nodes[other].downs, vec![DownReason::PeerRestarted]);
        assert!(world.is_up(0, 1));
    }
}

#[test]
fn messages_arrive_whole_and_wait_for_the_session() {
    let mut world = World::new(3, FAIR);
    world.add(member(1));
    world.add(member(2));
    world.introduce(0, 1);
    let (first, second) = (world.id(0), world.id(1));
    let long: Vec<u8> = (0..65_536u32).map(|i| (i % 253) as u8).collect();
    for message in [long.clone(), b"short".to_vec(), Vec::new()] {
        world.with(0, |sessions, now| sessions.send(second, Channel::Ipam, message, now));
    }
    world.run(seconds(5));
    world.with(1, |sessions, now| sessions.send(first, Channel::Ping, vec![1], now));
    world.run(seconds(1));
    let mut got: Vec<Vec<u8>> = world.nodes[1].messages.iter().map(|(_, _, bytes)| bytes.clone()).collect();
    got.sort_by_key(Vec::len);
    assert_eq!(got, vec![Vec::new(), b"short".to_vec(), long]);
    assert_eq!(world.nodes[0].messages, vec![(second, Channel::Ping, vec![1])]);
    let long = vec![0; 65_537];
    world.with(0, |sessions, now| sessions.send(second, Channel::Ipam, long, now));
    assert_eq!(world.nodes[0].sessions.dropped(DropReason::MessageTooLong), 1);
}

#[test]
fn the_queue_of_an_unreachable_peer_is_bounded_and_expires() {
    let mut world = World::new(3, FAIR);
    world.add(member(1));
    world.add(member(2));
    world.introduce(0, 1);
    world.cut.insert((0, 1));
    let second = world.id(1);
    for _ in 0..100 {
        world.with(0, |sessions, now| sessions.send(second, Channel::Gossip, vec![0; 100], now));
    }
    assert_eq!(world.nodes[0].sessions.dropped(DropReason::QueueFull), 36);
    world.run(MINUTE);
    assert_eq!(world.nodes[0].sessions.dropped(DropReason::QueueExpired), 64);
}

#[test]
fn silence_ends_a_session_and_it_comes_back() {
    let mut world = wanted_pair(5, FAIR);
    world.run(seconds(10));
    world.cut.insert((0, 1));
    let took = world.run_until(MINUTE, |w| !w.nodes[0].downs.is_empty());
    assert!((seconds(9)..seconds(16)).contains(&took), "took {took:?}");
    assert_eq!(world.nodes[0].downs, vec![DownReason::Silent]);
    world.run(5 * MINUTE);
    let row = world.nodes[0].sessions.connections().next().expect("a row");
    assert_eq!(row.state, ConnectionState::Failed);
    let address = world.address(1);
    assert_eq!(row.reason, Some(format!("no answer to HELLO from {address}")));
    assert!(row.next_retry.is_some_and(|at| at > world.now && at <= world.now + seconds(75)));
    world.cut.clear();
    world.run_until(2 * MINUTE, |w| w.is_up(0, 1));
    assert!(world.is_up(0, 1));
}

#[test]
fn new_addresses_are_tried_at_once() {
    let mut world = wanted_pair(5, FAIR);
    let (second, public) = (world.id(1), world.nodes[1].public());
    let nowhere = "10.9.9.9:6783".parse().expect("an address");
    let right = world.address(1);
    world.cut.insert((0, 1));
    world.with(0, |sessions, now| sessions.set_peer(second, advert(public, vec![nowhere]), now));
    world.run(5 * MINUTE);
    world.cut.clear();
    world.with(0, |sessions, now| sessions.set_peer(second, advert(public, vec![nowhere, right]), now));
    let took = world.run_until(MINUTE, |w| w.is_up(0, 1));
    assert!(took < seconds(1), "took {took:?}");
}

#[test]
fn a_peer_without_address_says_so() {
    let mut world = World::new(1, FAIR);
    world.add(member(1));
    world.add(member(2));
    let (second, public) = (world.id(1), world.nodes[1].public());
    world.with(0, |sessions, now| sessions.set_peer(second, advert(public, Vec::new()), now));
    world.with(0, |sessions, now| sessions.want(second, Want::Traffic, now));
    world.run(seconds(1));
    let said =
        |event: &SessionEvent| matches!(event, SessionEvent::Unreachable { failure: Failure::NoAddress, .. });
    assert!(world.nodes[0].events.iter().any(said));
}

#[test]
fn an_unused_session_is_closed_and_a_used_one_is_not() {
    let mut world = World::new(9, FAIR);
    world.add(member(1));
    world.add(member(2));
    world.introduce(0, 1);
    let second = world.id(1);
    world.with(0, |sessions, now| sessions.want(second, Want::Traffic, now));
    let first = world.id(0);
    for _ in 0..10 {
        world.run(seconds(59));
        world.with(1, |sessions, now| sessions.note_traffic(first, now));
        world.run(seconds(1));
        world.with(0, |sessions, now| sessions.note_traffic(second, now));
    }
    assert!(world.is_up(0, 1));
    world.run(6 * MINUTE);
    assert!(!world.is_up(0, 1) && world.nodes[0].rx.is_empty() && world.nodes[1].rx.is_empty());
    let reasons = [world.nodes[0].downs[0], world.nodes[1].downs[0]];
    assert!(reasons.contains(&DownReason::Idle) && reasons.contains(&DownReason::PeerIdle), "{reasons:?}");
    world.run(10 * MINUTE);
    assert_eq!(world.nodes[0].downs.len(), 1, "nothing wants it again");
}

#[test]
fn a_session_that_only_carried_messages_is_closed_sooner() {
    let mut world = World::new(9, FAIR);
    world.add(member(1));
    world.add(member(2));
    world.introduce(0, 1);
    let second = world.id(1);
    world.with(0, |sessions, now| sessions.send(second, Channel::Ipam, vec![1], now));
    world.run(seconds(50));
    assert!(world.is_up(0, 1));
    world.run(seconds(20));
    assert!(!world.is_up(0, 1), "nobody asks again");
    world.with(0, |sessions, now| sessions.send(second, Channel::Ipam, vec![1], now));
    world.run(seconds(10));
    let first = world.id(0);
    world.with(0, |sessions, now| sessions.note_traffic(second, now));
    world.with(1, |sessions, now| sessions.note_traffic(first, now));
    world.run(2 * MINUTE);
    assert!(world.is_up(0, 1), "it carries frames");
}

#[test]
fn a_session_that_the_peer_wants_is_not_idle() {
    let mut world = wanted_pair(9, FAIR);
    world.run(12 * MINUTE);
    assert!(world.is_up(0, 1) && world.nodes[1].downs.is_empty());
}

#[test]
fn leaving_tells_the_others() {
    let mut world = wanted_pair(9, FAIR);
    world.run(seconds(5));
    world.with(1, |sessions, now| sessions.leave(now));
    world.run(seconds(1));
    assert_eq!(world.nodes[0].downs, vec![DownReason::PeerLeft]);
    assert_eq!(world.nodes[1].downs, vec![DownReason::Leaving]);
}

#[test]
fn the_address_follows_authenticated_datagrams() {
    let mut world = wanted_pair(11, FAIR);
    world.run(seconds(5));
    let elsewhere = "10.0.7.7:1234".parse().expect("an address");
    world.nodes[1].address = elsewhere;
    // The longest that it may be until its turn to ping.
    world.run(seconds(8));
    let second = world.id(1);
    assert_eq!(world.nodes[0].sessions.address(second), Some(elsewhere));
    assert!(world.nodes[0].downs.is_empty());
}

#[test]
fn round_trips_are_measured_and_addresses_observed() {
    let mut world = wanted_pair(11, FAIR);
    world.run(MINUTE);
    let row = world.nodes[0].sessions.connections().next().expect("a row");
    assert_eq!(row.rtt, Some(Duration::from_millis(10)));
    let ours = world.address(0);
    let seen = |event: &SessionEvent| matches!(event, SessionEvent::Observed { our_address, .. } if *our_address == ours);
    assert!(world.nodes[0].events.iter().any(seen));
}

#[test]
fn sessions_at_rest_take_turns_and_share_wake_ups() {
    const OTHERS: usize = 20;
    let mut world = World::new(5, FAIR);
    world.add(member(1));
    for other in 1..=OTHERS {
        world.add(member(u8::try_from(other + 1).expect("small")));
        world.introduce(0, other);
        let id = world.id(other);
        world.with(0, |sessions, now| sessions.want(id, Want::Gossip, now));
        // Not all at once, as in life.
        world.run(Duration::from_millis(130));
    }
    world.run(seconds(30));
    let before = world.record.len();
    world.run(MINUTE);
    let sent = &world.record[before..];
    // A ping and its answer every five seconds, or six on the beat, where both sides pinging every five would make 960.
    assert!((380..=500).contains(&sent.len()), "{} datagrams", sent.len());
    let me = world.address(0);
    let turns: std::collections::BTreeSet<_> =
        sent.iter().filter(|sent| sent.from == me).map(|sent| sent.at).collect();
    let answered = sent.iter().filter(|sent| sent.to == me).count() / 2;
    assert!(turns.len() <= 60 + answered, "{} turns", turns.len());
    for other in 1..=OTHERS {
        assert!(world.is_up(0, other));
        assert_eq!(
            world.nodes[other].sessions.connections().next().and_then(|row| row.rtt),
            Some(seconds(1) / 100)
        );
    }
}

#[test]
fn aes_needs_both_sides() {
    let none = Capabilities::default();
    let cases = [(Capabilities::AES, none), (none, Capabilities::AES), (none, none)];
    for (a, b) in cases {
        let mut world = World::new(2, FAIR);
        world.add(Spec { capabilities: a, ..member(1) });
        world.add(Spec { capabilities: b, ..member(2) });
        let address = world.address(1);
        world.with(0, |sessions, now| sessions.connect_address(address, now));
        world.run(seconds(2));
        let tx = &world.nodes[0].tx[&world.id(1)];
        assert_eq!(tx.cipher, Cipher::ChaCha20Poly1305);
        assert!(carries(tx, &world.nodes[1].rx[&tx.lane]));
    }
}

#[test]
fn dialling_oneself_is_remembered_and_not_repeated() {
    let mut world = World::new(2, FAIR);
    world.add(member(1));
    let address = world.address(0);
    world.with(0, |sessions, now| sessions.connect_address(address, now));
    world.run(10 * MINUTE);
    assert_eq!(world.record.len(), 1);
    let row = world.nodes[0].sessions.connections().next().expect("a row");
    assert_eq!(row.state, ConnectionState::Ourselves);
}

#[test]
fn the_newer_of_two_clones_stops() {
    for older in [0, 1] {
        for dialler in [0, 1] {
            let mut world = World::new(2, FAIR);
            world.add(member(1));
            world.run(MINUTE);
            world.add(member(1));
            // The addresses are what counts; swap them so that the older is met both ways.
            if older == 1 {
                world.nodes.swap(0, 1);
            }
            let address = world.address(1 - dialler);
            world.with(dialler, |sessions, now| sessions.connect_address(address, now));
            world.run(5 * MINUTE);
            let newer = 1 - older;
            assert!(world.nodes[newer].sessions.is_quarantined(), "older {older}, dialler {dialler}");
            assert!(!world.nodes[older].sessions.is_quarantined());
            let said = |event: &SessionEvent| {
                matches!(event, SessionEvent::CloneDetected { newer: Newer::Ours, .. })
            };
            assert_eq!(world.nodes[newer].events.iter().filter(|event| said(event)).count(), 1);
        }
    }
}

#[test]
fn refusals_are_told_to_the_dialler() {
    type Expected = fn(&Refusal) -> bool;
    let cases: [(Spec, Expected); 2] = [
        (Spec { secret: 2, ..member(2) }, |r| matches!(r, Refusal::WrongSecret { .. })),
        (Spec { fabric: 2, ..member(2) }, |r| matches!(r, Refusal::ForeignFabric { .. })),
    ];
    for (spec, expected) in cases {
        let mut world = World::new(2, FAIR);
        world.add(member(1));
        world.add(spec);
        world.introduce(0, 1);
        let second = world.id(1);
        world.with(0, |sessions, now| sessions.want(second, Want::Gossip, now));
        world.run(seconds(5));
        let refused = |event: &SessionEvent| match event {
            SessionEvent::Unreachable { failure: Failure::Refused { refusal, .. }, .. } => expected(refusal),
            _ => false,
        };
        assert!(world.nodes[0].events.iter().any(refused));
        let listed = world.nodes[1].sessions.refused();
        assert!(listed.len() == 1 && listed[0].address == world.address(0) && listed[0].count >= 3);
    }
}

#[test]
fn a_removed_peer_is_refused_with_the_reason() {
    let mut world = wanted_pair(2, FAIR);
    world.run(seconds(5));
    let first = world.id(0);
    world.with(1, |sessions, now| sessions.refuse_peer(first, now));
    world.run(seconds(10));
    assert_eq!(world.nodes[0].downs, vec![DownReason::RemovedByPeer]);
    let row = world.nodes[0].sessions.connections().next().expect("a row");
    assert!(row.reason.is_some_and(|reason| reason.contains("removed from the fabric")));
    assert!(world.nodes[1].up.is_empty());
    world.with(1, |sessions, _| sessions.accept_peer(first));
    world.run_until(2 * MINUTE, |w| w.is_up(0, 1));
    assert!(world.is_up(0, 1));
}

#[test]
fn a_want_before_the_description_is_kept() {
    let mut world = World::new(2, FAIR);
    world.add(member(1));
    world.add(member(2));
    let second = world.id(1);
    world.with(0, |sessions, now| sessions.want(second, Want::Gossip, now));
    world.with(0, |sessions, now| sessions.send(second, Channel::Ipam, vec![1], now));
    assert_eq!(world.nodes[0].sessions.dropped(DropReason::MessageUnknownPeer), 1);
    world.introduce(0, 1);
    world.run(seconds(1));
    assert!(world.is_up(0, 1));
}

#[test]
fn a_session_that_only_one_side_gave_up_is_made_anew() {
    for silenced in [(0, 1), (1, 0)] {
        let mut world = wanted_pair(4, FAIR);
        let first = world.id(0);
        world.with(1, |sessions, now| sessions.want(first, Want::Gossip, now));
        world.run(seconds(10));
        world.deaf.insert(silenced);
        world.run_until(MINUTE, |w| w.nodes.iter().any(|node| !node.downs.is_empty()));
        world.deaf.clear();
        world.run_until(MINUTE, |w| w.is_up(0, 1) && w.has_lanes(0, 1));
        world.run(MINUTE);
        for (a, b) in [(0, 1), (1, 0)] {
            let tx = &world.nodes[a].tx[&world.id(b)];
            assert!(carries(tx, &world.nodes[b].rx[&tx.lane]));
        }
    }
}

#[test]
fn only_listed_drops_happen_in_a_healthy_fabric() {
    for seed in 0..4 {
        let mut world = wanted_pair(seed, FAIR);
        let first = world.id(0);
        world.with(1, |sessions, now| sessions.want(first, Want::Gossip, now));
        world.run(15 * MINUTE);
        for node in &world.nodes {
            let counted: Vec<_> = node.sessions.drops().filter(|(_, count)| *count > 0).collect();
            let healthy = [DropReason::HandshakeCrossed, DropReason::ReplyUnasked, DropReason::LaneStale];
            assert!(counted.iter().all(|(reason, _)| healthy.contains(reason)), "{counted:?}");
        }
    }
}
