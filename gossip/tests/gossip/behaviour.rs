//! What gossip does when nothing, or only one thing, goes wrong.

use std::time::Duration;

use gossip::{Event, Kind, MemberState, RecordKey};

use crate::signer::peer;
use crate::sim::{Sim, endpoint};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn small_fabrics_link_everyone_with_everyone() {
    for count in 2..=6 {
        let sim = Sim::fabric(1, count);
        assert!(sim.agreed() && sim.converged(), "{}", sim.describe());
        for n in sim.running() {
            assert_eq!(sim.gossip(n).neighbours().count(), usize::from(count) - 1, "{}", sim.describe());
        }
    }
}

#[test]
fn larger_fabrics_are_sparse_and_connected() {
    for (seed, count) in [(1, 12), (2, 30), (3, 60)] {
        let mut sim = Sim::fabric(seed, count);
        sim.run(30 * SECOND);
        assert!(sim.agreed() && sim.converged() && sim.connected(), "{}", sim.describe());
        for n in sim.running() {
            let degree = sim.gossip(n).neighbours().count();
            assert!((3..=9).contains(&degree), "{n} has {degree} neighbours\n{}", sim.describe());
        }
    }
}

#[test]
fn a_record_reaches_everybody_at_once() {
    let mut sim = Sim::fabric(4, 30);
    sim.publish(7, 1, b"here");
    let took = sim.run_until(SECOND, "everybody knows", |sim| {
        sim.running().iter().all(|n| sim.endpoint_at(*n, 7, 1).as_deref() == Some(b"here"))
    });
    assert!(took <= SECOND / 2, "{took:?}");
    sim.withdraw(7, 1);
    sim.run_until(SECOND, "everybody forgot", |sim| {
        sim.running().iter().all(|n| sim.endpoint_at(*n, 7, 1).is_none())
    });
    let gone = Event::RecordChanged { origin: peer(7), key: endpoint(1), value: None };
    assert!(sim.hosts[&20].events.iter().any(|(_, event)| *event == gone));
}

#[test]
fn publishing_the_same_again_sends_nothing() {
    let mut sim = Sim::fabric(5, 3);
    sim.publish(0, 1, b"same");
    sim.run(SECOND);
    let before = sim.gossip(0).record(peer(0), &endpoint(1)).cloned();
    sim.publish(0, 1, b"same");
    assert_eq!(sim.gossip(0).record(peer(0), &endpoint(1)).cloned(), before);
    assert_eq!(sim.gossip(0).waiting(), 0);
}

#[test]
fn a_newcomer_learns_everything() {
    let mut sim = Sim::fabric(6, 5);
    for n in 0..5u16 {
        for name in 0..300 {
            sim.publish(n, name, format!("container {name} of {n}").as_bytes());
        }
    }
    sim.run(5 * SECOND);
    sim.boot(9);
    sim.dial(9, 3);
    let took = sim.run_until(10 * SECOND, "the newcomer knows all", Sim::converged);
    assert!(took <= 5 * SECOND, "{took:?}");
    assert_eq!(sim.gossip(9).records(Kind::ENDPOINT).count(), 1500);
}

#[test]
fn eight_join_at_once_through_one() {
    let mut sim = Sim::empty(7);
    (0..9).for_each(|n| sim.boot(n));
    (1..9).for_each(|n| sim.dial(n, 0));
    sim.run_until(10 * SECOND, "all joined", |sim| sim.agreed() && sim.converged() && sim.connected());
}

#[test]
fn fifty_join_at_once_through_one() {
    let mut sim = Sim::empty(8);
    (0..51).for_each(|n| sim.boot(n));
    (1..51).for_each(|n| sim.dial(n, 0));
    sim.run_until(30 * SECOND, "all joined", |sim| sim.agreed() && sim.converged() && sim.connected());
}

#[test]
fn a_dead_peer_is_found_by_all() {
    for (seed, count) in [(1, 2), (2, 3), (3, 8), (4, 40)] {
        let mut sim = Sim::fabric(seed, count);
        sim.crash(1);
        let took = sim.run_until(12 * SECOND, "all know of the death", |sim| {
            sim.running().iter().all(|n| sim.state_at(*n, 1) == Some(MemberState::Dead))
        });
        eprintln!("{count} peers: {took:?}");
        assert!(took > 2 * SECOND && took <= 11 * SECOND, "{count} peers: {took:?}");
        assert_eq!(sim.deaths(), sim.running().len(), "nobody else died");
        sim.run(10 * SECOND);
        assert!(sim.agreed() && sim.converged() && sim.connected(), "{}", sim.describe());
    }
}

