//! Reading and changing devices, addresses and routes over a [`Wire`]: the vocabulary in which the other files say what they want.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
    link::{
        InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, LinkAttribute, LinkExtentMask,
        LinkFlags, LinkInfo, LinkMessage,
    },
    neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteScope},
};
use rtnetlink::{AddressMessageBuilder, RouteMessageBuilder};
use rustix::io::Errno;

use super::{
    error::{KernelError, Result},
    wire::{Refusal, Wire},
};

/// Flags of a request that makes something that must not exist yet.
pub(super) const CREATE_NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// Flags of a request that tells the bridge of a resident, known before or not.
pub(super) const RESIDENT: u16 = NLM_F_CREATE | NLM_F_REPLACE;

/// A device as the kernel describes it, reduced to what we look at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Link {
    pub(super) ifindex: u32,
    pub(super) name: String,
    pub(super) kind: Option<InfoKind>,
    pub(super) mac: Vec<u8>,
    pub(super) mtu: u32,
    pub(super) txqueuelen: u32,
    pub(super) gso_max_size: u32,
    pub(super) gso_ipv4_max_size: u32,
    pub(super) up: bool,
    pub(super) running: bool,
    pub(super) loopback: bool,
    pub(super) master: Option<u32>,
    pub(super) peer_netns: Option<i32>,
    pub(super) bridge: Vec<InfoBridge>,
    pub(super) port: Vec<InfoBridgePort>,
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Self {
            ifindex: message.header.index,
            up: flags.contains(LinkFlags::Up),
            running: flags.contains(LinkFlags::Running),
            loopback: flags.contains(LinkFlags::Loopback),
            ..Self::default()
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(mac) => link.mac = mac,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::TxQueueLen(length) => link.txqueuelen = length,
                LinkAttribute::GsoMaxSize(size) => link.gso_max_size = size,
                LinkAttribute::GsoIpv4MaxSize(size) => link.gso_ipv4_max_size = size,
                LinkAttribute::Controller(master) => link.master = Some(master),
                LinkAttribute::LinkNetNsId(id) => link.peer_netns = Some(id),
                LinkAttribute::LinkInfo(infos) => link.read_infos(infos),
                _ => {}
            }
        }
        link
    }
}

impl Link {
    fn read_infos(&mut self, infos: Vec<LinkInfo>) {
        for info in infos {
            match info {
                LinkInfo::Kind(kind) => self.kind = Some(kind),
                LinkInfo::Data(InfoData::Bridge(data)) => self.bridge = data,
                LinkInfo::PortData(InfoPortData::BridgePort(data)) => self.port = data,
                _ => {}
            }
        }
    }

    pub(super) fn kind_name(&self) -> String {
        self.kind.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string)
    }
}

/// A request about the device with this index.
pub(super) fn about(ifindex: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message
}

/// A request about the device of this name.
pub(super) fn named(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}

/// Lets the request also set the device up.
pub(super) fn up(mut message: LinkMessage) -> LinkMessage {
    message.header.flags |= LinkFlags::Up;
    message.header.change_mask |= LinkFlags::Up;
    message
}

/// The bridge's knowledge of who is behind a port, from the start and for good: the container is reached before it has said a word, and
/// no neighbour takes its frames by sending under its address.
pub(super) fn resident(ifindex: u32, mac: [u8; 6]) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = ifindex;
    message.header.state = NeighbourState::Noarp;
    message.header.flags = NeighbourFlags::Controller | NeighbourFlags::Sticky;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
    message
}

