//! What callers ask of this module and what they get back: plain values, checked before anything is touched.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    error::{KernelError, Result},
    netns::Netns,
    sysctl::Warning,
};

/// First letters of the name of every host end that we make, so that they are found again after a restart.
pub const PORT_PREFIX: &str = "vw";

/// Longest interface name (`IFNAMSIZ` less the final NUL).
pub const MAX_IFNAME: usize = 15;

/// Smallest MTU: what IPv6 demands of a link (RFC 8200, section 5).
pub const MIN_MTU: u32 = 1280;

/// Largest MTU: an IP packet cannot be longer.
pub const MAX_MTU: u32 = 65_535;

/// Smallest super-frame limit that the kernel's offloads work with: a few segments of the usual size. Less would only cost speed.
pub const MIN_GSO_SIZE: u32 = 4_096;

/// Largest super-frame limit (`GSO_LEGACY_MAX_SIZE`): beyond it packets carry jumbo headers, which the data path does not know.
pub const MAX_GSO_SIZE: u32 = 65_536;

/// Most routes of one container. CNI configurations have a handful; this keeps one batch within a socket buffer.
pub const MAX_ROUTES: usize = 256;

/// What the bridge should be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeSpec {
    /// MTU of the bridge device, the same as the containers'.
    pub mtu: u32,
    /// Hardware address; a fixed one, since the kernel would otherwise change it with every port that comes and goes.
    pub mac: [u8; 6],
    /// Longest super-frame that the host itself sends into the fabric.
    pub gso_max_size: u32,
}

/// What `ensure_bridge` found and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeState {
    /// Index of the bridge device.
    pub ifindex: u32,
    /// What had to be done.
    pub outcome: Outcome,
    /// Settings that could not be made.
    pub warnings: Vec<Warning>,
}

/// What an `ensure_*` operation had to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All was as wanted; nothing was written.
    AsWanted,
    /// It was there and was changed.
    Adjusted,
    /// It was not there and was made.
    Created,
}

/// One container to attach.
#[derive(Debug, Clone)]
pub struct AttachSpec {
    /// Name of the host end; starts with [`PORT_PREFIX`].
    pub host_ifname: String,
    /// Name of the interface in the container.
    pub container_ifname: String,
    /// The container's network namespace.
    pub netns: Netns,
    /// Hardware address of the container's end.
    pub mac: [u8; 6],
    /// IPv4 address with the prefix length of the fabric's range.
    pub v4: Ipv4Net,
    /// IPv6 address with its prefix length.
    pub v6: Ipv6Net,
    /// MTU of both ends.
    pub mtu: u32,
    /// Longest super-frame that the container sends.
    pub gso_max_size: u32,
    /// Destination and gateway; without a gateway the destination is on the link.
    pub routes: Vec<(IpNet, Option<IpAddr>)>,
}

impl AttachSpec {
    /// Checks everything that can be checked without looking at the machine.
    pub fn validate(&self) -> Result<()> {
        check_port_name(&self.host_ifname)?;
        check_ifname("container interface name", &self.container_ifname)?;
        check_mac(self.mac)?;
        check_mtu(self.mtu)?;
        check_gso(self.gso_max_size)?;
        if self.v4.addr().is_unspecified() || self.v4.addr().is_multicast() || self.v4.addr().is_loopback() {
            return Err(bad("IPv4 address", self.v4, "a unicast address"));
        }
        if self.v6.addr().is_unspecified() || self.v6.addr().is_multicast() || self.v6.addr().is_loopback() {
            return Err(bad("IPv6 address", self.v6, "a unicast address"));
        }
        if self.routes.len() > MAX_ROUTES {
            return Err(bad("number of routes", self.routes.len(), format!("at most {MAX_ROUTES}")));
        }
        self.routes.iter().try_for_each(|(destination, gateway)| match (destination, gateway) {
            (_, None) | (IpNet::V4(_), Some(IpAddr::V4(_))) | (IpNet::V6(_), Some(IpAddr::V6(_))) => Ok(()),
            (IpNet::V4(_), Some(other)) => {
                Err(bad("gateway", other, format!("an IPv4 address for {destination}")))
            }
            (IpNet::V6(_), Some(other)) => {
                Err(bad("gateway", other, format!("an IPv6 address for {destination}")))
            }
        })
    }
}

/// What `attach` made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Hardware address of the host end.
    pub host_mac: [u8; 6],
    /// Index of the host end.
    pub host_ifindex: u32,
    /// Index of the container's end, in the container.
    pub container_ifindex: u32,
    /// Routes that were not made because the container has them by another interface.
    pub routes_left: Vec<IpNet>,
    /// Settings that could not be made.
    pub warnings: Vec<Warning>,
}

/// What `detach` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detached {
    /// The interface was there and is gone now.
    Removed,
    /// There was none.
    Absent,
}

/// A difference between an attachment as asked for and as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// What differs, for instance `mac of eth0 in the container`.
    pub what: String,
    /// As it is.
    pub got: String,
    /// As it should be.
    pub want: String,
}

/// One of our veth ends on the bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortInfo {
    /// Name of the host end.
    pub ifname: String,
    /// Hardware address of the host end.
    pub mac: [u8; 6],
    /// Index of the host end.
    pub ifindex: u32,
    /// State of the other end.
    pub peer: PeerEnd,
}

