//! The hot path: frames from the TAP device to sealed datagrams and back, on threads without tokio.
//!
//! ```text
//!            outbound.rs          send.rs            cut.rs, wire.rs       seal.rs       socket.rs
//! TAP   →    read a batch    →    where it goes  →   frames to records →   seal     →    one send per peer
//! TAP   ←    write           ←    may it          ←  rebuild.rs        ←   open     ←    read a batch     ←   UDP
//!            inbound.rs           receive.rs         records to frames     open.rs       socket.rs
//! ```
//!
//! Only `tap`, `steering`, `socket`, `wake`, `inbound`, `outbound` and `worker` make system calls; the rest is buffers in, buffers
//! out. A worker is one thread, and under load a second one that takes the socket (ADR 0007): each direction belongs to one of them
//! at a time, with its lanes and counters. The forwarding table is a snapshot behind a pointer. Control reaches them by `Datapath`,
//! they reach control by `ControlInput`.

pub mod busy_poll;
pub mod checksum;
mod coalesce;
pub mod control;
pub mod counters;
pub mod cut;
pub mod drops;
pub mod frame;
mod inbound;
pub mod keys;
pub mod load;
pub mod mtu;
pub mod neighbour;
pub mod open;
mod outbound;
pub mod questions;
pub mod reassembly;
pub mod rebuild;
pub mod receive;
pub mod replay;
pub mod rewrite;
pub mod rota;
pub mod seal;
pub mod send;
mod shards;
pub mod socket;
mod steering;
pub mod table;
pub mod tap;
#[cfg(test)]
mod tests;
pub mod virtio;
pub mod waiting;
pub mod wake;
pub mod wire;
mod worker;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use ipnet::IpNet;

pub use control::ControlInput;
pub use counters::{DatapathCounters, PeerCounters, TrafficCounters};
pub use drops::DropReason;
pub use keys::{Cipher, LaneId, PeerId, RxLaneKey, TxLaneKey};
pub use socket::ControlSocket;
pub use table::{Endpoint, EndpointTable, Owner};
pub use tap::{Queues, TapDevice, TapError};

use counters::{ThreadCounters, Traffic};
use open::OpeningLane;
use receive::{Receiver, ReceiverOrder};
use seal::SealingLane;
use send::{Sender, SenderOrder};
use wake::Mailbox;
use worker::{ControlSink, Hands, Shared, Worker};

use crate::core::mac::Mac;

/// What the hot path is made of.
pub struct DatapathConfig {
    /// The TAP device; the worker serves all its queues in turn.
    pub tap: TapDevice,
    /// A bound socket (`socket::bind`).
    pub socket: UdpSocket,
    /// MTU of the underlay at the start, from which the longest datagram follows. Too large: datagrams are fragmented by IP. Too
    /// small: more datagrams than needed, and full-size frames travel in pieces.
    pub underlay_mtu: usize,
    /// How long a worker looks on after its last frame before it sleeps (`busy_poll`); zero: not at all.
    pub look: Duration,
}

/// What starting the hot path, or giving it a key, can meet.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The kernel refused a descriptor, a thread or a socket address.
    #[error("cannot start the hot path")]
    StartFailed(#[from] io::Error),
    /// The AEAD does not take the key. Cannot happen with keys of 32 bytes.
    #[error("the cipher refused the key of lane {0:?}")]
    KeyRefused(LaneId),
}

/// The running hot path. Methods are for the control plane, from any thread; each takes a lock for a moment and never waits for
/// the threads. Stops when dropped.
pub struct Datapath {
    start: Instant,
    underlay: mtu::Underlay,
    table: Arc<ArcSwap<EndpointTable>>,
    /// The table as control sees it; snapshots are made of it.
    master: Mutex<EndpointTable>,
    sender: Arc<Mailbox<SenderOrder>>,
    receiver: Arc<Mailbox<ReceiverOrder>>,
    sender_counters: Arc<ThreadCounters>,
    receiver_counters: Arc<ThreadCounters>,
    traffic: Mutex<BTreeMap<PeerId, PeerTraffic>>,
    control_socket: ControlSocket,
    threads: Vec<JoinHandle<()>>,
    /// Why a thread ended by itself.
    failure: Arc<OnceLock<String>>,
}

