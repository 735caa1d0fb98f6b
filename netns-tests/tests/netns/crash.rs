//! kill -9 at any moment: nothing that was acknowledged is lost, nothing is there twice, nothing is left over.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use lab::{Container, Host, Lab, Ping, ping_until_answered, until};

use crate::support::{
    Dice, SETTLE, attached, expected, fabric, figure, leases, one_each, ports, reaches, same,
};

/// Rounds of attaching, killing and looking.
const ROUNDS: usize = 8;

/// Attachments that are under way when the router dies.
const BATCH: usize = 8;

#[test]
fn death_while_attaching_loses_doubles_and_leaks_nothing() {
    fabric(2, |lab| {
        let (host, mut dice) = (lab.host(1), Dice::new(0x5eed));
        let watcher = lab.host(2).attached()?;
        let mut alive: Vec<Container> = Vec::new();
        let mut interrupted = 0;
        let undisturbed = time_of_a_batch(host)?;
        for round in 0..ROUNDS {
            let batch: Vec<Container> = (0..BATCH).map(|_| host.container()).collect::<Result<_>>()?;
            let death = part_of(undisturbed, &mut dice);
            let (kept, failed) = attach_and_kill(host, batch, death)?;
            interrupted += failed.len();
            host.start_again()?;
            // A runtime deletes what it could not add.
            for container in &failed {
                container.call("DEL").run(host)?.success("DEL")?;
            }
            alive.extend(kept);
            let context = || format!("round {round}, death after {death:?}");
            consistent(host, &alive).with_context(context)?;
            // Half of them go, so that addresses are used again.
            for mut container in alive.drain(..alive.len() / 2) {
                container.cni_del()?;
            }
            consistent(host, &alive).with_context(context)?;
        }
        figure("death while attaching", &format!("{ROUNDS} deaths, {interrupted} attachments interrupted"));
        same("some were interrupted", &(interrupted > 0), &true)?;
        for container in &alive {
            ping_until_answered(watcher.ns(), IpAddr::V4(container.ipv4()?), SETTLE)?;
        }
        Ok(())
    });
}

#[test]
fn death_while_detaching_is_finished_by_the_next_delete() {
    fabric(1, |lab| {
        let (host, mut dice) = (lab.host(1), Dice::new(0xdead));
        for _ in 0..4 {
            let containers: Vec<Container> = (0..BATCH).map(|_| host.attached()).collect::<Result<_>>()?;
            let calls: Vec<_> = containers.iter().map(|container| container.call("DEL")).collect();
            thread::scope(|scope| {
                calls.iter().for_each(|call| drop(scope.spawn(|| call.run(host))));
                thread::sleep(Duration::from_millis(dice.below(40)));
                host.kill9()
            })?;
            host.start_again()?;
            calls.iter().try_for_each(|call| call.run(host)?.success("DEL").map(drop))?;
            consistent(host, &[])?;
        }
        Ok(())
    });
}

#[test]
fn containers_of_others_do_not_notice_a_death() {
    fabric(3, |lab| {
        let containers = one_each(lab)?;
        for (from, to) in [(0, 1), (0, 2), (1, 2)] {
            reaches(&containers[from], &containers[to])?;
        }
        let flow =
            lab::Flow::start(containers[0].ns(), containers[2].ns(), IpAddr::V4(containers[2].ipv4()?))?;
        until(SETTLE, "the flow runs", || (flow.rounds() > 10).then_some(()))?;
        lab.host(2).kill9()?;
        // Long enough for the others to notice the death and to say so.
        until(Duration::from_secs(30), "the others count h2 among the dead", || {
            (lab.host(1).json(&["status"]).ok()?["peers"]["alive"] == 2).then_some(())
        })?;
        lab.host(2).start_again()?;
        same("attached on h2", &attached(lab.host(2))?, &expected([&containers[1]])?)?;
        ping_until_answered(containers[0].ns(), IpAddr::V4(containers[1].ipv4()?), SETTLE)?;
        lab.wait_complete()?;
        let report = flow.stop()?;
        same("stalled for less than a second", &(report.longest_stall < Duration::from_secs(1)), &true)
            .with_context(|| format!("{report:?}"))
    });
}

#[test]
fn killed_router_leaves_local_containers_connected() {
    fabric(1, |lab| {
        let (one, two) = (lab.host(1).attached()?, lab.host(1).attached()?);
        reaches(&one, &two)?;
        lab.host(1).kill9()?;
        one_reaches_while_down(&one, &two)?;
        lab.host(1).start_again()?;
        reaches(&one, &two)
    });
}

