//! The container's end of an attachment. Everything here runs on a thread that has entered the container's namespace.

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_sys::protocols::NETLINK_ROUTE;
use rustix::io::Errno;

use super::{
    attach::{compare, missing, updown},
    error::Result,
    links::{self, CREATE_NEW, Link},
    spec::{AttachSpec, Mismatch, show_mac},
    sysctl::{self, Warning},
    wire::{Answer, Reply, Request, Wire},
};

/// Name of the loopback device in every namespace.
const LOOPBACK: &str = "lo";

/// Requests in one system call. All answers wait in the socket until we read them, and its default buffer holds some two hundred; a
/// container with more than a few routes is rare, so one call is the rule.
const MAX_BATCH: usize = 64;

/// A socket in the container's namespace.
pub(super) struct Inside {
    wire: Wire,
}

/// One step of the configuration, with the words for the case that it fails.
struct Step {
    message: Message,
    flags: u16,
    operation: &'static str,
    object: String,
    family: Family,
    exists: IfExists,
}

/// What it means that the kernel has the object already.
#[derive(Clone, Copy, PartialEq, Eq)]
enum IfExists {
    /// Something is wrong.
    Fail,
    /// A default route of another network stays, as a container that is attached to a second network wants it.
    Leave(IpNet),
}

/// What `configure` did.
pub(super) struct Configured {
    pub(super) ifindex: u32,
    pub(super) warnings: Vec<Warning>,
    /// Routes that were not made because the container has them by another interface.
    pub(super) routes_left: Vec<IpNet>,
}

/// Steps of IPv6 may fail where a kernel or a container has none; the container then lives with IPv4 alone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Any,
    V6,
}

impl Inside {
    /// Opens it in the namespace of the calling thread.
    pub(super) fn open() -> Result<Self> {
        Ok(Self { wire: Wire::open(NETLINK_ROUTE)? })
    }

    pub(super) fn find(&mut self, name: &str) -> Result<Option<Link>> {
        links::find(&mut self.wire, name)
    }

    /// Brings the interface up with its addresses and routes: sysctls, one lookup, and one system call for all the rest.
    pub(super) fn configure(&mut self, spec: &AttachSpec) -> Result<Configured> {
        let link = links::require(&mut self.wire, &spec.container_ifname)?;
        let warnings = interface_settings(&spec.container_ifname);
        let mut done = Configured { ifindex: link.ifindex, warnings, routes_left: Vec::new() };
        let v6 = sysctl::ipv6_present();
        let steps: Vec<Step> =
            steps(link.ifindex, spec).into_iter().filter(|step| v6 || step.family == Family::Any).collect();
        if !v6 {
            done.warnings.push(Warning("no IPv6 in this namespace: the container gets IPv4 only".to_owned()));
        }
        let mut steps = steps.into_iter().peekable();
        while steps.peek().is_some() {
            self.apply(steps.by_ref().take(MAX_BATCH), &mut done)?;
        }
        Ok(done)
    }

    fn apply(&mut self, steps: impl Iterator<Item = Step>, done: &mut Configured) -> Result<()> {
        let (words, requests): (Vec<_>, Vec<_>) = steps
            .map(|step| {
                let Step { message, flags, operation, object, family, exists } = step;
                ((operation, object, family, exists), Request { message, flags, reply: Reply::Acknowledged })
            })
            .unzip();
        let answers: Vec<Answer<Message>> = self.wire.exchange(requests);
        for ((operation, object, family, exists), answer) in words.into_iter().zip(answers) {
            match answer {
                Ok(_) => {}
                Err(refusal) if family == Family::V6 && switched_off(&refusal.errno) => {
                    done.warnings
                        .push(Warning(format!("cannot {operation} `{object}`: IPv6 is switched off")));
                }
                Err(refusal) => match exists {
                    IfExists::Leave(destination) if refusal.is(Errno::EXIST) => {
                        done.routes_left.push(destination);
                    }
                    IfExists::Leave(_) | IfExists::Fail => return Err(refusal.during(operation, object)),
                },
            }
        }
        Ok(())
    }
}

/// Errors with which the kernel refuses IPv6 where `disable_ipv6` could not be cleared.
fn switched_off(errno: &std::io::Error) -> bool {
    let off = [Errno::ACCESS, Errno::OPNOTSUPP, Errno::AFNOSUPPORT, Errno::NODEV];
    errno.raw_os_error().is_some_and(|raw| off.iter().any(|errno| errno.raw_os_error() == raw))
}

/// Settings that must be in place before the interface is up.
fn interface_settings(name: &str) -> Vec<Warning> {
    let mut settings = vec![
        // Announce the address when the link comes up, so that caches that remember an earlier owner learn at once.
        (format!("ipv4/conf/{name}/arp_notify"), "1"),
        // Speak only for addresses of this interface: a container with two networks must not answer on one for the other.
        (format!("ipv4/conf/{name}/arp_ignore"), "1"),
        (format!("ipv4/conf/{name}/arp_announce"), "2"),
    ];
    if sysctl::ipv6_present() {
        settings.extend([
            // Docker switches IPv6 off in its containers by default.
            (format!("ipv6/conf/{name}/disable_ipv6"), "0"),
            // A container must not become its neighbours' router (CVE-2020-13401 and its like).
            (format!("ipv6/conf/{name}/accept_ra"), "0"),
            (format!("ipv6/conf/{name}/autoconf"), "0"),
            // The link-local address is derived from an address that has one owner: nothing to detect, and a second saved.
            (format!("ipv6/conf/{name}/accept_dad"), "0"),
        ]);
    }
    sysctl::ensure_all(&settings).1
}

