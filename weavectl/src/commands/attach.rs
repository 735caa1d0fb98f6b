//! `attach` and `detach`.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use control::Client;
use control::api::{AttachContainerRequest, AttachRequest, Caller, DetachContainerRequest, DetachRequest};
use control::netns::{Netns, NetnsError};
use ipnet::Ipv4Net;

use crate::args::{AttachArgs, ContainerArgs, DetachArgs};
use crate::failure::{Failure, NOT_FOUND, USAGE};
use crate::render::attachments;
use crate::ui::Ui;

/// Attach a container.
pub(crate) fn attach(client: &Client, args: AttachArgs, ui: &mut Ui) -> Result<(), Failure> {
    let (address, subnet) = match args.ip.as_deref().map(Wish::parse).transpose()? {
        None => (None, None),
        Some(Wish::Address(address)) => (Some(address), None),
        Some(Wish::Subnet(subnet)) => (None, Some(subnet)),
    };
    if let Some(container) = args.container {
        let (ifname, name) = (args.ifname, args.name);
        let request = AttachContainerRequest { container, ifname, address, subnet, name };
        let answer = client.attach_container(&request);
        let answer = answer.map_err(|error| Failure::of_call("attach the container", &error))?;
        return ui.data(&answer, attachments::attached);
    }
    let (path, netns) = open(args.netns, args.pid)?;
    if netns.is_own().map_err(|error| Failure::of_netns(&error))? {
        return Err(Failure::new(USAGE, "will not attach the host to itself")
            .because(format!("`{}` is the network namespace that this command runs in", path.display()))
            .hint("`weavectl expose` gives the host an address on the fabric"));
    }
    let request = AttachRequest {
        container: args.id.unwrap_or_else(|| id_of(&netns)),
        ifname: args.ifname,
        // As with the CNI plugin: `weaved` may see other mounts than the user does.
        netns: netns.path_for_others(),
        address,
        address6: None,
        subnet,
        mtu: None,
        mac: None,
        routes: None,
        names: args.name.iter().cloned().collect(),
        name: args.name,
        caller: Caller::Cli,
        sandbox: Some(path.display().to_string()),
        network: None,
        attempt: None,
    };
    let answer = client.attach(&request).map_err(|error| Failure::of_call("attach the container", &error))?;
    ui.data(&answer, attachments::attached)
}

/// Detach a container, or one interface of it.
pub(crate) fn detach(client: &Client, args: DetachArgs, ui: &mut Ui) -> Result<(), Failure> {
    let ContainerArgs { container, netns, pid, id } = args.container;
    let answer = match (container, id) {
        (Some(container), _) => {
            client.detach_container(&DetachContainerRequest { container, ifname: args.ifname })
        }
        (None, Some(container)) => client.detach(&DetachRequest { container, ifname: args.ifname }),
        (None, None) => {
            let container = id_of(&open(netns, pid)?.1);
            client.detach(&DetachRequest { container, ifname: args.ifname })
        }
    };
    let answer = answer.map_err(|error| Failure::of_call("detach the container", &error))?;
    ui.data(&answer, |answer, _| {
        let released: Vec<String> = answer.released.iter().map(ToString::to_string).collect();
        match released.as_slice() {
            [] => "nothing was attached\n".to_owned(),
            addresses => format!("released {}\n", addresses.join(" ")),
        }
    })
}

/// What `--ip` asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    Address(Ipv4Addr),
    Subnet(Ipv4Net),
}

impl Wish {
    /// An address, with or without a prefix length; a CIDR whose host bits are zero is a subnet to choose from.
    fn parse(text: &str) -> Result<Wish, Failure> {
        let parsed = match text.split_once('/') {
            None => text.parse().ok().map(Wish::Address),
            Some(_) => text.parse().ok().map(|net: Ipv4Net| {
                if net.addr() == net.network() && net.prefix_len() < 32 {
                    Wish::Subnet(net)
                } else {
                    Wish::Address(net.addr())
                }
            }),
        };
        parsed.ok_or_else(|| {
            Failure::new(USAGE, format!("`{text}` is neither an IPv4 address nor a subnet")).hint(
                "for example `--ip 10.32.0.50` or `--ip 10.32.4.0/24`; IPv6 addresses follow by themselves",
            )
        })
    }
}

/// No two namespaces have the same inode at the same time.
fn id_of(netns: &Netns) -> String {
    format!("netns-{}", netns.inode())
}

fn open(netns: Option<PathBuf>, pid: Option<u32>) -> Result<(PathBuf, Netns), Failure> {
    let path = match (netns, pid) {
        (Some(path), _) => named(&path).unwrap_or_else(|| std::path::absolute(&path).unwrap_or(path)),
        (None, Some(pid)) => PathBuf::from(format!("/proc/{pid}/ns/net")),
        // clap asks for one of them.
        (None, None) => {
            return Err(Failure::new(USAGE, "name the container, or give `--netns PATH` or `--pid PID`"));
        }
    };
    match Netns::open(&path) {
        Ok(netns) => Ok((path, netns)),
        Err(NetnsError::Missing { .. }) if pid.is_some() && !Path::new(&path).exists() => {
            let pid = pid.unwrap_or_default();
            Err(Failure::new(NOT_FOUND, format!("no process has the id {pid}"))
                .hint("a container of Docker or Podman is given by its name: `weavectl attach NAME`"))
        }
        Err(error) => Err(Failure::of_netns(&error)),
    }
}

/// The path of what `ip netns` calls by a bare name, unless a file of that name is here.
fn named(name: &Path) -> Option<PathBuf> {
    if name.exists() || name.components().count() != 1 || name.is_absolute() {
        return None;
    }
    let path = Path::new("/run/netns").join(name);
    path.exists().then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ip_is_an_address_or_a_subnet() {
        let address = |text: &str| Wish::Address(text.parse().unwrap());
        assert_eq!(Wish::parse("10.32.0.5").unwrap(), address("10.32.0.5"));
        assert_eq!(Wish::parse("10.32.0.5/12").unwrap(), address("10.32.0.5"));
        assert_eq!(Wish::parse("10.32.0.5/32").unwrap(), address("10.32.0.5"));
        assert_eq!(Wish::parse("10.32.4.0/24").unwrap(), Wish::Subnet("10.32.4.0/24".parse().unwrap()));
        for text in ["", "10.32.0", "10.32.0.0/33", "fd00::1", "10.0.0.1/"] {
            assert_eq!(Wish::parse(text).unwrap_err().exit, USAGE, "{text}");
        }
    }
}