#[derive(Clone, Default)]
struct PeerTraffic {
    tx: Arc<Traffic>,
    rx: Arc<Traffic>,
}

impl Datapath {
    /// Starts the threads. `control` is called from them and must not block.
    pub fn start(
        config: DatapathConfig,
        control: impl Fn(ControlInput) + Send + Sync + 'static,
    ) -> Result<Datapath, DatapathError> {
        let udp = config.tap.udp_segmentation();
        let (queues, socket) = (config.tap.into_queues(), config.socket);
        let start = Instant::now();
        let underlay = mtu::Underlay::of(socket.local_addr()?);
        let mut datapath = Datapath {
            start,
            underlay,
            table: Arc::default(),
            master: Mutex::default(),
            sender: Arc::new(Mailbox::new()?),
            receiver: Arc::new(Mailbox::new()?),
            sender_counters: Arc::default(),
            receiver_counters: Arc::default(),
            traffic: Mutex::default(),
            control_socket: ControlSocket::new(socket.try_clone()?)?,
            threads: Vec::new(),
            failure: Arc::default(),
        };
        let limit = mtu::datagram_limit(config.underlay_mtu, underlay);
        let control: ControlSink = Arc::new(control);
        let sender = Sender::new(limit, start, Arc::clone(&datapath.sender_counters));
        let receiver = Receiver::new(udp, start, Arc::clone(&datapath.receiver_counters));
        let worker = Worker {
            sending: datapath.share(&datapath.sender, &datapath.sender_counters, &control),
            receiving: datapath.share(&datapath.receiver, &datapath.receiver_counters, &control),
            queues,
            socket,
            look: config.look,
            call: Mailbox::new()?,
            hands: Hands::default(),
        };
        datapath.spawn("weave-worker", move || worker.run(sender, receiver))?;
        Ok(datapath)
    }

    /// Accepts a peer's lane from now on: what the peer sends after it hears of this is opened.
    pub fn install_rx(&self, key: RxLaneKey) -> Result<(), DatapathError> {
        let opening = OpeningLane::new(&key).ok_or(DatapathError::KeyRefused(key.lane))?;
        let traffic = self.traffic_of(key.peer).rx;
        self.receiver.send(ReceiverOrder::InstallRx { lane: key.lane, opening: Box::new(opening), traffic });
        Ok(())
    }

    /// Accepts nothing more on a lane.
    pub fn retire_rx(&self, lane: LaneId) {
        self.receiver.send(ReceiverOrder::RetireRx(lane));
    }

    /// Sends to a peer on this lane from now on. Frames that waited for it leave first, in order. The key that is in use
    /// already goes on where its counter is.
    pub fn set_tx(&self, peer: PeerId, address: SocketAddr, key: TxLaneKey) -> Result<(), DatapathError> {
        let lane = key.lane;
        let lane = SealingLane::new(key).map_err(|_| DatapathError::KeyRefused(lane))?;
        let traffic = self.traffic_of(peer).tx;
        self.sender.send(SenderOrder::SetTx { peer, address, lane, traffic });
        Ok(())
    }

    /// Forgets the lane to a peer; the next frame for it asks for a session.
    pub fn clear_tx(&self, peer: PeerId) {
        self.sender.send(SenderOrder::ClearTx(peer));
    }

    /// Sends to a peer's new address from now on, on the lane that it has.
    pub fn set_address(&self, peer: PeerId, address: SocketAddr) {
        self.sender.send(SenderOrder::SetAddress(peer, address));
    }

    /// Fits datagrams to an underlay whose MTU has changed. Containers keep the MTU that they have: frames that became too long for
    /// a datagram travel in pieces.
    pub fn set_underlay_mtu(&self, underlay_mtu: usize) {
        self.sender.send(SenderOrder::SetLimit(mtu::datagram_limit(underlay_mtu, self.underlay)));
    }

    /// Forgets the counters of a peer that left the fabric.
    pub fn forget_peer(&self, peer: PeerId) {
        self.clear_tx(peer);
        locked(&self.traffic).remove(&peer);
    }

