//! What routers announce about themselves and their containers, as it stands in gossip records.
//!
//! These are wire types: each is the value of one record kind, written and read through `gossip::codec` with a limit.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use gossip::PeerId;
use gossip::codec::{self, DecodeError};
use serde::{Deserialize, Serialize};

use super::identity::PublicIdentity;
use super::mac::Mac;

/// Longest value that is read; gossip allows no longer one.
const MAX_VALUE: usize = 1024;
/// Underlay addresses that one peer may announce; a host with more announces the first.
pub const MAX_ADDRESSES: usize = 16;
/// Longest nickname and endpoint name in bytes, as for a DNS label.
pub const MAX_NAME: usize = 63;

/// Value of a `Peer` record: who a router is and where it can be dialled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerAdvert {
    /// Ed25519 public key; with the next one it hashes to the record's origin.
    pub ed25519: [u8; 32],
    /// X25519 public key.
    pub x25519: [u8; 32],
    /// Name for people.
    pub nickname: String,
    /// Where it may be dialled, best first.
    pub addresses: Vec<SocketAddr>,
    /// Version of its software.
    pub version: String,
    /// Largest frame payload that it takes, the MTU of its containers.
    pub mtu: u16,
}

impl PeerAdvert {
    /// The keys as a core type.
    pub fn public(&self) -> PublicIdentity {
        PublicIdentity { ed25519: self.ed25519, x25519: self.x25519 }
    }

    /// Writes the record's value.
    pub fn emit(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads a record's value and checks that its keys belong to `origin`.
    pub fn parse(origin: PeerId, value: &[u8]) -> Result<PeerAdvert, AdvertError> {
        let mut advert: PeerAdvert = codec::decode(value, MAX_VALUE)?;
        if advert.public().peer_id() != origin {
            return Err(AdvertError::KeysOfAnother(origin));
        }
        check_name(&advert.nickname)?;
        check_name(&advert.version)?;
        advert.addresses.truncate(MAX_ADDRESSES);
        advert.addresses.retain(|address| is_dialable(*address));
        Ok(advert)
    }

    /// The same, to be held in several places.
    pub(in crate::core) fn read(origin: PeerId, value: &[u8]) -> Result<Arc<PeerAdvert>, AdvertError> {
        #[cfg(feature = "simulated")]
        return super::simulated::keep_advert(origin, value, || Self::parse(origin, value));
        #[cfg(not(feature = "simulated"))]
        Self::parse(origin, value).map(Arc::new)
    }
}

/// Value of an `Endpoint` record, whose name is the MAC address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointAdvert {
    /// IPv4 address, if it is known.
    pub v4: Option<Ipv4Addr>,
    /// IPv6 address, if it is known.
    pub v6: Option<Ipv6Addr>,
    /// Name for people.
    pub name: Option<String>,
}

impl EndpointAdvert {
    /// Writes the record's value.
    pub fn emit(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads a record's name and value.
    pub fn parse(name: &[u8], value: &[u8]) -> Result<(Mac, EndpointAdvert), AdvertError> {
        let mac = Mac(name.try_into().map_err(|_| AdvertError::NotAMac(name.len()))?);
        if !mac.is_unicast() {
            return Err(AdvertError::NotUnicast(mac));
        }
        let advert: EndpointAdvert = codec::decode(value, MAX_VALUE)?;
        if let Some(name) = &advert.name {
            check_name(name)?;
        }
        Ok((mac, advert))
    }

    /// Both addresses.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.v4.map(IpAddr::from).into_iter().chain(self.v6.map(IpAddr::from)).collect()
    }
}

/// Why an announcement is ignored. The peer misbehaved; nothing of ours changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdvertError {
    /// The value does not decode.
    #[error("value does not decode: {0}")]
    Malformed(#[from] DecodeError),
    /// The keys do not hash to the origin of the record.
    #[error("the keys are not those of {0}")]
    KeysOfAnother(PeerId),
    /// The name of an endpoint record is not six bytes.
    #[error("endpoint name of {0} bytes, want 6")]
    NotAMac(usize),
    /// A group address cannot be an endpoint.
    #[error("{0} is not a unicast address")]
    NotUnicast(Mac),
    /// A name that could not be shown safely.
    #[error("name is empty, longer than 63 bytes or not printable")]
    BadName,
}

/// Names are shown on terminals and go into logs: no control characters, no endless ones.
fn check_name(name: &str) -> Result<(), AdvertError> {
    let plain = !name.is_empty() && name.len() <= MAX_NAME && !name.chars().any(char::is_control);
    if plain { Ok(()) } else { Err(AdvertError::BadName) }
}

/// May a datagram be sent there because a peer says so? Never to groups, to ourselves or to nowhere.
fn is_dialable(address: SocketAddr) -> bool {
    let ip = address.ip();
    address.port() != 0
        && !ip.is_unspecified()
        && !ip.is_multicast()
        && !ip.is_loopback()
        && ip != IpAddr::V4(Ipv4Addr::BROADCAST)
}
