//! The engine: one task that owns the node, the journals and the data path's control side.
//!
//! Each turn takes what has come in, bounded, lets the node think, makes the journals durable, and only then lets anything out. Calls
//! that arrive while the disk works wait for the next turn and share its fsync.

mod adopt;
mod audit;
pub mod call;
mod fabric;
mod names;
mod persist;
mod seeds;
mod serve;
mod view;

pub use fabric::{TAP_QUEUE_LENGTH, identity_file, read_identity};

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use control::api::{ApiError, Attachment, ErrorCode, Problem};
use gossip::PeerId;
use ipam::Ticket;
use tokio::sync::{mpsc, oneshot};

use super::config::Config;
use super::dns::Service;
use super::kernel::Kernel;
use super::state::dir::{Contents, FabricFile, Kept, StateDir};
use super::targets::{self, MAX_TARGETS, Resolved, Targets};
use crate::core::endpoints::Change;
use crate::core::identity::Identity;
use crate::core::node::{Node, Output, PingError, Pong};
use crate::core::session::ConnectionState;
use crate::datapath::{ControlInput, Datapath, DatapathError, Endpoint, Owner};
use call::{Call, Reply, refusal};

/// Inputs taken in one turn before the journals are made durable and answers leave. More would make the first caller wait longer,
/// fewer would share an fsync among fewer.
const MAX_TURN: usize = 256;
/// Datagrams and notices from the data path that wait for the engine; beyond that they are dropped, as a full socket buffer would.
const MAX_WAITING_INPUTS: usize = 4096;
/// A session this old has brought what the neighbour knows: several rounds of anti-entropy.
const HEAR_FOR: Duration = Duration::from_secs(12);
/// How often addresses, the underlay's MTU, traffic and targets are looked at.
const HOUSEKEEPING: Duration = Duration::from_secs(2);

/// Everything that exists only while this router belongs to a fabric.
struct Running {
    node: Node,
    datapath: Datapath,
    /// Unless names are not wanted.
    dns: Option<Service>,
    file: FabricFile,
    mtu: u32,
    gso_max_size: u32,
    /// MTU of the underlay at the last look.
    underlay_mtu: u32,
    /// Bytes seen on each peer's lanes at the last look, to notice traffic.
    last_bytes: BTreeMap<PeerId, u64>,
}

/// What waits for the allocation journal: told whether it became durable.
type AfterPersist = Box<dyn FnOnce(Result<(), ApiError>) + Send>;

/// See the module's text.
pub struct Engine {
    config: Config,
    kernel: Kernel,
    dir: Option<StateDir>,
    identity: Arc<Identity>,
    running: Option<Running>,
    targets: Targets,
    attachments: BTreeMap<(String, String), Kept>,
    exposed: Option<std::net::Ipv4Addr>,
    problems: Vec<Problem>,
    /// Set while the journals cannot be written.
    not_durable: Option<String>,
    removed_by: Option<PeerId>,
    /// What is known of another router with this identity.
    clone: Option<String>,
    /// The allocation journal was damaged: what it had recorded must be heard from the fabric before anything new is leased.
    unsure: bool,
    started: Instant,
    next_ticket: u64,
    leases: BTreeMap<Ticket, (Reply<call::Lease>, bool)>,
    pings: BTreeMap<Ticket, Reply<control::api::PingAnswer>>,
    after_ipam: Vec<AfterPersist>,
    attachment_writes: Vec<(Vec<u8>, AfterPersist)>,
    /// Signed records that the next turn keeps for audits.
    evidence: Vec<Vec<u8>>,
    calls: mpsc::Receiver<Call>,
    inputs: mpsc::Receiver<ControlInput>,
    input_sender: mpsc::Sender<ControlInput>,
    resolved: mpsc::Receiver<(String, Resolved)>,
    resolver: mpsc::Sender<(String, Resolved)>,
    /// Firewalls of others that are in the way of containers, as last seen.
    obstacles: Vec<String>,
    peers_changed: bool,
}

impl Engine {
    /// Opens nothing of the machine but what it is given; `resume` starts the fabric if there is one.
    pub fn new(
        config: Config,
        kernel: Kernel,
        dir: StateDir,
        contents: &Contents,
        identity: Arc<Identity>,
        calls: mpsc::Receiver<Call>,
    ) -> Engine {
        let (input_sender, inputs) = mpsc::channel(MAX_WAITING_INPUTS);
        let (resolver, resolved) = mpsc::channel(MAX_TARGETS);
        Engine {
            config,
            kernel,
            dir: Some(dir),
            identity,
            running: None,
            targets: Targets::default(),
            attachments: BTreeMap::new(),
            exposed: None,
            problems: contents.problems.clone(),
            not_durable: None,
            removed_by: None,
            clone: None,
            unsure: false,
            started: Instant::now(),
            next_ticket: 0,
            leases: BTreeMap::new(),
            pings: BTreeMap::new(),
            after_ipam: Vec::new(),
            attachment_writes: Vec::new(),
            evidence: Vec::new(),
            calls,
            inputs,
            input_sender,
            resolved,
            resolver,
            obstacles: Vec::new(),
            peers_changed: false,
        }
    }

