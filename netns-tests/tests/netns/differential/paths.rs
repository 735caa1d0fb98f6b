//! Two ways from one container to another: through the fabric, and through bridges joined by the kernel's VXLAN. Both ends have the
//! same hardware and IP addresses and the same MTU on both, so that what arrives can be compared as it is.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path as File;

use anyhow::{Context, Result};
use lab::{Host, Lab, NetNs};

use super::packets::Ends;
use crate::support::{one_each, reaches};

/// A container on the first host, one on the second, and what joins them.
pub(crate) struct Path {
    /// For messages.
    pub(crate) name: &'static str,
    pub(crate) near: NetNs,
    pub(crate) far: NetNs,
    /// The host's end of the far container's interface.
    far_port: String,
}

/// Both paths, in this order: the kernel's, the fabric's.
pub(crate) struct Paths {
    pub(crate) ends: Ends,
    pub(crate) both: [Path; 2],
}

/// Makes a pair of containers on both paths; there must be none yet.
pub(crate) fn make(lab: &Lab) -> Result<Paths> {
    let containers = one_each(lab)?;
    let [near, far] = &containers[..] else { anyhow::bail!("two hosts are needed") };
    reaches(near, far)?;
    let ends = Ends {
        near_mac: mac(near.ns())?,
        far_mac: mac(far.ns())?,
        near4: near.ipv4()?,
        far4: far.ipv4()?,
        near6: near.ipv6()?,
        far6: far.ipv6()?,
        asked6: far.ipv6()?,
        mtu: usize::try_from(link(near.ns(), "eth0")?["mtu"].as_u64().context("no MTU")?)?,
    };
    for host in lab.hosts() {
        plain_bridge(host, lab, ends.mtu)?;
    }
    let (near_twin, _) = twin(lab, 1, &ends)?;
    let (far_twin, port) = twin(lab, 2, &ends)?;
    // The addresses stay where they are, whoever pretends to have them.
    for (host, near, far) in [(lab.host(1), "twin", "vx0"), (lab.host(2), "vx0", "twin")] {
        for (mac, device) in [(ends.near_mac, near), (ends.far_mac, far)] {
            let entry = format!("fdb replace {} dev {device} master static sticky", text(mac));
            host.ns().tool("bridge", &entry)?;
        }
    }
    let kernel = Path { name: "kernel VXLAN", near: near_twin, far: far_twin, far_port: port };
    let port = fabric_port(lab.host(2))?;
    let fabric = Path { name: "the fabric", near: near.ns().clone(), far: far.ns().clone(), far_port: port };
    Ok(Paths { ends, both: [kernel, fabric] })
}

impl Paths {
    /// Makes the kernels of all four containers silent, so that nothing but what is injected is under way.
    pub(crate) fn silence(&self) -> Result<()> {
        for path in &self.both {
            for ns in [&path.near, &path.far] {
                ns.sysctl("ipv6/conf/eth0/disable_ipv6", "1")?;
                ns.ip("addr flush dev eth0")?;
            }
        }
        Ok(())
    }

    /// Lets super-frames leave the near containers whole, up to the longest IP packet.
    pub(crate) fn whole_super_frames(&self) -> Result<()> {
        for path in &self.both {
            path.near.ip("link set eth0 gso_max_size 65536")?;
        }
        Ok(())
    }

    /// Takes all offloads from the last device before the far containers: the kernel cuts super-frames and completes checksums
    /// there, as a network card of the plainest kind would get them.
    pub(crate) fn plain_delivery(&self, lab: &Lab) -> Result<()> {
        for path in &self.both {
            lab.host(2).ns().tool("ethtool", &format!("-K {} tx off", path.far_port))?;
        }
        Ok(())
    }

