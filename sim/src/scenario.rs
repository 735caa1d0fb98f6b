//! Named ways to draw a plan from a seed.

use std::time::Duration;

use ipam::Want;
use ipnet::Ipv4Net;

use crate::dice::Dice;
use crate::fault::{Fault, Kind};
use crate::network::Weather;
use crate::plan::{Act, Plan, Rules};

/// A name and what it draws.
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What happens in it.
    pub about: &'static str,
    draw: fn(&Wish, &mut Dice) -> Plan,
}

/// What the user said, apart from the seed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish {
    /// Hosts at the start.
    pub peers: Option<u16>,
    /// How long things are done.
    pub length: Option<Duration>,
}

/// All scenarios.
pub const ALL: &[Scenario] = &[
    Scenario { name: "quiet", about: "Everybody joins, and then nothing happens.", draw: quiet },
    Scenario { name: "join", about: "Hosts join while containers come and go.", draw: join },
    Scenario { name: "churn", about: "Hosts crash, return, come and leave all the time.", draw: churn },
    Scenario { name: "partition", about: "Partitions of every kind come and heal.", draw: partition },
    Scenario { name: "disks", about: "Disks fill up, tear, rot, go back in time.", draw: disks },
    Scenario { name: "removal", about: "Peers are removed, rightly and wrongly.", draw: removal },
    Scenario { name: "full", about: "A small range, more containers than addresses.", draw: full },
    Scenario { name: "lies", about: "Members lie, while all others hear each other.", draw: lies },
    Scenario {
        name: "seeds",
        about: "A fleet starts at once from one list of seeds; some crash, some join.",
        draw: seeds,
    },
    Scenario {
        name: "reclaim",
        about: "Routers remove who is dead for long; hosts crash, partitions last.",
        draw: reclaim,
    },
    Scenario { name: "mixed", about: "Some kinds of fault, drawn from all, for 3 to 30 hosts.", draw: mixed },
];

/// The scenario of a name.
pub fn named(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.name == name)
}

impl Scenario {
    /// The plan of a seed.
    pub fn plan(&self, seed: u64, wish: &Wish) -> Plan {
        let mut dice = Dice::new(seed, 5);
        let mut plan = (self.draw)(wish, &mut dice);
        plan.seed = seed;
        plan.acts.sort_by_key(|(at, _)| *at);
        plan
    }
}

const SECOND: Duration = Duration::from_secs(1);
/// A fault lasts at most for this part of a life.
const LONGEST_PART: u32 = 2;

fn quiet(wish: &Wish, dice: &mut Dice) -> Plan {
    base(wish, dice, 10, 60)
}

fn join(wish: &Wish, dice: &mut Dice) -> Plan {
    let mut plan = base(wish, dice, 8, 60);
    containers(&mut plan, dice, 20);
    faults(&mut plan, dice, &[Kind::Join, Kind::MassJoin], 4);
    plan
}

fn churn(wish: &Wish, dice: &mut Dice) -> Plan {
    let mut plan = base(wish, dice, 10, 120);
    containers(&mut plan, dice, 30);
    let kinds = [Kind::Crash, Kind::Crash, Kind::PowerLoss, Kind::Join, Kind::Leave, Kind::AddressChange];
    faults(&mut plan, dice, &kinds, 12);
    plan
}

fn partition(wish: &Wish, dice: &mut Dice) -> Plan {
    let mut plan = base(wish, dice, 8, 120);
    containers(&mut plan, dice, 30);
    let kinds = [
        Kind::Partition,
        Kind::OneWayPartition,
        Kind::PartialPartition,
        Kind::FlappingLink,
        Kind::DeafAsker,
        Kind::Crash,
    ];
    faults(&mut plan, dice, &kinds, 8);
    plan
}

