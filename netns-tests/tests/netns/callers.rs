//! Many containers attached by many callers at once, as a node does after its start.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lab::{Container, Lab};

use crate::support::{attached, fabric_alone, figure, leases, percentile, ports, same};

/// Containers of a host. Kubernetes allows 110 on a node by default and recommends no more than that; some go to 500.
const CONTAINERS: usize = 500;
/// Callers at once.
const CALLERS: usize = 16;

#[test]
fn five_hundred_containers_by_sixteen_callers() {
    fabric_alone(1, |lab| {
        let host = lab.host(1);
        let mut containers: Vec<Container> =
            (0..CONTAINERS).map(|_| host.container()).collect::<Result<_>>()?;
        let (took, calls) = all(&mut containers, |container| container.cni_add().map(|done| done.elapsed))?;
        told("ADD", took, &calls);
        let addresses = containers.iter().map(Container::ipv4).collect::<Result<BTreeSet<_>>>()?;
        same("different addresses", &addresses.len(), &CONTAINERS)?;
        let listed: BTreeSet<_> = attached(host)?.into_iter().map(|(_, address)| address).collect();
        same("what the router knows", &listed, &addresses)?;
        same("ports of the bridge", &ports(host)?, &CONTAINERS)?;
        reaches_some(&containers)?;
        let (took, calls) = all(&mut containers, |container| container.cni_del().map(|done| done.elapsed))?;
        told("DEL", took, &calls);
        nothing_left(lab)
    });
}

/// Does something to all, by callers that take the next one as soon as they are free.
fn all(
    containers: &mut [Container],
    what: impl Fn(&mut Container) -> Result<Duration> + Sync,
) -> Result<(Duration, Vec<Duration>)> {
    let (next, start) = (AtomicUsize::new(0), Instant::now());
    let places: Vec<Mutex<&mut Container>> = containers.iter_mut().map(Mutex::new).collect();
    let caller = || {
        let mut calls = Vec::new();
        while let Some(place) = places.get(next.fetch_add(1, Ordering::Relaxed)) {
            calls.push(what(&mut place.lock().expect("one caller has it"))?);
        }
        Ok(calls)
    };
    let calls = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS).map(|_| scope.spawn(caller)).collect();
        callers.into_iter().map(|caller| caller.join().expect("no panic")).collect::<Result<Vec<_>>>()
    })?;
    let mut calls: Vec<Duration> = calls.into_iter().flatten().collect();
    calls.sort_unstable();
    Ok((start.elapsed(), calls))
}

fn told(command: &str, took: Duration, calls: &[Duration]) {
    let ms = |percent| percentile(calls, percent).as_secs_f64() * 1000.0;
    let rate = calls.len() as f64 / took.as_secs_f64();
    let text = format!("{rate:.0} a second, each p50 {:.0} ms, p99 {:.0} ms", ms(50), ms(99));
    figure(&format!("{command} of {CONTAINERS} containers by {CALLERS} callers"), &text);
}

/// The first, the last and one between, from another one.
fn reaches_some(containers: &[Container]) -> Result<()> {
    let from = containers.get(1).context("a second one")?;
    for to in [0, containers.len() / 2, containers.len() - 1] {
        crate::support::reaches(from, &containers[to])?;
    }
    Ok(())
}

fn nothing_left(lab: &Lab) -> Result<()> {
    let host = lab.host(1);
    same("attached", &attached(host)?.len(), &0)?;
    same("ports of the bridge", &ports(host)?, &0)?;
    // The host's own.
    same("leases", &leases(host)?.len(), &1)
}
