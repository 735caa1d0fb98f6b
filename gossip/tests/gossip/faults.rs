//! What gossip does when the network and the hosts misbehave.

use std::time::Duration;

use gossip::MemberState;

use crate::signer::{mix, peer};
use crate::sim::{Faults, Sim};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn nobody_dies_of_lost_messages() {
    for seed in 0..4 {
        for count in [2, 3, 5, 12] {
            let mut sim = Sim::fabric(seed, count);
            sim.faults = Faults::BAD;
            sim.run(120 * SECOND);
            assert_eq!(sim.deaths(), 0, "{count} peers\n{}", sim.describe());
        }
    }
}

/// A false accusation goes to everybody, and there are more of them the more peers there are: they must stay rare, or what is sent
/// for nothing grows with the fabric.
#[test]
fn lost_messages_cost_little_also_among_many() {
    let mut sim = Sim::fabric(7, 100);
    sim.faults = Faults { loss: 50, ..Faults::NONE };
    sim.run(20 * SECOND);
    sim.reset_bytes();
    sim.run(60 * SECOND);
    let rate = sim.bytes.values().sum::<u64>() / 60 / 100;
    assert!(rate <= 300, "{rate} bytes per second and peer");
    assert_eq!(sim.deaths(), 0);
}

#[test]
fn stores_converge_under_loss_and_churn() {
    for seed in 0..6 {
        let mut sim = Sim::fabric(seed, 8);
        sim.faults = Faults::BAD;
        for round in 0..150u64 {
            let chance = mix(seed ^ (round << 8));
            let (n, name) = ((chance % 8) as u16, (chance >> 8) as u32 % 20);
            if (chance >> 40).is_multiple_of(3) {
                sim.withdraw(n, name);
            } else {
                sim.publish(n, name, &chance.to_be_bytes());
            }
            sim.run(Duration::from_millis(100 + chance % 200));
        }
        let took = sim.run_until(20 * SECOND, "convergence while messages are still lost", Sim::converged);
        eprintln!("seed {seed}: {took:?}");
    }
}

#[test]
fn a_partition_heals() {
    for seed in 0..4 {
        let mut sim = Sim::fabric(seed, 12);
        sim.publish(1, 1, b"before");
        sim.run(SECOND);
        let side = [0, 1, 2, 3, 4];
        // It takes a link to see it break at once; whoever has no neighbour on the other side is missed later.
        let linked = |a: u16, b: u16| sim.gossip(a).neighbours().any(|linked| linked == peer(b));
        let across = side.into_iter().flat_map(|a| (5..12).map(move |b| (a, b)));
        let across: Vec<(u16, u16)> = across.filter(|(a, b)| linked(*a, *b) && linked(*b, *a)).collect();
        assert!(across.len() > 5, "{}", sim.describe());
        sim.partition(&side);
        sim.run(30 * SECOND);
        for (here, there) in across {
            for observer in side {
                assert_eq!(sim.state_at(observer, there), Some(MemberState::Dead));
            }
            assert_eq!(sim.state_at(there, here), Some(MemberState::Dead));
        }
        assert_eq!(sim.state_at(0, 3), Some(MemberState::Alive));
        // A minute is promised for all, neighbours or not.
        sim.run(30 * SECOND);
        for (here, there) in side.into_iter().flat_map(|a| (5..12).map(move |b| (a, b))) {
            assert_eq!(sim.state_at(here, there), Some(MemberState::Dead), "{here} of {there}");
            assert_eq!(sim.state_at(there, here), Some(MemberState::Dead), "{there} of {here}");
        }
        sim.publish(1, 1, b"after");
        sim.publish(9, 1, b"there");
        sim.run(SECOND);
        assert_eq!(sim.endpoint_at(3, 1, 1).as_deref(), Some(&b"after"[..]), "each side goes on");
        let deaths = sim.deaths();
        sim.heal();
        let healed = |sim: &Sim| sim.agreed() && sim.converged() && sim.connected();
        let took = sim.run_until(40 * SECOND, "one fabric again", healed);
        eprintln!("seed {seed}: {took:?}");
        sim.run(20 * SECOND);
        assert!(healed(&sim), "{}", sim.describe());
        assert_eq!(sim.deaths(), deaths, "healing kills nobody");
        assert_eq!(sim.endpoint_at(9, 1, 1).as_deref(), Some(&b"after"[..]));
    }
}

#[test]
fn everything_at_once_and_then_peace() {
    for seed in 100..104 {
        let mut sim = Sim::fabric(seed, 9);
        sim.faults = Faults::TERRIBLE;
        for round in 0..60u64 {
            let chance = mix(seed ^ (round << 16));
            let n = (chance % 9) as u16;
            match (chance >> 20) % 8 {
                0 if sim.hosts[&n].gossip.is_some() && sim.running().len() > 4 => sim.crash(n),
                1 => sim.partition(&[n, (n + 1) % 9, (n + 2) % 9]),
                2 => sim.heal(),
                _ if sim.hosts[&n].gossip.is_none() => {
                    sim.boot(n);
                    let other = sim.running().into_iter().find(|other| *other != n).expect("some run");
                    sim.dial(n, other);
                }
                3 => sim.withdraw(n, round as u32 % 7),
                _ => sim.publish(n, round as u32 % 7, &chance.to_be_bytes()),
            }
            sim.run(Duration::from_millis(chance % 4000));
            for n in sim.running() {
                assert!(sim.gossip(n).waiting() < 10_000, "{}", sim.describe());
            }
        }
        sim.heal();
        sim.faults = Faults::NONE;
        for n in 0..9 {
            if sim.hosts[&n].gossip.is_none() {
                sim.boot(n);
                let other = sim.running().into_iter().find(|other| *other != n).expect("some run");
                sim.dial(n, other);
            }
        }
        sim.run(90 * SECOND);
        assert!(sim.agreed() && sim.converged() && sim.connected(), "{}", sim.describe());
    }
}

#[test]
fn a_slow_peer_slows_nobody() {
    let mut sim = Sim::fabric(31, 6);
    // The peer reads nothing for a while: whatever waits for it must not grow without bound nor hold up others.
    sim.partition(&[5]);
    for round in 0..40u32 {
        for name in 0..100 {
            sim.publish(0, name, &round.to_be_bytes());
        }
        sim.run(Duration::from_millis(100));
        let last = sim.endpoint_at(3, 0, 99);
        assert!(last.is_some(), "others are served");
        assert!(sim.gossip(0).waiting() <= 1000, "{}", sim.gossip(0).waiting());
    }
    sim.run(2 * SECOND);
    assert_eq!(sim.endpoint_at(3, 0, 99).as_deref(), Some(&39u32.to_be_bytes()[..]));
    sim.heal();
    sim.run_until(60 * SECOND, "the slow one catches up", |sim| sim.agreed() && sim.converged());
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || {
        let mut sim = Sim::fabric(77, 9);
        sim.faults = Faults::BAD;
        sim.crash(2);
        sim.run(30 * SECOND);
        sim.describe()
    };
    assert_eq!(run(), run());
}