    /// Hardware addresses of the hosts' own devices and of containers other than these: what their kernels say on the segment is no part
    /// of any test.
    pub(crate) fn noise(&self, lab: &Lab) -> Result<Vec<[u8; 6]>> {
        let mut found = Vec::new();
        for host in lab.hosts() {
            let listed: serde_json::Value = serde_json::from_str(&host.ns().ip("-j link show")?.stdout)?;
            let texts = listed.as_array().into_iter().flatten().filter_map(|link| link["address"].as_str());
            found.extend(texts.filter_map(parse_mac));
            let attached = host.json(&["ps"])?;
            let texts = attached.as_array().into_iter().flatten().filter_map(|one| one["mac"].as_str());
            found.extend(texts.filter_map(parse_mac));
        }
        found.retain(|mac| ![[0; 6], self.ends.near_mac, self.ends.far_mac].contains(mac));
        Ok(found)
    }
}

/// A bridge with a VXLAN device to the other host, with the settings that the fabric gives its own.
fn plain_bridge(host: &Host, lab: &Lab, mtu: usize) -> Result<()> {
    let (ns, other) = (host.ns(), lab.host(3 - host.index()));
    // Packet filters of bridges would look at what crosses either bridge, and drop what they do not understand.
    for family in ["iptables", "ip6tables", "arptables"] {
        let key = format!("bridge/bridge-nf-call-{family}");
        if File::new("/proc/sys/net").join(&key).exists() {
            ns.sysctl(&key, "0")?;
        }
    }
    ns.ip("link add plain0 type bridge stp_state 0 mcast_snooping 0")?;
    let (local, remote) = (host.address(), other.address());
    ns.ip(&format!("link add vx0 type vxlan id 77 local {local} remote {remote} dstport 4789"))?;
    ns.ip(&format!("link set vx0 mtu {mtu} master plain0 up"))?;
    ns.ip("link set plain0 up").map(drop)
}

/// A container on the plain bridge with the addresses that the fabric's container has.
fn twin(lab: &Lab, number: usize, ends: &Ends) -> Result<(NetNs, String)> {
    let host = lab.host(number);
    let ns = NetNs::create(&format!("{}-h{number}twin", lab.run()))?;
    let port = "twin".to_owned();
    let (mtu, name) = (ends.mtu, ns.name().to_owned());
    let (mac, v4, v6) = match number {
        1 => (ends.near_mac, ends.near4, ends.near6),
        _ => (ends.far_mac, ends.far4, ends.far6),
    };
    host.ns().ip(&format!(
        "link add {port} mtu {mtu} type veth peer name eth0 address {} mtu {mtu} netns {name}",
        text(mac)
    ))?;
    host.ns().ip(&format!("link set {port} master plain0 up"))?;
    address(&ns, v4, v6)?;
    Ok((ns, port))
}

fn address(ns: &NetNs, v4: Ipv4Addr, v6: Ipv6Addr) -> Result<()> {
    ns.ip("link set eth0 up")?;
    ns.ip(&format!("addr add {v4}/12 dev eth0"))?;
    ns.ip(&format!("-6 addr add {v6}/64 dev eth0 nodad")).map(drop)
}

/// The only port of the fabric's bridge on a host with one container.
fn fabric_port(host: &Host) -> Result<String> {
    let listed: serde_json::Value = serde_json::from_str(&host.ns().ip("-j link show type veth")?.stdout)?;
    let names = listed.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str());
    let found = names.into_iter().find(|name| name.starts_with("vw")).map(str::to_owned);
    found.context("no port of the fabric's bridge")
}

fn mac(ns: &NetNs) -> Result<[u8; 6]> {
    let link = link(ns, "eth0")?;
    link["address"].as_str().and_then(parse_mac).context("no hardware address")
}

fn link(ns: &NetNs, device: &str) -> Result<serde_json::Value> {
    let mut listed: serde_json::Value =
        serde_json::from_str(&ns.ip(&format!("-j link show {device}"))?.stdout)?;
    Ok(listed[0].take())
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes?.try_into().ok()
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
