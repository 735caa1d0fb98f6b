//! `NetworkDriver`, as far as containers are concerned: an endpoint is written down, its interface made, taken away, and forgotten.
//!
//! Docker itself puts the interface into the container and gives it name and addresses. It may repeat a request whose answer was lost;
//! of an endpoint that is unknown here it only ever wants to hear that it is gone.

use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::book::{Change, Endpoint, Held, Multicast, Role};
use super::fabric::{Fabric, Plug, Ranges, Wish};
use super::pool::{PoolId, Space};
use super::protocol::{
    CreateEndpoint, CreatedEndpoint, Interface, InterfaceName, Joined, OfEndpoint, StaticRoute,
};
use super::{Driver, Failure, Scope};
use crate::core::mac::Mac;

/// First part of the interface's name in containers, as Weave's users know it; Docker adds a number.
const INSIDE: &str = "ethwe";
/// Where multicast goes to (RFC 5771).
const MULTICAST_RANGE: &str = "224.0.0.0/4";
/// Docker's word for a route without a next hop.
const ON_LINK: u8 = 1;
/// Longest id of a network or an endpoint; Docker's have 64 letters.
const MAX_ID: usize = 128;

impl<F: Fabric> Driver<F> {
    pub(super) async fn create_endpoint(&self, request: CreateEndpoint) -> Result<CreatedEndpoint, Failure> {
        check_id(&request.endpoint_id)?;
        let _held = self.locks.hold(&request.endpoint_id).await;
        let ranges = self.fabric.ranges().await?;
        let wish = request.interface.unwrap_or_default();
        let (address, address6) = addresses(&wish, &ranges)?;
        let (mac, told) = match wish.mac.as_str() {
            "" => {
                let mac = Mac::of_container(address.addr());
                (mac, mac.to_string())
            }
            text => {
                let mac: Mac = text.parse().map_err(Failure::new)?;
                if !mac.is_unicast() {
                    return Err(Failure::new(format!(
                        "{mac} is not the address of one interface; type another --mac-address"
                    )));
                }
                (mac, String::new())
            }
        };
        let id = request.endpoint_id;
        let network = request.network_id;
        let before = self.book.lock().await.page().endpoints.get(&id).cloned();
        let endpoint = Endpoint { network, address, address6, mac: mac.to_string() };
        let answer = CreatedEndpoint { interface: Interface { mac: told, ..Interface::default() } };
        match before {
            Some(before) if before == endpoint => return Ok(answer),
            Some(_) => return Err(Failure::new(format!("endpoint {id} exists with other addresses"))),
            None => {}
        }
        self.vouch(&id, address).await?;
        self.fresh().retain(|at| *at != address.addr());
        let mut book = self.book.lock().await;
        if book.page().endpoint_with(address.addr()).is_some() {
            return Err(taken(address.addr()));
        }
        book.write(vec![Change::Endpoint(id, Some(endpoint))]).await?;
        Ok(answer)
    }

    pub(super) async fn join(&self, request: OfEndpoint) -> Result<Joined, Failure> {
        let _held = self.locks.hold(&request.endpoint_id).await;
        let ranges = self.fabric.ranges().await?;
        let (endpoint, multicast) = {
            let book = self.book.lock().await;
            let endpoint = book.page().endpoints.get(&request.endpoint_id).cloned().ok_or_else(|| {
                Failure::new(format!(
                    "no endpoint {} was made here; start the container again",
                    request.endpoint_id
                ))
            })?;
            let network = book.page().networks.get(&endpoint.network);
            (endpoint, network.map_or(Multicast::Fabric, |network| network.multicast))
        };
        let address6 = endpoint.address6.unwrap_or_else(|| {
            Ipv6Net::new_assert(ranges.embed(endpoint.address.addr()), ranges.v6.prefix_len())
        });
        // What Docker does not give it, it cannot be reached at.
        let named = [Some(endpoint.address.addr().into()), endpoint.address6.map(|net| net.addr().into())];
        let named = named.into_iter().flatten().collect();
        let plug = Plug {
            endpoint: request.endpoint_id,
            network: endpoint.network,
            address: endpoint.address,
            address6,
            mac: endpoint.mac.parse().map_err(Failure::new)?,
            sandbox: request.sandbox_key,
            named,
        };
        let src = self.fabric.plug(plug).await?;
        let route = |destination: String| StaticRoute { destination, kind: ON_LINK, next_hop: "" };
        let multicast = match multicast {
            Multicast::Fabric => Some(MULTICAST_RANGE.to_owned()),
            Multicast::Outside => None,
        };
        // For `--dns`: Docker's own resolver asks from within the container.
        let nameserver = ranges.nameserver.map(|address| format!("{address}/32"));
        let routes = multicast.into_iter().chain(nameserver).map(route).collect();
        // Without a gateway of ours Docker leads the container out through `docker_gwbridge`, where it also publishes ports.
        Ok(Joined { interface: InterfaceName { src, dst: INSIDE }, routes, disable_gateway: false })
    }

