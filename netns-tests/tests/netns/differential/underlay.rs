//! The underlay's MTU falls and rises while traffic runs: nothing may be mangled or come twice, and what fits goes on.

use std::time::Duration;

use anyhow::{Context, Result};
use lab::{Flow, Lab, Lockstep, NetNs, Ping, Stream, payload, transfer, until};

use crate::support::{SETTLE, fabric, fabric_of, figure, one_each, reaches, same};

/// Longer than any queue holds a datagram.
const PATIENCE: Duration = Duration::from_millis(200);

/// Looked for in what crosses the switch: fragments of IP, and packets longer than the lowered MTU.
const WATCH: &str = "table bridge underlay {\ncounter fragments { }\ncounter long { }\n\
    chain passing {\ntype filter hook forward priority 10;\n\
    ether type ip ip frag-off & 0x3fff != 0 counter name fragments\n\
    ether type ip6 ip6 nexthdr 44 counter name fragments\n\
    ether type ip ip length > 1400 counter name long\n\
    ether type ip6 ip6 length > 1360 counter name long\n}\n}\n";

#[test]
fn underlay_mtu_falls_and_rises_while_traffic_runs() {
    fabric(2, |lab| {
        let containers = one_each(lab)?;
        reaches(&containers[0], &containers[1])?;
        let (near, far) = (containers[0].ns(), containers[1].ns());
        let switch = lab.wire()?.switch();
        switch.nft(WATCH)?;
        let address = containers[1].addresses()?[0];
        let flow = Flow::start(near, far, address)?;
        for mtu in [1400, 1300, 1400, 1500] {
            change(lab, near, far, address, mtu).with_context(|| format!("when the MTU became {mtu}"))?;
            let fragments = without_fragments(switch, near, address)
                .with_context(|| format!("large frames with an MTU of {mtu}"))?;
            figure(&format!("underlay MTU {mtu}"), &format!("{fragments} fragments until it was noticed"));
            for address in containers[1].addresses()? {
                transfer(near, far, address, &payload(7, 4 << 20))?;
                let sizes: Vec<usize> = (4..4000).step_by(37).collect();
                let report = Lockstep { sizes, patience: PATIENCE }.run(near, far, address)?;
                same("sizes lost", &report.lost_sizes, &Vec::new())?;
            }
        }
        let before = switch.counter("long")?;
        transfer(near, far, address, &payload(9, 4 << 20))?;
        same("the whole MTU is used again", &(switch.counter("long")? > before), &true)?;
        let report = flow.stop()?;
        figure("longest stall of a flow", &format!("{:?} in {} rounds", report.longest_stall, report.rounds));
        Ok(())
    });
}

#[test]
fn path_narrower_than_the_devices_takes_everything_with_a_smaller_container_mtu() {
    fabric_of(&["--mtu", "1290"], |lab| {
        let containers = one_each(lab)?;
        reaches(&containers[0], &containers[1])?;
        // The hosts do not notice: their own devices keep an MTU of 1500.
        for port in ["p1", "p2"] {
            lab.wire()?.switch().ip(&format!("link set {port} mtu 1400"))?;
        }
        for address in containers[1].addresses()? {
            // Small ones share datagrams, long ones travel in fragments.
            let sizes: Vec<usize> = (0..6000).map(|number| 4 + number * 131 % 1900).collect();
            let report = Stream { sizes }.run(containers[0].ns(), containers[1].ns(), address)?;
            same(
                "arrived, reordered, mangled",
                &(report.arrived, report.reordered, report.mangled),
                &(6000, 0, 0),
            )?;
            transfer(containers[0].ns(), containers[1].ns(), address, &payload(8, 4 << 20))?;
        }
        Ok(())
    });
}

/// Sets the MTU of one host, then of the other, while datagrams are under way.
fn change(lab: &Lab, near: &NetNs, far: &NetNs, address: std::net::IpAddr, mtu: u32) -> Result<()> {
    lab.host(1).ns().ip(&format!("link set eth0 mtu {mtu}"))?;
    // The other host may send what this one's device does not take any more: small ones have to go on.
    let small = Lockstep { sizes: (4..204).collect(), patience: PATIENCE };
    same("small datagrams lost", &small.run(near, far, address)?.lost, &0)?;
    std::thread::scope(|scope| {
        let sizes = (0..6000).map(|number| 4 + number * 131 % 1900).collect();
        let stream = scope.spawn(move || Stream { sizes }.run(near, far, address));
        lab.host(2).ns().ip(&format!("link set eth0 mtu {mtu}"))?;
        let report = stream.join().map_err(|_| anyhow::anyhow!("the stream panicked"))??;
        figure(&format!("meanwhile, to {mtu}"), &format!("{} of {} arrived", report.arrived, report.sent));
        same("reordered or twice, mangled", &(report.reordered, report.mangled), &(0, 0))
    })
}

/// Waits until large frames cross without fragments of IP; answers how many there were before.
fn without_fragments(switch: &NetNs, near: &NetNs, address: std::net::IpAddr) -> Result<u64> {
    let start = switch.counter("fragments")?;
    let large = Ping { size: 1340, count: 10, interval: Duration::from_millis(5) };
    let (now, _) = until(SETTLE, "large frames cross without fragments", || {
        let before = switch.counter("fragments").ok()?;
        large.expect_all(near, address).ok()?;
        let after = switch.counter("fragments").ok()?;
        (after == before).then_some(after)
    })?;
    Ok(now - start)
}