/// How long a batch takes when nobody dies, so that deaths fall into it on any machine.
fn time_of_a_batch(host: &Host) -> Result<Duration> {
    let mut batch: Vec<Container> = (0..BATCH).map(|_| host.container()).collect::<Result<_>>()?;
    let start = Instant::now();
    thread::scope(|scope| {
        let threads: Vec<_> =
            batch.iter_mut().map(|container| scope.spawn(|| container.cni_add().map(drop))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
    })?;
    let time = start.elapsed();
    batch.iter_mut().try_for_each(|container| container.cni_del().map(drop))?;
    Ok(time)
}

/// A moment within a time.
fn part_of(time: Duration, dice: &mut Dice) -> Duration {
    time / 100 * u32::try_from(dice.below(100)).unwrap_or_default()
}

/// Same-host traffic never leaves the kernel, so it needs no router.
fn one_reaches_while_down(one: &Container, two: &Container) -> Result<()> {
    for address in two.addresses()? {
        Ping::default().expect_all(one.ns(), address)?;
    }
    Ok(())
}

/// Attaches all at once and kills the router meanwhile; answers who was attached and who was not.
fn attach_and_kill(
    host: &Host,
    mut batch: Vec<Container>,
    death: Duration,
) -> Result<(Vec<Container>, Vec<Container>)> {
    let results: Vec<bool> = thread::scope(|scope| {
        let threads: Vec<_> =
            batch.iter_mut().map(|container| scope.spawn(|| container.cni_add().is_ok())).collect();
        thread::sleep(death);
        host.kill9()?;
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked")))
            .collect::<Result<_>>()
    })?;
    let (mut kept, mut failed) = (Vec::new(), Vec::new());
    for (container, ok) in batch.into_iter().zip(results) {
        if ok { kept.push(container) } else { failed.push(container) }
    }
    Ok((kept, failed))
}

/// The router's list, the allocator's list and the kernel agree with what the runtime was told.
fn consistent(host: &Host, alive: &[Container]) -> Result<()> {
    same("what `ps` lists", &attached(host)?, &expected(alive)?)?;
    let addresses: BTreeSet<_> = alive.iter().map(Container::ipv4).collect::<Result<_>>()?;
    same("different addresses", &addresses.len(), &alive.len())?;
    // The host itself may hold one for its bridge.
    let leases = leases(host)?;
    same("every container has its lease", &leases.is_superset(&addresses), &true)?;
    same("leases beside those of containers", &(leases.difference(&addresses).count() <= 1), &true)
        .with_context(|| format!("{leases:?}"))?;
    until(SETTLE, "the kernel has a port for each container and no more", || {
        (ports(host).ok()? == alive.len()).then_some(())
    })
    .with_context(|| format!("got {:?} ports, want {}", ports(host).ok(), alive.len()))?;
    Ok(())
}

#[test]
fn death_of_two_allocators_at_once_gives_no_address_twice() {
    fabric(3, |lab| {
        let mut dice = Dice::new(0xa110c);
        let mut alive: Vec<Container> = Vec::new();
        let undisturbed = time_of_a_batch(lab.host(3))?;
        for round in 0..3 {
            let batches: Vec<Vec<Container>> = lab
                .hosts()
                .iter()
                .map(|host| (0..4).map(|_| host.container()).collect::<Result<_>>())
                .collect::<Result<_>>()?;
            let deaths: Vec<Duration> = (0..3).map(|_| part_of(undisturbed, &mut dice)).collect();
            let outcomes: Vec<_> = thread::scope(|scope| {
                let threads: Vec<_> = batches
                    .into_iter()
                    .zip(&deaths)
                    .enumerate()
                    .map(|(index, (batch, death))| scope.spawn(move || round_on(lab, index, batch, *death)))
                    .collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
                    .collect::<Result<_>>()
            })?;
            alive.extend(outcomes.into_iter().flatten());
            let addresses: BTreeSet<_> = alive.iter().map(Container::ipv4).collect::<Result<_>>()?;
            same("different addresses", &addresses.len(), &alive.len())
                .with_context(|| format!("round {round}, deaths after {deaths:?}"))?;
        }
        lab.wait_complete().map(drop)
    });
}

/// One host's part: two of three die, all end up running.
fn round_on(lab: &Lab, index: usize, mut batch: Vec<Container>, death: Duration) -> Result<Vec<Container>> {
    let host = &lab.hosts()[index];
    if index == 2 {
        batch.iter_mut().try_for_each(|container| container.cni_add().map(drop))?;
        return Ok(batch);
    }
    let (kept, failed) = attach_and_kill(host, batch, death)?;
    host.start_again()?;
    failed.iter().try_for_each(|container| container.call("DEL").run(host)?.success("DEL").map(drop))?;
    Ok(kept)
}