    /// Changes the forwarding table and shows the change to the threads at once. Changes that come together should be made in
    /// one call: each makes a copy of the table.
    pub fn update_table<R>(&self, change: impl FnOnce(&mut EndpointTable) -> R) -> R {
        let mut master = locked(&self.master);
        let result = change(&mut master);
        self.table.store(Arc::new(master.clone()));
        if self.sender_counters.open_questions.read() > 0 {
            self.sender.send(SenderOrder::TableChanged);
        }
        result
    }

    /// Sets one endpoint.
    pub fn upsert_endpoint(&self, mac: Mac, endpoint: Endpoint) {
        self.update_table(|table| table.upsert(mac, endpoint));
    }

    /// Removes one endpoint.
    pub fn remove_endpoint(&self, mac: Mac) {
        self.update_table(|table| table.remove(mac));
    }

    /// Sets who gets broadcast and multicast.
    pub fn set_flood_peers(&self, peers: Vec<PeerId>) {
        self.update_table(|table| table.set_flood_peers(peers));
    }

    /// Sets the addresses that every host has for itself on its bridge: questions for them do not leave the host.
    pub fn set_own_addresses(&self, addresses: Vec<IpAddr>) {
        self.update_table(|table| table.set_every_hosts(addresses));
    }

    /// Sets the ranges in which every address in use is announced, so that nobody is asked for others.
    pub fn set_ranges(&self, ranges: Vec<IpNet>) {
        self.update_table(|table| table.set_ranges(ranges));
    }

    /// Where control datagrams are sent: from the address and port of the lanes.
    pub fn control_socket(&self) -> &ControlSocket {
        &self.control_socket
    }

    /// What was counted so far.
    pub fn counters(&self) -> DatapathCounters {
        let (sender, receiver) = (&self.sender_counters, &self.receiver_counters);
        let mut drops = BTreeMap::new();
        for &reason in DropReason::ALL {
            let count = sender.drops(reason) + receiver.drops(reason);
            if count > 0 {
                drops.insert(reason, count);
            }
        }
        let peers = locked(&self.traffic)
            .iter()
            .map(|(&peer, traffic)| {
                let (tx, rx) = (traffic.tx.read(self.start), traffic.rx.read(self.start));
                (peer, PeerCounters { tx, rx })
            })
            .collect();
        DatapathCounters {
            peers,
            drops,
            tap_reads: sender.reads.read(),
            tap_writes: receiver.writes.read(),
            socket_reads: receiver.reads.read(),
            socket_sends: sender.writes.read(),
            single_sends: sender.single_sends.read(),
            answered: sender.answered.read(),
        }
    }

    /// Why nothing is forwarded any more. The threads end by themselves only when the kernel takes the device or the socket away or
    /// refuses the second thread; nothing is forwarded then until the hot path is started anew.
    pub fn failure(&self) -> Option<String> {
        let stopped = self.threads.iter().any(JoinHandle::is_finished);
        stopped.then(|| self.failure.get().map_or("a thread has ended", String::as_str).to_owned())
    }

    /// Ends the threads and closes the device and the sockets.
    pub fn stop(mut self) {
        self.end();
    }

    fn traffic_of(&self, peer: PeerId) -> PeerTraffic {
        locked(&self.traffic).entry(peer).or_default().clone()
    }

    fn share<T>(
        &self,
        mailbox: &Arc<Mailbox<T>>,
        counters: &Arc<ThreadCounters>,
        control: &ControlSink,
    ) -> Shared<T> {
        Shared {
            table: Arc::clone(&self.table),
            mailbox: Arc::clone(mailbox),
            counters: Arc::clone(counters),
            control: Arc::clone(control),
        }
    }

    fn spawn(
        &mut self,
        name: &str,
        run: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> Result<(), DatapathError> {
        let (label, failure) = (name.to_owned(), Arc::clone(&self.failure));
        let thread = std::thread::Builder::new().name(label.clone()).spawn(move || {
            if let Err(error) = run() {
                tracing::error!(thread = label, %error, "hot path thread ended");
                // The first failure causes the others.
                let _ = failure.set(error.to_string());
            }
        })?;
        self.threads.push(thread);
        Ok(())
    }

    fn end(&mut self) {
        self.sender.stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a hot path thread had panicked");
            }
        }
    }
}

impl Drop for Datapath {
    fn drop(&mut self) {
        self.end();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while it was held leaves data that is whole: every change is one call.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
