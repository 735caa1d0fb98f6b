//! The bridge, the TAP device on it, and the host's own address on it. Wanted state is computed, compared with what is there, and only
//! the difference is written, so that a restarted router adopts what it finds without a flicker.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_route::{
    RouteNetlinkMessage as Message,
    address::AddressScope,
    link::{
        BridgeStpState, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind,
        LinkAttribute, LinkInfo, LinkMessage,
    },
};
use rustix::io::Errno;

use super::{
    attach::host_mac,
    error::{KernelError, Result},
    links::{self, CREATE_NEW, Link, RESIDENT},
    spec::{BridgeSpec, BridgeState, Outcome, Ports},
    sysctl::{self, Change, Warning},
    wire::Wire,
};

/// Creates the bridge or adopts the one that is there.
pub(super) fn ensure_bridge(wire: &mut Wire, name: &str, spec: &BridgeSpec) -> Result<BridgeState> {
    let mut outcome = Outcome::AsWanted;
    let link = match links::find(wire, name)? {
        Some(link) => link,
        None => {
            create(wire, name, spec.mac)?;
            outcome = Outcome::Created;
            links::require(wire, name)?
        }
    };
    if link.kind != Some(InfoKind::Bridge) {
        return Err(KernelError::WrongKind {
            name: name.to_owned(),
            got: link.kind_name(),
            want: "a bridge",
        });
    }
    // Before the device comes up: it must never have listened to a router advertisement (CVE-2020-13401 and its like).
    let (change, warnings) = quiet_ipv6(name);
    let difference = bridge_difference(&link, spec);
    if change == Change::Written || difference.is_some() {
        outcome = if outcome == Outcome::Created { Outcome::Created } else { Outcome::Adjusted };
    }
    if let Some(message) = difference {
        links::change(wire, message, name)?;
    }
    Ok(BridgeState { ifindex: link.ifindex, outcome, warnings })
}

fn create(wire: &mut Wire, name: &str, mac: [u8; 6]) -> Result<()> {
    let mut message = links::named(name);
    // From the start: udev gives an address of its own to devices that are born with a random one.
    message.attributes.push(LinkAttribute::Address(mac.to_vec()));
    message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
    wire.request(Message::NewLink(message), CREATE_NEW)
        .map(|_| ())
        .or_else(links::unless_exists)
        .map_err(|refusal| refusal.during("create bridge", name))
}

/// No addresses from router advertisements on this device: only we decide what the host is called on the fabric.
fn quiet_ipv6(name: &str) -> (Change, Vec<Warning>) {
    if !sysctl::ipv6_present() {
        return (Change::None, Vec::new());
    }
    sysctl::ensure_all(&[
        (format!("ipv6/conf/{name}/accept_ra"), "0"),
        (format!("ipv6/conf/{name}/autoconf"), "0"),
        (format!("ipv6/conf/{name}/accept_dad"), "0"),
    ])
}

/// What must be written so that `link` becomes as wanted; `None` when it is.
fn bridge_difference(link: &Link, spec: &BridgeSpec) -> Option<LinkMessage> {
    let mut message = links::about(link.ifindex);
    if link.mac != spec.mac {
        message.attributes.push(LinkAttribute::Address(spec.mac.to_vec()));
    }
    if link.mtu != spec.mtu {
        message.attributes.push(LinkAttribute::Mtu(spec.mtu));
    }
    message.attributes.extend(gso_difference(link, spec.gso_max_size));
    // No spanning tree: the fabric is one port to this bridge, and waiting 30 s for a port to forward would fail every attachment.
    // No snooping: it drops multicast that nobody has yet asked for, until a querier appears that never comes.
    let wanted = [InfoBridge::StpState(BridgeStpState::Disabled), InfoBridge::MulticastSnooping(false)];
    let mut data: Vec<InfoBridge> = wanted.into_iter().filter(|want| !link.bridge.contains(want)).collect();
    // Tagged frames of containers pass as they are. Kernels built without VLAN filtering neither report nor accept the setting.
    if link.bridge.contains(&InfoBridge::VlanFiltering(true)) {
        data.push(InfoBridge::VlanFiltering(false));
    }
    if !data.is_empty() {
        let info = vec![LinkInfo::Kind(InfoKind::Bridge), LinkInfo::Data(InfoData::Bridge(data))];
        message.attributes.push(LinkAttribute::LinkInfo(info));
    }
    finish(message, link)
}

