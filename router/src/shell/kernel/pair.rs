//! A veth pair whose far end stays on the host until somebody else fetches it: Docker puts interfaces into its containers itself.

use netlink_packet_route::link::InfoKind;
use netlink_sys::protocols::NETLINK_ROUTE;

use super::{
    attach::{Far, create_pair, ready_port},
    error::Result,
    links,
    spec::{AttachSpec, check_gso, check_ifname, check_mac, check_mtu, check_port_name},
    sysctl::Warning,
    wire::Wire,
};

/// A pair to make.
#[derive(Debug, Clone)]
pub struct PairSpec {
    /// Name of the host end; starts with [`super::PORT_PREFIX`].
    pub host_ifname: String,
    /// Name of the far end.
    pub far_ifname: String,
    /// Hardware address of the far end.
    pub mac: [u8; 6],
    /// MTU of both ends.
    pub mtu: u32,
    /// Longest super-frame that the container sends.
    pub gso_max_size: u32,
}

impl PairSpec {
    /// The pair of an attachment.
    pub(super) fn of(spec: &AttachSpec) -> PairSpec {
        PairSpec {
            host_ifname: spec.host_ifname.clone(),
            far_ifname: spec.container_ifname.clone(),
            mac: spec.mac,
            mtu: spec.mtu,
            gso_max_size: spec.gso_max_size,
        }
    }
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paired {
    /// Hardware address of the host end.
    pub host_mac: [u8; 6],
    /// Settings that could not be made.
    pub warnings: Vec<Warning>,
}

/// Makes it. A pair of this name is of an endpoint that nobody fetched, and goes.
pub(super) fn make(bridge: &str, spec: &PairSpec) -> Result<Paired> {
    check_port_name(&spec.host_ifname)?;
    check_ifname("container interface name", &spec.far_ifname)?;
    check_mac(spec.mac)?;
    check_mtu(spec.mtu)?;
    check_gso(spec.gso_max_size)?;
    let mut host = Wire::open(NETLINK_ROUTE)?;
    let bridge = links::require_bridge(&mut host, bridge)?;
    if links::find(&mut host, &spec.host_ifname)?.is_some_and(|link| link.kind == Some(InfoKind::Veth)) {
        links::delete(&mut host, &spec.host_ifname)?;
    }
    create_pair(&mut host, &bridge, Far::OnHost, spec)?;
    let mut warnings = Vec::new();
    match ready_port(&mut host, &spec.host_ifname, spec.mac, &mut warnings) {
        Ok(port) => Ok(Paired { host_mac: port.mac.as_slice().try_into().unwrap_or_default(), warnings }),
        Err(error) => {
            if let Err(second) = links::delete(&mut host, &spec.host_ifname) {
                tracing::warn!(interface = spec.host_ifname, error = %second, "could not undo a failed pair");
            }
            Err(error)
        }
    }
}
