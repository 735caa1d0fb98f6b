//! What a caller may rely on, one behaviour a test.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use gossip::{Kind, PeerId};
use ipam::{
    AllocateError, BlockRecord, Config, Ipam, JournalEntry, Lease, Owner, Presence, Removal, RemovalRecord,
    Rest, Ticket, Want,
};

use crate::world::{Fate, World};

const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn peer(n: u8) -> PeerId {
    PeerId([n; 16])
}

fn owner(name: &str) -> Owner {
    Owner(name.to_owned())
}

pub(crate) fn founder(range: &str, now: Instant) -> Ipam {
    let mut ipam = Ipam::new(Config::new(range.parse().unwrap()), peer(1), 7, now);
    ipam.found(now);
    ipam
}

/// Asks and takes the answer, which must be there at once.
fn allocate(ipam: &mut Ipam, holder: &str, want: Want, now: Instant) -> Result<Ipv4Addr, AllocateError> {
    ipam.allocate(Ticket(1), owner(holder), want, now + PATIENCE, now);
    let answer = ipam.poll_answer().expect("an answer at once");
    answer.result.map(|lease: Lease| lease.addr)
}

fn address(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

/// Hosts of a small fabric in which everybody has a share.
pub(crate) fn fabric(range: &str, hosts: usize) -> World {
    let mut world = World::new(1, range.parse().unwrap(), hosts);
    world.run(Duration::from_secs(5));
    world
}

fn last_answer(world: &World) -> Result<Ipv4Addr, AllocateError> {
    world.answers.last().expect("an answer").2.clone()
}

#[test]
fn lowest_free_address_first_and_the_ends_never() {
    let now = Instant::now();
    let mut ipam = founder("10.0.0.0/29", now);
    let got: Vec<u8> =
        (0..6).map(|n| allocate(&mut ipam, &n.to_string(), Want::Any, now).unwrap().octets()[3]).collect();
    assert_eq!(got, [1, 2, 3, 4, 5, 6]);
    let error = allocate(&mut ipam, "6", Want::Any, now);
    assert_eq!(error, Err(AllocateError::Exhausted { asked: "10.0.0.0/29".parse().unwrap(), resting: 0 }));
}

#[test]
fn the_same_request_gets_the_same_address() {
    let now = Instant::now();
    let mut ipam = founder("10.0.0.0/24", now);
    let first = allocate(&mut ipam, "a", Want::Any, now);
    assert_eq!(allocate(&mut ipam, "a", Want::Any, now), first);
    let subnet = Want::In("10.0.0.64/26".parse().unwrap());
    assert_eq!(allocate(&mut ipam, "a", subnet, now), Ok(address("10.0.0.64")));
    assert_eq!(allocate(&mut ipam, "a", subnet, now), Ok(address("10.0.0.64")));
    assert_eq!(ipam.release(&owner("a"), now), [address("10.0.0.1"), address("10.0.0.64")]);
    assert_eq!(ipam.release(&owner("a"), now), [] as [Ipv4Addr; 0]);
}

#[test]
fn a_used_address_rests_and_an_unused_one_does_not() {
    let now = Instant::now();
    let mut ipam = founder("10.0.0.0/24", now);
    let first = allocate(&mut ipam, "a", Want::Any, now).unwrap();
    assert!(ipam.release_address(first, Rest::Used, now));
    assert!(!ipam.release_address(first, Rest::Used, now));
    assert_ne!(allocate(&mut ipam, "b", Want::Any, now), Ok(first));
    let almost = now + Duration::from_secs(29);
    ipam.handle_timeout(almost);
    assert_eq!(ipam.summary().resting, 1);
    ipam.handle_timeout(now + Duration::from_secs(30));
    assert_eq!(allocate(&mut ipam, "c", Want::Any, almost), Ok(first));
    ipam.release_unused(&owner("c"), almost);
    assert_eq!(allocate(&mut ipam, "d", Want::Any, almost), Ok(first));
}

#[test]
fn a_request_that_makes_no_sense_is_answered_at_once() {
    let now = Instant::now();
    let mut ipam = founder("10.0.0.0/24", now);
    let mut ask = |want| allocate(&mut ipam, "a", want, now).unwrap_err();
    let range = "10.0.0.0/24".parse().unwrap();
    let outside = AllocateError::OutOfRange { asked: "10.0.1.1/32".parse().unwrap(), range };
    assert_eq!(ask(Want::Fixed(address("10.0.1.1"))), outside);
    assert_eq!(outside.to_string(), "`10.0.1.1/32` is outside of the range 10.0.0.0/24");
    let reserved = AllocateError::Reserved { addr: address("10.0.0.255"), range };
    assert_eq!(ask(Want::Fixed(address("10.0.0.255"))), reserved);
    assert!(matches!(ask(Want::In("10.0.0.0/16".parse().unwrap())), AllocateError::OutOfRange { .. }));
    let error = allocate(&mut ipam, &"x".repeat(301), Want::Any, now);
    assert_eq!(error, Err(AllocateError::OwnerTooLong { got: 301 }));
}

#[test]
fn a_fixed_address_that_is_taken_names_its_holder() {
    let now = Instant::now();
    let mut ipam = founder("10.0.0.0/24", now);
    let addr = address("10.0.0.9");
    assert_eq!(allocate(&mut ipam, "a", Want::Fixed(addr), now), Ok(addr));
    let error = allocate(&mut ipam, "b", Want::Fixed(addr), now).unwrap_err();
    assert_eq!(error, AllocateError::InUse { addr, by: peer(1), holder: owner("a") });
}

#[test]
fn a_joiner_gets_half_before_it_needs_it() {
    let world = fabric("10.0.0.0/24", 2);
    let sizes: Vec<u64> = (0..2).map(|host| world.ipam(host).summary().owned).collect();
    assert_eq!(sizes, [128, 128]);
    assert_eq!(world.ipam(1).own_blocks(), ["10.0.0.128/25".parse().unwrap()]);
}

#[test]
fn space_moves_down_to_single_addresses() {
    let mut world = fabric("10.0.0.0/29", 3);
    for n in 0..6 {
        world.allocate(2, &n.to_string(), Want::Any, PATIENCE);
        world.run(Duration::from_secs(2));
    }
    assert_eq!(world.granted, 6);
    let before = world.now;
    world.allocate(1, "one too many", Want::Any, Duration::from_secs(60));
    world.run(Duration::from_secs(2));
    assert!(matches!(last_answer(&world), Err(AllocateError::Exhausted { .. })), "{:?}", world.answers);
    assert!(world.now - before < Duration::from_secs(3), "certain failure is not waited for");
}

#[test]
fn smallest_range_serves_two_hosts() {
    let mut world = fabric("10.0.0.0/30", 2);
    for host in 0..2 {
        world.allocate(host, &format!("on-{host}"), Want::Any, PATIENCE);
        world.run(PATIENCE);
    }
    let got: Vec<_> =
        world.answers.iter().map(|(_, _, result)| result.clone().unwrap().octets()[3]).collect();
    assert_eq!(got, [1, 2]);
    // The address moves to the host that wants it when its holder is gone.
    world.release(0, &owner("on-0"), Rest::NeverUsed);
    world.allocate(1, "next", Want::Fixed(address("10.0.0.1")), PATIENCE);
    world.run(PATIENCE);
    assert_eq!(last_answer(&world), Ok(address("10.0.0.1")));
    world.allocate(0, "late", Want::Any, PATIENCE);
    world.run(PATIENCE);
    assert!(matches!(last_answer(&world), Err(AllocateError::Exhausted { .. })), "{:?}", last_answer(&world));
    world.check_quiescent();
}

#[test]
fn small_subnets_are_shared_by_all_hosts() {
    let mut world = fabric("10.0.0.0/24", 4);
    for (n, subnet) in ["10.0.0.16/30", "10.0.0.132/30", "10.0.0.250/31"].into_iter().enumerate() {
        let subnet: ipnet::Ipv4Net = subnet.parse().unwrap();
        let size = 1usize << (32 - subnet.prefix_len());
        for host in 0..size {
            world.allocate(host, &format!("{n}-on-{host}"), Want::In(subnet), PATIENCE);
            world.run(PATIENCE);
            assert!(subnet.contains(&last_answer(&world).unwrap()));
        }
        world.allocate(0, &format!("{n}-late"), Want::In(subnet), PATIENCE);
        world.run(PATIENCE);
        assert_eq!(last_answer(&world), Err(AllocateError::Exhausted { asked: subnet, resting: 0 }));
    }
    world.run(Duration::from_secs(300));
    world.check_quiescent();
}

#[test]
fn a_fixed_address_of_another_peer_is_fetched_or_in_use() {
    let mut world = fabric("10.0.0.0/24", 2);
    let addr = address("10.0.0.77");
    world.allocate(1, "wants it", Want::Fixed(addr), PATIENCE);
    world.run(PATIENCE);
    assert_eq!(last_answer(&world), Ok(addr));
    world.allocate(0, "too late", Want::Fixed(addr), PATIENCE);
    world.run(PATIENCE);
    let by = world.hosts[1].id;
    assert_eq!(last_answer(&world), Err(AllocateError::InUse { addr, by, holder: owner("wants it") }));
    world.check_quiescent();
}

#[test]
fn who_cannot_be_reached_is_named_by_the_deadline() {
    let mut world = fabric("10.0.0.0/24", 2);
    world.hosts[1].side = 1;
    world.run(Duration::from_secs(4));
    let addr = address("10.0.0.200");
    world.allocate(0, "a", Want::Fixed(addr), PATIENCE);
    world.run(PATIENCE + Duration::from_secs(1));
    let owner = world.hosts[1].id;
    assert_eq!(last_answer(&world), Err(AllocateError::OwnerUnreachable { addr, owner }));
    world.allocate(0, "b", Want::In("10.0.0.128/25".parse().unwrap()), PATIENCE);
    world.run(PATIENCE + Duration::from_secs(1));
    assert_eq!(last_answer(&world), Err(AllocateError::OwnersUnreachable { owners: vec![owner] }));
}

#[test]
fn a_peer_that_knows_nobody_says_so() {
    let now = Instant::now();
    let mut ipam = Ipam::new(Config::new("10.0.0.0/24".parse().unwrap()), peer(2), 1, now);
    ipam.allocate(Ticket(4), owner("a"), Want::Any, now + PATIENCE, now);
    assert_eq!(ipam.poll_answer(), None);
    ipam.handle_timeout(now + PATIENCE);
    let asked = "10.0.0.0/24".parse().unwrap();
    assert_eq!(ipam.poll_answer().unwrap().result, Err(AllocateError::NoSpaceYet { asked }));
}

/// The two halves of a fabric, by hand: what the founder says when the joiner asks once.
fn one_question() -> (Ipam, Ipam, Vec<u8>, Instant) {
    let now = Instant::now();
    let mut donor = founder("10.0.0.0/24", now);
    let mut joiner = Ipam::new(Config::new("10.0.0.0/24".parse().unwrap()), peer(2), 1, now);
    let publish = donor.poll_publish().unwrap();
    assert_eq!(publish.key.kind, Kind::BLOCK);
    joiner.handle_record(peer(1), &publish.key, publish.value.as_deref(), now).unwrap();
    let question = joiner.poll_transmit().expect("a joiner asks for a share");
    assert_eq!(question.to, peer(1));
    (donor, joiner, question.payload, now)
}

#[test]
fn a_repeated_question_gets_the_same_answer() {
    let (mut donor, _, question, now) = one_question();
    donor.handle_message(peer(2), &question, now).unwrap();
    let first = donor.poll_transmit().unwrap();
    donor.handle_message(peer(2), &question, now).unwrap();
    assert_eq!(donor.poll_transmit().unwrap(), first);
    assert_eq!((donor.stats().given, donor.summary().owned), (1, 128));
}

#[test]
fn a_lost_answer_loses_nothing_because_the_record_moves_the_block() {
    let (mut donor, mut joiner, question, now) = one_question();
    donor.handle_message(peer(2), &question, now).unwrap();
    while let Some(publish) = donor.poll_publish() {
        joiner.handle_record(peer(1), &publish.key, publish.value.as_deref(), now).unwrap();
    }
    assert_eq!(joiner.own_blocks(), ["10.0.0.128/25".parse().unwrap()]);
    // The answer arrives after all: nothing changes.
    let answer = donor.poll_transmit().unwrap();
    joiner.handle_message(peer(1), &answer.payload, now).unwrap();
    assert_eq!(joiner.summary().owned, 128);
}

#[test]
fn a_crash_between_writing_and_sending_loses_nothing() {
    let (mut donor, mut joiner, question, now) = one_question();
    donor.handle_message(peer(2), &question, now).unwrap();
    let journal: Vec<JournalEntry> = std::iter::from_fn(|| donor.poll_persist()).collect();
    let mut reborn = Ipam::new(donor.config().clone(), peer(1), 9, now);
    for entry in journal {
        reborn.restore(entry).unwrap();
    }
    reborn.restored(now);
    assert_eq!(reborn.own_blocks(), ["10.0.0.0/25".parse().unwrap()]);
    assert_eq!(reborn.unconfirmed(), 1);
    while let Some(publish) = reborn.poll_publish() {
        joiner.handle_record(peer(1), &publish.key, publish.value.as_deref(), now).unwrap();
    }
    assert_eq!(joiner.own_blocks(), ["10.0.0.128/25".parse().unwrap()]);
}

#[test]
fn a_snapshot_brings_everything_back() {
    let mut world = fabric("10.0.0.0/24", 3);
    for n in 0..30 {
        world.allocate(n % 3, &n.to_string(), Want::Any, PATIENCE);
    }
    world.allocate(0, "fixed", Want::Fixed(address("10.0.0.250")), PATIENCE);
    world.run(PATIENCE);
    world.release(0, &owner("0"), Rest::Used);
    for host in 0..3 {
        let before = world.ipam(host);
        let mut after = Ipam::new(before.config().clone(), before.me(), 1, world.now);
        for entry in before.snapshot() {
            after.restore(entry).unwrap();
        }
        after.restored(world.now);
        assert_eq!(after.snapshot(), before.snapshot());
        assert_eq!(after.own_blocks(), before.own_blocks());
        assert!(after.blocks().eq(before.blocks()));
        let counts = |ipam: &Ipam| {
            let summary = ipam.summary();
            (summary.free, summary.used, summary.resting, summary.unconfirmed)
        };
        assert_eq!(counts(&after), counts(before));
    }
}

#[test]
fn a_journal_of_another_range_is_refused() {
    let now = Instant::now();
    let entries = founder("10.0.0.0/24", now).snapshot();
    let mut other = Ipam::new(Config::new("10.1.0.0/24".parse().unwrap()), peer(1), 1, now);
    let errors = entries.into_iter().filter_map(|entry| other.restore(entry).err()).count();
    assert_eq!(errors, 1);
}

#[test]
fn what_comes_back_folds_into_one_block_and_one_record() {
    let mut world = fabric("10.0.0.0/24", 3);
    for (from, to) in [(1, 0), (2, 0)] {
        let heir = world.hosts[to].id;
        let went = world.with(from, |ipam, now| ipam.handover(heir, now)).unwrap();
        assert!(went.unwrap() > 0);
        world.run(PATIENCE);
        assert!(world.ipam(from).is_handed_over());
    }
    assert_eq!(world.ipam(0).own_blocks(), ["10.0.0.0/24".parse().unwrap()]);
    assert_eq!(world.ipam(2).blocks().count(), 1);
    let records = world.ipam(0).snapshot();
    let records = records.iter().filter(|entry| matches!(entry, JournalEntry::Block { .. })).count();
    assert_eq!(records, 1, "superseded records are withdrawn");
    world.allocate(1, "late", Want::Any, PATIENCE);
    assert_eq!(last_answer(&world), Err(AllocateError::Leaving));
}

#[test]
fn a_removal_respects_what_the_dead_peer_gave_away_unseen() {
    let mut world = fabric("10.0.0.0/24", 3);
    // Hosts 1 and 2 are cut off; 1 gives to 2, then dies. Host 0 has not heard of it.
    world.hosts[1].side = 1;
    world.hosts[2].side = 1;
    world.run(Duration::from_secs(3));
    let dead = world.hosts[1].id;
    let block = world.ipam(1).own_blocks()[0];
    let addr = block.hosts().last().unwrap();
    world.allocate(2, "unseen", Want::Fixed(addr), PATIENCE);
    world.run(PATIENCE);
    assert_eq!(last_answer(&world), Ok(addr));
    world.crash(1);
    world.run(PATIENCE);
    world.rmpeer(0, 1);
    world.run(Duration::from_secs(60));
    let takeover = world.ipam(0).summary().takeovers.remove(0);
    assert_eq!((takeover.removed, takeover.waiting_for), (dead, vec![world.hosts[2].id]));
    world.allocate(0, "early", Want::Fixed(addr), PATIENCE);
    world.run(PATIENCE);
    assert!(matches!(last_answer(&world), Err(AllocateError::TakeoverPending { .. })));
    world.heal();
    world.run(Duration::from_secs(100));
    world.check_quiescent();
    assert_eq!(world.ipam(0).peer_of(addr), Some(world.hosts[2].id));
    assert_eq!(world.ipam(0).summary().takeovers, []);
}

/// Peers 1 and 2 know that peer 3 owned everything when it and peer 4 died. Peer 5, if it is there, also knows of a gift.
fn with_a_witness() -> ([Ipam; 3], Instant) {
    let start = Instant::now();
    let whole = BlockRecord { prefix: "10.0.0.0/24".parse().unwrap(), owner: peer(3), epoch: 1 };
    let gift = BlockRecord { prefix: "10.0.0.8/32".parse().unwrap(), owner: peer(4), epoch: 2 };
    let mut hosts = [1, 2, 5].map(|n| Ipam::new(Config::new(whole.prefix), peer(n), 7, start));
    for host in &mut hosts {
        host.handle_record(peer(3), &whole.key(), Some(&whole.encode()), start).unwrap();
        let me = host.me();
        for other in [1, 2, 3, 4].map(peer).into_iter().filter(|other| *other != me) {
            let presence = if other < peer(3) { Presence::Reachable } else { Presence::Unreachable };
            host.handle_reachable(other, presence, start);
        }
    }
    hosts[2].handle_record(peer(3), &gift.key(), Some(&gift.encode()), start).unwrap();
    (hosts, start)
}

#[test]
fn an_heir_is_told_what_only_another_heir_has_heard_of() {
    let (mut hosts, start) = with_a_witness();
    // Peer 1 has to wait for peer 5, of which peer 2 has not heard: it finishes at once.
    hosts[0].handle_reachable(peer(5), Presence::Unreachable, start);
    hosts[0].remove_peer(peer(3), start);
    hosts[1].remove_peer(peer(4), start);
    carry(&mut hosts[..2], start, 20);
    assert_eq!(hosts.each_ref().map(|host| host.summary().takeovers.len()), [1, 0, 0]);
    // Peer 1 is told, which is not the heir of peer 4; peer 2 asks nobody any more.
    let later = start + Duration::from_secs(20);
    hosts[0].handle_reachable(peer(5), Presence::Reachable, later);
    let told = (0..20).map(|second| later + Duration::from_secs(second)).any(|second| {
        carry(&mut hosts, second, 1);
        hosts.each_ref().map(|host| host.peer_of(address("10.0.0.8"))) == [Some(peer(2)); 3]
    });
    assert!(told);
    // Nobody goes on telling what is known, also after scraps were given back and gifts were forgotten.
    carry(&mut hosts, later + Duration::from_secs(20), 900);
    let reasons = hosts.each_ref().map(|host| host.poll_timeout().map(|(_, why)| why));
    assert_eq!(reasons[..2], [None, None]);
}

#[test]
fn the_last_word_of_a_removed_peer_is_not_heard() {
    let (mut hosts, start) = with_a_witness();
    hosts[0].remove_peer(peer(3), start);
    let gift = BlockRecord { prefix: "10.0.0.8/32".parse().unwrap(), owner: peer(4), epoch: 70_000 };
    hosts[0].handle_record(peer(3), &gift.key(), Some(&gift.encode()), start).unwrap();
    assert_eq!(hosts[0].peer_of(address("10.0.0.8")), Some(peer(3)));
    assert_eq!(hosts[0].stats().messages_of_removed, 1);
}

/// Carries everything between some peers for some seconds.
fn carry(hosts: &mut [Ipam], start: Instant, seconds: u64) {
    for now in (0..seconds * 10).map(|tenth| start + Duration::from_millis(tenth * 100)) {
        for from in 0..hosts.len() {
            hosts[from].handle_timeout(now);
            let origin = hosts[from].me();
            while let Some(publish) = hosts[from].poll_publish() {
                for to in (0..hosts.len()).filter(|to| *to != from) {
                    hosts[to].handle_record(origin, &publish.key, publish.value.as_deref(), now).unwrap();
                }
            }
            while let Some(message) = hosts[from].poll_transmit() {
                if let Some(to) = hosts.iter_mut().find(|to| to.me() == message.to) {
                    to.handle_message(origin, &message.payload, now).unwrap();
                }
            }
        }
    }
}

#[test]
fn a_second_removal_changes_nothing() {
    let mut world = fabric("10.0.0.0/24", 3);
    world.crash(2);
    world.run(PATIENCE);
    let (dead, heir) = (world.hosts[2].id, world.hosts[0].id);
    world.rmpeer(0, 2);
    world.run(Duration::from_secs(20));
    assert_eq!(world.ipam(0).summary().takeovers, []);
    let owned = world.ipam(0).summary().owned;
    for host in 0..2 {
        let again = world.with(host, |ipam, now| ipam.remove_peer(dead, now));
        assert_eq!(again, Some(Removal::AlreadyRemoved { heir }));
    }
    world.run(Duration::from_secs(20));
    assert_eq!(world.ipam(0).summary().owned, owned);
    world.check_quiescent();
}

#[test]
fn of_two_heirs_on_both_sides_of_a_partition_one_takes_over() {
    let mut world = fabric("10.0.0.0/24", 3);
    world.crash(2);
    world.hosts[1].side = 1;
    world.run(PATIENCE);
    world.rmpeer(0, 2);
    world.rmpeer(1, 2);
    world.run(Duration::from_secs(20));
    assert_eq!(world.ipam(0).summary().takeovers.len() + world.ipam(1).summary().takeovers.len(), 2);
    world.heal();
    world.run(Duration::from_secs(20));
    world.check_quiescent();
    let heirs: Vec<_> = (0..2).map(|host| world.ipam(host).removed().collect::<Vec<_>>()).collect();
    assert_eq!(heirs[0], heirs[1]);
    assert_eq!(heirs[0], [(world.hosts[2].id, world.hosts[0].id.min(world.hosts[1].id))]);
}

#[test]
fn of_two_peers_that_remove_each_other_one_stays_with_everything() {
    let mut world = fabric("10.0.0.0/24", 2);
    world.hosts[1].side = 1;
    world.run(PATIENCE);
    world.rmpeer(0, 1);
    world.rmpeer(1, 0);
    world.run(Duration::from_secs(20));
    world.heal();
    // Gossip carries nothing of a removed peer; here somebody else tells them of each other.
    let [zero, one] = [world.hosts[0].id, world.hosts[1].id];
    for (host, heir, removed) in [(0, one, zero), (1, zero, one)] {
        world.with(host, |ipam, now| ipam.handle_removal(RemovalRecord { removed, heir }, now));
    }
    world.run(Duration::from_secs(60));
    let stays = usize::from(world.hosts[1].id < world.hosts[0].id);
    assert_eq!(world.ipam(stays).summary().owned, 256);
    assert_eq!(world.ipam(stays).summary().removed_by, None);
    assert_eq!(world.ipam(1 - stays).own_blocks(), []);
    assert_eq!(world.ipam(1 - stays).summary().removed_by, Some(world.hosts[stays].id));
}

#[test]
fn a_removed_peer_gives_up_and_names_its_lost_leases() {
    let mut world = fabric("10.0.0.0/24", 2);
    world.allocate(1, "cni:x/eth0", Want::Any, PATIENCE);
    let addr = last_answer(&world).unwrap();
    world.crash(1);
    world.run(PATIENCE);
    world.rmpeer(0, 1);
    world.run(Duration::from_secs(20));
    assert_eq!(world.ipam(0).own_blocks(), ["10.0.0.0/24".parse().unwrap()]);
    assert_eq!(world.hosts[1].fate, Fate::Removed);
    world.restart(1);
    world.run(PATIENCE);
    let lost: Vec<_> = world.ipam(1).lost_leases().collect();
    assert_eq!(lost, [(owner("cni:x/eth0"), addr)]);
    assert_eq!((world.ipam(1).leases().count(), world.ipam(1).own_blocks().len()), (0, 0));
    let by = world.hosts[0].id;
    world.allocate(1, "more", Want::Any, PATIENCE);
    assert_eq!(last_answer(&world), Err(AllocateError::Removed { by }));
    // It does not forget in a crash, and does when the container is gone.
    world.crash(1);
    world.restart(1);
    assert_eq!(world.ipam(1).lost_leases().count(), 1);
    world.release(1, &owner("cni:x/eth0"), Rest::Used);
    assert_eq!(world.ipam(1).lost_leases().count(), 0);
}

#[test]
fn removals_of_nobody_and_of_oneself_change_nothing() {
    let now = Instant::now();
    let mut ipam = founder("10.0.0.0/24", now);
    assert_eq!(ipam.remove_peer(peer(1), now), Removal::Myself);
    assert_eq!(ipam.remove_peer(peer(9), now), Removal::UnknownPeer);
}

#[test]
fn a_removed_peer_that_still_seems_alive_is_waited_for_only_for_a_while() {
    let now = Instant::now();
    let mut ipam = Ipam::new(Config::new("10.0.0.0/24".parse().unwrap()), peer(1), 7, now);
    for (prefix, owner) in [("10.0.0.0/24", 2), ("10.0.0.0/25", 1)] {
        let record =
            BlockRecord { prefix: prefix.parse().unwrap(), owner: peer(owner), epoch: 3 - u64::from(owner) };
        ipam.handle_record(peer(2), &record.key(), Some(&record.encode()), now).unwrap();
    }
    ipam.handle_reachable(peer(2), Presence::Reachable, now);
    let removal = ipam.remove_peer(peer(2), now);
    assert_eq!(removal, Removal::Started { addresses: 128, waiting_for: vec![peer(2)] });
    let mut at = now;
    while let Some((wake, _)) = ipam.poll_timeout().filter(|_| at < now + Duration::from_secs(12)) {
        assert!(wake > at || at == now, "no busy loop");
        at = wake.max(at);
        ipam.handle_timeout(at);
    }
    assert_eq!(ipam.own_blocks(), ["10.0.0.0/24".parse().unwrap()]);
}

#[test]
fn two_records_of_one_epoch_freeze_what_they_are_about() {
    let now = Instant::now();
    let mut ipam = founder("10.0.0.0/24", now);
    allocate(&mut ipam, "a", Want::Any, now).unwrap();
    let rival = BlockRecord { prefix: "10.0.0.0/30".parse().unwrap(), owner: peer(9), epoch: 1 };
    ipam.handle_record(peer(9), &rival.key(), Some(&rival.encode()), now).unwrap();
    assert_eq!(ipam.stats().quarantined().collect::<Vec<_>>(), [("contradicts another record", 1)]);
    assert_eq!(ipam.summary().contested, 4);
    assert_eq!(ipam.owner_of(address("10.0.0.1")), Some(owner("a")), "what is in use stays in use");
    assert_eq!(allocate(&mut ipam, "b", Want::Any, now), Ok(address("10.0.0.4")));
}

#[test]
fn a_gift_by_somebody_else_than_the_owner_is_refused_and_counted() {
    let now = Instant::now();
    let mut ipam = founder("10.0.0.0/24", now);
    let forged = BlockRecord { prefix: "10.0.0.0/25".parse().unwrap(), owner: peer(9), epoch: 2 };
    ipam.handle_record(peer(9), &forged.key(), Some(&forged.encode()), now).unwrap();
    assert_eq!(ipam.stats().quarantined().collect::<Vec<_>>(), [("signer is not the owner", 1)]);
    assert_eq!(ipam.summary().owned, 256);
    let foreign = RemovalRecord { removed: peer(1), heir: peer(8) };
    ipam.handle_record(peer(9), &foreign.key(), Some(&foreign.encode()), now).unwrap();
    assert_eq!(ipam.summary().removed_by, None, "only the heir itself says that it takes over");
    assert!(ipam.handle_record(peer(9), &forged.key(), Some(b"nonsense"), now).is_err());
    assert_eq!(ipam.stats().records_undecodable, 1);
}

#[test]
fn the_free_count_is_published_when_its_magnitude_changes() {
    let now = Instant::now();
    let mut ipam = founder("10.0.0.0/29", now);
    let mut at = now;
    let mut published = Vec::new();
    for n in 0..6 {
        at += Duration::from_secs(2);
        allocate(&mut ipam, &n.to_string(), Want::Any, at).unwrap();
        ipam.handle_timeout(at);
        while let Some(publish) = ipam.poll_publish() {
            if publish.key.kind == Kind::FREE_SPACE {
                published.push(ipam::FreeRecord::decode(&publish.value.unwrap()).unwrap().free);
            }
        }
    }
    assert_eq!(published, [6, 3, 1, 0]);
}

#[test]
fn a_cancelled_request_is_not_answered() {
    let now = Instant::now();
    let mut ipam = Ipam::new(Config::new("10.0.0.0/24".parse().unwrap()), peer(2), 1, now);
    ipam.allocate(Ticket(4), owner("a"), Want::Any, now + PATIENCE, now);
    ipam.cancel(Ticket(4), now);
    ipam.handle_timeout(now + PATIENCE);
    assert_eq!(ipam.poll_answer(), None);
}

/// What was given away stands only in the part of the journal that was lost.
#[test]
fn a_damaged_journal_gives_nothing_before_the_fabric_was_heard() {
    let now = Instant::now();
    let (me, asker) = (PeerId([1; 16]), PeerId([2; 16]));
    let mut ipam = Ipam::new(Config::new("10.32.0.0/24".parse().unwrap()), me, 1, now);
    ipam.found(now);
    let first: Vec<JournalEntry> = std::iter::from_fn(|| ipam.poll_persist()).collect();
    let mut late = Ipam::new(Config::new("10.32.0.0/24".parse().unwrap()), me, 1, now);
    for entry in first.clone() {
        late.restore(entry).unwrap();
    }
    late.distrust();
    late.restored(now);
    assert_eq!(late.own_blocks(), []);
    // Nor after another restart, which finds nothing wrong with what is left of the journal.
    let mut again = Ipam::new(Config::new("10.32.0.0/24".parse().unwrap()), me, 1, now);
    let second = std::iter::from_fn(|| late.poll_persist());
    first.into_iter().chain(second).for_each(|entry| again.restore(entry).unwrap());
    again.restored(now);
    assert!(again.distrusts_journal() && again.own_blocks().is_empty());
    late.handle_reachable(asker, Presence::Reachable, now);
    let taken = BlockRecord { prefix: "10.32.0.128/25".parse().unwrap(), owner: asker, epoch: 3 };
    late.handle_record(asker, &taken.key(), Some(&taken.encode()), now).unwrap();
    late.trust(now);
    assert_eq!(late.own_blocks(), ["10.32.0.0/25".parse().unwrap()]);
}

#[test]
fn two_that_leave_to_each_other_end_at_once_and_somebody_who_stays_inherits() {
    let mut world = fabric("10.0.0.0/24", 3);
    let ids: Vec<PeerId> = world.hosts.iter().map(|host| host.id).collect();
    world.with(0, |ipam, now| ipam.handover(ids[1], now).unwrap());
    world.with(1, |ipam, now| ipam.handover(ids[0], now).unwrap());
    world.run(Duration::from_secs(3));
    let given: Vec<u64> = (0..2).map(|host| world.ipam(host).stats().given).collect();
    assert!(given.iter().all(|given| *given < 8), "nothing goes round: {given:?}");
    let kept: Vec<usize> = (0..2).filter(|host| world.ipam(*host).needs_other_heir()).collect();
    assert!(!kept.is_empty(), "somebody has what came back");
    for host in kept {
        assert!(world.ipam(host).was_heir(ids[1 - host]));
        world.with(host, |ipam, now| ipam.handover(ids[2], now).unwrap());
    }
    world.run(Duration::from_secs(3));
    assert!((0..2).all(|host| world.ipam(host).is_handed_over()));
    assert_eq!(world.ipam(2).own_blocks(), ["10.0.0.0/24".parse().unwrap()]);
}