/// Flags of a bridge port that we care for.
pub(super) enum PortRole {
    /// The TAP device: the way to everything that the bridge does not know.
    Fabric,
    /// A container: gets no unicast that is not for it. The bridge is told its address when it is attached.
    Container,
}

impl PortRole {
    fn wanted(&self) -> [InfoBridgePort; 5] {
        let unicast_flood = match self {
            Self::Fabric => true,
            Self::Container => false,
        };
        [
            InfoBridgePort::HairpinMode(false),
            InfoBridgePort::Learning(true),
            InfoBridgePort::UnicastFlood(unicast_flood),
            InfoBridgePort::MulticastFlood(true),
            InfoBridgePort::BroadcastFlood(true),
        ]
    }

    /// The attribute that sets what differs from `port`.
    pub(super) fn difference(&self, port: &[InfoBridgePort]) -> Option<LinkAttribute> {
        let data: Vec<InfoBridgePort> =
            self.wanted().into_iter().filter(|want| !port.contains(want)).collect();
        (!data.is_empty()).then(|| {
            LinkAttribute::LinkInfo(vec![
                LinkInfo::PortKind(InfoPortKind::Bridge),
                LinkInfo::PortData(InfoPortData::BridgePort(data)),
            ])
        })
    }
}

/// Puts the TAP device on the bridge.
pub(super) fn ensure_tap_port(
    wire: &mut Wire,
    bridge: &str,
    tap: &str,
    mtu: u32,
    txqueuelen: u32,
) -> Result<Outcome> {
    let bridge = links::require(wire, bridge)?;
    let mut link = links::require(wire, tap)?;
    if link.kind != Some(InfoKind::Tun) {
        return Err(KernelError::WrongKind { name: tap.to_owned(), got: link.kind_name(), want: "a tap" });
    }
    let (change, _) = if sysctl::ipv6_present() {
        // A bridge port speaks through its bridge; an address of its own would only announce itself into the fabric.
        sysctl::ensure_all(&[(format!("ipv6/conf/{tap}/disable_ipv6"), "1")])
    } else {
        (Change::None, Vec::new())
    };
    let mut outcome = if change == Change::Written { Outcome::Adjusted } else { Outcome::AsWanted };
    if link.master != Some(bridge.ifindex) {
        let mut message = links::about(link.ifindex);
        message.attributes.push(LinkAttribute::Controller(bridge.ifindex));
        links::change(wire, message, tap)?;
        // Port flags exist only now.
        link = links::require(wire, tap)?;
        outcome = Outcome::Adjusted;
    }
    let mut message = links::about(link.ifindex);
    if link.mtu != mtu {
        message.attributes.push(LinkAttribute::Mtu(mtu));
    }
    if link.txqueuelen != txqueuelen {
        message.attributes.push(LinkAttribute::TxQueueLen(txqueuelen));
    }
    message.attributes.extend(PortRole::Fabric.difference(&link.port));
    if let Some(message) = finish(message, &link) {
        links::change(wire, message, tap)?;
        outcome = Outcome::Adjusted;
    }
    Ok(outcome)
}

