//! Peers that are dead for long: who takes over, when, and who must not.

use std::time::Duration;

use ipam::Presence;

use crate::world::{Fate, World};

const AFTER: Duration = Duration::from_secs(3600);

/// Ranks, looks and the takeover itself.
const BOUND: Duration = Duration::from_secs(120);

/// Hosts with a share each, all of which reclaim.
fn fabric(hosts: usize) -> World {
    let mut world = World::empty(5, "10.0.0.0/24".parse().unwrap());
    world.reclaim_after = Some(AFTER);
    for _ in 0..hosts {
        world.add_host();
    }
    world.with(0, |ipam, now| ipam.found(now));
    world.run(Duration::from_secs(60));
    world
}

fn removals(world: &World, at: usize) -> usize {
    world.ipam(at).removed().count()
}

#[test]
fn majority_takes_over_in_time_and_not_before() {
    let mut world = fabric(5);
    world.crash(3);
    world.crash(4);
    world.run(AFTER - Duration::from_secs(60));
    assert_eq!(removals(&world, 0), 0);
    world.run(Duration::from_secs(60) + BOUND);
    assert_eq!(removals(&world, 0), 2);
    for dead in [3, 4] {
        world.hosts[dead].fate = Fate::Removed;
    }
    world.check_quiescent();
    let owned: u64 = (0..3).map(|host| world.ipam(host).summary().owned).sum();
    assert_eq!(owned, 256);
}

#[test]
fn minority_and_half_take_over_from_nobody() {
    for (hosts, gone) in [(2, 1), (4, 2), (5, 3)] {
        let mut world = fabric(hosts);
        for host in hosts - gone..hosts {
            world.hosts[host].side = 1;
        }
        world.crash(hosts - 1);
        world.run(AFTER * 3);
        assert_eq!(removals(&world, 0), 0, "{gone} of {hosts} are gone");
    }
}

#[test]
fn who_is_seen_alive_once_starts_anew() {
    let mut world = fabric(3);
    world.hosts[2].side = 1;
    world.run(AFTER / 2);
    world.heal();
    world.run(Duration::from_secs(10));
    world.hosts[2].side = 1;
    world.run(AFTER * 3 / 4);
    assert_eq!(removals(&world, 0), 0);
    // From here on both sides may use what is the smaller one's: the price of it, until that one hears of it and gives up.
    world.hosts[2].fate = Fate::Removed;
    world.run(AFTER / 4 + BOUND);
    assert_eq!(removals(&world, 0), 1);
    world.heal();
    world.run(BOUND);
    world.check_quiescent();
    assert!(world.ipam(2).own_blocks().is_empty());
}

#[test]
fn time_asleep_does_not_count() {
    let mut world = fabric(3);
    world.crash(2);
    world.run(Duration::from_secs(60));
    let dead = world.hosts[2].id;
    assert!(world.ipam(0).reclaim_in(dead, world.now).is_some_and(|left| left <= AFTER + BOUND));
    // Two hours pass for the clock and not for the process.
    world.now += AFTER * 2;
    for host in 0..2 {
        world.with(host, ipam::Ipam::handle_timeout);
        assert_eq!(removals(&world, host), 0);
    }
    let left = world.ipam(0).reclaim_in(dead, world.now);
    assert!(left.is_some_and(|left| left >= AFTER), "{left:?}");
}

#[test]
fn nothing_happens_unless_it_is_wanted() {
    let mut world = fabric(3);
    world.reclaim_after = None;
    for host in 0..3 {
        world.crash(host);
        world.restart(host);
    }
    world.crash(2);
    world.run(AFTER * 100);
    assert_eq!(removals(&world, 0), 0);
    let dead = world.hosts[2].id;
    world.with(0, |ipam, now| ipam.handle_reachable(dead, Presence::Unreachable, now));
    assert_eq!(world.ipam(0).reclaim_in(dead, world.now), None);
}