/// Link-layer addresses that a bridge has heard lately, each with the port behind which it is.
pub(super) fn heard(wire: &mut Wire, bridge: u32) -> Result<Vec<(u32, [u8; 6])>> {
    let mut request = NeighbourMessage::default();
    request.header.family = AddressFamily::Bridge;
    let answers = wire
        .dump(Message::GetNeighbour(request))
        .map_err(|refusal| refusal.during("list", "addresses that the bridge has heard"))?;
    let heard = answers.into_iter().filter_map(|answer| {
        let Message::NewNeighbour(entry) = answer else { return None };
        let ours = entry.attributes.iter().any(
            |attribute| matches!(attribute, NeighbourAttribute::Controller(controller) if *controller == bridge),
        );
        let mac = entry.attributes.iter().find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok(),
            _ => None,
        });
        // Permanent ones are the ports' own.
        (ours && entry.header.state != NeighbourState::Permanent).then_some((entry.header.ifindex, mac?))
    });
    Ok(heard.collect())
}

/// Looks a device up by its name.
pub(super) fn find(wire: &mut Wire, name: &str) -> Result<Option<Link>> {
    let mut request = named(name);
    request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    match wire.request(Message::GetLink(request), 0) {
        Ok(answers) => Ok(answers.into_iter().find_map(as_link)),
        Err(refusal) if refusal.is(Errno::NODEV) => Ok(None),
        Err(refusal) => Err(refusal.during("look up device", name)),
    }
}

/// Looks up a device that must exist.
pub(super) fn require(wire: &mut Wire, name: &str) -> Result<Link> {
    find(wire, name)?.ok_or_else(|| KernelError::DeviceMissing { name: name.to_owned() })
}

/// The same, of a device that must be a bridge.
pub(super) fn require_bridge(wire: &mut Wire, name: &str) -> Result<Link> {
    let link = require(wire, name)?;
    if link.kind == Some(InfoKind::Bridge) {
        return Ok(link);
    }
    Err(KernelError::WrongKind { name: link.name.clone(), got: link.kind_name(), want: "a bridge" })
}

/// All devices, or those that are enslaved to `master`.
pub(super) fn list(wire: &mut Wire, master: Option<u32>) -> Result<Vec<Link>> {
    let mut request = LinkMessage::default();
    request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    request.attributes.extend(master.map(LinkAttribute::Controller));
    let answers =
        wire.dump(Message::GetLink(request)).map_err(|refusal| refusal.during("list", "devices"))?;
    let mut links: Vec<Link> = answers.into_iter().filter_map(as_link).collect();
    // The filter is a favour of the kernel that it does not promise.
    links.retain(|link| master.is_none() || link.master == master);
    Ok(links)
}

fn as_link(message: Message) -> Option<Link> {
    match message {
        Message::NewLink(link) => Some(link.into()),
        _ => None,
    }
}

/// Changes a device.
pub(super) fn change(wire: &mut Wire, message: LinkMessage, name: &str) -> Result<()> {
    wire.request(Message::NewLink(message), 0)
        .map(|_| ())
        .map_err(|refusal| refusal.during("change device", name))
}

/// Deletes a device by name. `false` when there was none.
pub(super) fn delete(wire: &mut Wire, name: &str) -> Result<bool> {
    match wire.request(Message::DelLink(named(name)), 0) {
        Ok(_) => Ok(true),
        Err(refusal) if refusal.is(Errno::NODEV) => Ok(false),
        Err(refusal) => Err(refusal.during("delete device", name)),
    }
}

/// An address on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) ifindex: u32,
    pub(super) net: IpNet,
    pub(super) scope: AddressScope,
    pub(super) flags: AddressFlags,
}

/// All addresses of the namespace.
pub(super) fn addresses(wire: &mut Wire) -> Result<Vec<Address>> {
    let answers = wire
        .dump(Message::GetAddress(AddressMessage::default()))
        .map_err(|refusal| refusal.during("list", "addresses"))?;
    Ok(answers.into_iter().filter_map(as_address).collect())
}

