//! Attaching and detaching: many at once, many in a row, by hand.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use lab::{Container, Host, Ping, until};

use crate::support::{
    alone, answers, attached, expected, fabric, figure, hosts, leases, percentile, ports, reaches, same,
};

/// Containers of a large host.
const MANY: usize = 200;

/// A runtime starts pods one after the other; this is its price for each.
const ADD_BAR: Duration = Duration::from_millis(50);

#[test]
fn two_hundred_at_once_come_and_go() {
    hosts(1, |lab| {
        let host = lab.host(1);
        host.start_weaved(&[])?;
        host.up(&[])?;
        let mut containers: Vec<Container> = (0..MANY).map(|_| host.container()).collect::<Result<_>>()?;
        let start = Instant::now();
        all_at_once(&mut containers, |container| container.cni_add().map(drop))?;
        figure("attach 200 at once", &format!("{:.2?}", start.elapsed()));
        let addresses: BTreeSet<_> = containers.iter().map(Container::ipv4).collect::<Result<_>>()?;
        same("different addresses", &addresses.len(), &MANY)?;
        same("what `ps` lists", &attached(host)?, &expected(&containers)?)?;
        same("what the allocator lists", &leases(host)?.is_superset(&addresses), &true)?;
        same("ports of the bridge", &ports(host)?, &MANY)?;
        for to in containers.iter().skip(1).step_by(10) {
            Ping::once().expect_all(containers[0].ns(), IpAddr::V4(to.ipv4()?))?;
        }
        let start = Instant::now();
        all_at_once(&mut containers, |container| container.cni_del().map(drop))?;
        figure("detach 200 at once", &format!("{:.2?}", start.elapsed()));
        same("what `ps` lists at the end", &attached(host)?, &BTreeSet::new())?;
        same("leases left of containers", &leases(host)?.intersection(&addresses).count(), &0)?;
        same("ports left", &ports(host)?, &0)
    });
}

#[test]
fn two_hundred_in_a_row_take_fifty_milliseconds_at_most() {
    alone(1, |lab| {
        let host = lab.host(1);
        host.start_weaved(&[])?;
        host.up(&[])?;
        let mut times = Vec::new();
        let mut deletes = Vec::new();
        let mut containers: Vec<Container> = (0..MANY).map(|_| host.container()).collect::<Result<_>>()?;
        for container in &mut containers {
            times.push(container.cni_add()?.elapsed);
        }
        for container in &mut containers {
            deletes.push(container.cni_del()?.elapsed);
        }
        times.sort();
        deletes.sort();
        let (p50, p99) = (percentile(&times, 50), percentile(&times, 99));
        figure(
            "CNI ADD, 200 in a row",
            &format!("p50 {p50:.1?}, p99 {p99:.1?}, longest {:.1?}", times[MANY - 1]),
        );
        let (d50, d99) = (percentile(&deletes, 50), percentile(&deletes, 99));
        figure("CNI DEL, 200 in a row", &format!("p50 {d50:.1?}, p99 {d99:.1?}"));
        match p99 <= ADD_BAR {
            true => Ok(()),
            false => bail!("p99 of CNI ADD: got {p99:?}, want at most {ADD_BAR:?}"),
        }
    });
}

#[test]
fn container_attached_by_hand_is_reached_and_listed() {
    fabric(2, |lab| {
        let (one, two) = (lab.host(1), lab.host(2));
        let by_plugin = two.attached()?;
        let by_hand = one.container()?;
        let path = by_hand.ns().path().to_string_lossy().into_owned();
        let answer = one.json(&["attach", "--netns", &path])?;
        let address =
            answer["address"].as_str().and_then(|cidr| cidr.split('/').next()).context("no address")?;
        let address: IpAddr = address.parse()?;
        lab::ping_until_answered(by_plugin.ns(), address, Duration::from_secs(10))?;
        same("attached on h1", &attached(one)?.len(), &1)?;
        one.json(&["detach", "--netns", &path])?;
        same("attached on h1 after detach", &attached(one)?.len(), &0)?;
        same("answers after detach", &answers(&by_plugin, address), &false)
    });
}

#[test]
fn wanted_address_is_given_once_in_the_whole_fabric() {
    fabric(2, |lab| {
        let (one, two) = (lab.host(1), lab.host(2));
        let (a, b) = (one.container()?, two.container()?);
        let path = |container: &Container| container.ns().path().to_string_lossy().into_owned();
        let answer = one.json(&["attach", "--netns", &path(&a), "--ip", "10.32.77.7/12"])?;
        same("the address", &answer["address"].as_str(), &Some("10.32.77.7/12"))?;
        let output = two.weavectl(&["attach", "--netns", &path(&b), "--ip", "10.32.77.7/12"])?;
        if output.success() || !output.stderr.contains("10.32.77.7") {
            bail!("the same address a second time: {}", output.text());
        }
        same("attached on h2", &attached(two)?.len(), &0)
    });
}

#[test]
fn address_that_returns_with_another_container_is_reached() {
    fabric(2, |lab| {
        let watcher = lab.host(2).attached()?;
        let mut first = lab.host(1).attached()?;
        reaches(&watcher, &first)?;
        first.cni_del()?;
        let second = lab.host(1).attached()?;
        reaches(&watcher, &second)?;
        reaches(&second, &watcher)
    });
}

#[test]
fn runtime_that_removes_the_namespace_first_leaves_nothing() {
    fabric(1, |lab| {
        let host = lab.host(1);
        let container = host.attached()?;
        let call = container.call("DEL");
        container.remove()?;
        call.run(host)?.success("DEL")?;
        same("attached", &attached(host)?.len(), &0)?;
        // The kernel takes the other end away in its own time.
        until(Duration::from_secs(10), "no port is left", || (ports(host).ok()? == 0).then_some(())).map(drop)
    });
}

/// Does the same to all containers, each on a thread of its own.
fn all_at_once(
    containers: &mut [Container],
    action: impl Fn(&mut Container) -> Result<()> + Sync,
) -> Result<()> {
    thread::scope(|scope| {
        let threads: Vec<_> =
            containers.iter_mut().map(|container| scope.spawn(|| action(container))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
    })
}

/// The address of the host's bridge answers, so that a default route leads somewhere.
#[test]
fn gateway_answers_in_both_families() {
    fabric(1, |lab| {
        let host: &Host = lab.host(1);
        let mut container = host.container()?;
        let added = container.cni_add()?;
        let gateways =
            added.answer["ips"].as_array().into_iter().flatten().filter_map(|ip| ip["gateway"].as_str());
        let gateways: Vec<IpAddr> = gateways.filter_map(|gateway| gateway.parse().ok()).collect();
        same("gateways", &gateways.len(), &2)?;
        gateways.iter().try_for_each(|gateway| Ping::default().expect_all(container.ns(), *gateway).map(drop))
    });
}
