//! Looking at the host's other networks: what the underlay can carry, where peers may dial us, what the fabric's range would collide with.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::{
    address::{AddressFlags, AddressScope},
    link::InfoKind,
};

use super::{
    error::Result,
    links::{self, Link, Route},
    wire::Wire,
};

/// MTU assumed when no device tells: that of Ethernet.
pub const DEFAULT_MTU: u32 = 1500;

/// Names of bridges that container engines and hypervisors make for themselves. Addresses on them are private to this host, and the same
/// on every host, so a peer that dialled one would reach itself.
const PRIVATE_BRIDGES: [&str; 7] = ["docker", "br-", "cni", "podman", "virbr", "lxcbr", "lxdbr"];

/// Routes that overlap the range, other than through our own bridge, in words.
pub(super) fn routes_overlap(wire: &mut Wire, bridge: &str, range: IpNet) -> Result<Vec<String>> {
    let links = links::list(wire, None)?;
    let name = |ifindex: Option<u32>| {
        ifindex
            .and_then(|ifindex| links.iter().find(|link| link.ifindex == ifindex))
            .map(|link| link.name.as_str())
    };
    let overlapping = links::routes(wire)?.into_iter().filter(|route| {
        let nets_overlap = route.destination.contains(&range) || range.contains(&route.destination);
        route.destination.prefix_len() > 0 && nets_overlap && name(route.ifindex) != Some(bridge)
    });
    Ok(overlapping
        .map(|route| {
            let device = name(route.ifindex).map_or_else(String::new, |name| format!(" dev {name}"));
            let via = route.gateway.map_or_else(String::new, |gateway| format!(" via {gateway}"));
            format!("{}{via}{device}", route.destination)
        })
        .collect())
}

/// MTU of the device that carries the underlay: the one with the address that we listen on; else the smallest of those with a default
/// route; else the smallest of all that are up.
pub(super) fn underlay_mtu(wire: &mut Wire, bridge: &str, listen: IpAddr) -> Result<u32> {
    let links = candidates(links::list(wire, None)?, bridge);
    if !listen.is_unspecified() {
        let addresses = links::addresses(wire)?;
        let bound =
            addresses.iter().find(|address| address.net.addr() == listen).map(|address| address.ifindex);
        if let Some(link) = links.iter().find(|link| Some(link.ifindex) == bound) {
            return Ok(link.mtu);
        }
    }
    let routes = links::routes(wire)?;
    let default = |link: &&Link| has_default_route(&routes, link.ifindex);
    let smallest = links.iter().filter(default).map(|link| link.mtu).min();
    Ok(smallest.or_else(|| links.iter().map(|link| link.mtu).min()).unwrap_or(DEFAULT_MTU))
}

/// Addresses at which peers may reach this host: those of devices with a default route first, else in the order of the devices.
pub(super) fn underlay_addresses(wire: &mut Wire, bridge: &str) -> Result<Vec<IpAddr>> {
    let links = candidates(links::list(wire, None)?, bridge);
    let routes = links::routes(wire)?;
    let mut found: Vec<(u8, u32, IpAddr)> = Vec::new();
    for address in links::addresses(wire)? {
        let Some(link) = links.iter().find(|link| link.ifindex == address.ifindex) else { continue };
        // Temporary IPv6 addresses (RFC 8981) change daily, and share the flag's bit with secondary IPv4 addresses.
        let temporary = address.flags.contains(AddressFlags::Secondary) && address.net.addr().is_ipv6();
        let unusable = AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Deprecated;
        let private_bridge = is_private_bridge(link);
        if address.scope == AddressScope::Universe
            && !temporary
            && !address.flags.intersects(unusable)
            && !private_bridge
        {
            let rank = u8::from(!has_default_route(&routes, link.ifindex));
            found.push((rank, link.ifindex, address.net.addr()));
        }
    }
    found.sort_by_key(|(rank, ifindex, _)| (*rank, *ifindex));
    Ok(found.into_iter().map(|(_, _, address)| address).collect())
}

/// Devices that can carry the underlay: up, not loopback, not ours.
fn candidates(links: Vec<Link>, bridge: &str) -> Vec<Link> {
    let ours = links.iter().find(|link| link.name == bridge).map(|link| link.ifindex);
    links
        .into_iter()
        .filter(|link| {
            let port_of_ours = ours.is_some() && link.master == ours;
            link.up
                && !link.loopback
                && Some(link.ifindex) != ours
                && !port_of_ours
                && !is_private_bridge(link)
        })
        .collect()
}

fn is_private_bridge(link: &Link) -> bool {
    link.kind == Some(InfoKind::Bridge) && PRIVATE_BRIDGES.iter().any(|prefix| link.name.starts_with(prefix))
}

fn has_default_route(routes: &[Route], ifindex: u32) -> bool {
    routes.iter().any(|route| route.destination.prefix_len() == 0 && route.ifindex == Some(ifindex))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(ifindex: u32, name: &str, kind: Option<InfoKind>) -> Link {
        Link { ifindex, name: name.to_owned(), kind, up: true, ..Link::default() }
    }

    #[test]
    fn our_own_and_private_devices_carry_no_underlay() {
        let bridge = Some(InfoKind::Bridge);
        let links = vec![
            Link { loopback: true, ..link(1, "lo", None) },
            link(2, "eth0", None),
            link(3, "weave0", bridge.clone()),
            Link { master: Some(3), ..link(4, "vw01", Some(InfoKind::Veth)) },
            link(5, "docker0", bridge.clone()),
            link(6, "br-0123456789ab", bridge.clone()),
            // A bridge that the host itself lives on.
            link(7, "br0", bridge),
            Link { up: false, ..link(8, "eth1", None) },
            // A host that is itself a container.
            link(9, "eth2", Some(InfoKind::Veth)),
        ];
        let names: Vec<_> = candidates(links, "weave0").into_iter().map(|link| link.name).collect();
        assert_eq!(names, ["eth0", "br0", "eth2"]);
    }
}
