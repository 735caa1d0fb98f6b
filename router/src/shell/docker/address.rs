//! `IpamDriver`: pools and addresses for Docker, out of the fabric's own.
//!
//! A container's IPv6 address embeds an IPv4 address, so one lease serves both, though Docker asks for each and gives each back by itself:
//! the lease ends with the second of the two. Docker asks for IPv4 first, so IPv6 takes what was leased last and has none yet.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::Ordering;

use serde_json::Value;

use super::book::{Change, Held, Page, Role};
use super::fabric::{Fabric, HOLDER, Ranges, Wish};
use super::pool::{Family, PoolId, Space};
use super::protocol::{Address, Options, Pool, ReleaseAddress, ReleasePool, RequestAddress, RequestPool};
use super::{Driver, Failure, Scope};
use crate::shell::engine::call::Rest;
use crate::shell::random;

/// Option that says what an address is for.
const TYPE: &str = "RequestAddressType";
/// A gateway.
const GATEWAY: &str = "com.docker.network.gateway";
/// How often Docker may ask in a row for a pool of our choice without making a network of it. It does that when the host has a route to
/// what we offered, and would go on for ever, since we have nothing else to offer.
const MAX_UNTAKEN: u32 = 4;
/// How many ends of its subnet a pool can come upon: two of an IPv4 subnet, and their IPv6 addresses.
const MAX_ENDS: usize = 4;
/// Leases that may wait for their IPv6 address; Docker asks for it within milliseconds.
const MAX_FRESH: usize = 1024;

impl<F: Fabric> Driver<F> {
    pub(super) async fn request_pool(&self, request: RequestPool) -> Result<Pool, Failure> {
        let ranges = self.fabric.ranges().await?;
        let family = if request.v6 { Family::V6 } else { Family::V4 };
        let id = PoolId::wanted(&request.address_space, &request.pool, &request.sub_pool, family, &ranges)
            .map_err(Failure::new)?;
        if request.pool.is_empty() && self.untaken.fetch_add(1, Ordering::Relaxed) >= MAX_UNTAKEN {
            self.untaken.store(0, Ordering::Relaxed);
            return Err(Failure::new(format!(
                "this host has a route to the fabric's range {0}, so Docker does not take it by itself; type --subnet {0}",
                id.subnet
            )));
        }
        let name = id.to_string();
        let mut book = self.book.lock().await;
        let uses = book.page().pools.get(&name).copied().unwrap_or_default();
        book.write(vec![Change::Pool(name.clone(), uses.saturating_add(1))]).await?;
        Ok(Pool { pool_id: name, pool: id.subnet.to_string(), data: Options::new() })
    }

    pub(super) async fn release_pool(&self, request: ReleasePool) -> Result<(), Failure> {
        self.untaken.store(0, Ordering::Relaxed);
        let mut book = self.book.lock().await;
        let Some(uses) = book.page().pools.get(&request.pool_id).copied() else { return Ok(()) };
        book.write(vec![Change::Pool(request.pool_id.clone(), uses.saturating_sub(1))]).await?;
        if uses > 1 {
            return Ok(());
        }
        // Docker gives each container's address back before the pool; Swarm's manager does not, once the network is gone.
        let left: Vec<Ipv4Addr> = book
            .page()
            .addresses
            .iter()
            .filter(|(_, held)| held.ends_with(&request.pool_id))
            .map(|(at, _)| *at)
            .collect();
        drop(book);
        for address in left {
            self.let_go(address, &request.pool_id).await?;
        }
        Ok(())
    }

    pub(super) async fn request_address(&self, request: RequestAddress) -> Result<Address, Failure> {
        let pool: PoolId = request.pool_id.parse().map_err(Failure::new)?;
        let ranges = self.fabric.ranges().await?;
        let gateway =
            request.options.as_ref().and_then(|all| all.get(TYPE)).and_then(Value::as_str) == Some(GATEWAY);
        let asked = match request.address.as_str() {
            "" => None,
            text => Some(
                text.parse::<IpAddr>().map_err(|_| Failure::new(format!("`{text}` is not an address")))?,
            ),
        };
        let address = match (gateway, asked) {
            (true, None) => pool.subnet.network(),
            (true, Some(asked)) => self.reserve(&pool, asked, &ranges).await?,
            (false, asked) => self.hold(&pool, asked, &ranges).await?,
        };
        Ok(Address { address: pool.show(address), data: Options::new() })
    }