    pub(super) async fn leave(&self, request: OfEndpoint) -> Result<(), Failure> {
        let _held = self.locks.hold(&request.endpoint_id).await;
        Ok(self.fabric.unplug(&request.endpoint_id).await?)
    }

    pub(super) async fn delete_endpoint(&self, request: OfEndpoint) -> Result<(), Failure> {
        self.drop_endpoint(&request.endpoint_id).await
    }

    /// Interface, record, and the address if nobody else answers for it.
    pub(super) async fn drop_endpoint(&self, id: &str) -> Result<(), Failure> {
        let _held = self.locks.hold(id).await;
        self.fabric.unplug(id).await?;
        let own: Vec<(Ipv4Addr, Held)> = {
            let mut book = self.book.lock().await;
            let address = book.page().endpoints.get(id).map(|endpoint| endpoint.address.addr());
            book.write(vec![Change::Endpoint(id.to_owned(), None)]).await?;
            // Its own, and what was given back while it was in use.
            let ends = |(at, held): &(&Ipv4Addr, &Held)| {
                let given_back = Some(**at) == address && held.v4.is_none() && held.v6.is_none();
                given_back || held.role == Role::Endpoint(id.to_owned())
            };
            let of = book.page().addresses.iter().filter(ends);
            of.map(|(at, held)| (*at, held.clone())).collect()
        };
        for (address, held) in own {
            self.end_lease(address, &held).await?;
        }
        Ok(())
    }

    /// Sees to it that the address has one user in the whole fabric: leased for Docker already, or leased now if another IPAM chose it.
    async fn vouch(&self, id: &str, address: Ipv4Net) -> Result<(), Failure> {
        let v4 = address.addr();
        let book = self.book.lock().await;
        if book.page().endpoint_with(v4).is_some() {
            return Err(taken(v4));
        }
        if let Some(held) = book.page().addresses.get(&v4) {
            return match &held.role {
                Role::Container | Role::Task => Ok(()),
                Role::Endpoint(other) if other == id => Ok(()),
                Role::Reserved | Role::Endpoint(_) => Err(taken(v4)),
            };
        }
        drop(book);
        let pool = PoolId {
            space: Space::Local,
            subnet: IpNet::V4(address.trunc()),
            chosen_from: IpNet::V4(address.trunc()),
        };
        match self.lease(&pool, Wish::Fixed(v4), Role::Endpoint(id.to_owned())).await {
            Ok(_) => Ok(()),
            // Swarm's manager chose it, and its own router has leased it for the task.
            Err(_) if self.scope == Scope::Global => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn taken(address: Ipv4Addr) -> Failure {
    Failure::new(format!("{address} is in use on this host already; docker network inspect shows by whom"))
}

/// What Docker will give the interface. With IPv6 alone the IPv4 address is the one that it embeds.
fn addresses(wish: &Interface, ranges: &Ranges) -> Result<(Ipv4Net, Option<Ipv6Net>), Failure> {
    let wrong = |text: &str| Failure::new(format!("`{text}` is not an address with a prefix length"));
    let v6 = match wish.address6.as_str() {
        "" => None,
        text => Some(text.parse::<Ipv6Net>().map_err(|_| wrong(text))?),
    };
    let v4 = match (wish.address.as_str(), v6) {
        ("", None) => {
            return Err(Failure::new(
                "an endpoint without an address; type --ipam-driver as well as --driver",
            ));
        }
        ("", Some(v6)) => {
            let v4 = ranges.embedded(v6.addr()).ok_or_else(|| wrong(&wish.address6))?;
            Ipv4Net::new_assert(v4, ranges.v4.prefix_len())
        }
        (text, _) => text.parse::<Ipv4Net>().map_err(|_| wrong(text))?,
    };
    if !ranges.v4.contains(&v4.addr()) {
        return Err(Failure::new(format!(
            "{v4} is not an address of the fabric's range {}; the network is of another fabric: docker network rm it, and make it anew",
            ranges.v4
        )));
    }
    Ok((v4, v6))
}

/// Ids become names of holders and of interfaces.
fn check_id(id: &str) -> Result<(), Failure> {
    if (1..=MAX_ID).contains(&id.len())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    {
        return Ok(());
    }
    Err(Failure::new(format!("endpoint id `{id}` is not 1 to {MAX_ID} letters and digits")))
}
