//! The wires that the benchmark measures over, and what it measures with, shown without a router.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use lab::{
    Direction, Iperf, Lab, LabConfig, PacketSocket, Ping, RequestReply, Requests, Segments, Underlay, Window,
    payload, transfer,
};

use crate::support::{hosts, hosts_on, same};

/// Longest frame on a wire with an MTU of 1500.
const LONGEST: usize = 1514;

fn cable(segments: Segments) -> LabConfig {
    LabConfig { segments, underlay: Underlay::Cable, ..LabConfig::hosts(2) }
}

/// The longest frame that leaves the first host in a transfer of a megabyte.
fn longest_frame(lab: &Lab) -> Result<usize> {
    let (one, two) = (lab.host(1).ns(), lab.host(2).ns());
    let socket = PacketSocket::open(one, Some("eth0"))?;
    transfer(one, two, IpAddr::V4(lab.host(2).address()), &payload(5, 1 << 20))?;
    let (mut buffer, mut longest) = (vec![0; 1 << 17], 0);
    while let Some(len) = socket.receive(&mut buffer, Duration::ZERO)? {
        longest = longest.max(len);
    }
    Ok(longest)
}

#[test]
fn passthrough_takes_super_packets_and_nic_cuts_them() {
    hosts_on(cable(Segments::Whole), |lab| {
        same("longer than the MTU", &(longest_frame(lab)? > LONGEST), &true)
    });
    hosts_on(cable(Segments::Nic), |lab| same("longest frame", &longest_frame(lab)?, &LONGEST));
}

#[test]
fn packets_are_lost_on_arrival_as_long_as_asked() {
    hosts(2, |lab| {
        let (one, two) = (lab.host(1).ns(), lab.host(2).ns());
        let address = IpAddr::V4(lab.host(2).address());
        let ping = Ping { count: 400, interval: Duration::from_millis(2), size: 56 };
        // The neighbours know each other before something is lost.
        Ping::default().expect_all(one, address)?;
        let loss = two.lose_on_arrival("eth0", 250_000)?;
        let answered = ping.send(one, address)?.answered;
        // 300 are expected; one run in ten billion is further away than this.
        same(&format!("{answered} of 400 answered"), &(240..=360).contains(&answered), &true)?;
        drop(loss);
        ping.expect_all(one, address).map(drop)
    });
}

#[test]
fn every_way_to_measure_measures_something() {
    hosts_on(cable(Segments::Nic), |lab| {
        let (one, two) = (lab.host(1).ns(), lab.host(2).ns());
        let address = IpAddr::V4(lab.host(2).address());
        let time = Duration::from_millis(300);
        let window = Window { size: 64, in_flight: 64, time }.run(one, two, address)?;
        same("datagrams lost", &(window.sent - window.received), &0)?;
        same("a rate", &(window.per_second > 0.0), &true)?;
        let times = RequestReply { size: 64, time }.run(one, two, address)?;
        same("replies in order of their time", &times.is_sorted(), &true)?;
        let requests = Requests { answer: 1024, at_once: 4, time }.run(one, two, address)?;
        same("requests that failed", &requests.failed, &0)?;
        for direction in [Direction::Reverse, Direction::Both] {
            let tcp = Iperf { seconds: 1, streams: 1 }.run_towards(direction, one, two, address)?;
            // The first of two seconds does not count for the rate.
            same("bytes of the whole run", &(tcp.bytes * 8.0 > tcp.bits_per_second), &true)?;
        }
        Ok(())
    });
}
