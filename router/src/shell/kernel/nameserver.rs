//! The address at which this host's containers ask for names, on the bridge, and the way back to them (ADR 0012).
//!
//! Every host has the same address, of link scope: no host speaks under it of itself, and `set_host_address` leaves it alone. A hidden host
//! has no address of the fabric and so no route to its containers; its answers would leave by the default route, in clear. So what comes
//! from this address, and nothing else of the host, is looked up in a table of its own first. Not in the main one: Docker refuses ranges
//! to which there is a route, and the host itself shall stay apart from the fabric.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    address::AddressScope,
    route::{RouteAttribute, RouteHeader, RouteMessage},
    rule::{RuleAction, RuleAttribute, RuleMessage},
};
use rustix::io::Errno;

use super::{
    error::Result,
    links::{self, CREATE_NEW},
    spec::Outcome,
    wire::Wire,
};

/// The routing table, and the priority of the rule that leads there: the fabric's port, which nobody else has a reason to choose.
const TABLE: u32 = 6783;

/// Where names are served, and for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameserverSpec {
    /// The address.
    pub address: Ipv4Addr,
    /// The range of the containers.
    pub range: Ipv4Net,
}

/// Makes the bridge have this address and no other of its kind, and the way back.
pub(super) fn ensure(wire: &mut Wire, bridge: &str, wanted: Option<NameserverSpec>) -> Result<Outcome> {
    let link = links::require(wire, bridge)?;
    let rule = ensure_rule(wire, wanted.map(|spec| spec.address))?;
    let address = ensure_address(wire, link.ifindex, wanted.map(|spec| spec.address))?;
    let route = match wanted {
        Some(spec) => match wire.request(Message::NewRoute(route(link.ifindex, &spec)), CREATE_NEW) {
            Ok(_) => Outcome::Adjusted,
            Err(refusal) if refusal.is(Errno::EXIST) => Outcome::AsWanted,
            Err(refusal) => return Err(refusal.during("add route", spec.range.to_string())),
        },
        // It went with the rule that leads to it: nobody looks there.
        None => Outcome::AsWanted,
    };
    let as_wanted = [rule, address, route].iter().all(|outcome| *outcome == Outcome::AsWanted);
    Ok(if as_wanted { Outcome::AsWanted } else { Outcome::Adjusted })
}

/// Takes away what does not go with the bridge.
pub(super) fn remove(wire: &mut Wire) -> Result<Outcome> {
    ensure_rule(wire, None)
}

fn ensure_address(wire: &mut Wire, ifindex: u32, wanted: Option<Ipv4Addr>) -> Result<Outcome> {
    let mut outcome = Outcome::AsWanted;
    let of_kind = |address: &links::Address| {
        let v4 = matches!(address.net, IpNet::V4(_));
        v4 && address.ifindex == ifindex && address.scope == AddressScope::Link
    };
    let mut present = links::addresses(wire)?;
    present.retain(of_kind);
    let net = wanted.map(|address| IpNet::V4(Ipv4Net::from(address)));
    for surplus in present.iter().filter(|address| Some(address.net) != net) {
        match wire.request(Message::DelAddress(links::new_address(ifindex, surplus.net)), 0) {
            Ok(_) => outcome = Outcome::Adjusted,
            Err(refusal) if refusal.is(Errno::ADDRNOTAVAIL) => {}
            Err(refusal) => return Err(refusal.during("remove address", surplus.net.to_string())),
        }
    }
    let Some(net) = net.filter(|net| present.iter().all(|address| address.net != *net)) else {
        return Ok(outcome);
    };
    let mut message = links::new_address(ifindex, net);
    message.header.scope = AddressScope::Link;
    wire.request(Message::NewAddress(message), CREATE_NEW)
        .map(|_| ())
        .or_else(links::unless_exists)
        .map_err(|refusal| refusal.during("add address", net.to_string()))?;
    Ok(Outcome::Adjusted)
}

/// All rules that lead to our table are ours.
fn ensure_rule(wire: &mut Wire, wanted: Option<Ipv4Addr>) -> Result<Outcome> {
    let mut request = RuleMessage::default();
    request.header.family = AddressFamily::Inet;
    let answers = wire.dump(Message::GetRule(request)).map_err(|refusal| refusal.during("list", "rules"))?;
    let rules = answers.into_iter().filter_map(|answer| match answer {
        Message::NewRule(rule) => Some(rule),
        _ => None,
    });
    let ours: Vec<RuleMessage> =
        rules.filter(|rule| rule.attributes.contains(&RuleAttribute::Table(TABLE))).collect();
    let source = wanted.map(|address| RuleAttribute::Source(IpAddr::V4(address)));
    let is_wanted =
        |rule: &RuleMessage| source.as_ref().is_some_and(|source| rule.attributes.contains(source));
    let mut outcome = Outcome::AsWanted;
    for surplus in ours.iter().filter(|rule| !is_wanted(rule)) {
        match wire.request(Message::DelRule(surplus.clone()), 0) {
            Ok(_) => outcome = Outcome::Adjusted,
            Err(refusal) if refusal.is(Errno::NOENT) => {}
            Err(refusal) => return Err(refusal.during("remove rule", TABLE.to_string())),
        }
    }
    let (Some(source), false) = (source.clone(), ours.iter().any(is_wanted)) else { return Ok(outcome) };
    wire.request(Message::NewRule(rule(source)), CREATE_NEW)
        .map(|_| ())
        .or_else(links::unless_exists)
        .map_err(|refusal| refusal.during("add rule", TABLE.to_string()))?;
    Ok(Outcome::Adjusted)
}

fn rule(source: RuleAttribute) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.src_len = 32;
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![source, RuleAttribute::Table(TABLE), RuleAttribute::Priority(TABLE)];
    message
}

fn route(ifindex: u32, spec: &NameserverSpec) -> RouteMessage {
    let mut message = links::new_route(ifindex, IpNet::V4(spec.range), None);
    message.header.table = RouteHeader::RT_TABLE_UNSPEC;
    message.attributes.push(RouteAttribute::Table(TABLE));
    message
}