#[test]
fn records_of_the_dead_are_kept() {
    let mut sim = Sim::fabric(9, 5);
    sim.publish(2, 1, b"mine");
    sim.run(SECOND);
    sim.crash(2);
    sim.run(30 * SECOND);
    assert_eq!(sim.state_at(0, 2), Some(MemberState::Dead));
    assert_eq!(sim.endpoint_at(0, 2, 1).as_deref(), Some(&b"mine"[..]));
    sim.boot(8);
    sim.dial(8, 0);
    sim.run(5 * SECOND);
    assert_eq!(sim.endpoint_at(8, 2, 1).as_deref(), Some(&b"mine"[..]), "even newcomers learn them");
    assert_eq!(sim.state_at(8, 2), Some(MemberState::Dead), "and that their origin is dead");
    assert!(sim.hosts[&8].events.iter().any(|(_, event)| *event == Event::MemberDown(peer(2))));
}

#[test]
fn a_goodbye_is_not_a_death() {
    let mut sim = Sim::fabric(10, 12);
    sim.with(4, |gossip, now| gossip.leave(now));
    sim.run(SECOND);
    for n in sim.running().into_iter().filter(|n| *n != 4) {
        assert_eq!(sim.state_at(n, 4), Some(MemberState::Left));
    }
    sim.crash(4);
    sim.run(40 * SECOND);
    assert_eq!(sim.deaths(), 0);
    sim.boot(4);
    sim.dial(4, 1);
    sim.run_until(10 * SECOND, "it is back", |sim| sim.agreed() && sim.converged());
}

#[test]
fn a_restarted_peer_finds_and_sorts_its_old_records() {
    let mut sim = Sim::fabric(11, 4);
    sim.publish(3, 1, b"kept");
    sim.publish(3, 2, b"not kept");
    sim.run(SECOND);
    sim.crash(3);
    sim.run(30 * SECOND);
    sim.boot(3);
    sim.publish(3, 1, b"kept");
    sim.dial(3, 0);
    sim.run(10 * SECOND);
    let found = Event::OwnRecordFound { key: endpoint(2), value: b"not kept".to_vec() };
    let times = sim.hosts[&3].events.iter().filter(|(_, event)| *event == found).count();
    assert_eq!(times, 1, "{:?}", sim.hosts[&3].events);
    assert_eq!(sim.endpoint_at(1, 3, 2).as_deref(), Some(&b"not kept"[..]), "until the time is over");
    sim.run(40 * SECOND);
    assert_eq!(sim.endpoint_at(1, 3, 2), None);
    assert_eq!(sim.endpoint_at(1, 3, 1).as_deref(), Some(&b"kept"[..]));
    assert!(sim.agreed() && sim.converged(), "{}", sim.describe());
    assert!(!sim.hosts[&3].events.iter().any(|(_, event)| matches!(event, Event::CloneSuspected { .. })));
}

#[test]
fn an_old_record_published_in_time_stays() {
    let mut sim = Sim::fabric(12, 3);
    sim.publish(2, 1, b"late");
    sim.run(SECOND);
    sim.crash(2);
    sim.boot(2);
    sim.dial(2, 0);
    sim.run(10 * SECOND);
    sim.publish(2, 1, b"late");
    let version = sim.gossip(2).record(peer(2), &endpoint(1)).expect("published").version;
    assert_eq!(version >> 32, 2, "a version of this boot");
    sim.run(60 * SECOND);
    assert_eq!(sim.endpoint_at(0, 2, 1).as_deref(), Some(&b"late"[..]));
}

#[test]
fn a_quick_restart_is_no_death() {
    let mut sim = Sim::fabric(13, 5);
    sim.crash(4);
    sim.run(SECOND);
    sim.boot(4);
    sim.dial(4, 2);
    sim.run_until(10 * SECOND, "it is back", |sim| sim.agreed() && sim.converged());
    assert_eq!(sim.deaths(), 0);
}

#[test]
fn a_removed_peer_is_forgotten_and_refused() {
    let mut sim = Sim::fabric(14, 6);
    sim.publish(5, 1, b"x");
    sim.run(SECOND);
    sim.crash(5);
    sim.run(20 * SECOND);
    for n in sim.running() {
        sim.with(n, |gossip, now| gossip.remove_peer(peer(5), now));
        assert_eq!(sim.gossip(n).record(peer(5), &RecordKey::only(Kind::PEER)), None);
        assert_eq!(sim.state_at(n, 5), None);
    }
    sim.publish(0, 77, b"removal");
    sim.boot(5);
    sim.dial(5, 0);
    sim.run(20 * SECOND);
    assert!(sim.running().into_iter().filter(|n| *n != 5).all(|n| sim.endpoint_at(n, 5, 1).is_none()));
    assert_eq!(sim.endpoint_at(5, 0, 77).as_deref(), Some(&b"removal"[..]), "it can find out");
}

