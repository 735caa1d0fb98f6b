//! What the driver asks of this router: leases and interfaces. A trait, so that its flows run in tests against a fabric of their own.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use control::api::ApiError;
use ipnet::{Ipv4Net, Ipv6Net};

use crate::core::mac::Mac;
use crate::shell::attach::Attacher;
use crate::shell::engine::call::{Call, Hub, LeaseRequest, Rest};

/// Names of holders of Docker's leases begin so: apart from containers of other runtimes, whose leases end with their interfaces.
pub const HOLDER: &str = "docker:";

/// What addresses there are.
#[derive(Debug, Clone, Copy)]
pub struct Ranges {
    /// Range of the fabric.
    pub v4: Ipv4Net,
    /// Its IPv6 prefix.
    pub v6: Ipv6Net,
    /// Where containers ask for names.
    pub nameserver: Option<Ipv4Addr>,
}

impl Ranges {
    /// The IPv6 address that belongs to an IPv4 address.
    pub fn embed(&self, v4: Ipv4Addr) -> Ipv6Addr {
        crate::core::node::embed(self.v6, v4)
    }

    /// The IPv4 address that an IPv6 address of this fabric embeds.
    pub fn embedded(&self, v6: Ipv6Addr) -> Option<Ipv4Addr> {
        let [.., a, b, c, d] = v6.octets();
        let v4 = Ipv4Addr::new(a, b, c, d);
        (self.embed(v4) == v6 && self.v4.contains(&v4)).then_some(v4)
    }
}

/// Which address is wanted.
#[derive(Debug, Clone, Copy)]
pub enum Wish {
    /// Any of this part of the range.
    In(Ipv4Net),
    /// This one.
    Fixed(Ipv4Addr),
}

/// An interface to make.
#[derive(Debug, Clone)]
pub struct Plug {
    /// Docker's endpoint.
    pub endpoint: String,
    /// Docker's network.
    pub network: String,
    /// IPv4 address that Docker will give it.
    pub address: Ipv4Net,
    /// IPv6 address that Docker will give it, or the one that belongs to the IPv4 address.
    pub address6: Ipv6Net,
    /// MAC address.
    pub mac: Mac,
    /// Where Docker will put it, for people.
    pub sandbox: String,
    /// The addresses that Docker will give it, for those who look for it by name.
    pub named: Vec<IpAddr>,
}

/// An interface that was made for Docker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plugged {
    /// Docker's endpoint.
    pub endpoint: String,
    /// Its IPv4 address.
    pub address: Ipv4Addr,
    /// Its IPv6 address.
    pub address6: Ipv6Addr,
    /// Where its far end is.
    pub place: Place,
}

/// Where the far end of an interface is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In a container.
    Container,
    /// Still on the host: Docker has not fetched it, or has brought it back.
    Host,
}

/// See the module's text.
pub trait Fabric: Send + Sync + 'static {
    /// What addresses there are.
    fn ranges(&self) -> impl Future<Output = Result<Ranges, ApiError>> + Send;
    /// Leases an address under a name that nobody has; durable when answered.
    fn lease(&self, holder: &str, wish: Wish) -> impl Future<Output = Result<Ipv4Addr, ApiError>> + Send;
    /// Gives back what is leased under a name.
    fn release(&self, holder: &str, rest: Rest) -> impl Future<Output = Result<(), ApiError>> + Send;
    /// All leases whose holders' names begin with [`HOLDER`].
    fn leases(&self) -> impl Future<Output = Result<Vec<(String, Ipv4Addr)>, ApiError>> + Send;
    /// Makes an interface on the host and announces it; answers its name. One that is there for this endpoint is made anew.
    fn plug(&self, plug: Plug) -> impl Future<Output = Result<String, ApiError>> + Send;
    /// Takes an endpoint's interface away, wherever it is; success when there is none.
    fn unplug(&self, endpoint: &str) -> impl Future<Output = Result<(), ApiError>> + Send;
    /// All interfaces that were made for Docker.
    fn plugged(&self) -> impl Future<Output = Result<Vec<Plugged>, ApiError>> + Send;
}

/// The fabric of this router.
pub struct Ours {
    hub: Hub,
    attacher: Arc<Attacher>,
}

impl Ours {
    /// Of an engine and its attach flow.
    pub fn new(hub: Hub, attacher: Arc<Attacher>) -> Ours {
        Ours { hub, attacher }
    }
}

impl Fabric for Ours {
    async fn ranges(&self) -> Result<Ranges, ApiError> {
        let ground = self.hub.ask(Call::Ground).await?;
        let nameserver = ground.nameserver.map(|server| server.address);
        Ok(Ranges { v4: ground.range, v6: ground.range6, nameserver })
    }

    async fn lease(&self, holder: &str, wish: Wish) -> Result<Ipv4Addr, ApiError> {
        let (address, subnet) = match wish {
            Wish::In(subnet) => (None, Some(subnet)),
            Wish::Fixed(address) => (Some(address), None),
        };
        let request = LeaseRequest { holder: holder.to_owned(), address, subnet };
        Ok(self.hub.ask(|reply| Call::Lease(request, reply)).await?.v4.addr())
    }

    async fn release(&self, holder: &str, rest: Rest) -> Result<(), ApiError> {
        let holder = holder.to_owned();
        self.hub.ask(|reply| Call::Release(holder, rest, reply)).await.map(drop)
    }

    async fn leases(&self) -> Result<Vec<(String, Ipv4Addr)>, ApiError> {
        self.hub.ask(|reply| Call::Leases(HOLDER, reply)).await
    }

    async fn plug(&self, plug: Plug) -> Result<String, ApiError> {
        self.attacher.plug(plug).await
    }

    async fn unplug(&self, endpoint: &str) -> Result<(), ApiError> {
        self.attacher.unplug(endpoint.to_owned()).await
    }

    async fn plugged(&self) -> Result<Vec<Plugged>, ApiError> {
        self.attacher.plugged().await
    }
}