/// Puts host ends back on the bridge that lost it: when the bridge is deleted, its ports stay, and lead nowhere.
pub(super) fn ensure_ports(wire: &mut Wire, bridge: &str, names: &[String]) -> Result<Ports> {
    let bridge = links::require(wire, bridge)?;
    let links = links::list(wire, None)?;
    let mut ports = Ports::default();
    for name in names {
        let Some(link) = links.iter().find(|link| link.name == *name && link.kind == Some(InfoKind::Veth))
        else {
            ports.missing.push(name.clone());
            continue;
        };
        let mut link = link.clone();
        if link.master != Some(bridge.ifindex) {
            let mut message = links::about(link.ifindex);
            message.attributes.push(LinkAttribute::Controller(bridge.ifindex));
            links::change(wire, message, name)?;
            link = links::require(wire, name)?;
            ports.restored.push(name.clone());
        }
        let mut message = links::about(link.ifindex);
        message.attributes.extend(PortRole::Container.difference(&link.port));
        if let Some(message) = finish(message, &link) {
            links::change(wire, message, name)?;
            if ports.restored.last() != Some(name) {
                ports.restored.push(name.clone());
            }
        }
        if ports.restored.last() == Some(name)
            && let Ok(mac) = <[u8; 6]>::try_from(link.mac.as_slice())
        {
            // The host end's address is the container's but for one bit, so turning it once more gives the container's.
            let resident = links::resident(link.ifindex, host_mac(mac));
            wire.request(Message::NewNeighbour(resident), RESIDENT)
                .map_err(|refusal| refusal.during("tell the bridge who is behind", name))?;
        }
    }
    Ok(ports)
}

/// Attributes that cap super-frames, when they are not capped so already.
fn gso_difference(link: &Link, size: u32) -> impl Iterator<Item = LinkAttribute> {
    let general = (link.gso_max_size != size).then_some(LinkAttribute::GsoMaxSize(size));
    // Separate since Linux 6.3; kernels before it do not report the attribute and IPv4 follows the general limit.
    let ipv4 = (link.gso_ipv4_max_size != 0 && link.gso_ipv4_max_size != size)
        .then_some(LinkAttribute::GsoIpv4MaxSize(size));
    general.into_iter().chain(ipv4)
}

/// Adds "up" if need be; `None` when the request would change nothing.
fn finish(message: LinkMessage, link: &Link) -> Option<LinkMessage> {
    let message = if link.up { message } else { links::up(message) };
    (!message.attributes.is_empty() || !link.up).then_some(message)
}

/// Gives the host this address on the bridge, or none. All other addresses on the bridge are ours from before, and go.
pub(super) fn set_host_address(
    wire: &mut Wire,
    bridge: &str,
    wanted: Option<(Ipv4Net, Ipv6Net)>,
) -> Result<(Outcome, Vec<Warning>)> {
    let link = links::require(wire, bridge)?;
    let mut wanted: Vec<IpNet> =
        wanted.into_iter().flat_map(|(v4, v6)| [IpNet::V4(v4), IpNet::V6(v6)]).collect();
    let mut warnings = Vec::new();
    if !wanted.is_empty() {
        warnings = forwarding(bridge);
        if !sysctl::ipv6_present() {
            wanted.retain(|net| matches!(net, IpNet::V4(_)));
            warnings.push(Warning("this kernel has no IPv6: the host gets an IPv4 address only".to_owned()));
        }
    }
    let present: Vec<_> = links::addresses(wire)?
        .into_iter()
        .filter(|address| address.ifindex == link.ifindex && address.scope == AddressScope::Universe)
        .collect();
    let mut outcome = Outcome::AsWanted;
    for surplus in present.iter().filter(|address| !wanted.contains(&address.net)) {
        let message = links::new_address(link.ifindex, surplus.net);
        match wire.request(Message::DelAddress(message), 0) {
            Ok(_) => outcome = Outcome::Adjusted,
            Err(refusal) if refusal.is(Errno::ADDRNOTAVAIL) => {}
            Err(refusal) => return Err(refusal.during("remove address", surplus.net.to_string())),
        }
    }
    for missing in wanted.iter().filter(|net| present.iter().all(|address| address.net != **net)) {
        wire.request(Message::NewAddress(links::new_address(link.ifindex, *missing)), CREATE_NEW)
            .map(|_| ())
            .or_else(links::unless_exists)
            .map_err(|refusal| refusal.during("add address", missing.to_string()))?;
        outcome = Outcome::Adjusted;
    }
    Ok((outcome, warnings))
}

