//! Two hosts with a cable between them, a data path, and a container on each.

use std::net::IpAddr;

use anyhow::{Result, bail};
use lab::{Container, Host, Lab, LabConfig, Loss, NetNs, Programs, Underlay, Usage};

use crate::bench::daemon::Daemon;
use crate::bench::wire::Wire;

/// Networks of the containers where the tunnel is routed.
pub(crate) const NETS: [&str; 2] = ["10.78.1", "10.78.2"];

/// Hosts that have no tunnel yet.
#[derive(Debug)]
pub(crate) struct Hosts {
    pub(crate) lab: Lab,
    loss: Vec<Loss>,
}

/// What is measured between.
#[derive(Debug)]
pub(crate) struct Topology {
    one: NetNs,
    two: NetNs,
    address: IpAddr,
    // Ended before the lab is removed, in this order.
    daemons: Vec<Daemon>,
    _loss: Vec<Loss>,
    lab: Lab,
}

impl Hosts {
    /// Two hosts on a wire.
    pub(crate) fn new(wire: Wire) -> Result<Self> {
        Self::from_lab(Lab::with(config(wire))?, wire)
    }

    /// With another build of our own programs.
    pub(crate) fn with_programs(wire: Wire, programs: &Programs) -> Result<Self> {
        Self::from_lab(Lab::with_programs(config(wire), programs)?, wire)
    }

    fn from_lab(lab: Lab, wire: Wire) -> Result<Self> {
        let mut loss = Vec::new();
        for host in lab.hosts() {
            if let Some(millionths) = wire.loss() {
                loss.push(host.ns().lose_on_arrival("eth0", millionths)?);
            }
            host.ns().sysctl("ipv4/ip_forward", "1")?;
            // What crosses the bridge belongs to no packet filter of the machine.
            for family in ["iptables", "ip6tables", "arptables"] {
                let _absent = host.ns().sysctl(&format!("bridge/bridge-nf-call-{family}"), "0");
            }
        }
        Ok(Self { lab, loss })
    }

    /// Each host with the other one.
    pub(crate) fn pairs(&self) -> [(&Host, &Host); 2] {
        [(self.lab.host(1), self.lab.host(2)), (self.lab.host(2), self.lab.host(1))]
    }

    /// Containers that are attached already, by our own routers.
    pub(crate) fn attached(self, one: &Container, two: &Container) -> Result<Topology> {
        let address = IpAddr::V4(two.ipv4()?);
        Ok(self.topology([one.ns().clone(), two.ns().clone()], address, Vec::new()))
    }

    /// A container on a bridge on each host, all in one network; the tunnel is a port of the bridge.
    pub(crate) fn bridged(self, daemons: Vec<Daemon>, tunnel: &str, mtu: u32) -> Result<Topology> {
        let containers = self.containers(mtu)?;
        for (ns, net) in containers.iter().zip(NETS) {
            ns.ip(&format!("addr add {net}.2/16 dev eth0"))?;
        }
        for host in self.lab.hosts() {
            host.ns().ip(&format!("link set {tunnel} mtu {mtu} master br0"))?;
            host.ns().ip(&format!("link set {tunnel} up"))?;
        }
        let address = format!("{}.2", NETS[1]).parse()?;
        Ok(self.topology(containers, address, daemons))
    }

    /// A container in a network of its own on each host; the routes between them go by `via`, or are the tunnel's own.
    pub(crate) fn routed(self, daemons: Vec<Daemon>, via: Option<[&str; 2]>, mtu: u32) -> Result<Topology> {
        let containers = self.containers(mtu)?;
        for (index, ns) in containers.iter().enumerate() {
            let (host, net, other) = (&self.lab.hosts()[index], NETS[index], NETS[1 - index]);
            host.ns().ip(&format!("addr add {net}.1/24 dev br0"))?;
            if let Some(via) = via {
                host.ns().ip(&format!("route add {other}.0/24 {}", via[index]))?;
            }
            ns.ip(&format!("addr add {net}.2/24 dev eth0"))?;
            ns.ip(&format!("route add default via {net}.1"))?;
        }
        let address = format!("{}.2", NETS[1]).parse()?;
        Ok(self.topology(containers, address, daemons))
    }

    /// A bridge on each host and a container on it, all without addresses.
    fn containers(&self, mtu: u32) -> Result<[NetNs; 2]> {
        let attach = |host: &Host| -> Result<NetNs> {
            let container = host.container()?;
            let (outside, inside) = (host.ns(), container.ns().clone());
            outside.ip("link add br0 type bridge forward_delay 0 stp_state 0")?;
            let name = inside.name();
            outside.ip(&format!("link add c0 mtu {mtu} type veth peer name eth0 mtu {mtu} netns {name}"))?;
            outside.ip("link set c0 master br0 up")?;
            outside.ip("link set br0 up")?;
            inside.ip("link set eth0 up")?;
            Ok(inside)
        };
        Ok([attach(self.lab.host(1))?, attach(self.lab.host(2))?])
    }

    fn topology(self, [one, two]: [NetNs; 2], address: IpAddr, daemons: Vec<Daemon>) -> Topology {
        Topology { one, two, address, daemons, _loss: self.loss, lab: self.lab }
    }
}

fn config(wire: Wire) -> LabConfig {
    LabConfig { underlay: Underlay::Cable, segments: wire.segments(), ..LabConfig::hosts(2) }
}

impl Topology {
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

    /// What the processes of the data path have used so far on both hosts; `None` when the kernel does all the work.
    pub(crate) fn usage(&self) -> Result<Option<Usage>> {
        let routers = self.lab.hosts().iter().filter_map(Host::pid);
        let pids: Vec<u32> = self.daemons.iter().map(Daemon::pid).chain(routers).collect();
        if pids.is_empty() {
            return Ok(None);
        }
        let mut sum = Usage::default();
        for pid in pids {
            let usage = Usage::of(pid)?;
            sum.cpu += usage.cpu;
            sum.user += usage.user;
            sum.resident += usage.resident;
        }
        Ok(Some(sum))
    }

    /// Fails when one of the processes has ended: what would be measured then is nothing.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.daemons.iter_mut().try_for_each(Daemon::check)?;
        for host in self.lab.hosts() {
            if let Some(exit) = host.ended() {
                bail!("weaved of {} ended ({exit:?}):\n{}", host.nickname(), host.log_tail());
            }
        }
        Ok(())
    }
}
