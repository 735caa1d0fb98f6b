//! Attaching a container: validate everything, then apply, and undo on failure. Detaching, and comparing an attachment with its plan.
//!
//! The pair is made from the host with its other end already in the container, under its final name, address and limits: one request
//! instead of create, move, rename and four changes.

use netlink_packet_route::{
    RouteNetlinkMessage as Message,
    link::{
        AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo,
    },
};
use netlink_sys::protocols::NETLINK_ROUTE;
use std::os::fd::AsRawFd;

use super::{
    bridge::PortRole,
    container::{self, Configured, Inside},
    error::{KernelError, Result, Side},
    links::{self, CREATE_NEW, Link, RESIDENT},
    netns::{NetnsId, OpenNetns},
    pair::PairSpec,
    spec::{AttachSpec, Attached, Mismatch, check_port_name},
    sysctl::{self, Warning},
    wire::{Reply, Request, Wire},
};

/// Runs on a thread of its own, which it leaves in the container's namespace. Also returns the socket to the host, with which the
/// attachment can still be undone from there.
pub(super) fn attach(bridge: &str, own: &NetnsId, spec: &AttachSpec) -> Result<(Attached, Wire)> {
    spec.validate()?;
    let netns = spec.netns.open(own)?;
    let mut host = Wire::open(NETLINK_ROUTE)?;
    let bridge = links::require_bridge(&mut host, bridge)?;
    if links::find(&mut host, &spec.host_ifname)?.is_some() {
        return Err(taken(&spec.host_ifname, Side::Host));
    }
    // From here on this thread lives in the container; the socket above still speaks to the host.
    netns.enter()?;
    let mut inside = Inside::open()?;
    if inside.find(&spec.container_ifname)?.is_some() {
        return Err(taken(&spec.container_ifname, Side::Container));
    }
    create_pair(&mut host, &bridge, Far::Inside(&netns), &PairSpec::of(spec))?;
    match configure(&mut host, &mut inside, spec) {
        Ok(attached) => Ok((attached, host)),
        Err(error) => {
            // One end takes the other with it. Should this fail too, the first error is the one to tell.
            if let Err(second) = links::delete(&mut host, &spec.host_ifname) {
                tracing::warn!(interface = spec.host_ifname, error = %second, "could not undo a failed attachment");
            }
            Err(error)
        }
    }
}

/// Where the container's end of a pair is made.
pub(super) enum Far<'a> {
    /// In the container.
    Inside(&'a OpenNetns),
    /// Beside the other end, from where somebody else will fetch it.
    OnHost,
}

/// Makes a pair, one end on the bridge, the other where its user is.
pub(super) fn create_pair(host: &mut Wire, bridge: &Link, far: Far<'_>, spec: &PairSpec) -> Result<()> {
    let mut peer = links::named(&spec.far_ifname);
    match far {
        Far::Inside(netns) => peer.attributes.push(LinkAttribute::NetNsFd(netns.file().as_raw_fd())),
        Far::OnHost => {}
    }
    peer.attributes.extend([
        LinkAttribute::Address(spec.mac.to_vec()),
        LinkAttribute::Mtu(spec.mtu),
        LinkAttribute::GsoMaxSize(spec.gso_max_size),
        // Receiving: what the host merges for the container may be as long as what the container may send on.
        LinkAttribute::GroMaxSize(spec.gso_max_size),
        LinkAttribute::GsoIpv4MaxSize(spec.gso_max_size),
        LinkAttribute::GroIpv4MaxSize(spec.gso_max_size),
    ]);
    let mut message = links::named(&spec.host_ifname);
    message.attributes.extend([
        LinkAttribute::Address(host_mac(spec.mac).to_vec()),
        LinkAttribute::Mtu(spec.mtu),
        LinkAttribute::Controller(bridge.ifindex),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ]);
    match host.request(Message::NewLink(message), CREATE_NEW) {
        Ok(_) => Ok(()),
        // Both names were free a moment ago: somebody was faster.
        Err(refusal) if refusal.is(rustix::io::Errno::EXIST) => match links::find(host, &spec.host_ifname)? {
            Some(_) => Err(taken(&spec.host_ifname, Side::Host)),
            None => Err(taken(&spec.far_ifname, Side::Container)),
        },
        Err(refusal) => Err(refusal.during("create veth pair", &spec.host_ifname)),
    }
}

/// The host end's address: the container's with one more bit, so that udev does not invent one and announce a change of the link.
/// (When that bit is set already, it is cleared: the two must differ.)
pub(super) fn host_mac(container: [u8; 6]) -> [u8; 6] {
    let [first, rest @ ..] = container;
    let mut mac = [first ^ 0b100, 0, 0, 0, 0, 0];
    mac[1..].copy_from_slice(&rest);
    mac
}

