//! The sender's decisions: what happens to a frame from the TAP device. No system calls: they are behind `SenderIo`.

use std::hash::RandomState;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::{DefaultHashBuilder, HashMap};

use super::control::ControlInput;
use super::counters::{ThreadCounters, Traffic};
use super::cut::{self, Outgoing, PutError, Writer};
use super::drops::DropReason;
use super::frame::{self, Ethernet};
use super::keys::PeerId;
use super::neighbour::{MAX_ANSWER, Question};
use super::questions::{Answered, OpenQuestions};
use super::seal::{Outbox, SealError, SealedTrain, SealingLane, TrainSink};
use super::table::{EndpointTable, Owner};
use super::virtio;
use super::waiting::{Ask, WaitingRoom};
use crate::core::mac::Mac;

/// Peers whose datagrams are collected at once. With more in one batch of frames, the one that waits longest is sent early; eight
/// outboxes are a megabyte, of which a batch of small frames touches little.
const OUTBOXES: usize = 8;

/// Unknown hardware addresses remembered as reported. Beyond that the oldest is reported again when it is seen.
const MAX_REPORTED: usize = 1_024;

/// After this time an address that is still unknown is reported again, in case that control lost the first report.
const REPORT_AGAIN: Duration = Duration::from_secs(30);

/// What the sender does to the world.
pub trait SenderIo {
    /// Sends datagrams. An error says why they were dropped.
    fn send(&mut self, to: SocketAddr, train: SealedTrain<'_>) -> Result<(), DropReason>;
    /// Writes a frame to the TAP device.
    fn answer(&mut self, frame: &[u8]) -> Result<(), DropReason>;
    /// Tells the control plane, which bounds what it takes.
    fn control(&mut self, input: ControlInput);
}

/// An order from the control plane to the sender.
pub enum SenderOrder {
    /// Send to this peer on this lane from now on.
    SetTx {
        /// The peer.
        peer: PeerId,
        /// Where it is.
        address: SocketAddr,
        /// The lane.
        lane: SealingLane,
        /// Where its traffic is counted.
        traffic: Arc<Traffic>,
    },
    /// There is no lane to this peer any more.
    ClearTx(PeerId),
    /// The peer moved.
    SetAddress(PeerId, SocketAddr),
    /// No datagram may be longer from now on.
    SetLimit(usize),
    /// The forwarding table has grown while questions were open.
    TableChanged,
}

struct TxPeer {
    address: SocketAddr,
    lane: SealingLane,
    traffic: Arc<Traffic>,
    rekey: Rekey,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rekey {
    NotAsked,
    Asked,
}

#[derive(Default)]
struct Slot {
    peer: Option<PeerId>,
    outbox: Outbox,
}

/// Writes the answer to a question to the TAP device.
fn answer(
    question: &Question,
    mac: Mac,
    counters: &ThreadCounters,
    io: &mut impl SenderIo,
) -> Result<(), DropReason> {
    let mut out = [0; MAX_ANSWER];
    let length = question.answer(mac, &mut out);
    counters.answered.add(1);
    io.answer(&out[..length])
}

/// The sender's state.
pub struct Sender {
    start: Instant,
    limit: usize,
    /// Ids are hashes of keys, and the seed is ours, so a fast hash does.
    peers: HashMap<PeerId, TxPeer, DefaultHashBuilder>,
    waiting: WaitingRoom,
    slots: Vec<Slot>,
    next_slot: usize,
    scratch: Vec<u8>,
    reported: HashMap<(Mac, Option<IpAddr>), Instant, RandomState>,
    questions: OpenQuestions,
    counters: Arc<ThreadCounters>,
}

impl Sender {
    /// `limit` is the longest datagram for the underlay; `start` is what times are counted from.
    pub fn new(limit: usize, start: Instant, counters: Arc<ThreadCounters>) -> Sender {
        Sender {
            start,
            limit,
            peers: HashMap::default(),
            waiting: WaitingRoom::default(),
            slots: (0..OUTBOXES).map(|_| Slot::default()).collect(),
            next_slot: 0,
            scratch: Vec::new(),
            reported: HashMap::default(),
            questions: OpenQuestions::default(),
            counters,
        }
    }

    /// Takes an order. To be called between batches, when nothing is staged.
    pub fn handle_order(&mut self, order: SenderOrder, now: Instant, io: &mut impl SenderIo) {
        match order {
            SenderOrder::SetTx { peer, address, lane, traffic } => {
                if let Some(tx) = self.peers.get_mut(&peer)
                    && tx.lane.has_key_of(&lane)
                {
                    // The same key again, perhaps for the sake of the address: its counter must go on.
                    tx.address = address;
                    return;
                }
                self.peers.insert(peer, TxPeer { address, lane, traffic, rekey: Rekey::NotAsked });
                for mut frame in self.waiting.leave(peer, now, &self.counters) {
                    self.send_to_peer(peer, &mut frame.header, &mut frame.bytes, now, io);
                }
                self.flush(now, io);
            }
            SenderOrder::ClearTx(peer) => {
                self.peers.remove(&peer);
            }
            SenderOrder::SetAddress(peer, address) => {
                if let Some(tx) = self.peers.get_mut(&peer) {
                    tx.address = address;
                }
            }
            SenderOrder::SetLimit(limit) => self.limit = limit,
            // The worker looks at the table anew after every order.
            SenderOrder::TableChanged => {}
        }
    }