#[test]
fn a_clone_is_noticed() {
    let mut sim = Sim::fabric(15, 4);
    for name in 0..5 {
        sim.publish(3, name, b"original");
    }
    sim.run(2 * SECOND);
    sim.crash(3);
    // A disk image of before: the same boot counter again, other words under the same versions.
    sim.boot_as(3, 1);
    sim.publish(3, 0, b"clone");
    sim.dial(3, 0);
    sim.run(20 * SECOND);
    let events = &sim.hosts[&3].events;
    assert!(events.iter().any(|(_, event)| matches!(event, Event::CloneSuspected { boot, .. } if *boot > 1)));
    assert_eq!(sim.endpoint_at(1, 3, 0).as_deref(), Some(&b"clone"[..]), "the living one has the last word");
    sim.run(60 * SECOND);
    assert_eq!(sim.endpoint_at(1, 3, 4), None, "what it does not say any more is withdrawn");
    assert!(sim.agreed() && sim.converged(), "{}", sim.describe());
}

#[test]
fn a_quiet_fabric_is_quiet_however_much_it_knows() {
    let mut rates = Vec::new();
    for records in [0, 2000] {
        let mut sim = Sim::fabric(16, 10);
        (0..records).for_each(|name| sim.publish((name % 10) as u16, name, b"something"));
        sim.run(30 * SECOND);
        assert!(sim.converged());
        sim.reset_bytes();
        sim.run(60 * SECOND);
        rates.push(sim.bytes.values().max().expect("somebody probes") / 60);
    }
    eprintln!("bytes per second and peer: {rates:?}");
    assert!(rates.iter().all(|rate| *rate < 500), "{rates:?}");
    assert!(rates[1] < rates[0] + rates[0] / 4, "{rates:?}");
}

#[test]
fn a_record_travels_a_few_times_to_each_peer_and_not_over_every_link() {
    let mut sim = Sim::fabric(19, 40);
    // The tree forms.
    (0..20).for_each(|n| {
        sim.publish(n, 1, b"something");
        sim.run(Duration::from_millis(500));
    });
    sim.reset_bytes();
    let value = [7; 600];
    for name in 0..40 {
        sim.publish(name % 40, u32::from(name) + 2, &value);
        sim.run(Duration::from_millis(500));
    }
    assert!(sim.converged());
    let quiet = 40 * 20 * 200;
    let copies = (sim.bytes.values().sum::<u64>() - quiet) as f64 / (40.0 * 39.0 * 700.0);
    eprintln!("{copies:.1} copies to each peer");
    assert!((1.0..5.0).contains(&copies), "{copies:.1} copies to each peer");
}

#[test]
fn two_that_cannot_reach_each_other_still_know_each_other() {
    let mut sim = Sim::empty(17);
    sim.sever(1, 2);
    (0..4).for_each(|n| sim.boot(n));
    (1..4).for_each(|n| sim.dial(n, 0));
    sim.run(60 * SECOND);
    sim.publish(1, 1, b"via others");
    sim.run(SECOND);
    assert_eq!(sim.endpoint_at(2, 1, 1).as_deref(), Some(&b"via others"[..]));
    assert!(sim.agreed() && sim.converged(), "{}", sim.describe());
    assert_eq!(sim.deaths(), 0);
}

#[test]
fn two_fabrics_grow_together_over_one_connection() {
    // All have enough neighbours of their own, so that whoever is asked for a link may well turn the asker away.
    let mut sim = Sim::empty(8);
    for n in (0..14).chain(20..34) {
        sim.boot(n);
    }
    (1..14).for_each(|n| sim.dial(n, 0));
    (21..34).for_each(|n| sim.dial(n, 20));
    sim.run(20 * SECOND);
    sim.dial(20, 0);
    sim.run_until(40 * SECOND, "one fabric", |sim| sim.agreed() && sim.converged() && sim.connected());
    sim.run(40 * SECOND);
    assert!(sim.agreed() && sim.converged() && sim.connected(), "{}", sim.describe());
}

#[test]
fn a_newcomer_is_sent_everything_about_once_and_passes_little_of_it_on() {
    let mut sim = Sim::fabric(11, 100);
    for n in 0..100 {
        sim.publish(n, n.into(), &[7; 200]);
    }
    sim.run(Duration::from_secs(60));
    let repeated =
        |sim: &Sim, n: u16| sim.hosts[&n].gossip.as_ref().expect("it runs").stats().records_repeated;
    let before: u64 = (0..100).map(|n| repeated(&sim, n)).sum();
    sim.boot(100);
    sim.dial(100, 0);
    sim.run(Duration::from_secs(15));
    let digest = |n: u16| sim.hosts[&n].gossip.as_ref().expect("it runs").digest();
    assert_eq!(digest(100), digest(0), "it knows all that there is to know");
    let newcomer = sim.hosts[&100].gossip.as_ref().expect("it runs").stats();
    assert!(newcomer.records_accepted >= 300, "{}", newcomer.records_accepted);
    assert!(newcomer.records_repeated < 100, "{} came twice", newcomer.records_repeated);
    let by_others: u64 = (0..100).map(|n| repeated(&sim, n)).sum::<u64>() - before;
    assert!(by_others < 900, "{by_others} records came to those who had them");
}
