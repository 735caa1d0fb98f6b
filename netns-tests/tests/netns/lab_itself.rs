//! The laboratory: what the other tests rely on, shown without a router.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};
use lab::{Capture, Flow, Lockstep, Ping, Stream, payload, transfer, until};

use crate::support::{hosts, same};

#[test]
fn hosts_reach_each_other_until_cut_and_again_when_healed() {
    hosts(3, |lab| {
        let (one, to) =
            (lab.host(1).ns(), [IpAddr::V4(lab.host(2).address()), IpAddr::V6(lab.host(2).address6())]);
        for address in to {
            Ping::default().expect_all(one, address)?;
        }
        lab.wire()?.cut(&[(1, 2)])?;
        for address in to {
            same("answers over a cut wire", &Ping::once().send(one, address)?.answered, &0)?;
        }
        Ping::default().expect_all(one, IpAddr::V4(lab.host(3).address()))?;
        lab.wire()?.heal()?;
        to.iter().try_for_each(|address| Ping::default().expect_all(one, *address).map(drop))
    });
}

#[test]
fn capture_sees_plaintext_and_transfers_are_compared() {
    hosts(2, |lab| {
        let bytes = payload(3, 1 << 20);
        let capture = Capture::start(lab.wire()?.switch())?;
        transfer(lab.host(1).ns(), lab.host(2).ns(), IpAddr::V4(lab.host(2).address()), &bytes)?;
        let socket = lab.host(1).ns().enter(|| UdpSocket::bind("0.0.0.0:0"))?.context("cannot bind")?;
        socket.send_to(b"LOUD AND CLEAR", SocketAddr::new(IpAddr::V4(lab.host(2).address()), 9))?;
        let captured = capture.stop()?;
        // At both ports, and again in the answer that nobody listens there.
        same("seen at both ports of the switch", &(captured.count(b"LOUD AND CLEAR") >= 2), &true)?;
        same("all bytes were captured", &(captured.bytes.len() > 2 << 20), &true)
    });
}

#[test]
fn lost_datagrams_are_counted_on_the_wire_and_at_the_ends() {
    hosts(2, |lab| {
        let (one, two) = (lab.host(1).ns(), lab.host(2).ns());
        let sizes: Vec<usize> = (4..1404).collect();
        for address in [IpAddr::V4(lab.host(2).address()), IpAddr::V6(lab.host(2).address6())] {
            lab.wire()?.lose_per_mille(20)?;
            let lockstep = Lockstep { sizes: sizes.clone(), patience: Duration::from_millis(50) };
            let report = lockstep.run(one, two, address)?;
            same("losses seen by the ends and by the wire", &u64::from(report.lost), &lab.wire()?.lost()?)?;
            same("something was lost", &(report.lost > 0), &true)?;
            lab.wire()?.heal()?;
            let report = Stream { sizes: sizes.clone() }.run(one, two, address)?;
            same(
                "arrived on a good wire",
                &(report.arrived, report.reordered, report.mangled),
                &(1400, 0, 0),
            )?;
        }
        Ok(())
    });
}

#[test]
fn flow_stalls_over_a_cut_wire_and_goes_on() {
    hosts(2, |lab| {
        let flow = Flow::start(lab.host(1).ns(), lab.host(2).ns(), IpAddr::V4(lab.host(2).address()))?;
        until(Duration::from_secs(5), "the flow runs", || (flow.rounds() > 5).then_some(()))?;
        lab.wire()?.cut(&[(1, 2)])?;
        let pinger = Ping::default().start(lab.host(1).ns(), IpAddr::V4(lab.host(2).address()))?;
        until(Duration::from_secs(5), "the flow stalls", || {
            let before = flow.rounds();
            std::thread::sleep(lab::POLL * 5);
            (flow.rounds() == before).then_some(())
        })?;
        lab.wire()?.heal()?;
        let stalled_at = flow.rounds();
        until(Duration::from_secs(10), "the flow goes on", || {
            (flow.rounds() > stalled_at + 5).then_some(())
        })?;
        let (report, pings) = (flow.stop()?, pinger.stop()?);
        same("the flow stalled", &(report.longest_stall > Duration::from_millis(50)), &true)?;
        same("the ping lost requests", &(pings.longest_gap() > 0), &true)
    });
}

#[test]
fn everything_is_gone_after_a_panic() -> Result<()> {
    let run = std::sync::Mutex::new(String::new());
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        hosts(1, |lab| {
            *run.lock().map_err(|_| anyhow::anyhow!("poisoned"))? = lab.run().to_owned();
            lab.host(1).container()?;
            anyhow::bail!("on purpose")
        });
    }));
    same("the test panicked", &panicked.is_err(), &true)?;
    let run = run.into_inner()?;
    let left = std::fs::read_dir("/run/netns")?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&format!("{run}-")));
    same("namespaces left of a run that had a name", &(left.count(), run.is_empty()), &(0, false))
}
