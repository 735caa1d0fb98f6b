//! Many short random lives of a fabric: loss, duplicates, reordering, partitions, crashes in the middle of a write,
//! peers declared dead rightly and wrongly. `IPAM_SIM_SEEDS` runs more (`500`, `500..900`), `IPAM_SIM_SEED` replays one, `IPAM_SIM_TRACE` tells.

use std::time::Duration;

use ipam::audit::Proof;
use ipam::{Rest, Want};
use ipnet::Ipv4Net;

use crate::world::{Fate, World};

/// Lives in an ordinary test run.
const SEEDS: u64 = 200;

/// Random actions in one life.
const ACTIONS: usize = 120;

/// Lives in which something went wrong once, outside of those.
const REMEMBERED: [u64; 10] =
    [1786, 4195, 5844, 7371, 12741, 12896, 21294, HARD + 2198, HARD + 2764, HARD + 2770];

#[test]
fn no_address_ever_has_two_owners_and_none_is_lost() {
    if let Ok(seed) = std::env::var("IPAM_SIM_SEED") {
        return live(seed.parse().expect("a number"));
    }
    let seeds: Vec<u64> = match std::env::var("IPAM_SIM_SEEDS") {
        Ok(range) => match range.split_once("..") {
            Some((first, end)) => {
                (first.parse().expect("a number")..end.parse().expect("a number")).collect()
            }
            None => (0..range.parse().expect("a number")).collect(),
        },
        Err(_) => (0..SEEDS).chain(HARD..HARD + SEEDS / 4).chain(REMEMBERED).collect(),
    };
    let failed: Vec<u64> =
        seeds.into_iter().filter(|&seed| std::panic::catch_unwind(|| live(seed)).is_err()).collect();
    assert_eq!(failed, [0; 0], "seeds that failed; IPAM_SIM_SEED=.. IPAM_SIM_TRACE=1 replays one");
}

/// From this seed on lives are hard: more is removed, moved and left, also by two to each other.
const HARD: u64 = 1 << 32;

fn live(seed: u64) {
    let length = 24 + (seed % 6) as u8;
    let range: Ipv4Net = format!("10.32.0.0/{length}").parse().unwrap();
    let hosts = 2 + (seed / 6 % 5) as usize;
    let mut world = World::new(seed, range, hosts);
    world.run(Duration::from_secs(3));
    world.loss = [0, 5, 30][(seed / 3 % 3) as usize];
    for action in 0..ACTIONS {
        act(&mut world, action);
        let pause = world.rng.next() % 700;
        world.run(Duration::from_millis(pause));
    }
    settle(&mut world);
    let_scraps_be_given_back(&mut world);
    world.check_quiescent();
    audit(&world);
    fill_up(&mut world);
}

fn act(world: &mut World, action: usize) {
    let host = world.rng.below(world.hosts.len());
    if world.hosts[host].fate != Fate::Member {
        return;
    }
    let what = match world.rng.below(100) {
        rare @ 0..30 if world.seed >= HARD => 88 + rare * 12 / 30,
        usual => usual,
    };
    match what {
        0..45 => allocate(world, host, action),
        45..65 => {
            let held = world.promised_at(host);
            if !held.is_empty() {
                let owner = held[world.rng.below(held.len())].clone();
                let rest = if world.rng.percent(50) { Rest::Used } else { Rest::NeverUsed };
                world.release(host, &owner, rest);
            }
        }
        65..75 => world.set_trap(host),
        75..85 => {
            if !world.up(host) {
                world.restart(host);
            }
        }
        85..88 => world.compact(host),
        88..91 => {
            let side = world.rng.below(2);
            world.log(|| format!("host {host} moves to side {side}"));
            world.hosts[host].side = side;
        }
        91..93 => world.heal(),
        93..96 => remove(world, host),
        96..97 => leave(world, host),
        _ => rejoin(world),
    }
}

fn allocate(world: &mut World, host: usize, action: usize) {
    let range = world.hosts.iter().find_map(|host| host.ipam.as_ref()).map(|ipam| ipam.config().range);
    let Some(range) = range else { return };
    let size = 1 << (32 - range.prefix_len());
    let addr = (range.network().to_bits() + 1 + world.rng.below(size - 2) as u32).into();
    let want = match world.rng.below(4) {
        0 => Want::Fixed(addr),
        1 => Want::In(Ipv4Net::new(addr, range.prefix_len() + 2).unwrap()),
        _ => Want::Any,
    };
    let patience = Duration::from_millis(200 + world.rng.next() % 5000);
    world.allocate(host, &format!("container-{action}"), want, patience);
}