fn disks(wish: &Wish, dice: &mut Dice) -> Plan {
    let mut plan = base(wish, dice, 6, 90);
    containers(&mut plan, dice, 40);
    let kinds = [
        Kind::TornWrite,
        Kind::PowerLoss,
        Kind::DiskFull,
        Kind::DiskSlow,
        Kind::DiskDamage,
        Kind::DiskLost,
        Kind::Rollback,
    ];
    faults(&mut plan, dice, &kinds, 8);
    plan
}

fn removal(wish: &Wish, dice: &mut Dice) -> Plan {
    let mut plan = base(wish, dice, 7, 150);
    containers(&mut plan, dice, 30);
    let kinds =
        [Kind::RemovalInPartition, Kind::RemovalTwice, Kind::RemovedReturns, Kind::Partition, Kind::Join];
    faults(&mut plan, dice, &kinds, 6);
    plan
}

fn full(wish: &Wish, dice: &mut Dice) -> Plan {
    let mut plan = base(wish, dice, 5, 90);
    plan.range = small_range(dice, 26, 30);
    containers(&mut plan, dice, 30);
    faults(&mut plan, dice, &[Kind::Exhaustion, Kind::FixedConflict, Kind::Crash, Kind::Leave], 6);
    plan
}

fn lies(wish: &Wish, dice: &mut Dice) -> Plan {
    let mut plan = base(wish, dice, 7, 90);
    containers(&mut plan, dice, 40);
    let kinds = [
        Kind::LyingGift,
        Kind::LyingEndpoint,
        Kind::LyingDeath,
        Kind::LyingTwice,
        Kind::VersionSkew,
        Kind::Stuck,
        Kind::FixedConflict,
    ];
    faults(&mut plan, dice, &kinds, 4);
    plan
}

fn seeds(wish: &Wish, dice: &mut Dice) -> Plan {
    let mut plan = base(wish, dice, 7, 60);
    plan.range = small_range(dice, 22, 27);
    plan.rules.seeds = some_seeds(&plan, dice);
    containers(&mut plan, dice, 40);
    let kinds = [
        Kind::Crash,
        Kind::PowerLoss,
        Kind::TornWrite,
        Kind::Partition,
        Kind::PartialPartition,
        Kind::Join,
        Kind::DiskLost,
        Kind::Leave,
        Kind::Exhaustion,
    ];
    faults(&mut plan, dice, &kinds, 5);
    plan
}

fn reclaim(wish: &Wish, dice: &mut Dice) -> Plan {
    let mut plan = base(wish, dice, 7, 280);
    plan.rules.reclaim_after = Some(dice.between(20 * SECOND, 60 * SECOND));
    plan.range = small_range(dice, 22, 27);
    if dice.happens(500) {
        plan.rules.seeds = some_seeds(&plan, dice);
    }
    containers(&mut plan, dice, 40);
    let kinds = [Kind::Crash, Kind::PowerLoss, Kind::Partition, Kind::Partition, Kind::Join, Kind::DiskLost];
    faults_lasting(&mut plan, dice, &kinds, 4, 180 * SECOND);
    plan
}

fn mixed(wish: &Wish, dice: &mut Dice) -> Plan {
    // Mostly few: what goes wrong goes wrong among few, and they are fast.
    let peers = match dice.below(10) {
        0..6 => 3 + dice.below(4),
        6..9 => 6 + dice.below(7),
        _ => 12 + dice.below(19),
    };
    let length = 40 + dice.below(110);
    let mut plan = base(wish, dice, peers as u16, length);
    plan.weather = weather(dice);
    plan.range = small_range(dice, 22, 29);
    match dice.below(8) {
        0 => plan.rules.seeds = some_seeds(&plan, dice),
        1 => plan.rules.reclaim_after = Some(dice.between(20 * SECOND, 60 * SECOND)),
        _ => {}
    }
    let count = 5 + dice.below(40);
    containers(&mut plan, dice, count);
    let kinds: Vec<Kind> = (0..1 + dice.below(6)).map(|_| Kind::ALL[dice.index(Kind::ALL.len())]).collect();
    let count = 1 + dice.below(12);
    faults(&mut plan, dice, &kinds, count);
    plan
}

