//! Makes the book agree with the fabric: after a restart, and now and then for what Docker lost.
//!
//! An answer that Docker never got (it died, or we did) leaves an address that it will never give back. An address that no interface has
//! had for a while is such a one, whoever was at fault, and one rule finds them all: Docker goes from the address to the interface within
//! seconds, or gives up.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use control::api::ErrorCode;

use super::book::{Change, Held, Role};
use super::fabric::{Fabric, Place, Plugged};
use super::pool::{PoolId, Space};
use super::{Driver, Failure};

/// How long an address may be without an interface, and an interface without a container: several times Docker's longest patience with a
/// plugin (30 s a call).
pub(super) const ORPHAN_AFTER: Duration = Duration::from_secs(120);

/// What may be an orphan.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Suspect {
    Address(Ipv4Addr, String),
    Endpoint(String),
}

impl<F: Fabric> Driver<F> {
    /// After a start: leases that the book does not know are Docker's all the same, and records without a lease are worth nothing.
    pub async fn recover(&self) -> Result<(), Failure> {
        let leases = match self.fabric.leases().await {
            Ok(leases) => leases,
            Err(error) if error.code == ErrorCode::NoFabric => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let mut book = self.book.lock().await;
        let mut changes = Vec::new();
        for (holder, address) in &leases {
            if book.page().addresses.get(address).is_none_or(|held| held.holder != *holder) {
                let held = Held { holder: holder.clone(), v4: None, v6: None, role: Role::Container };
                changes.push(Change::Address(*address, Some(held)));
            }
        }
        let leased: BTreeSet<Ipv4Addr> = leases.iter().map(|(_, address)| *address).collect();
        let lost = book.page().addresses.keys().filter(|address| !leased.contains(address));
        changes.extend(lost.map(|address| Change::Address(*address, None)));
        if !changes.is_empty() {
            tracing::info!(count = changes.len(), "leases and records of Docker's networks agree again");
        }
        Ok(book.write(changes).await?)
    }

    /// Frees what was an orphan for long enough.
    pub async fn sweep(&self, now: Instant) -> Result<(), Failure> {
        let plugged = self.fabric.plugged().await?;
        let suspects = self.suspects(&plugged).await;
        let due: Vec<Suspect> = {
            let mut since = self.since();
            since.retain(|suspect, _| suspects.contains(suspect));
            let due = |suspect: &&Suspect| {
                let first = *since.entry((*suspect).clone()).or_insert(now);
                now.saturating_duration_since(first) >= ORPHAN_AFTER
            };
            suspects.iter().filter(due).cloned().collect()
        };
        for suspect in due {
            tracing::info!(?suspect, "Docker has lost it; it is given back");
            match &suspect {
                Suspect::Address(address, holder) => {
                    let held = self.book.lock().await.page().addresses.get(address).cloned();
                    if let Some(held) = held.filter(|held| held.holder == *holder) {
                        self.end_lease(*address, &held).await?;
                    }
                }
                Suspect::Endpoint(id) => self.drop_endpoint(id).await?,
            }
            self.since().remove(&suspect);
        }
        Ok(())
    }

    /// Addresses of this host's containers that no interface has, and endpoints that are in no container.
    async fn suspects(&self, plugged: &[Plugged]) -> BTreeSet<Suspect> {
        let ranges = self.fabric.ranges().await.ok();
        let used: BTreeSet<Ipv4Addr> = plugged
            .iter()
            .flat_map(|one| [Some(one.address), ranges.and_then(|ranges| ranges.embedded(one.address6))])
            .flatten()
            .collect();
        let inside: BTreeSet<&str> = plugged
            .iter()
            .filter(|one| one.place == Place::Container)
            .map(|one| one.endpoint.as_str())
            .collect();
        let book = self.book.lock().await;
        let orphaned = |(address, held): &(&Ipv4Addr, &Held)| {
            let swarms = [&held.v4, &held.v6].into_iter().flatten().any(|id| is_global(id));
            let for_one = matches!(held.role, Role::Container | Role::Endpoint(_));
            for_one && !swarms && !used.contains(address)
        };
        let addresses = book.page().addresses.iter().filter(orphaned);
        let addresses = addresses.map(|(address, held)| Suspect::Address(*address, held.holder.clone()));
        let endpoints = book.page().endpoints.keys().filter(|id| !inside.contains(id.as_str()));
        addresses.chain(endpoints.map(|id| Suspect::Endpoint(id.clone()))).collect()
    }
}

fn is_global(pool: &str) -> bool {
    pool.parse::<PoolId>().is_ok_and(|pool| pool.space == Space::Global)
}