    pub(super) async fn release_address(&self, request: ReleaseAddress) -> Result<(), Failure> {
        let Ok(address) = request.address.parse::<IpAddr>() else { return Ok(()) };
        let v4 = match address {
            IpAddr::V4(v4) => v4,
            IpAddr::V6(v6) => match self.fabric.ranges().await?.embedded(v6) {
                Some(v4) => v4,
                None => return Ok(()),
            },
        };
        self.let_go(v4, &request.pool_id).await
    }

    /// A gateway that a person named. No container's traffic goes there: Docker leads it out through `docker_gwbridge`. So it is kept from
    /// containers where that is possible, and it is no error when another host, which has the same network, keeps it already.
    async fn reserve(&self, pool: &PoolId, asked: IpAddr, ranges: &Ranges) -> Result<IpAddr, Failure> {
        let v4 = self.checked(pool, asked, ranges)?;
        if pool.is_end(v4) || self.book.lock().await.page().addresses.contains_key(&v4) {
            return Ok(asked);
        }
        match self.lease(pool, Wish::Fixed(v4), Role::Reserved).await {
            Ok(_) => {}
            Err(why) => {
                tracing::info!(gateway = %asked, why = why.0, "the gateway of a network is not reserved here")
            }
        }
        Ok(asked)
    }

    /// An address for a container.
    async fn hold(&self, pool: &PoolId, asked: Option<IpAddr>, ranges: &Ranges) -> Result<IpAddr, Failure> {
        let role = match pool.space {
            Space::Local => Role::Container,
            Space::Global => Role::Task,
        };
        if let Some(asked) = asked {
            let v4 = self.checked(pool, asked, ranges)?;
            if let Some(held) = self.take_held(pool, v4).await? {
                return if held { Ok(asked) } else { Err(in_use(asked)) };
            }
            return match self.lease(pool, Wish::Fixed(v4), role).await {
                Ok(_) => Ok(asked),
                // Swarm's manager chose it, and its own router has leased it for the task.
                Err(_) if self.scope == Scope::Global => Ok(asked),
                Err(error) => Err(error),
            };
        }
        let part = pool.part(ranges).map_err(Failure::new)?;
        if pool.family() == Family::V6
            && let Some(v4) = self.pair_up(pool, part).await?
        {
            return Ok(ranges.embed(v4).into());
        }
        let v4 = self.lease(pool, Wish::In(part), role).await?;
        Ok(match pool.family() {
            Family::V4 => v4.into(),
            Family::V6 => ranges.embed(v4).into(),
        })
    }

    /// A wished address of the pool, as IPv4.
    fn checked(&self, pool: &PoolId, asked: IpAddr, ranges: &Ranges) -> Result<Ipv4Addr, Failure> {
        let v4 = match asked {
            IpAddr::V4(v4) => Some(v4),
            IpAddr::V6(v6) => ranges.embedded(v6),
        };
        match v4.filter(|_| pool.subnet.contains(&asked)) {
            Some(v4) => Ok(v4),
            None => Err(Failure::new(format!(
                "{asked} is not an address of subnet {}; weavectl status ipam shows the fabric's range",
                pool.subnet
            ))),
        }
    }

    /// Gives out an address that is held already for its other family. `None` when it is not held at all.
    async fn take_held(&self, pool: &PoolId, v4: Ipv4Addr) -> Result<Option<bool>, Failure> {
        let mut book = self.book.lock().await;
        let Some(held) = book.page().addresses.get(&v4).cloned() else { return Ok(None) };
        match held.with(pool) {
            // Leased for the task by this host's own manager, which says so again after its restart.
            _ if held.role == Role::Task => Ok(Some(true)),
            Some(both) => {
                book.write(vec![Change::Address(v4, Some(both))]).await?;
                Ok(Some(true))
            }
            // Docker asks again when it lost the answer. Should it be two containers, the second one's endpoint is refused.
            None => Ok(Some(held.role == Role::Container && book.page().endpoint_with(v4).is_none())),
        }
    }

    /// Finds the address whose IPv6 counterpart was asked for: the last one that was leased and has none.
    async fn pair_up(&self, pool: &PoolId, part: ipnet::Ipv4Net) -> Result<Option<Ipv4Addr>, Failure> {
        let mut book = self.book.lock().await;
        let fits = |page: &Page, at: &Ipv4Addr| {
            part.contains(at) && page.addresses.get(at).is_some_and(|held| held.with(pool).is_some())
        };
        let found = {
            let mut fresh = self.fresh();
            let position = fresh.iter().rposition(|at| fits(book.page(), at));
            position.map(|position| fresh.remove(position))
        };
        let Some(v4) = found else { return Ok(None) };
        let both = book.page().addresses.get(&v4).and_then(|held| held.with(pool));
        book.write(vec![Change::Address(v4, both)]).await?;
        Ok(Some(v4))
    }