fn steps(ifindex: u32, spec: &AttachSpec) -> Vec<Step> {
    let name = spec.container_ifname.clone();
    let mut steps = vec![
        Step {
            message: Message::NewLink(links::up(links::named(LOOPBACK))),
            flags: 0,
            operation: "set up device",
            object: LOOPBACK.to_owned(),
            family: Family::Any,
            exists: IfExists::Fail,
        },
        Step {
            message: Message::NewLink(links::up(links::about(ifindex))),
            flags: 0,
            operation: "set up device",
            object: name,
            family: Family::Any,
            exists: IfExists::Fail,
        },
    ];
    for net in [IpNet::V4(spec.v4), IpNet::V6(spec.v6)] {
        steps.push(Step {
            message: Message::NewAddress(links::new_address(ifindex, net)),
            flags: CREATE_NEW,
            operation: "add address",
            object: net.to_string(),
            family: family(net),
            exists: IfExists::Fail,
        });
    }
    for (destination, gateway) in &spec.routes {
        let via = gateway.map_or_else(String::new, |gateway| format!(" via {gateway}"));
        steps.push(Step {
            message: Message::NewRoute(links::new_route(ifindex, *destination, *gateway)),
            flags: CREATE_NEW,
            operation: "add route",
            object: format!("{destination}{via}"),
            family: family(*destination),
            exists: if is_shared(destination) { IfExists::Leave(*destination) } else { IfExists::Fail },
        });
    }
    steps
}

/// Routes that a container's other interface may have made: the default, and to where names are served on every host.
fn is_shared(destination: &IpNet) -> bool {
    let to_the_link = |net: &ipnet::Ipv4Net| net.prefix_len() == 32 && net.addr().is_link_local();
    destination.prefix_len() == 0 || matches!(destination, IpNet::V4(net) if to_the_link(net))
}

fn family(net: IpNet) -> Family {
    match net {
        IpNet::V4(_) => Family::Any,
        IpNet::V6(_) => Family::V6,
    }
}

/// Compares the container's end with the plan.
pub(super) fn check(inside: &mut Inside, spec: &AttachSpec, mismatches: &mut Vec<Mismatch>) -> Result<()> {
    let name = &spec.container_ifname;
    let Some(link) = inside.find(name)? else {
        mismatches.push(missing(format!("interface {name} in the container")));
        return Ok(());
    };
    compare(mismatches, format!("kind of {name} in the container"), link.kind_name(), "veth");
    compare(mismatches, format!("mac of {name} in the container"), show_mac(&link.mac), show_mac(&spec.mac));
    compare(mismatches, format!("mtu of {name} in the container"), link.mtu, spec.mtu);
    compare(mismatches, format!("state of {name} in the container"), updown(link.up), updown(true));
    let v6 = sysctl::ipv6_present();
    let expected = |net: &IpNet| v6 || matches!(net, IpNet::V4(_));
    let addresses = links::addresses(&mut inside.wire)?;
    for want in [IpNet::V4(spec.v4), IpNet::V6(spec.v6)].iter().filter(|net| expected(net)) {
        if !addresses.iter().any(|address| address.ifindex == link.ifindex && address.net == *want) {
            mismatches.push(missing(format!("address {want} on {name} in the container")));
        }
    }
    let routes = links::routes(&mut inside.wire)?;
    for (destination, gateway) in spec.routes.iter().filter(|(destination, _)| expected(destination)) {
        let there = routes.iter().any(|route| {
            route.ifindex == Some(link.ifindex)
                && route.destination == destination.trunc()
                && route.gateway == *gateway
        });
        if !there {
            let via = gateway.map_or_else(String::new, |gateway| format!(" via {gateway}"));
            mismatches.push(missing(format!("route {destination}{via} in the container")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::shell::kernel::Netns;

    #[test]
    fn links_come_up_before_addresses_and_addresses_before_routes() {
        let spec = AttachSpec {
            host_ifname: "vw01".to_owned(),
            container_ifname: "eth0".to_owned(),
            netns: Netns::Path("/run/netns/a".into()),
            mac: [0x0a, 0x77, 10, 32, 0, 1],
            v4: "10.32.0.1/12".parse().expect("v4"),
            v6: "fd00:1:2::a20:1/64".parse().expect("v6"),
            mtu: 1410,
            gso_max_size: 63_000,
            routes: vec![
                ("0.0.0.0/0".parse().expect("net"), Some("10.32.0.254".parse().expect("v4"))),
                ("198.51.100.7/24".parse().expect("net"), None),
            ],
        };
        let words: Vec<_> =
            steps(3, &spec).iter().map(|step| format!("{} {}", step.operation, step.object)).collect();
        expect![[r#"
            set up device lo
            set up device eth0
            add address 10.32.0.1/12
            add address fd00:1:2::a20:1/64
            add route 0.0.0.0/0 via 10.32.0.254
            add route 198.51.100.7/24"#]]
        .assert_eq(&words.join("\n"));
    }
}
