//! Addresses without an interface, for whoever makes the interfaces: IPAM drivers, virtual machines, scripts.

use std::net::Ipv4Addr;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// With the name after it, what [`crate::api::Lease::owner`] says of a lease without an interface.
pub const OWNER_PREFIX: &str = "lease:";

/// `POST /lease`: an address for `name`; the same name gets the same address again. It stays leased until it is released, also over
/// restarts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRequest {
    /// Who holds it: 1 to 300 printable characters without spaces, unique on this host.
    pub name: String,
    /// This very address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// Or any of this part of the range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<Ipv4Net>,
}

/// Answer of `lease`; durable when it comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseAnswer {
    /// With the prefix length of the range.
    pub address: Ipv4Net,
    /// The IPv6 address that embeds it.
    pub address6: Ipv6Net,
    /// Whether the request changed anything.
    pub changed: bool,
}

/// `POST /release`: success when there is nothing to release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseRequest {
    /// As it was given to `lease`.
    pub name: String,
}

/// Answer of `release`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseAnswer {
    /// Addresses that were given back. They rest for 30 s.
    pub released: Vec<Ipv4Addr>,
}