/// Lets the host forward between the fabric and its other networks. It stays on when the host hides again: others (Docker, a VPN) may
/// rely on it by then, and our own table drops what would pass through the bridge.
fn forwarding(bridge: &str) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut note = |outcome: std::result::Result<Change, Warning>| warnings.extend(outcome.err());
    note(sysctl::ensure("ipv4/ip_forward", "1"));
    if sysctl::ipv6_present() {
        // A host that forwards ignores router advertisements unless told otherwise (accept_ra = 2), and would lose its own default
        // route by being exposed.
        for interface in sysctl::ipv6_interfaces().iter().filter(|interface| *interface != bridge) {
            let key = format!("ipv6/conf/{interface}/accept_ra");
            if sysctl::read(&key).is_ok_and(|value| value == "1") {
                note(sysctl::ensure(&key, "2"));
            }
        }
        note(sysctl::ensure("ipv6/conf/all/forwarding", "1"));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: BridgeSpec = BridgeSpec { mtu: 1410, mac: [0x0a, 0x77, 0, 0, 0, 1], gso_max_size: 63_000 };

    fn as_wanted() -> Link {
        Link {
            ifindex: 7,
            mac: SPEC.mac.to_vec(),
            mtu: SPEC.mtu,
            gso_max_size: SPEC.gso_max_size,
            gso_ipv4_max_size: SPEC.gso_max_size,
            up: true,
            bridge: vec![
                InfoBridge::MulticastSnooping(false),
                InfoBridge::StpState(BridgeStpState::Disabled),
            ],
            ..Link::default()
        }
    }

    fn difference(change: impl FnOnce(&mut Link)) -> Option<LinkMessage> {
        let mut link = as_wanted();
        change(&mut link);
        bridge_difference(&link, &SPEC)
    }

    #[test]
    fn bridge_as_wanted_needs_no_request() {
        assert_eq!(difference(|_| ()), None);
        // Kernels before 6.3 do not report the IPv4 limit.
        assert_eq!(difference(|link| link.gso_ipv4_max_size = 0), None);
    }

    #[test]
    fn only_what_differs_is_written() {
        let attributes = |change: fn(&mut Link)| difference(change).expect("a request").attributes;
        assert_eq!(attributes(|link| link.mtu = 1500), [LinkAttribute::Mtu(1410)]);
        assert_eq!(attributes(|link| link.mac = vec![2; 6]), [LinkAttribute::Address(SPEC.mac.to_vec())]);
        assert_eq!(attributes(|link| link.gso_max_size = 65_536), [LinkAttribute::GsoMaxSize(63_000)]);
        assert_eq!(attributes(|link| link.up = false), []);
        let data = LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::MulticastSnooping(false)]));
        assert_eq!(
            attributes(|link| drop(link.bridge.remove(0))),
            [LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge), data])]
        );
    }

    #[test]
    fn vlan_filtering_is_switched_off_only_where_it_is_on() {
        assert_eq!(difference(|link| link.bridge.push(InfoBridge::VlanFiltering(false))), None);
        let attributes = difference(|link| link.bridge.push(InfoBridge::VlanFiltering(true)))
            .expect("a request")
            .attributes;
        let data = LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::VlanFiltering(false)]));
        assert_eq!(attributes, [LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge), data])]);
    }

    #[test]
    fn containers_get_no_flooded_unicast_and_the_fabric_does() {
        let port = PortRole::Fabric.wanted().to_vec();
        assert_eq!(PortRole::Fabric.difference(&port), None);
        let data = LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::UnicastFlood(false)]));
        let expected = LinkAttribute::LinkInfo(vec![LinkInfo::PortKind(InfoPortKind::Bridge), data]);
        assert_eq!(PortRole::Container.difference(&port), Some(expected));
    }
}
