//! How a test is run, and what several of them ask.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::{Container, Host, Lab, LabConfig, Ping, payload, ping_until_answered};

/// How long a packet may take to find its way after something changed.
pub(crate) const SETTLE: Duration = Duration::from_secs(10);

/// Tests that measure take it for themselves, the others share it.
static MACHINE: RwLock<()> = RwLock::new(());

/// Runs a test on hosts without routers.
pub(crate) fn hosts(count: usize, body: impl FnOnce(&Lab) -> Result<()>) {
    let _shared = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    judge(Lab::new(count), body);
}

/// The same on an underlay that is not the usual one.
pub(crate) fn hosts_on(config: LabConfig, body: impl FnOnce(&Lab) -> Result<()>) {
    let _shared = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    judge(Lab::with(config), body);
}

/// Runs a test on a complete fabric.
pub(crate) fn fabric(count: usize, body: impl FnOnce(&Lab) -> Result<()>) {
    let _shared = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    judge(Lab::fabric(count), body);
}

/// The same on an underlay that is not the usual one.
pub(crate) fn fabric_on(config: LabConfig, body: impl FnOnce(&Lab) -> Result<()>) {
    let _shared = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    judge(Lab::fabric_with(config, &[]), body);
}

/// The same on a fabric whose routers have these arguments.
pub(crate) fn fabric_of(args: &[&str], body: impl FnOnce(&Lab) -> Result<()>) {
    let _shared = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    judge(Lab::fabric_with(LabConfig::hosts(2), args), body);
}

/// Runs a test that measures, while no other runs, on hosts without routers.
pub(crate) fn alone(count: usize, body: impl FnOnce(&Lab) -> Result<()>) {
    let _alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    judge(Lab::new(count), body);
}

/// The same on an underlay that is not the usual one.
pub(crate) fn alone_on(config: LabConfig, body: impl FnOnce(&Lab) -> Result<()>) {
    let _alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    judge(Lab::with(config), body);
}

/// The same on a complete fabric.
pub(crate) fn fabric_alone(count: usize, body: impl FnOnce(&Lab) -> Result<()>) {
    let _alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    judge(Lab::fabric(count), body);
}

/// A failure panics while the lab is there, so that it shows the logs.
#[track_caller]
fn judge(lab: Result<Lab>, body: impl FnOnce(&Lab) -> Result<()>) {
    let lab = match lab {
        Ok(lab) => lab,
        Err(error) => panic!("no lab: {error:#}"),
    };
    if let Err(error) = body(&lab).and_then(|()| no_panics(&lab)) {
        panic!("{error:#}");
    }
}

/// Whatever a test does to a router, it must not panic.
fn no_panics(lab: &Lab) -> Result<()> {
    for host in lab.hosts().iter().filter(|host| host.log().exists()) {
        let log = fs::read_to_string(host.log()).with_context(|| format!("no log of {}", host.nickname()))?;
        if let Some(line) = log.lines().find(|line| line.contains("panicked at")) {
            bail!("weaved of {} panicked: {line}", host.nickname());
        }
    }
    Ok(())
}

/// Prints a figure past the capture of the test harness, so that it is seen also when all goes well.
pub(crate) fn figure(name: &str, value: &str) {
    let _closed = writeln!(std::io::stderr(), "figure: {name}: {value}");
}

/// An attached container on each host.
pub(crate) fn one_each(lab: &Lab) -> Result<Vec<Container>> {
    lab.hosts().iter().map(Host::attached).collect()
}

/// Waits until one reaches the other in both families, then expects that nothing is lost.
pub(crate) fn reaches(from: &Container, to: &Container) -> Result<()> {
    for address in to.addresses()? {
        let reached = ping_until_answered(from.ns(), address, SETTLE)
            .and_then(|_| Ping::default().expect_all(from.ns(), address));
        reached.with_context(|| format!("{} to {}: {}", from.id(), to.id(), drops(&[from, to])))?;
    }
    Ok(())
}