    /// Runs until `stop` fires or every handle of it is gone.
    pub async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        housekeeping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let wake = self.running.as_ref().and_then(|r| r.node.poll_timeout()).map(|(at, _why)| at);
            tokio::select! {
                _ = &mut stop => break,
                call = self.calls.recv() => match call {
                    Some(call) => self.serve(call).await,
                    None => break,
                },
                Some(input) = self.inputs.recv() => self.take(input),
                Some((name, result)) = self.resolved.recv() => self.take_resolved(&name, result),
                () = sleep_until(wake) => self.wake(),
                _ = housekeeping.tick() => self.keep_house().await,
            }
            self.take_more().await;
            self.settle().await;
            // Not left to housekeeping: a router that dies young must find its way back as well.
            if std::mem::take(&mut self.peers_changed) {
                self.remember_peers();
            }
        }
        if let Some(running) = self.running.take() {
            running.datapath.stop();
        }
        tracing::info!("stopped; containers keep their interfaces and addresses");
    }

    async fn take_more(&mut self) {
        for _ in 0..MAX_TURN {
            let mut idle = true;
            if let Ok(input) = self.inputs.try_recv() {
                self.take(input);
                idle = false;
            }
            if let Ok(call) = self.calls.try_recv() {
                self.serve(call).await;
                idle = false;
            }
            if idle {
                break;
            }
        }
    }

    fn wake(&mut self) {
        let now = Instant::now();
        if let Some(running) = &mut self.running
            && running.node.poll_timeout().is_some_and(|(at, _)| at <= now)
        {
            running.node.handle_timeout(now);
        }
    }

    fn take(&mut self, input: ControlInput) {
        let now = Instant::now();
        let Some(running) = &mut self.running else { return };
        match input {
            ControlInput::Datagram { from, bytes } => running.node.handle_datagram(from, &bytes, now),
            ControlInput::WantSession(peer) => running.node.want_session(peer, now),
            ControlInput::LocalMac { mac, ips } => running.node.handle_foreign_mac(mac, &ips, now),
            // Lanes are keyed anew every two minutes, in which no counter gets near its limit.
            ControlInput::RekeyWanted(peer) => {
                tracing::warn!(peer = %peer.short(), "lane counter is half used")
            }
        }
    }

    /// Makes everything durable that was recorded in this turn, then lets out what waited for it.
    async fn settle(&mut self) {
        self.persist().await;
        while let Some(output) = self.running.as_mut().and_then(|r| r.node.poll_output()) {
            self.act(output);
        }
    }

    fn act(&mut self, output: Output) {
        let Some(running) = &mut self.running else { return };
        let datapath = &running.datapath;
        match output {
            Output::Transmit(to, datagram) => {
                // As good as lost on the way: whoever is to hear it asks again.
                if let Err(error) = datapath.control_socket().send(to, &datagram) {
                    tracing::debug!(%to, %error, "control datagram not sent");
                }
            }
            Output::InstallRx(key) => note_refused(datapath.install_rx(key)),
            Output::RetireRx(lane) => datapath.retire_rx(lane),
            Output::SetTx(peer, address, key) => note_refused(datapath.set_tx(peer, address, key)),
            Output::ClearTx(peer) => datapath.clear_tx(peer),
            Output::SetAddress(peer, address) => datapath.set_address(peer, address),
            Output::Endpoint(change) => show(datapath, running.node.me(), change),
            Output::FloodPeers(peers) => datapath.set_flood_peers(peers),
            Output::Leased(ticket, result) => self.leased(ticket, result),
            Output::Ponged(ticket, result) => self.ponged(ticket, result),
            Output::PeersChanged => self.peers_changed = true,
            Output::Removed { by } => {
                if self.removed_by.replace(by) != Some(by) {
                    tracing::error!(by = %by.short(), "this router was removed from the fabric");
                }
            }
            Output::BootChanged(boot) => {
                running.file.boot = boot;
                self.store_fabric();
            }
            Output::Clone(text) => {
                tracing::error!(text, "another router has this identity");
                self.clone = Some(text);
            }
            Output::Evidence(evidence) => self.evidence.push(evidence.encode()),
            Output::Notice(text) => tracing::info!(notice = text, "notice"),
        }
    }

    fn leased(&mut self, ticket: Ticket, result: Result<ipam::Lease, ipam::AllocateError>) {
        let Some((reply, had)) = self.leases.remove(&ticket) else { return };
        let Some(running) = &self.running else { return };
        let answer = match result {
            Ok(lease) => Ok(view::lease(&running.node, &running.file, &lease, !had)),
            Err(error) => Err(view::allocate_refusal(&error, &running.node)),
        };
        if let Err(Ok(unheard)) = reply.send(answer) {
            // The caller is gone: it will come back with a detach, or the next start rolls the lease back.
            tracing::debug!(address = %unheard.v4, "lease answered to nobody");
        }
    }

    fn ponged(&mut self, ticket: Ticket, result: Result<Pong, PingError>) {
        let Some(reply) = self.pings.remove(&ticket) else { return };
        let Some(running) = &self.running else { return };
        let answer = match result {
            Ok(pong) => Ok(view::pong(&running.node, &pong)),
            Err(error) => Err(refusal(ErrorCode::Unreachable, error.to_string())),
        };
        let _ = reply.send(answer);
    }

    fn attachment_list(&self) -> Vec<Attachment> {
        self.attachments.values().map(|kept| kept.attachment.clone()).collect()
    }

    fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    async fn keep_house(&mut self) {
        let now = Instant::now();
        let addresses = self.underlay_addresses().await;
        let dial = self.resolve_targets(now);
        self.follow_underlay().await;
        if let Some(running) = &mut self.running {
            let counters = running.datapath.counters();
            for (peer, traffic) in &counters.peers {
                let bytes = traffic.tx.bytes + traffic.rx.bytes;
                if running.last_bytes.insert(*peer, bytes) != Some(bytes) {
                    running.node.note_traffic(*peer, now);
                }
            }
            running.node.set_addresses(addresses, now);
            for address in dial {
                running.node.connect(address, now);
            }
        }
        if self.unsure && self.has_heard_fabric(now) {
            tracing::info!("the fabric was heard again; addresses are leased again");
            self.unsure = false;
            if let Some(running) = &mut self.running {
                running.node.trust_journal(now);
            }
        }
        self.compact().await;
    }

    /// Fits datagrams to the MTU that the underlay has now. Until it is noticed that the MTU fell, the kernel fragments what is too long.
    async fn follow_underlay(&mut self) {
        if self.running.is_none() {
            return;
        }
        let mtu = match self.kernel.underlay_mtu(self.config.listen.ip()).await {
            Ok(mtu) => mtu,
            Err(error) => {
                tracing::warn!(%error, "cannot read the MTU of the underlay");
                return;
            }
        };
        let path_mtu = self.path_mtu(mtu);
        let Some(running) = &mut self.running else { return };
        let before = std::mem::replace(&mut running.underlay_mtu, mtu);
        if before != mtu {
            tracing::info!(mtu, before, "the MTU of the underlay changed");
            running.datapath.set_underlay_mtu(path_mtu as usize);
        }
    }

    /// Starts the look-ups that are due. Answers the addresses that need none.
    fn resolve_targets(&mut self, now: Instant) -> Vec<SocketAddr> {
        let (fresh, names) = self.targets.due(now);
        for name in names {
            let resolver = self.resolver.clone();
            tokio::spawn(async move {
                let result = targets::resolve(&name).await;
                // Fails only when the engine has ended.
                let _ = resolver.send((name, result)).await;
            });
        }
        fresh
    }

    fn take_resolved(&mut self, name: &str, result: Resolved) {
        let now = Instant::now();
        let fresh = self.targets.resolved(name, result);
        if let Some(running) = &mut self.running {
            fresh.into_iter().for_each(|address| running.node.connect(address, now));
        }
    }

    /// Was there a session for long enough that gossip has told what it knows? A fabric of one has nobody to hear.
    fn has_heard_fabric(&self, now: Instant) -> bool {
        let Some(running) = &self.running else { return true };
        let heard = |since: Instant| now.saturating_duration_since(since) >= HEAR_FOR;
        let mut views = running.node.sessions().connections();
        (running.file.known.is_empty() && running.file.targets.is_empty())
            || views.any(|view| view.state == ConnectionState::Ready && heard(view.since))
    }

    async fn underlay_addresses(&self) -> Vec<SocketAddr> {
        let listen = self.config.listen;
        if !listen.ip().is_unspecified() {
            return vec![listen];
        }
        match self.kernel.underlay_addresses().await {
            Ok(ips) => ips
                .into_iter()
                .filter(|ip| ip.is_ipv4() || listen.is_ipv6())
                .map(|ip| SocketAddr::new(ip, listen.port()))
                .collect(),
            Err(error) => {
                tracing::warn!(%error, "cannot list underlay addresses");
                Vec::new()
            }
        }
    }
}

/// Puts a change of the forwarding table before the data path.
fn show(datapath: &Datapath, me: PeerId, change: Change) {
    match change {
        Change::Upsert { mac, owner, addresses } => {
            let owner = if owner == me { Owner::Local } else { Owner::Peer(owner) };
            datapath.upsert_endpoint(mac, Endpoint { owner, ips: addresses });
        }
        Change::Remove { mac } => datapath.remove_endpoint(mac),
    }
}

/// A refused key is a bug of ours: the session goes on without the lane and is shown without one.
fn note_refused(result: Result<(), DatapathError>) {
    if let Err(error) = result {
        tracing::error!(%error, "lane key refused");
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
