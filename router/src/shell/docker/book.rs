//! What Docker was promised and will not say again: pools, networks, endpoints and whose the addresses are. Durable before it is answered.
//!
//! A journal of last words (`docker.journal` in the state directory): each entry gives one thing its present value, or says that it is
//! gone. What the fabric itself must know (leases, interfaces) is in its own journals; `sweep` makes the two agree after a crash.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::shell::state::Journal;
use crate::shell::state::dir::COMPACT_AFTER;

/// Its name in the state directory.
pub const FILE: &str = "docker.journal";

/// A network of Docker's on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its IPv4 subnets.
    pub v4: Vec<Ipv4Net>,
    /// Its IPv6 subnets.
    pub v6: Vec<Ipv6Net>,
    /// Whether containers send multicast into it.
    pub multicast: Multicast,
}

/// Where containers' multicast goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Multicast {
    /// Into the fabric.
    Fabric,
    /// Where the default route leads.
    Outside,
}

/// A container's interface, made or to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Of which network.
    pub network: String,
    /// IPv4 with the prefix length that Docker uses; of an interface with IPv6 alone the address that its own one embeds.
    pub address: Ipv4Net,
    /// IPv6, if Docker asked for one.
    pub address6: Option<Ipv6Net>,
    /// MAC address.
    pub mac: String,
}

/// Whose an address is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Name under which the fabric leased it.
    pub holder: String,
    /// Pool that gave it out as IPv4 address, until that was given back.
    pub v4: Option<String>,
    /// Pool that gave out the IPv6 address which embeds it, until that was given back.
    pub v6: Option<String>,
    /// What it is for.
    pub role: Role,
}

/// What an address is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// A container's, of this host.
    Container,
    /// Nobody's: a gateway that a person named, or an end of a subnet.
    Reserved,
    /// A task's, wherever Swarm puts it: this host's manager gave it out.
    Task,
    /// Chosen by another IPAM; held as long as this endpoint is there.
    Endpoint(String),
}

/// One entry: a thing and its present value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// How often a pool is in use; 0 when it is gone.
    Pool(String, u32),
    /// A network.
    Network(String, Option<Network>),
    /// An endpoint.
    Endpoint(String, Option<Endpoint>),
    /// An address.
    Address(Ipv4Addr, Option<Held>),
}

/// All of it at a moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Uses of pools.
    pub pools: BTreeMap<String, u32>,
    /// Networks by id.
    pub networks: BTreeMap<String, Network>,
    /// Endpoints by id.
    pub endpoints: BTreeMap<String, Endpoint>,
    /// Addresses.
    pub addresses: BTreeMap<Ipv4Addr, Held>,
}

/// Which thread waits for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    /// One of its own, so that everything else goes on.
    Beside,
    /// The caller's, so that a test runs the same each time.
    Here,
}

/// See the module's text.
pub struct Book {
    waits: Waits,
    page: Page,
    /// Not there while a write is under way, or for good when one was lost.
    journal: Option<Journal>,
}

impl Book {
    /// Reads it. What was damaged is kept aside by the journal and told in the log.
    pub fn open(dir: &Path, waits: Waits) -> io::Result<Book> {
        let opened = Journal::open(dir, FILE)?;
        if let Some((kept, why)) = &opened.set_aside {
            tracing::error!(kept = %kept.display(), why, "what Docker was promised is damaged; what is missing is found again by its leases");
        }
        let mut page = Page::default();
        for entry in &opened.entries {
            match serde_json::from_slice(entry) {
                Ok(change) => page.apply(change),
                Err(error) => {
                    tracing::warn!(%error, "entry of the Docker journal is of a newer version and ignored")
                }
            }
        }
        Ok(Book { waits, page, journal: Some(opened.journal) })
    }

    /// As it is now.
    pub fn page(&self) -> &Page {
        &self.page
    }

    /// Makes changes, all or none; durable when it returns.
    pub async fn write(&mut self, changes: Vec<Change>) -> io::Result<()> {
        let changes: Vec<Change> = changes.into_iter().filter(|change| !self.page.says(change)).collect();
        if changes.is_empty() {
            return Ok(());
        }
        let Some(mut journal) = self.journal.take() else {
            return Err(io::Error::other("an earlier write was cut short; restart weaved"));
        };
        let lines = changes.iter().map(|change| serde_json::to_vec(change).map_err(io::Error::other));
        let lines = lines.collect::<io::Result<Vec<_>>>()?;
        let mut after = self.page.clone();
        changes.into_iter().for_each(|change| after.apply(change));
        let snapshot = (journal.entries() > COMPACT_AFTER).then(|| after.lines());
        let work = move || {
            let done = journal.append(&lines);
            if let (Ok(()), Some(snapshot)) = (&done, snapshot)
                && journal.entries() > 2 * snapshot.len() as u64
                && let Err(error) = journal.compact(snapshot.iter().map(Vec::as_slice))
            {
                tracing::warn!(%error, "cannot compact the Docker journal");
            }
            (journal, done)
        };
        let (journal, done) = match self.waits {
            Waits::Beside => tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?,
            Waits::Here => work(),
        };
        self.journal = Some(journal);
        done?;
        self.page = after;
        Ok(())
    }
}

impl Page {
    /// The endpoint that has an address.
    pub fn endpoint_with(&self, address: Ipv4Addr) -> Option<&str> {
        let mut all = self.endpoints.iter();
        all.find(|(_, endpoint)| endpoint.address.addr() == address).map(|(id, _)| id.as_str())
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Pool(id, uses) => put(&mut self.pools, id, (uses > 0).then_some(uses)),
            Change::Network(id, network) => put(&mut self.networks, id, network),
            Change::Endpoint(id, endpoint) => put(&mut self.endpoints, id, endpoint),
            Change::Address(address, held) => put(&mut self.addresses, address, held),
        }
    }

    fn says(&self, change: &Change) -> bool {
        match change {
            Change::Pool(id, uses) => self.pools.get(id).copied().unwrap_or_default() == *uses,
            Change::Network(id, network) => self.networks.get(id) == network.as_ref(),
            Change::Endpoint(id, endpoint) => self.endpoints.get(id) == endpoint.as_ref(),
            Change::Address(address, held) => self.addresses.get(address) == held.as_ref(),
        }
    }

    /// The shortest journal that says the same.
    fn lines(&self) -> Vec<Vec<u8>> {
        let pools = self.pools.iter().map(|(id, uses)| Change::Pool(id.clone(), *uses));
        let networks = self.networks.iter().map(|(id, n)| Change::Network(id.clone(), Some(n.clone())));
        let endpoints = self.endpoints.iter().map(|(id, e)| Change::Endpoint(id.clone(), Some(e.clone())));
        let addresses = self.addresses.iter().map(|(at, held)| Change::Address(*at, Some(held.clone())));
        let all = pools.chain(networks).chain(endpoints).chain(addresses);
        // Plain data with string keys always serialises.
        all.filter_map(|change| serde_json::to_vec(&change).ok()).collect()
    }
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}
