//! Fabrics that start on several hosts at once.

use std::time::Duration;

use ipam::Want;
use ipnet::Ipv4Net;

use crate::world::World;

const PATIENCE: Duration = Duration::from_secs(5);

fn quarters(range: &str) -> Vec<Ipv4Net> {
    let range: Ipv4Net = range.parse().unwrap();
    range.subnets(range.prefix_len() + 2).unwrap().collect()
}

#[test]
fn seeds_allocate_without_having_talked() {
    let mut world = World::of_seeds(1, "10.0.0.0/24".parse().unwrap(), &quarters("10.0.0.0/24"));
    (0..4).for_each(|host| world.hosts[host].side = host);
    for host in 0..4 {
        world.allocate(host, &format!("on-{host}"), Want::Any, PATIENCE);
    }
    world.run(PATIENCE);
    assert_eq!(world.granted, 4, "each waits for its part and gets an address: {:?}", world.answers);
    world.heal();
    world.run(Duration::from_secs(60));
    world.check_quiescent();
    assert_eq!(world.ipam(0).blocks().count(), 4);
}

#[test]
fn a_seed_that_lost_its_state_takes_nothing_twice() {
    let parts = quarters("10.0.0.0/24");
    let mut world = World::of_seeds(2, "10.0.0.0/24".parse().unwrap(), &parts);
    world.run(PATIENCE);
    world.allocate(1, "before", Want::Any, PATIENCE);
    world.run(PATIENCE);
    world.crash(1);
    world.run(PATIENCE);
    let again = world.add_host();
    world.with(again, |ipam, now| ipam.found_part(vec![parts[1]], now));
    world.run(Duration::from_secs(30));
    assert_eq!(world.ipam(again).part_taken_by(), Some(world.hosts[1].id));
    assert!(world.ipam(again).summary().owned > 0, "it has a share of somebody who is there");
    world.restart(1);
    world.run(Duration::from_secs(60));
    world.check_quiescent();
}

#[test]
fn seeds_that_come_one_after_the_other_get_their_own_parts() {
    let parts = quarters("10.0.0.0/24");
    let mut world = World::of_seeds(3, "10.0.0.0/24".parse().unwrap(), &parts[..2]);
    world.run(Duration::from_secs(20));
    for part in &parts[2..] {
        let host = world.add_host();
        world.with(host, |ipam, now| ipam.found_part(vec![*part], now));
        world.run(Duration::from_secs(20));
        assert_eq!(world.ipam(host).own_blocks(), [*part]);
    }
    world.check_quiescent();
}
