//! Data paths of the kernel alone: no encryption, no process.

use anyhow::Result;

use crate::bench::topology::{Hosts, Topology};
use crate::bench::wire::Wire;

/// MTU that leaves room for VXLAN's headers over IPv4.
const VXLAN_MTU: u32 = 1450;

/// Routes over the cable.
pub(crate) fn veth(wire: Wire) -> Result<Topology> {
    let hosts = Hosts::new(wire)?;
    let via = hosts.pairs().map(|(_, other)| format!("via {}", other.address()));
    hosts.routed(Vec::new(), Some([&via[0], &via[1]]), 1500)
}

/// A VXLAN device on the bridges.
pub(crate) fn vxlan(wire: Wire) -> Result<Topology> {
    let hosts = Hosts::new(wire)?;
    for (host, other) in hosts.pairs() {
        let remote = other.address();
        host.ns().ip(&format!("link add tun0 type vxlan id 77 remote {remote} dstport 4789 dev eth0"))?;
    }
    hosts.bridged(Vec::new(), "tun0", VXLAN_MTU)
}
