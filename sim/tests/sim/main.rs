//! Tests of the simulation itself, plans that failed once, and a few seeds of every scenario.

use std::path::Path;
use std::time::Duration;

use sim::fleet::{Life, measure};
use sim::plan::Plan;
use sim::run::{Outcome, run};
use sim::scenario;
use sim::world::World;

/// Seeds of each scenario here; `cargo xtask test` runs more, optimised.
const SEEDS: u64 = 2;

fn must_end_well(name: &str, outcome: Outcome) {
    if let Err(failed) = outcome.result {
        panic!("{name}: {}: {}\n{}", failed.failure.check.name(), failed.failure.text, failed.history);
    }
}

#[test]
fn same_seed_gives_the_same_run() {
    for seed in [3, 8] {
        let plan = scenario::named("mixed").expect("it exists").plan(seed, &scenario::Wish::default());
        let (one, other) = (run(&plan), run(&plan));
        assert_eq!((one.trace, one.counts), (other.trace, other.counts), "seed {seed}");
    }
}

/// Without the feature all tests run with what ships.
#[cfg(feature = "simulated")]
#[test]
fn cheap_cryptography_changes_nothing() {
    use sim::run::run_with;
    use sim::world::Cryptography;

    for seed in 1..30 {
        let plan = scenario::named("mixed").expect("it exists").plan(seed, &scenario::Wish::default());
        let (real, cheap) = (run_with(&plan, Cryptography::Real), run_with(&plan, Cryptography::Simulated));
        assert_eq!((real.trace, real.counts), (cheap.trace, cheap.counts), "seed {seed}");
    }
}

#[test]
fn every_scenario_ends_well() {
    let wish = scenario::Wish { peers: None, length: Some(Duration::from_secs(40)) };
    for scenario in scenario::ALL {
        for seed in 0..SEEDS {
            let outcome = run(&scenario.plan(seed, &wish));
            must_end_well(&format!("{} {seed}", scenario.name), outcome);
        }
    }
}

#[test]
fn a_small_fleet_is_measured() {
    let wish = sim::fleet::Wish { life: Life::Quiet, peers: 8, seed: 1, quiet: Some(Duration::from_secs(5)) };
    let figures = measure(&wish, &mut |_| {}).unwrap_or_else(|failure| panic!("{failure:?}"));
    assert_eq!((figures.record.missing, figures.record.count), (0, 5 * 7));
    assert_eq!((figures.detection.missing, figures.detection.count), (0, 3 * 7));
    assert_eq!(figures.false_deaths, 0);
    assert!(figures.detection.p99 < 15.0 && figures.record.p99 < 3.0, "{figures}");
    let [(_, convergence), (_, bytes)] = sim::plot::draw(&[figures]).expect("it can be drawn");
    assert!(convergence.contains("8 routers") && bytes.contains("all of UDP"));
}

#[test]
fn plans_that_failed_once_end_well() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("plans");
    let files = std::fs::read_dir(folder).expect("the folder is there");
    let mut files: Vec<_> = files.map(|file| file.expect("it can be read").path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let text = std::fs::read_to_string(&file).expect("it can be read");
        let plan = Plan::from_text(&text).expect("it is a plan");
        must_end_well(&file.display().to_string(), run(&plan));
    }
}

#[test]
fn plans_round_trip_as_text() {
    for scenario in scenario::ALL {
        for seed in 0..20 {
            let plan = scenario.plan(seed, &scenario::Wish::default());
            let again = Plan::from_text(&plan.to_text()).expect("it was just written");
            assert_eq!(again.to_text(), plan.to_text());
            assert_eq!(again.acts.len(), plan.acts.len());
        }
    }
}

#[test]
fn an_address_in_two_places_is_noticed() {
    let plan = scenario::named("quiet")
        .expect("it exists")
        .plan(1, &scenario::Wish { peers: Some(2), length: None });
    let mut world = World::new(&plan);
    world.run(Duration::from_secs(5)).expect("nothing happens");
    let address = std::net::Ipv4Addr::new(10, 32, 0, 9);
    world.hosts[0].kernel.insert(1, address);
    let wired = |container| sim::host::News::Wired(container, address);
    let at = Duration::from_secs(5);
    world.model.hear(0, &wired(1), &world.hosts, at).expect("it is the only one");
    assert!(world.model.hear(1, &wired(2), &world.hosts, at).is_err());
}