fn as_address(message: Message) -> Option<Address> {
    let Message::NewAddress(message) = message else { return None };
    let (mut local, mut far) = (None, None);
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    for attribute in message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(address),
            AddressAttribute::Address(address) => far = Some(address),
            AddressAttribute::Flags(all) => flags = all,
            _ => {}
        }
    }
    // On a point-to-point link `Address` is the peer's; otherwise both are the same, or only it is there.
    let net = IpNet::new(local.or(far)?, message.header.prefix_len).ok()?;
    Some(Address { ifindex: message.header.index, net, scope: message.header.scope, flags })
}

/// The request to give a device an address. IPv6 skips duplicate address detection (RFC 4862, section 5.4): the allocation already
/// guarantees that the address has one owner, and a tentative address would be unusable for a second.
pub(super) fn new_address(ifindex: u32, net: IpNet) -> AddressMessage {
    match net {
        IpNet::V4(net) => AddressMessageBuilder::<std::net::Ipv4Addr>::new()
            .index(ifindex)
            .address(net.addr(), net.prefix_len())
            .build(),
        IpNet::V6(net) => {
            let mut message = AddressMessageBuilder::<std::net::Ipv6Addr>::new()
                .index(ifindex)
                .address(net.addr(), net.prefix_len())
                .build();
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            message
        }
    }
}

/// A route as far as we look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) destination: IpNet,
    pub(super) gateway: Option<IpAddr>,
    pub(super) ifindex: Option<u32>,
    pub(super) table: u32,
}

/// All unicast routes of the main table of both families.
pub(super) fn routes(wire: &mut Wire) -> Result<Vec<Route>> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        match wire.dump(Message::GetRoute(request)) {
            Ok(answers) => routes.extend(answers.into_iter().filter_map(as_route)),
            // No such family in this kernel.
            Err(refusal) if refusal.is(Errno::OPNOTSUPP) || refusal.is(Errno::AFNOSUPPORT) => {}
            Err(refusal) => return Err(refusal.during("list", "routes")),
        }
    }
    Ok(routes)
}

fn as_route(message: Message) -> Option<Route> {
    let Message::NewRoute(message) = message else { return None };
    let header = &message.header;
    if header.kind != netlink_packet_route::route::RouteType::Unicast {
        return None;
    }
    let any: IpAddr = match header.address_family {
        AddressFamily::Inet => std::net::Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let (mut destination, mut gateway, mut ifindex, mut table) = (any, None, None, u32::from(header.table));
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = as_ip(&address)?,
            RouteAttribute::Gateway(address) => gateway = as_ip(&address),
            RouteAttribute::Oif(index) => ifindex = Some(index),
            RouteAttribute::Table(id) => table = id,
            RouteAttribute::MultiPath(hops) => ifindex = hops.first().map(|hop| hop.interface_index),
            _ => {}
        }
    }
    let destination = IpNet::new(destination, header.destination_prefix_length).ok()?;
    let main = u32::from(netlink_packet_route::route::RouteHeader::RT_TABLE_MAIN);
    (table == main).then_some(Route { destination, gateway, ifindex, table })
}

fn as_ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

/// The request to add a route through a device.
pub(super) fn new_route(ifindex: u32, destination: IpNet, gateway: Option<IpAddr>) -> RouteMessage {
    let destination = destination.trunc();
    let mut message = match destination {
        IpNet::V4(net) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .destination_prefix(net.addr(), net.prefix_len())
            .output_interface(ifindex)
            .build(),
        IpNet::V6(net) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
            .destination_prefix(net.addr(), net.prefix_len())
            .output_interface(ifindex)
            .build(),
    };
    match gateway {
        Some(gateway) => message.attributes.push(RouteAttribute::Gateway(gateway.into())),
        // The kernel wants to be told that nothing lies between.
        None => {
            message.header.scope =
                if destination.addr().is_ipv4() { RouteScope::Link } else { RouteScope::Universe }
        }
    }
    message
}

/// Turns "exists already" into success: what we wanted is there.
pub(super) fn unless_exists(refusal: Refusal) -> std::result::Result<(), Refusal> {
    if refusal.is(Errno::EXIST) { Ok(()) } else { Err(refusal) }
}
