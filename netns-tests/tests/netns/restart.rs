//! Restarting routers under traffic.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context;
use lab::{Exit, Flow, Ping, until};

use crate::support::{attached, expected, fabric, figure, hosts, one_each, reaches, same};

/// Packets are not forwarded while the router of either end is away. A person at a terminal must not notice more than a hiccup.
const GAP_LIMIT: Duration = Duration::from_secs(5);

#[test]
fn every_router_restarts_in_turn_under_ping_and_tcp() {
    fabric(3, |lab| {
        let containers = one_each(lab)?;
        for (from, to) in [(0, 1), (0, 2), (1, 2)] {
            reaches(&containers[from], &containers[to])?;
        }
        let (one, two) = (&containers[0], &containers[1]);
        let interval = Duration::from_millis(20);
        let ping = Ping { interval, ..Ping::default() }.start(one.ns(), IpAddr::V4(two.ipv4()?))?;
        let ping6 = Ping { interval, ..Ping::default() }.start(one.ns(), IpAddr::V6(two.ipv6()?))?;
        let flow = Flow::start(one.ns(), two.ns(), IpAddr::V4(two.ipv4()?))?;
        for (host, container) in lab.hosts().iter().zip(&containers) {
            let before = flow.rounds();
            same("exit of weaved after SIGTERM", &host.sigterm()?, &Exit::Code(0))?;
            host.start_again()?;
            lab.wait_complete()?;
            same("attached after the restart", &attached(host)?, &expected([container])?)?;
            until(Duration::from_secs(20), "the flow goes on after the restart", || {
                (flow.rounds() > before + 20).then_some(())
            })
            .with_context(|| format!("restart of {}", host.nickname()))?;
        }
        let report = flow.stop().context("the TCP connection did not live")?;
        for (family, ping) in [("IPv4", ping), ("IPv6", ping6)] {
            let report = ping.stop()?;
            let gap = interval * report.longest_gap();
            let lost = report.sent - report.answered;
            figure(
                "rolling restart",
                &format!("{family}: {lost} of {} pings lost, longest gap {gap:.2?}", report.sent),
            );
            same("gap within the limit", &(gap <= GAP_LIMIT), &true).with_context(|| format!("{gap:?}"))?;
        }
        figure(
            "rolling restart",
            &format!("TCP: {} rounds, longest stall {:.2?}", report.rounds, report.longest_stall),
        );
        Ok(())
    });
}

#[test]
fn bystanders_lose_nothing_when_a_third_router_restarts() {
    fabric(3, |lab| {
        let containers = one_each(lab)?;
        reaches(&containers[0], &containers[1])?;
        let ping = Ping { interval: Duration::from_millis(10), ..Ping::default() };
        let ping = ping.start(containers[0].ns(), IpAddr::V4(containers[1].ipv4()?))?;
        lab.host(3).restart()?;
        lab.wait_complete()?;
        let report = ping.stop()?;
        same("lost", &(report.sent - report.answered), &0)
    });
}

#[test]
fn whole_fabric_comes_back_after_all_died() {
    fabric(3, |lab| {
        let containers = one_each(lab)?;
        lab.hosts().iter().try_for_each(lab::Host::kill9)?;
        lab.hosts().iter().try_for_each(lab::Host::start_again)?;
        lab.wait_complete()?;
        for (host, container) in lab.hosts().iter().zip(&containers) {
            same("attached", &attached(host)?, &expected([container])?)?;
        }
        reaches(&containers[0], &containers[1])?;
        reaches(&containers[1], &containers[2])
    });
}

#[test]
fn router_without_a_fabric_idles_and_says_so() {
    hosts(1, |lab| {
        let host = lab.host(1);
        host.start_weaved(&[])?;
        let text = host.weavectl(&["status"])?.text();
        same("says what to type", &(text.contains("weavectl up") && text.contains("weavectl join")), &true)
            .with_context(|| text.clone())?;
        let refused = host.container()?.call("ADD").run(host)?;
        same("ADD without a fabric fails", &(refused.error_code().is_some()), &true)?;
        same("exit after SIGTERM", &host.sigterm()?, &Exit::Code(0))
    });
}