    /// Answers questions that had to wait for an announcement. To be called with each new table.
    pub fn answer_open(&mut self, table: &EndpointTable, now: Instant, io: &mut impl SenderIo) {
        if self.questions.is_empty() {
            return;
        }
        let counters = &self.counters;
        self.questions.settle(now, |question| match table.neighbour(question.target) {
            Some((mac, Owner::Peer(_))) => {
                if let Err(reason) = answer(question, mac, counters, io) {
                    counters.dropped(reason, 1);
                }
                Answered::Done
            }
            Some((_, Owner::Local)) => Answered::Done,
            None => Answered::NotYet,
        });
        self.counters.open_questions.set(self.questions.len() as u64);
    }

    /// Takes a frame from the TAP device. What can wait for the rest of the batch waits until `flush`.
    pub fn handle_frame(
        &mut self,
        table: &EndpointTable,
        header: virtio::Header,
        frame: &mut [u8],
        now: Instant,
        io: &mut impl SenderIo,
    ) {
        let fate = match Ethernet::parse(frame) {
            Some(ethernet) => self.forward(table, ethernet, header, frame, now, io),
            None => Err(DropReason::FrameTooShort),
        };
        if let Err(reason) = fate {
            self.counters.dropped(reason, 1);
        }
    }

    /// Sends everything that waits. To be called when a batch ends.
    pub fn flush(&mut self, now: Instant, io: &mut impl SenderIo) {
        for at in 0..self.slots.len() {
            self.flush_slot(at, now, io);
        }
    }

    /// Lets go of frames that waited too long. To be called about once a second.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.waiting.expire(now, &self.counters);
    }

    fn forward(
        &mut self,
        table: &EndpointTable,
        ethernet: Ethernet,
        mut header: virtio::Header,
        frame: &mut [u8],
        now: Instant,
        io: &mut impl SenderIo,
    ) -> Result<(), DropReason> {
        if !ethernet.src.is_unicast() {
            return Err(DropReason::SourceInvalid);
        }
        match table.owner(ethernet.src) {
            Some(Owner::Local) => {}
            Some(Owner::Peer(_)) => return Err(DropReason::SourceIsRemote),
            None => self.report(ethernet.src, None, now, io),
        }
        if frame::is_group(ethernet.dst) {
            return self.send_to_group(table, ethernet, header, frame, now, io);
        }
        match table.owner(ethernet.dst) {
            Some(Owner::Peer(peer)) => self.send_to_peer(peer, &mut header, frame, now, io),
            Some(Owner::Local) => return Err(DropReason::DestinationLocal),
            None => return Err(DropReason::DestinationUnknown),
        }
        Ok(())
    }

    fn send_to_group(
        &mut self,
        table: &EndpointTable,
        ethernet: Ethernet,
        mut header: virtio::Header,
        frame: &mut [u8],
        now: Instant,
        io: &mut impl SenderIo,
    ) -> Result<(), DropReason> {
        if frame::is_link_local_protocol(ethernet.dst) {
            return Err(DropReason::LinkLocalProtocol);
        }
        if let Some(question) = Question::parse(frame) {
            if table.is_every_hosts(question.target) {
                return Err(DropReason::NeighbourLocal);
            }
            if let Some(ip) = question.asker_ip
                && question.asker == ethernet.src
                && !table.is_every_hosts(ip)
                && table.neighbour(ip).is_none()
            {
                self.report(ethernet.src, Some(ip), now, io);
            }
            match table.neighbour(question.target) {
                Some((mac, Owner::Peer(_))) => return answer(&question, mac, &self.counters, io),
                Some((_, Owner::Local)) => return Err(DropReason::NeighbourLocal),
                None if table.in_range(question.target) => {
                    self.questions.keep(question, now);
                    self.counters.open_questions.set(self.questions.len() as u64);
                    return Err(DropReason::NeighbourUnknown);
                }
                None if question.is_for_a_free_link_local() => {
                    return self.send_to_acquainted(table, header, frame, now, io);
                }
                None => {}
            }
        }
        // A router that exists is heard by everybody from time to time, and so has sessions with all.
        if frame::is_for_routers(ethernet.dst) {
            return self.send_to_acquainted(table, header, frame, now, io);
        }
        for &peer in table.flood_peers() {
            self.send_to_peer(peer, &mut header, frame, now, io);
        }
        Ok(())
    }

    /// To everybody with whom there is a session.
    fn send_to_acquainted(
        &mut self,
        table: &EndpointTable,
        mut header: virtio::Header,
        frame: &mut [u8],
        now: Instant,
        io: &mut impl SenderIo,
    ) -> Result<(), DropReason> {
        let mut fate = Ok(());
        for &peer in table.flood_peers() {
            if self.peers.contains_key(&peer) {
                self.send_to_peer(peer, &mut header, frame, now, io);
            } else {
                fate = Err(DropReason::NotWorthASession);
            }
        }
        fate
    }

