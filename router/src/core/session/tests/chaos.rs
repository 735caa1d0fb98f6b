//! Everything at once: restarts, cuts in one and in both directions, moves, wants that come and go, on a bad network. Then the
//! weather clears, and everybody must find everybody.

use std::time::Duration;

use super::world::{FAIR, FOUL, World, member};
use crate::core::session::{Channel, Want};

const ROUTERS: usize = 4;
const SEEDS: u64 = 16;

#[test]
fn whatever_happened_all_find_each_other_again() {
    for seed in 0..SEEDS {
        let mut world = World::new(seed, FOUL);
        for index in 0..ROUTERS {
            world.add(member(spec_seed(index)));
        }
        for _ in 0..60 {
            let pause = Duration::from_millis(world.random.below(8000));
            world.run(pause);
            disturb(&mut world);
        }
        world.cut.clear();
        world.deaf.clear();
        world.weather = FAIR;
        for a in 0..ROUTERS {
            for b in 0..a {
                world.introduce(a, b);
                let other = world.id(b);
                world.with(a, |sessions, now| sessions.want(other, Want::Gossip, now));
            }
        }
        let all =
            |world: &World| (0..ROUTERS).all(|a| (0..a).all(|b| world.is_up(a, b) && world.has_lanes(a, b)));
        let took = world.run_until(Duration::from_secs(120), all);
        assert!(all(&world), "seed {seed}: not after {took:?}");
        let downs: usize = world.nodes.iter().map(|node| node.downs.len()).sum();
        world.run(Duration::from_secs(300));
        assert!(all(&world), "seed {seed}");
        // What was under way when the weather cleared may still end once.
        let later: usize = world.nodes.iter().map(|node| node.downs.len()).sum();
        assert!(later - downs <= ROUTERS, "seed {seed}: {} sessions ended in fair weather", later - downs);
    }
}

fn spec_seed(index: usize) -> u8 {
    u8::try_from(index + 1).expect("few routers")
}

fn disturb(world: &mut World) {
    let count = ROUTERS as u64;
    let a = world.random.below(count) as usize;
    let b = (a + 1 + world.random.below(count - 1) as usize) % ROUTERS;
    let other = world.id(b);
    match world.random.below(11) {
        0 => world.restart(a, member(spec_seed(a))),
        1 => drop(world.cut.insert((a, b))),
        2 => drop(world.deaf.insert((a, b))),
        3 => {
            world.cut.clear();
            world.deaf.clear();
        }
        4 => {
            let port = 7000 + u16::try_from(world.random.below(1000)).expect("small");
            let ip = world.address(a).ip();
            world.nodes[a].address = (ip, port).into();
        }
        5 => world.with(a, |sessions, now| sessions.want(other, Want::Gossip, now)),
        6 => world.with(a, |sessions, now| sessions.unwant(other, Want::Gossip, now)),
        7 => world.with(a, |sessions, now| sessions.send(other, Channel::Gossip, vec![7; 3000], now)),
        8 => {
            let address = world.address(b);
            world.with(a, |sessions, now| sessions.connect_address(address, now));
        }
        9 => world.with(a, |sessions, now| sessions.forget_peer(other, now)),
        _ => world.introduce(a, b),
    }
}