/// The other end of a veth pair. When its namespace ends, the kernel removes both ends, so a port never lacks its peer for long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerEnd {
    /// In another namespace, and up.
    Up,
    /// In another namespace, and down: the container is being torn down, or took its interface down.
    Down,
    /// In our own namespace: somebody moved it out of the container.
    OnHost,
}

/// What `ensure_ports` found and did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ports {
    /// Host ends that had lost the bridge, or were down or set otherwise, and are as they should be again.
    pub restored: Vec<String>,
    /// Host ends that are not there: their container is gone.
    pub missing: Vec<String>,
}

/// Checks the name of a host end.
pub(super) fn check_port_name(name: &str) -> Result<()> {
    check_ifname("host interface name", name)?;
    if name.starts_with(PORT_PREFIX) {
        Ok(())
    } else {
        Err(bad("host interface name", name, format!("one that starts with `{PORT_PREFIX}`")))
    }
}

/// The kernel's own rules for interface names (`dev_valid_name`), and no `%`, which would make it number the name.
pub(super) fn check_ifname(field: &'static str, name: &str) -> Result<()> {
    let want = format!(
        "1 to {MAX_IFNAME} bytes without `/`, `:`, `%`, blanks, and not `.`, `..`, `all`, `default` or `lo`"
    );
    let shape = !name.is_empty() && name.len() <= MAX_IFNAME;
    let letters =
        name.chars().all(|c| !c.is_whitespace() && !c.is_control() && !matches!(c, '/' | ':' | '%'));
    // `all` and `default` are directories beside the interfaces' own below /proc/sys/net.
    let reserved = matches!(name, "." | ".." | "all" | "default" | "lo");
    if shape && letters && !reserved { Ok(()) } else { Err(bad(field, name, want)) }
}

pub(super) fn check_mac(mac: [u8; 6]) -> Result<()> {
    if mac[0] & 1 == 0 && mac != [0; 6] {
        Ok(())
    } else {
        Err(bad("hardware address", show_mac(&mac), "a unicast address"))
    }
}

pub(super) fn check_mtu(mtu: u32) -> Result<()> {
    if (MIN_MTU..=MAX_MTU).contains(&mtu) {
        Ok(())
    } else {
        Err(bad("mtu", mtu, format!("{MIN_MTU} to {MAX_MTU}")))
    }
}

pub(super) fn check_gso(size: u32) -> Result<()> {
    if (MIN_GSO_SIZE..=MAX_GSO_SIZE).contains(&size) {
        Ok(())
    } else {
        Err(bad("gso_max_size", size, format!("{MIN_GSO_SIZE} to {MAX_GSO_SIZE}")))
    }
}

/// `0a:77:0a:20:00:01`.
pub(super) fn show_mac(mac: &[u8]) -> String {
    mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

fn bad(field: &'static str, got: impl ToString, want: impl Into<String>) -> KernelError {
    KernelError::BadSpec { field, got: got.to_string(), want: want.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> AttachSpec {
        AttachSpec {
            host_ifname: "vw0123456789a".to_owned(),
            container_ifname: "eth0".to_owned(),
            netns: Netns::Path("/run/netns/a".into()),
            mac: [0x0a, 0x77, 10, 32, 0, 1],
            v4: "10.32.0.1/12".parse().expect("v4"),
            v6: "fd00:1:2::a20:1/64".parse().expect("v6"),
            mtu: 1410,
            gso_max_size: 63_000,
            routes: vec![("0.0.0.0/0".parse().expect("net"), Some(IpAddr::from([10, 32, 0, 254])))],
        }
    }

    fn error(change: impl FnOnce(&mut AttachSpec)) -> String {
        let mut spec = spec();
        change(&mut spec);
        spec.validate().expect_err("must be refused").to_string()
    }

    #[test]
    fn errors_say_what_came_and_what_would_do() {
        spec().validate().expect("valid");
        assert_eq!(error(|spec| spec.mtu = 1279), "bad mtu (got `1279`, want 1280 to 65535)");
        assert_eq!(
            error(|spec| spec.gso_max_size = 65_537),
            "bad gso_max_size (got `65537`, want 4096 to 65536)"
        );
        assert_eq!(
            error(|spec| spec.mac[0] = 1),
            "bad hardware address (got `01:77:0a:20:00:01`, want a unicast address)"
        );
        assert_eq!(
            error(|spec| spec.host_ifname = "eth0".to_owned()),
            "bad host interface name (got `eth0`, want one that starts with `vw`)"
        );
        assert_eq!(
            error(|spec| spec.routes[0].1 = Some("fe80::1".parse().expect("v6"))),
            "bad gateway (got `fe80::1`, want an IPv4 address for 0.0.0.0/0)"
        );
        assert_eq!(
            error(|spec| spec.v4 = "224.0.0.1/4".parse().expect("v4")),
            "bad IPv4 address (got `224.0.0.1/4`, want a unicast address)"
        );
    }

    #[test]
    fn names_follow_the_kernels_rules() {
        for good in ["eth0", "a", "interface-15-ch", "eth0.100", "é"] {
            check_ifname("name", good).expect(good);
        }
        for bad in
            ["", "interface-16-cha", ".", "..", "a/b", "a b", "a:b", "eth%d", "all", "default", "lo", "a\n"]
        {
            check_ifname("name", bad).expect_err(bad);
        }
    }
}
