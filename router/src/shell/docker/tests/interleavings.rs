//! Containers come and go in any order while Docker and this router die at any step: in the end nothing is left, and never do two
//! containers have one address.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::super::fabric::Place;
use super::super::sweep::ORPHAN_AFTER;
use super::super::{Driver, Outcome, Scope};
use super::world::{World, about, address, done, endpoint, pool, release};

/// How many lives are lived; a failure prints its seed.
const LIVES: u64 = 1_000;
/// Steps of Docker's in one life.
const STEPS: u64 = 30;

/// What Docker knows of a container.
#[derive(Debug, Clone, Default)]
struct Container {
    id: String,
    wish: String,
    v4: Option<String>,
    v6: Option<String>,
    stage: Stage,
    /// A call was not answered.
    waits: bool,
}

/// How far it has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    New,
    Addressed,
    Made,
    Joined,
    Left,
    Deleted,
    Gone,
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[tokio::test]
async fn nothing_leaks_and_no_address_is_used_twice() {
    for seed in 1..=LIVES {
        life(seed).await;
    }
}

async fn life(seed: u64) {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let world = World::new();
    let mut driver = world.driver(Scope::Local).await;
    let pools = [pool(&driver, "10.40.5.0/28", false).await, pool(&driver, "", true).await];
    let mut containers: Vec<Container> = Vec::new();
    let mut born = 0;
    for _ in 0..STEPS {
        while containers.len() < 4 {
            born += 1;
            let wish = if dice.below(4) == 0 { "10.40.5.3".to_owned() } else { String::new() };
            containers.push(Container { id: format!("ep{born}"), wish, ..Container::default() });
        }
        if dice.below(5) == 0 {
            world.things().fuse = Some(dice.below(8) as u32);
        }
        let work = join_all(containers.iter_mut().map(|container| step(&driver, &pools, container)));
        let died = tokio::select! {
            biased;
            _ = work => false,
            () = world.died() => true,
        };
        // Every crash is followed by a start; Docker then repeats what it had no answer to.
        world.things().fuse = None;
        if died || dice.below(10) == 0 {
            driver = world.driver(Scope::Local).await;
        }
        if dice.below(12) == 0 {
            docker_dies(&driver, &pools, &mut containers, &mut dice).await;
        }
        if dice.below(6) == 0 {
            driver.sweep(Instant::now()).await.expect("sweep");
        }
        check(seed, &world, &containers);
        containers.retain(|container| container.stage != Stage::Gone);
    }
    world.things().fuse = None;
    driver = world.driver(Scope::Local).await;
    for container in &mut containers {
        if container.stage != Stage::New {
            tear_down(&driver, &pools, container).await;
        }
    }
    for wait in 0..4 {
        driver.sweep(Instant::now() + wait * (ORPHAN_AFTER + Duration::from_secs(1))).await.expect("sweep");
    }
    for id in &pools {
        let body = serde_json::json!({ "PoolID": id });
        done(super::world::call(&driver, "IpamDriver.ReleasePool", body).await);
    }
    let page = driver.book.lock().await.page().clone();
    assert_eq!(page, Default::default(), "seed {seed}: records are left");
    assert_eq!(world.things().leases, Default::default(), "seed {seed}: leases are left");
    assert!(world.things().plugs.is_empty(), "seed {seed}: interfaces are left");
    std::fs::remove_dir_all(&world.dir).expect("clean");
}

/// One call of Docker's for a container. When the answer is lost, the same comes again.
async fn step(driver: &Arc<Driver<World>>, [p4, p6]: &[String; 2], container: &mut Container) {
    let id = container.id.clone();
    let world = &driver.fabric;
    let refused = |outcome: &Outcome| matches!(outcome, Outcome::Failed(_));
    container.waits = true;
    container.stage = match container.stage {
        Stage::New if container.v4.is_none() => match address(driver, p4, &container.wish).await {
            outcome if refused(&outcome) => Stage::Gone,
            outcome => {
                container.v4 = done(outcome)["Address"].as_str().map(str::to_owned);
                Stage::New
            }
        },
        Stage::New => {
            container.v6 = done(address(driver, p6, "").await)["Address"].as_str().map(str::to_owned);
            Stage::Addressed
        }
        Stage::Addressed => {
            let (v4, v6) =
                (container.v4.clone().unwrap_or_default(), container.v6.clone().unwrap_or_default());
            match endpoint(driver, &id, &v4, &v6).await {
                // Somebody else named the same address and was faster.
                outcome if refused(&outcome) => Stage::Deleted,
                _ => Stage::Made,
            }
        }
        Stage::Made => {
            done(about(driver, "Join", &id).await);
            if let Some(plugged) = world.things().plugs.get_mut(&id) {
                plugged.place = Place::Container;
            }
            Stage::Joined
        }
        Stage::Joined => {
            done(about(driver, "Leave", &id).await);
            Stage::Left
        }
        Stage::Left => {
            done(about(driver, "DeleteEndpoint", &id).await);
            Stage::Deleted
        }
        Stage::Deleted => {
            for (pool, address) in [(p4, &container.v4), (p6, &container.v6)] {
                if let Some(address) = address {
                    done(release(driver, pool, address).await);
                }
            }
            Stage::Gone
        }
        Stage::Gone => Stage::Gone,
    };
    container.waits = false;
}

/// Docker starts again: it takes down what it had written down, and has forgotten what it had not.
async fn docker_dies(
    driver: &Arc<Driver<World>>,
    pools: &[String; 2],
    containers: &mut [Container],
    dice: &mut Dice,
) {
    for container in containers {
        match container.stage {
            Stage::Joined | Stage::Left => tear_down(driver, pools, container).await,
            _ if dice.below(2) == 0 => container.stage = Stage::Gone,
            _ => {}
        }
    }
}

async fn tear_down(driver: &Arc<Driver<World>>, [p4, p6]: &[String; 2], container: &mut Container) {
    done(about(driver, "Leave", &container.id).await);
    done(about(driver, "DeleteEndpoint", &container.id).await);
    for (pool, address) in [(p4, &container.v4), (p6, &container.v6)] {
        if let Some(address) = address {
            done(release(driver, pool, address).await);
        }
    }
    container.stage = Stage::Gone;
}

/// Of the containers that run, each has an address of its own, and it is leased.
fn check(seed: u64, world: &World, containers: &[Container]) {
    let things = world.things();
    let mut seen = BTreeSet::new();
    let runs = |container: &&Container| container.stage == Stage::Joined && !container.waits;
    for container in containers.iter().filter(runs) {
        for address in [&container.v4, &container.v6] {
            assert!(seen.insert(address.clone()), "seed {seed}: two containers have {address:?}");
        }
        let plugged = things.plugs.get(&container.id);
        let leased = plugged.map(|plugged| things.leases.contains_key(&plugged.address));
        assert_eq!(leased, Some(true), "seed {seed}: {container:?} runs without a lease");
    }
}
