//! VpnCloud with a TAP device in switch mode: one Ethernet segment, as this fabric makes.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::bench::daemon::Daemon;
use crate::bench::topology::{Hosts, Topology};
use crate::bench::wire::Wire;

/// MTU that leaves room for VpnCloud's headers.
const MTU: u32 = 1400;

/// A tunnel between the hosts.
pub(crate) fn bring_up(wire: Wire, program: &Path) -> Result<Topology> {
    let hosts = Hosts::new(wire)?;
    // It looks its own address up by a connect to a public one, so that some default route must exist.
    for (host, _) in hosts.pairs() {
        host.ns().ip("route add default dev eth0")?;
    }
    let mut daemons = Vec::new();
    for (host, other) in hosts.pairs() {
        let mut command = Command::new(program);
        command.args(["--type", "tap", "--mode", "switch", "--device", "tun0", "--password", "bench"]);
        command.args(["--no-port-forwarding", "--no-auto-claim", "-q"]);
        command.args(["--listen", &format!("{}:3210", host.address())]);
        command.args(["--peer", &format!("{}:3210", other.address())]);
        daemons.push(Daemon::start(host, &mut command)?);
    }
    for ((host, _), daemon) in hosts.pairs().into_iter().zip(&mut daemons) {
        daemon.wait_for_device(host, "tun0").context("no tunnel of vpncloud")?;
    }
    hosts.bridged(daemons, "tun0", MTU)
}
