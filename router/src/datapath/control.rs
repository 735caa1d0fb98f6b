//! What the hot path tells the control plane.

use std::net::{IpAddr, SocketAddr};

use super::keys::PeerId;
use crate::core::mac::Mac;

/// A message to the control plane. Whoever takes it must not block, and bounds what waits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ControlInput {
    /// A datagram that does not belong to a lane.
    Datagram {
        /// Where it came from; an IPv4 address is given as such, also on a dual-stack socket.
        from: SocketAddr,
        /// What was in it.
        bytes: Vec<u8>,
    },
    /// Frames wait for a lane to this peer.
    WantSession(PeerId),
    /// The lane to this peer has used up half of its counter.
    RekeyWanted(PeerId),
    /// A hardware address on the bridge that no endpoint has, or an unknown address of one. Sent again after half a minute.
    LocalMac {
        /// The hardware address.
        mac: Mac,
        /// Addresses that it asked others from, when that is how it was noticed.
        ips: Vec<IpAddr>,
    },
}