/// What the routers of these containers dropped, for the messages of failures.
fn drops(containers: &[&Container]) -> String {
    drops_of(containers.iter().map(|container| container.host()))
}

/// What these routers dropped, for the messages of failures.
pub(crate) fn drops_of<'a>(hosts: impl Iterator<Item = &'a Host>) -> String {
    let mut text = String::new();
    for host in hosts {
        let frames =
            host.json(&["status"]).map_or_else(|e| e.to_string(), |s| s["traffic"]["drops"].to_string());
        let control =
            host.json(&["status", "connections"]).map_or_else(|e| e.to_string(), |s| s["drops"].to_string());
        text.push_str(&format!("{} dropped frames {frames} and control {control}; ", host.nickname()));
    }
    text
}

/// Whether a single request is answered.
pub(crate) fn answers(from: &Container, to: IpAddr) -> bool {
    Ping::once().expect_all(from.ns(), to).is_ok()
}

/// What a router says is attached: container ids and addresses, in order.
pub(crate) fn attached(host: &Host) -> Result<BTreeSet<(String, Ipv4Addr)>> {
    let listed = host.json(&["ps"])?;
    let listed = listed.as_array().with_context(|| format!("`ps` is no list: {listed}"))?;
    let mut set = BTreeSet::new();
    for one in listed {
        let (id, address) = (one["container"].as_str(), one["address"].as_str());
        let (Some(id), Some(address)) = (id, address) else { bail!("`ps` lists {one}") };
        let address = address.split('/').next().unwrap_or_default();
        set.insert((id.to_owned(), address.parse().with_context(|| format!("not an address: {address}"))?));
    }
    if set.len() != listed.len() {
        bail!("`ps` lists something twice: {listed:?}");
    }
    Ok(set)
}

/// What it ought to say.
pub(crate) fn expected<'a>(
    containers: impl IntoIterator<Item = &'a Container>,
) -> Result<BTreeSet<(String, Ipv4Addr)>> {
    containers.into_iter().map(|container| Ok((container.id().to_owned(), container.ipv4()?))).collect()
}

/// Fails when the two differ, and prints both.
#[track_caller]
pub(crate) fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: &T, want: &T) -> Result<()> {
    if got == want {
        return Ok(());
    }
    bail!("{what}: got {got:#?}, want {want:#?}")
}

/// Interfaces of a host that are ports of the bridge for containers: virtual Ethernet pairs other than the underlay's.
pub(crate) fn ports(host: &Host) -> Result<usize> {
    let listed: serde_json::Value = serde_json::from_str(&host.ns().ip("-j link show type veth")?.stdout)?;
    let names = listed.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str());
    Ok(names.filter(|name| *name != "eth0").count())
}

/// Addresses that are handed out according to the allocator.
pub(crate) fn leases(host: &Host) -> Result<BTreeSet<Ipv4Addr>> {
    let ipam = host.json(&["status", "ipam"])?;
    let leases = ipam["leases"].as_array().with_context(|| format!("no leases in {ipam}"))?;
    let found: Option<BTreeSet<Ipv4Addr>> =
        leases.iter().map(|lease| lease["address"].as_str()?.parse().ok()).collect();
    let found = found.with_context(|| format!("leases not understood: {leases:?}"))?;
    same("number of different leases", &found.len(), &leases.len())?;
    Ok(found)
}

/// The value below which this share of the sorted values lies.
pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or_default()
}

/// Deterministic numbers for the tests that choose at random; the seed is printed by who fails.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// A number below the bound.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    /// A number from the first to the last, both included.
    pub(crate) fn between(&mut self, first: usize, last: usize) -> usize {
        first + self.below((last - first) as u64 + 1) as usize
    }

    /// One of several.
    pub(crate) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.between(0, all.len() - 1)]
    }

    /// Bytes that do not repeat.
    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        payload(self.below(u64::MAX), len)
    }
}
