//! Kernel state of the router: bridge, veth pairs, addresses, routes, settings and nftables, over netlink; no other program is started.
//!
//! Everything is declarative: an `ensure_*` computes what should be, reads what is, and writes the difference; a second call writes
//! nothing. This module knows neither the fabric nor its peers, only names, addresses and numbers. Netlink requests run on worker threads
//! (see `wire`), work inside a container on a thread that ends with it (see `netns`).

mod attach;
mod bridge;
mod container;
mod error;
mod expressions;
mod firewall;
mod foreign;
mod links;
mod nameserver;
mod netns;
mod nft;
mod pair;
mod spec;
mod sysctl;
mod underlay;
mod watch;
mod wire;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_route::link::InfoKind;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use tokio::sync::Semaphore;

use self::{netns::NetnsId, wire::Wire};

pub use self::{
    error::{KernelError, Result, Side},
    firewall::{FirewallSpec, TABLE as FIREWALL_TABLE},
    foreign::Exposure,
    nameserver::NameserverSpec,
    netns::Netns,
    pair::{PairSpec, Paired},
    spec::{
        AttachSpec, Attached, BridgeSpec, BridgeState, Detached, MAX_GSO_SIZE, MAX_IFNAME, MAX_MTU,
        MAX_ROUTES, MIN_GSO_SIZE, MIN_MTU, Mismatch, Outcome, PORT_PREFIX, PeerEnd, PortInfo, Ports,
    },
    sysctl::Warning,
    underlay::DEFAULT_MTU,
    watch::{KernelEvent, Watch},
};

/// Threads that may work for attachments at a time. Device changes are serialised in the kernel anyway; more threads would only wait
/// there, fewer would leave it idle during grace periods.
const MAX_THREADS: usize = 16;

/// The kernel state of one router, in the network namespace of the thread that opened it. Cheap to clone.
///
/// Operations go on when their future is dropped; an attachment that nobody waits for any more is undone.
#[derive(Clone)]
pub struct Kernel {
    bridge: Arc<str>,
    own: NetnsId,
    nft: Arc<Mutex<Wire>>,
    nft_port: u32,
    threads: Arc<Semaphore>,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel").field("bridge", &self.bridge).finish_non_exhaustive()
    }
}

impl Kernel {
    /// Opens the kernel for a router whose bridge has (or will have) this name.
    pub fn open(bridge_name: &str) -> Result<Self> {
        spec::check_ifname("bridge name", bridge_name)?;
        if bridge_name.starts_with(PORT_PREFIX) {
            let want = format!("a name that does not start with `{PORT_PREFIX}`, which is for ports");
            return Err(KernelError::BadSpec { field: "bridge name", got: bridge_name.to_owned(), want });
        }
        let nft = Wire::open(NETLINK_NETFILTER)?;
        Ok(Self {
            bridge: bridge_name.into(),
            own: NetnsId::own()?,
            nft_port: nft.port(),
            nft: Arc::new(Mutex::new(nft)),
            threads: Arc::new(Semaphore::new(MAX_THREADS)),
        })
    }

    /// Creates the bridge, or adopts and corrects the one that is there.
    pub async fn ensure_bridge(&self, spec: BridgeSpec) -> Result<BridgeState> {
        spec::check_mac(spec.mac)?;
        spec::check_mtu(spec.mtu)?;
        spec::check_gso(spec.gso_max_size)?;
        let name = self.bridge.clone();
        route_job("bridge", move |wire| bridge::ensure_bridge(wire, &name, &spec)).await
    }

    /// Puts the TAP device, which the data path has made, on the bridge.
    pub async fn ensure_tap_port(&self, tap_name: &str, mtu: u32, txqueuelen: u32) -> Result<Outcome> {
        spec::check_ifname("tap name", tap_name)?;
        spec::check_mtu(mtu)?;
        let (name, tap) = (self.bridge.clone(), tap_name.to_owned());
        route_job("tap", move |wire| bridge::ensure_tap_port(wire, &name, &tap, mtu, txqueuelen)).await
    }

    /// Attaches a container. Fails without a trace, and is undone when the caller went away meanwhile.
    pub async fn attach(&self, spec: AttachSpec) -> Result<Attached> {
        let _turn = self.threads.acquire().await;
        let (bridge, own, name) = (self.bridge.clone(), self.own.clone(), spec.host_ifname.clone());
        let undo = move |(_, mut host): (Attached, Wire)| {
            tracing::info!(interface = name, "undoing an attachment whose caller went away");
            if let Err(error) = links::delete(&mut host, &name) {
                tracing::warn!(interface = name, %error, "could not undo an abandoned attachment");
            }
        };
        let (attached, _) =
            netns::on_thread("attach", move || attach::attach(&bridge, &own, &spec), undo).await?;
        Ok(attached)
    }