    fn send_to_peer(
        &mut self,
        peer: PeerId,
        header: &mut virtio::Header,
        frame: &mut [u8],
        now: Instant,
        io: &mut impl SenderIo,
    ) {
        if !self.peers.contains_key(&peer) {
            if self.waiting.enter(peer, *header, frame, now, &self.counters) == Ask::Now {
                io.control(ControlInput::WantSession(peer));
            }
            return;
        }
        let fate = match cut::classify(header, frame) {
            Ok(outgoing) => self.put(peer, outgoing, frame, now, io),
            Err(reason) => Err(reason),
        };
        if let Err(reason) = fate {
            self.counters.dropped(reason, 1);
        }
    }

    fn put(
        &mut self,
        peer: PeerId,
        outgoing: Outgoing,
        frame: &[u8],
        now: Instant,
        io: &mut impl SenderIo,
    ) -> Result<(), DropReason> {
        let at = self.slot(peer, now, io);
        let Some(tx) = self.peers.get_mut(&peer) else { return Ok(()) };
        tx.traffic.frames.add(1);
        tx.traffic.bytes.add(frame.len());
        let mut sink = PeerSink { io, address: tx.address, traffic: &tx.traffic, counters: &self.counters };
        let mut writer = Writer {
            outbox: &mut self.slots[at].outbox,
            lane: &mut tx.lane,
            sink: &mut sink,
            limit: self.limit,
            scratch: &mut self.scratch,
        };
        let result = writer.put(outgoing, frame);
        if tx.lane.wants_rekey() && tx.rekey == Rekey::NotAsked {
            tx.rekey = Rekey::Asked;
            io.control(ControlInput::RekeyWanted(peer));
        }
        result.map_err(reason_of)
    }

    /// The outbox of a peer. When all are taken by others, the longest taken one is sent and taken over.
    fn slot(&mut self, peer: PeerId, now: Instant, io: &mut impl SenderIo) -> usize {
        if let Some(at) = self.slots.iter().position(|slot| slot.peer == Some(peer)) {
            return at;
        }
        let at = match self.slots.iter().position(|slot| slot.peer.is_none()) {
            Some(at) => at,
            None => {
                let at = self.next_slot;
                self.next_slot = (at + 1) % OUTBOXES;
                self.flush_slot(at, now, io);
                at
            }
        };
        self.slots[at].peer = Some(peer);
        at
    }

    fn flush_slot(&mut self, at: usize, now: Instant, io: &mut impl SenderIo) {
        let slot = &mut self.slots[at];
        let Some(peer) = slot.peer.take() else { return };
        let Some(tx) = self.peers.get_mut(&peer) else { return };
        tx.traffic.last.set(millis(self.start, now));
        let mut sink = PeerSink { io, address: tx.address, traffic: &tx.traffic, counters: &self.counters };
        let mut writer = Writer {
            outbox: &mut slot.outbox,
            lane: &mut tx.lane,
            sink: &mut sink,
            limit: self.limit,
            scratch: &mut self.scratch,
        };
        if let Err(error) = writer.flush() {
            slot.outbox.send(&mut sink);
            self.counters.dropped(reason_of(error), 1);
        }
    }

    /// Tells control about a hardware address, or an address of it, that no endpoint has.
    fn report(&mut self, mac: Mac, ip: Option<IpAddr>, now: Instant, io: &mut impl SenderIo) {
        if let Some(&at) = self.reported.get(&(mac, ip))
            && now.saturating_duration_since(at) < REPORT_AGAIN
        {
            return;
        }
        if self.reported.len() >= MAX_REPORTED {
            self.reported.retain(|_, at| now.saturating_duration_since(*at) < REPORT_AGAIN);
        }
        if self.reported.len() >= MAX_REPORTED {
            self.reported.clear();
        }
        self.reported.insert((mac, ip), now);
        io.control(ControlInput::LocalMac { mac, ips: ip.into_iter().collect() });
    }
}

struct PeerSink<'a, Io> {
    io: &'a mut Io,
    address: SocketAddr,
    traffic: &'a Traffic,
    counters: &'a ThreadCounters,
}

impl<Io: SenderIo> TrainSink for PeerSink<'_, Io> {
    fn send(&mut self, train: SealedTrain<'_>) {
        match self.io.send(self.address, train) {
            Ok(()) => self.traffic.datagrams.add(train.count()),
            Err(reason) => self.counters.dropped(reason, train.count()),
        }
    }
}

/// Milliseconds after the start, plus one, as `Traffic::last` has it.
pub(super) fn millis(start: Instant, now: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(start).as_millis()).unwrap_or(u64::MAX - 1) + 1
}

fn reason_of(error: PutError) -> DropReason {
    match error {
        PutError::FrameTooLong => DropReason::FrameTooLong,
        PutError::Seal(SealError::CounterUsedUp | SealError::CipherRefused) => DropReason::LaneExhausted,
    }
}