/// Somebody declares `dead` dead, perhaps wrongly, perhaps two at once on both sides of a partition.
fn remove(world: &mut World, dead: usize) {
    let members = world.hosts.iter().filter(|host| host.fate == Fate::Member).count();
    if members < 3 {
        return;
    }
    if world.up(dead) && world.rng.percent(70) {
        world.crash(dead);
    }
    for _ in 0..1 + world.rng.below(2) {
        let at = world.rng.below(world.hosts.len());
        // Who removes the founder before anybody has heard what it owns loses the range; the status says that no owner is known.
        let knows = |world: &World| world.seed < HARD || world.ipam(at).summary().unknown == 0;
        if at != dead && world.up(at) && world.hosts[at].fate == Fate::Member && knows(world) {
            world.rmpeer(at, dead);
        }
    }
}

fn leave(world: &mut World, host: usize) {
    let heirs: Vec<usize> = (0..world.hosts.len())
        .filter(|&heir| heir != host && world.hosts[heir].fate == Fate::Member && world.up(heir))
        .filter(|&heir| world.seed >= HARD || world.ipam(heir).summary().leaving_to.is_none())
        .collect();
    if heirs.len() < 2 || !world.up(host) {
        return;
    }
    for owner in world.promised_at(host) {
        world.release(host, &owner, Rest::Used);
    }
    if !world.up(host) || world.ipam(host).leases().count() > 0 {
        return;
    }
    let heir = world.hosts[heirs[world.rng.below(heirs.len())]].id;
    world.log(|| format!("host {host} hands over to {heir:?}"));
    world.with(host, |ipam, now| ipam.handover(heir, now).ok());
    world.run(Duration::from_secs(20));
    finish_leaving(world, host);
}

fn finish_leaving(world: &mut World, host: usize) {
    if world.hosts[host].fate == Fate::Member
        && world.hosts[host].ipam.as_ref().is_some_and(ipam::Ipam::is_handed_over)
    {
        world.log(|| format!("host {host} is gone"));
        world.hosts[host].fate = Fate::Left;
        world.crash(host);
    }
}

/// A host that lost its disk comes back as somebody else. Only while all can be told, as membership is not modelled here.
fn rejoin(world: &mut World) {
    let all_together =
        world.hosts.iter().all(|host| host.side == 0 && (host.ipam.is_some() || host.fate != Fate::Member));
    if all_together && world.hosts.len() < 9 {
        world.add_host();
    }
}

/// Faults end, everybody who is still a member comes back, and time passes.
fn settle(world: &mut World) {
    world.heal();
    world.loss = 0;
    for round in 0..3 {
        for host in 0..world.hosts.len() {
            world.hosts[host].disarm();
            if !world.up(host) && world.hosts[host].fate != Fate::Left {
                world.restart(host);
            }
        }
        name_other_heirs(world);
        world.run(Duration::from_secs(40));
        if round == 1 {
            for host in 0..world.hosts.len() {
                finish_leaving(world, host);
            }
            remove_heirs_that_left(world);
        }
    }
}

/// Ends in any case: each block that is given back makes one of two. Longer than the longest pause between two looks.
///
/// What is promised is that it ends, not that it has ended by the time faults have: four blocks at most go back at one look, and a
/// look waits while anybody asks for space. In between a view may differ from another one for as long as gossip takes.
fn let_scraps_be_given_back(world: &mut World) {
    let given_back = |world: &World| -> u64 {
        let all = world.hosts.iter().filter_map(|host| host.ipam.as_ref());
        all.map(|ipam| ipam.stats().given_back).sum()
    };
    for _ in 0..100 {
        let before = given_back(world);
        world.run(Duration::from_secs(45));
        remove_heirs_that_left(world);
        if given_back(world) == before {
            return let_last_gift_arrive(world);
        }
    }
    panic!("scraps are given back without end (seed {})", world.seed);
}

