//! Two hosts with a cable between them and a container each, for data paths that bring no containers of their own.

use std::net::IpAddr;

use anyhow::Result;
use lab::{Container, Lab, LabConfig, NetNs, Segments, Underlay};

/// Networks of the containers where the tunnel is routed.
const NETS: [&str; 2] = ["10.78.1", "10.78.2"];

/// What is measured between.
#[derive(Debug)]
pub(crate) struct Topology {
    one: NetNs,
    two: NetNs,
    address: IpAddr,
    // Only held: dropping it removes everything.
    _lab: Lab,
}

impl Topology {
    /// The hosts without containers.
    pub(crate) fn hosts(segments: Segments) -> Result<Lab> {
        let config = LabConfig { underlay: Underlay::Cable, segments, ..LabConfig::hosts(2) };
        Lab::with(config)
    }

    /// Containers that are attached already.
    pub(crate) fn attached(lab: Lab, one: &Container, two: &Container) -> Result<Self> {
        let address = IpAddr::V4(two.ipv4()?);
        Ok(Self { one: one.ns().clone(), two: two.ns().clone(), address, _lab: lab })
    }

    /// A container on a bridge on each host, all in one network; the tunnel is a port of the bridge.
    pub(crate) fn bridged(lab: Lab, tunnel: &str, mtu: u32) -> Result<Self> {
        let [one, two] = containers(&lab, mtu)?;
        for (ns, net) in [(&one, NETS[0]), (&two, NETS[1])] {
            ns.ip(&format!("addr add {net}.2/16 dev eth0"))?;
        }
        for host in lab.hosts() {
            host.ns().ip(&format!("link set {tunnel} mtu {mtu} master br0"))?;
            host.ns().ip(&format!("link set {tunnel} up"))?;
        }
        let address = format!("{}.2", NETS[1]).parse()?;
        Ok(Self { one, two, address, _lab: lab })
    }

    /// A container in a network of its own on each host; the routes between them go by `via`.
    pub(crate) fn routed(lab: Lab, via: [&str; 2], mtu: u32) -> Result<Self> {
        let [one, two] = containers(&lab, mtu)?;
        for (index, ns) in [&one, &two].into_iter().enumerate() {
            let (host, net, other) = (&lab.hosts()[index], NETS[index], NETS[1 - index]);
            host.ns().sysctl("ipv4/ip_forward", "1")?;
            host.ns().ip(&format!("addr add {net}.1/24 dev br0"))?;
            host.ns().ip(&format!("route add {other}.0/24 {}", via[index]))?;
            ns.ip(&format!("addr add {net}.2/24 dev eth0"))?;
            ns.ip(&format!("route add default via {net}.1"))?;
        }
        let address = format!("{}.2", NETS[1]).parse()?;
        Ok(Self { one, two, address, _lab: lab })
    }

    /// The container that sends.
    pub(crate) fn one(&self) -> &NetNs {
        &self.one
    }

    /// The container that receives.
    pub(crate) fn two(&self) -> &NetNs {
        &self.two
    }

    /// Its address.
    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }
}

/// A bridge on each host and a container on it, all without addresses.
fn containers(lab: &Lab, mtu: u32) -> Result<[NetNs; 2]> {
    let attach = |index: usize| -> Result<NetNs> {
        let host = &lab.hosts()[index];
        let container = host.container()?;
        let (outside, inside) = (host.ns(), container.ns().clone());
        outside.ip("link add br0 type bridge forward_delay 0 stp_state 0")?;
        outside.ip(&format!(
            "link add c0 mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}",
            inside.name()
        ))?;
        outside.ip("link set c0 master br0 up")?;
        outside.ip("link set br0 up")?;
        inside.ip("link set eth0 up")?;
        Ok(inside)
    };
    Ok([attach(0)?, attach(1)?])
}