fn configure(host: &mut Wire, inside: &mut Inside, spec: &AttachSpec) -> Result<Attached> {
    let Configured { ifindex: container_ifindex, mut warnings, routes_left } = inside.configure(spec)?;
    let port = ready_port(host, &spec.host_ifname, spec.mac, &mut warnings)?;
    let host_mac = port.mac.as_slice().try_into().unwrap_or_default();
    Ok(Attached { host_mac, host_ifindex: port.ifindex, container_ifindex, routes_left, warnings })
}

/// Sets the host end up as a port of a container with this address.
pub(super) fn ready_port(
    host: &mut Wire,
    name: &str,
    container: [u8; 6],
    warnings: &mut Vec<Warning>,
) -> Result<Link> {
    let port = links::require(host, name)?;
    // Three requests in one system call: without the first, the port would choose a link-local address the moment it is up, and speak to
    // the container with it.
    let mut quiet = links::about(port.ifindex);
    quiet.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![
        AfSpecInet6::AddrGenMode(In6AddrGenMode::None),
    ])]));
    let mut message = links::up(links::about(port.ifindex));
    message.attributes.extend(PortRole::Container.difference(&port.port));
    let resident = Message::NewNeighbour(links::resident(port.ifindex, container));
    let requests = [(Message::NewLink(quiet), 0), (Message::NewLink(message), 0), (resident, RESIDENT)]
        .map(|(message, flags)| Request { message, flags, reply: Reply::Acknowledged });
    let mut answers = host.exchange(Vec::from(requests)).into_iter();
    if let Some(Err(refusal)) = answers.next() {
        // A kernel without IPv6 has nothing to silence.
        warnings.extend(
            sysctl::ipv6_present()
                .then(|| Warning(format!("cannot silence IPv6 on `{}`: {}", port.name, refusal.errno))),
        );
    }
    answers
        .try_for_each(|answer| answer.map(|_| ()))
        .map_err(|refusal| refusal.during("set up port", name))?;
    Ok(port)
}

/// Removes an attachment; `false` when there was none. Only ever a veth end with our prefix.
pub(super) fn detach(host: &mut Wire, host_ifname: &str) -> Result<bool> {
    check_port_name(host_ifname)?;
    match links::find(host, host_ifname)? {
        None => Ok(false),
        Some(link) if link.kind == Some(InfoKind::Veth) => links::delete(host, host_ifname),
        Some(link) => {
            Err(KernelError::WrongKind { name: link.name.clone(), got: link.kind_name(), want: "a veth" })
        }
    }
}

/// Compares an attachment with its plan (CNI CHECK). Runs on a thread of its own, which it leaves in the container's namespace.
pub(super) fn check(bridge: &str, own: &NetnsId, spec: &AttachSpec) -> Result<Vec<Mismatch>> {
    spec.validate()?;
    let netns = spec.netns.open(own)?;
    let mut host = Wire::open(NETLINK_ROUTE)?;
    let mut mismatches = Vec::new();
    let master = links::find(&mut host, bridge)?;
    if master.is_none() {
        mismatches.push(missing(format!("bridge {bridge}")));
    }
    match links::find(&mut host, &spec.host_ifname)? {
        None => mismatches.push(missing(format!("interface {} on the host", spec.host_ifname))),
        Some(port) => check_port(&port, master.as_ref(), spec, &mut mismatches),
    }
    netns.enter()?;
    container::check(&mut Inside::open()?, spec, &mut mismatches)?;
    Ok(mismatches)
}

fn check_port(port: &Link, bridge: Option<&Link>, spec: &AttachSpec, mismatches: &mut Vec<Mismatch>) {
    let name = &spec.host_ifname;
    compare(mismatches, format!("kind of {name}"), port.kind_name(), "veth");
    compare(mismatches, format!("mtu of {name}"), port.mtu, spec.mtu);
    compare(mismatches, format!("state of {name}"), updown(port.up), updown(true));
    if let Some(bridge) = bridge {
        let got = port.master.map_or_else(|| "none".to_owned(), |master| master.to_string());
        compare(mismatches, format!("bridge (as ifindex) of {name}"), got, bridge.ifindex);
    }
    if port.master.is_some() && PortRole::Container.difference(&port.port).is_some() {
        mismatches.push(Mismatch {
            what: format!("port flags of {name}"),
            got: format!("{:?}", port.port),
            want: "learning, no unicast flooding, no hairpin".to_owned(),
        });
    }
}

/// Notes a difference, if it is one.
pub(super) fn compare(list: &mut Vec<Mismatch>, what: String, got: impl ToString, want: impl ToString) {
    let (got, want) = (got.to_string(), want.to_string());
    if got != want {
        list.push(Mismatch { what, got, want });
    }
}

/// Notes that something is not there.
pub(super) fn missing(what: String) -> Mismatch {
    Mismatch { what, got: "nothing".to_owned(), want: "present".to_owned() }
}

pub(super) fn updown(up: bool) -> &'static str {
    if up { "up" } else { "down" }
}

pub(super) fn taken(name: &str, side: Side) -> KernelError {
    KernelError::NameTaken { name: name.to_owned(), side }
}