/// Where peers are more than free addresses, now and then somebody asks for a share: not in the middle of that.
fn let_last_gift_arrive(world: &mut World) {
    world.run(Duration::from_secs(5));
    let under_way = |world: &World| {
        let all = world.hosts.iter().filter(|host| host.fate == Fate::Member);
        let all: Vec<&ipam::Ipam> = all.filter_map(|host| host.ipam.as_ref()).collect();
        all.iter().any(|ipam| ipam.unconfirmed() > 0 || !ipam.blocks().eq(all[0].blocks()))
    };
    for _ in 0..50 {
        if !under_way(world) {
            return;
        }
        world.run(Duration::from_millis(100));
    }
}

/// Whatever happened, honest records prove who owns what, and every present block has its signature.
fn audit(world: &World) {
    for host in world.hosts.iter().filter(|host| host.fate == Fate::Member) {
        let Some(ipam) = &host.ipam else { continue };
        let audit = ipam.audit_basis().audit(world.steps.clone());
        assert!(!audit.has_conflict(), "{:#?} (seed {})", audit.conflicts, world.seed);
        assert_eq!(audit.unowned, []);
        for block in &audit.blocks {
            assert_eq!(block.step.proof, Proof::Signed, "{block:?} (seed {})", world.seed);
        }
        let owned: u64 =
            audit.blocks.iter().map(|block| 1 << (32 - block.step.record.prefix.prefix_len())).sum();
        assert_eq!(owned, 1 << (32 - ipam.config().range.prefix_len()), "every address once");
    }
}

/// The heir of somebody who is leaving was removed in the meantime, or leaves as well: the operator names another one.
fn name_other_heirs(world: &mut World) {
    for host in 0..world.hosts.len() {
        let Some(heir) = world.hosts[host].ipam.as_ref().and_then(|ipam| ipam.summary().leaving_to) else {
            continue;
        };
        let stays = |world: &World, other: usize| {
            world.hosts[other].fate == Fate::Member && world.ipam(other).summary().leaving_to.is_none()
        };
        let gone =
            world.hosts[world.index_of(heir)].fate != Fate::Member || world.ipam(host).needs_other_heir();
        let other = (0..world.hosts.len()).find(|&other| other != host && stays(world, other));
        if let Some(other) = other.filter(|_| gone && world.hosts[host].fate == Fate::Member) {
            let other = world.hosts[other].id;
            world.with(host, |ipam, now| ipam.handover(other, now).ok());
        }
    }
}

/// What the status asks the operator for: space of a removed peer turned up after its heir had left.
fn remove_heirs_that_left(world: &mut World) {
    let members = (0..world.hosts.len()).filter(|&host| world.hosts[host].fate == Fate::Member);
    let Some(at) = members.min() else { return };
    let summary = world.ipam(at).summary();
    // Or somebody gave it space while it was about to leave.
    let stuck = summary.peers.iter().any(|space| match space.standing {
        ipam::PeerStanding::Removed | ipam::PeerStanding::Left => true,
        ipam::PeerStanding::Myself
        | ipam::PeerStanding::Reachable
        | ipam::PeerStanding::Unreachable
        | ipam::PeerStanding::Unknown => false,
    });
    for host in 0..world.hosts.len() {
        if stuck && world.hosts[host].fate == Fate::Left {
            world.rmpeer(at, host);
        }
    }
}

/// Every address of the range but two can be handed out: nothing was lost on the way.
fn fill_up(world: &mut World) {
    let members: Vec<usize> = (0..world.hosts.len())
        .filter(|&host| {
            world.hosts[host].fate == Fate::Member && world.ipam(host).summary().leaving_to.is_none()
        })
        .collect();
    if members.is_empty() {
        return;
    }
    let range = world.ipam(members[0]).config().range;
    let size = (1usize << (32 - range.prefix_len())) - 2;
    let before: usize = members.iter().map(|&host| world.ipam(host).leases().count()).sum();
    world.answers.clear();
    for n in 0..size {
        let host = members[n % members.len()];
        world.allocate(host, &format!("filler-{n}"), Want::Any, Duration::from_secs(60));
        world.run(Duration::from_millis(20));
    }
    world.run(Duration::from_secs(61));
    let after: usize = members.iter().map(|&host| world.ipam(host).leases().count()).sum();
    let got = world.answers.iter().filter(|(_, _, result)| result.is_ok()).count();
    assert_eq!((after, got), (size, size - before), "the whole range is usable (seed {})", world.seed);
}