    /// Makes a pair whose far end stays on the host, for whoever puts it into a container.
    pub async fn make_pair(&self, spec: PairSpec) -> Result<Paired> {
        let _turn = self.threads.acquire().await;
        let name = self.bridge.clone();
        let job = move || pair::make(&name, &spec);
        tokio::task::spawn_blocking(job).await.unwrap_or(Err(KernelError::WorkerLost { operation: "pair" }))
    }

    /// Removes an attachment by the name of its host end. Says whether there was one.
    pub async fn detach(&self, host_ifname: &str) -> Result<Detached> {
        let _turn = self.threads.acquire().await;
        let name = host_ifname.to_owned();
        let removed = route_job("detach", move |wire| attach::detach(wire, &name)).await?;
        Ok(if removed { Detached::Removed } else { Detached::Absent })
    }

    /// Compares an attachment with its plan; empty when all is as it should be.
    pub async fn check(&self, spec: AttachSpec) -> Result<Vec<Mismatch>> {
        let _turn = self.threads.acquire().await;
        let (bridge, own) = (self.bridge.clone(), self.own.clone());
        netns::on_thread("check", move || attach::check(&bridge, &own, &spec), |_| ()).await
    }

    /// Our veth ends on the bridge, by name. None while there is no bridge.
    pub async fn list_ports(&self) -> Result<Vec<PortInfo>> {
        let name = self.bridge.clone();
        route_job("ports", move |wire| list_ports(wire, &name)).await
    }

    /// Link-layer addresses that the bridge has heard within its ageing time (300 s), or knows for good, on other ports than `tap`.
    pub async fn heard(&self, tap: String) -> Result<Vec<[u8; 6]>> {
        let name = self.bridge.clone();
        route_job("addresses on the bridge", move |wire| {
            let Some(bridge) = links::find(wire, &name)? else { return Ok(Vec::new()) };
            let tap = links::find(wire, &tap)?.map(|tap| tap.ifindex);
            let heard = links::heard(wire, bridge.ifindex)?;
            Ok(heard.into_iter().filter(|(port, _)| Some(*port) != tap).map(|(_, mac)| mac).collect())
        })
        .await
    }

    /// Makes sure that these host ends hang on the bridge, up and set as ports of containers are. For a bridge that had to be made
    /// again, and after a restart.
    pub async fn ensure_ports(&self, host_ifnames: Vec<String>) -> Result<Ports> {
        host_ifnames.iter().try_for_each(|name| spec::check_port_name(name))?;
        let name = self.bridge.clone();
        route_job("ports", move |wire| bridge::ensure_ports(wire, &name, &host_ifnames)).await
    }

    /// Gives the host this address on the bridge (expose), or none (hide). Every other address on the bridge goes.
    pub async fn set_host_address(
        &self,
        address: Option<(Ipv4Net, Ipv6Net)>,
    ) -> Result<(Outcome, Vec<Warning>)> {
        let name = self.bridge.clone();
        route_job("address", move |wire| bridge::set_host_address(wire, &name, address)).await
    }

    /// Gives the bridge the address at which names are served, and the way back to whoever asks there; or takes it away.
    pub async fn ensure_nameserver(&self, spec: Option<NameserverSpec>) -> Result<Outcome> {
        let name = self.bridge.clone();
        route_job("nameserver", move |wire| nameserver::ensure(wire, &name, spec)).await
    }

    /// Makes our own nftables table what it should be, in one transaction.
    pub async fn ensure_firewall(&self, spec: FirewallSpec) -> Result<Outcome> {
        self.nft_job("firewall", move |wire| firewall::ensure(wire, &spec)).await
    }

    /// Removes our own nftables table.
    pub async fn remove_firewall(&self) -> Result<Outcome> {
        self.nft_job("firewall", firewall::remove).await
    }

    /// Makes sure that `ip filter FORWARD` and `ip6 filter FORWARD`, where they exist, let our bridge through (ADR 0006).
    pub async fn ensure_forward_accept(&self, exposure: Exposure) -> Result<Outcome> {
        let name = self.bridge.clone();
        self.nft_job("forward", move |wire| foreign::ensure(wire, &name, exposure)).await
    }

    /// Firewalls of others that may drop what is forwarded and that we do not touch, in words with the command that opens them.
    pub async fn forward_obstacles(&self) -> Result<Vec<String>> {
        let name = self.bridge.clone();
        self.nft_job("obstacles", move |wire| foreign::obstacles(wire, &name)).await
    }

    /// Listens for changes that others make. Needs a tokio runtime with I/O.
    pub fn watch(&self) -> Result<Watch> {
        watch::start(&self.bridge, self.nft_port)
    }