fn base(wish: &Wish, dice: &mut Dice, peers: u16, length: u64) -> Plan {
    Plan {
        seed: 0,
        peers: wish.peers.unwrap_or(peers),
        natted: if dice.happens(250) { dice.roll() & dice.roll() & dice.roll() } else { 0 },
        range: "10.32.0.0/16".parse().unwrap_or_default(),
        rules: Rules::default(),
        weather: Weather::FAIR,
        stagger: if dice.happens(500) { dice.between(Duration::ZERO, SECOND) } else { Duration::ZERO },
        length: wish.length.unwrap_or(SECOND * length as u32),
        acts: Vec::new(),
    }
}

fn weather(dice: &mut Dice) -> Weather {
    let mut weather = Weather::FAIR;
    match dice.below(4) {
        0 => {}
        1 => weather.loss = dice.below(50) as u32,
        2 => {
            weather.reordering = dice.below(100) as u32;
            weather.late = Duration::from_millis(1 + dice.below(300));
        }
        _ => {
            weather.loss = dice.below(150) as u32;
            weather.duplication = dice.below(100) as u32;
            weather.corruption = dice.below(20) as u32;
        }
    }
    weather
}

/// How many of the hosts are seeds: two at least, and not so many that a part would have no address.
fn some_seeds(plan: &Plan, dice: &mut Dice) -> u16 {
    let size = 1u64 << (32 - plan.range.prefix_len());
    match u64::from(plan.peers).min(size / 4) {
        0..2 => 0,
        most => 2 + dice.below(most - 1) as u16,
    }
}

fn small_range(dice: &mut Dice, shortest: u8, longest: u8) -> Ipv4Net {
    let length = shortest + dice.below(u64::from(longest - shortest) + 1) as u8;
    Ipv4Net::new(std::net::Ipv4Addr::new(10, 32, 0, 0), length).unwrap_or_default()
}

/// Containers that come, most of which go again, and some pings.
fn containers(plan: &mut Plan, dice: &mut Dice, count: u64) {
    let peers = u64::from(plan.peers);
    for container in 0..count as u32 {
        let host = dice.below(peers) as u16;
        let at = dice.between(Duration::ZERO, plan.length);
        let size = plan.range.hosts().count() as u64;
        let address = plan.range.hosts().nth(dice.below(size) as usize).unwrap_or(plan.range.addr());
        let want = match dice.below(10) {
            0 => Want::Fixed(address),
            1 => Want::In(Ipv4Net::new(address, (plan.range.prefix_len() + 2).min(32)).unwrap_or_default()),
            _ => Want::Any,
        };
        plan.acts.push((at, Act::Attach { host, container, want }));
        if dice.happens(600) {
            let end = at + dice.between(SECOND / 100, plan.length / 2);
            plan.acts.push((end, Act::Detach { host, container }));
        }
        if dice.happens(200) {
            plan.acts.push((at, Act::Ping { host, other: dice.below(peers) as u16 }));
        }
    }
}

fn faults(plan: &mut Plan, dice: &mut Dice, kinds: &[Kind], count: u64) {
    faults_lasting(plan, dice, kinds, count, 60 * SECOND);
}

fn faults_lasting(plan: &mut Plan, dice: &mut Dice, kinds: &[Kind], count: u64, longest: Duration) {
    for _ in 0..count {
        let fault = Fault {
            kind: kinds[dice.index(kinds.len())],
            host: dice.below(u64::from(plan.peers)) as u16,
            other: dice.below(u64::from(plan.peers)) as u16,
            lasts: dice.between(SECOND / 10, (plan.length / LONGEST_PART).min(longest)),
            how: dice.roll(),
        };
        plan.acts.push((dice.between(Duration::ZERO, plan.length), Act::Fault(fault)));
    }
}