    /// Leases an address and writes down whose it is. Ends of the subnet, which the fabric does not know for such, are kept aside.
    pub(super) async fn lease(&self, pool: &PoolId, wish: Wish, role: Role) -> Result<Ipv4Addr, Failure> {
        for _ in 0..=MAX_ENDS {
            let holder = format!("{HOLDER}{}", data_encoding::HEXLOWER.encode(&random::bytes::<8>()));
            let v4 = self.fabric.lease(&holder, wish).await?;
            let end = pool.is_end(v4) && matches!(wish, Wish::In(_));
            let role = if end { Role::Reserved } else { role.clone() };
            let name = Some(pool.to_string());
            let (one, other) = match pool.family() {
                Family::V4 => (name, None),
                Family::V6 => (None, name),
            };
            let held = Held { holder: holder.clone(), v4: one, v6: other, role };
            let fresh = held.role == Role::Container && held.v4.is_some();
            let written = self.book.lock().await.write(vec![Change::Address(v4, Some(held))]).await;
            if let Err(error) = written {
                self.fabric.release(&holder, Rest::Unused).await?;
                return Err(error.into());
            }
            if fresh {
                let mut list = self.fresh();
                if list.len() >= MAX_FRESH {
                    list.remove(0);
                }
                list.push(v4);
            }
            if !end {
                return Ok(v4);
            }
        }
        Err(Failure::new(format!(
            "no address left in {}; weavectl status ipam shows who has what",
            pool.subnet
        )))
    }

    /// One pool gives an address back. The lease ends when nobody has it any more; unknown addresses are not worth an error.
    pub(super) async fn let_go(&self, v4: Ipv4Addr, pool: &str) -> Result<(), Failure> {
        let Some(held) = self.book.lock().await.page().addresses.get(&v4).cloned() else { return Ok(()) };
        let mut left = held.clone();
        for side in [&mut left.v4, &mut left.v6] {
            if side.as_deref() == Some(pool) {
                *side = None;
            }
        }
        if left.v4.is_none() && left.v6.is_none() {
            return self.end_lease(v4, &left).await;
        }
        Ok(self.book.lock().await.write(vec![Change::Address(v4, Some(left))]).await?)
    }

    /// Ends a lease, unless an endpoint has the address: Docker takes an endpoint away before its address, so where it does not, the address
    /// that it gives back is that of another container, which was refused.
    ///
    /// The record goes first, so that no endpoint is made on the strength of it meanwhile. A lease without a record, should we die in
    /// between, is found by the next start.
    pub(super) async fn end_lease(&self, v4: Ipv4Addr, held: &Held) -> Result<(), Failure> {
        let before = {
            let mut book = self.book.lock().await;
            let before = book.page().addresses.get(&v4).filter(|now| now.holder == held.holder).cloned();
            // It was given back, and perhaps leased anew, meanwhile.
            let Some(before) = before else { return Ok(()) };
            if book.page().endpoint_with(v4).is_some() {
                return Ok(book.write(vec![Change::Address(v4, Some(held.clone()))]).await?);
            }
            book.write(vec![Change::Address(v4, None)]).await?;
            before
        };
        self.fresh().retain(|at| *at != v4);
        if let Err(error) = self.fabric.release(&held.holder, Rest::Used).await {
            self.book.lock().await.write(vec![Change::Address(v4, Some(before))]).await?;
            return Err(error.into());
        }
        Ok(())
    }
}

impl Held {
    /// The same, given out by one more pool; `None` when that family is given out already, or it is not for containers.
    fn with(&self, pool: &PoolId) -> Option<Held> {
        let mut both = self.clone();
        let side = match pool.family() {
            Family::V4 => &mut both.v4,
            Family::V6 => &mut both.v6,
        };
        let for_containers = matches!(self.role, Role::Container | Role::Task);
        if side.is_some() || !for_containers {
            return None;
        }
        *side = Some(pool.to_string());
        Some(both)
    }

    /// Whether it is of no use without this pool.
    fn ends_with(&self, pool: &str) -> bool {
        matches!(self.role, Role::Reserved | Role::Task)
            && [&self.v4, &self.v6].into_iter().flatten().any(|id| id == pool)
    }
}

fn in_use(asked: IpAddr) -> Failure {
    Failure::new(format!(
        "{asked} is in use by another container of this host; docker network inspect shows which"
    ))
}