    /// Routes of the host that overlap the range, in words; those through our own bridge do not count.
    pub async fn routes_overlap(&self, range: IpNet) -> Result<Vec<String>> {
        let name = self.bridge.clone();
        route_job("routes", move |wire| underlay::routes_overlap(wire, &name, range)).await
    }

    /// MTU of the device that carries the underlay, for the address that we listen on (or the unspecified one).
    pub async fn underlay_mtu(&self, listen: IpAddr) -> Result<u32> {
        let name = self.bridge.clone();
        route_job("mtu", move |wire| underlay::underlay_mtu(wire, &name, listen)).await
    }

    /// Addresses at which peers may reach this host, the likeliest first.
    pub async fn underlay_addresses(&self) -> Result<Vec<IpAddr>> {
        let name = self.bridge.clone();
        route_job("addresses", move |wire| underlay::underlay_addresses(wire, &name)).await
    }

    /// Removes everything that is ours: rules, table, ports, bridge. Goes on after errors and returns all of them.
    pub async fn reset(&self) -> Vec<KernelError> {
        let mut errors = Vec::new();
        errors.extend(self.nft_job("forward", foreign::remove).await.err());
        errors.extend(self.remove_firewall().await.err());
        errors.extend(route_job("nameserver", nameserver::remove).await.err());
        let name = self.bridge.clone();
        match route_job("ports", move |wire| ports_to_reset(wire, &name)).await {
            Ok(ports) => {
                for port in ports {
                    errors.extend(self.detach(&port).await.err());
                }
            }
            Err(error) => errors.push(error),
        }
        let name = self.bridge.clone();
        errors.extend(route_job("reset", move |wire| delete_bridge(wire, &name)).await.err());
        errors
    }

    async fn nft_job<T, W>(&self, operation: &'static str, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: FnOnce(&mut Wire) -> Result<T> + Send + 'static,
    {
        let nft = self.nft.clone();
        // A panic while it was locked leaves at worst unread answers, which carry old sequence numbers and are skipped.
        let job = move || work(&mut nft.lock().unwrap_or_else(PoisonError::into_inner));
        tokio::task::spawn_blocking(job).await.unwrap_or(Err(KernelError::WorkerLost { operation }))
    }
}

/// Runs work with a fresh rtnetlink socket on a worker thread.
async fn route_job<T, W>(operation: &'static str, work: W) -> Result<T>
where
    T: Send + 'static,
    W: FnOnce(&mut Wire) -> Result<T> + Send + 'static,
{
    let job = move || work(&mut Wire::open(NETLINK_ROUTE)?);
    tokio::task::spawn_blocking(job).await.unwrap_or(Err(KernelError::WorkerLost { operation }))
}

fn list_ports(wire: &mut Wire, bridge: &str) -> Result<Vec<PortInfo>> {
    let Some(bridge) = links::find(wire, bridge)? else { return Ok(Vec::new()) };
    let links = links::list(wire, Some(bridge.ifindex))?;
    let mut ports: Vec<PortInfo> = links
        .into_iter()
        .filter(is_port)
        .map(|link| PortInfo {
            mac: link.mac.as_slice().try_into().unwrap_or_default(),
            ifindex: link.ifindex,
            peer: match (link.peer_netns, link.running) {
                (None, _) => PeerEnd::OnHost,
                (Some(_), true) => PeerEnd::Up,
                (Some(_), false) => PeerEnd::Down,
            },
            ifname: link.name,
        })
        .collect();
    ports.sort_by(|a, b| a.ifname.cmp(&b.ifname));
    Ok(ports)
}

/// Our host ends on the bridge, and those that lost it; not those on a bridge of somebody else.
fn ports_to_reset(wire: &mut Wire, bridge: &str) -> Result<Vec<String>> {
    let bridge = links::find(wire, bridge)?.map(|bridge| bridge.ifindex);
    let links = links::list(wire, None)?;
    let ours =
        links.into_iter().filter(|link| is_port(link) && (link.master.is_none() || link.master == bridge));
    Ok(ours.map(|link| link.name).collect())
}

fn is_port(link: &links::Link) -> bool {
    link.name.starts_with(PORT_PREFIX) && link.kind == Some(InfoKind::Veth)
}

fn delete_bridge(wire: &mut Wire, name: &str) -> Result<()> {
    match links::find(wire, name)? {
        None => Ok(()),
        Some(link) if link.kind == Some(InfoKind::Bridge) => links::delete(wire, name).map(|_| ()),
        Some(link) => {
            Err(KernelError::WrongKind { name: link.name.clone(), got: link.kind_name(), want: "a bridge" })
        }
    }
}
