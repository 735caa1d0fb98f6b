//! Names of the fabric in the control socket's API: looking at them, and adding and removing some by hand.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::api::DnsSummary;

/// `GET /dns`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// In short.
    pub summary: DnsSummary,
    /// Why names are not served, when they should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Seconds for which answers may be kept.
    pub ttl_s: u32,
    /// Who is asked for names that are not the fabric's.
    pub upstreams: Vec<SocketAddr>,
    /// Names, in order of their labels from the right.
    pub entries: Vec<DnsEntry>,
    /// Entries beyond those.
    pub more: usize,
}

/// One name, as one host says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsEntry {
    /// With the domain.
    pub name: String,
    /// What it stands for.
    pub addresses: Vec<IpAddr>,
    /// Peer that says so.
    pub peer: String,
    /// Its nickname.
    pub nickname: String,
}

/// `POST /dns/add`: a name that stands for addresses as long as this host is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsAddRequest {
    /// With or without the domain.
    pub name: String,
    /// In addition to those that it stands for already.
    pub addresses: Vec<IpAddr>,
}

/// `POST /dns/remove`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsRemoveRequest {
    /// With or without the domain.
    pub name: String,
    /// These alone, or all of them when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
}

/// Answer of both: what was added by hand on this host, after the change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsAdded {
    /// With the domain.
    pub name: String,
    /// None when the name is gone.
    pub addresses: Vec<IpAddr>,
    /// Whether the request changed anything.
    pub changed: bool,
}

/// `GET /dns/lookup/NAME`: what the fabric knows of a name or an address. Nobody else is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsLookup {
    /// Names with the domain: the one that was asked for, or those of an address.
    pub names: Vec<String>,
    /// Addresses that answers have.
    pub addresses: Vec<IpAddr>,
    /// Who says so.
    pub entries: Vec<DnsEntry>,
}
