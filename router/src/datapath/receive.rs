//! The receiver's decisions: what happens to a datagram from the wire. No system calls: they are behind `ReceiverIo`.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use hashbrown::{DefaultHashBuilder, HashMap};

use super::control::ControlInput;
use super::counters::{ThreadCounters, Traffic};
use super::drops::DropReason;
use super::frame::{self, Ethernet};
use super::keys::{LaneId, PeerId};
use super::open::OpeningLane;
use super::reassembly::Reassembly;
use super::rebuild::{FrameSink, Origin, Rebuilder, UdpSegmentation};
use super::send::millis;
use super::table::{EndpointTable, Owner};
use super::wire::{KIND_FRAGMENT, KIND_LANE, LaneHeader};

/// What the receiver does to the world.
pub trait ReceiverIo {
    /// Writes a frame to the TAP device, given in parts with its virtio header first.
    fn write(&mut self, parts: &[IoSlice<'_>]) -> Result<(), DropReason>;
    /// Tells the control plane, which bounds what it takes.
    fn control(&mut self, input: ControlInput);
}

/// An order from the control plane to the receiver.
pub enum ReceiverOrder {
    /// Accept this lane from now on.
    InstallRx {
        /// Its name.
        lane: LaneId,
        /// Key and window; boxed since orders are moved about.
        opening: Box<OpeningLane>,
        /// Where its traffic is counted.
        traffic: Arc<Traffic>,
    },
    /// Accept nothing more on this lane.
    RetireRx(LaneId),
}

/// Datagrams that one read of the socket brought: all from one place and equally long, but for the last.
pub struct Received<'a> {
    /// Where they came from.
    pub from: SocketAddr,
    /// All of them, one after the other.
    pub bytes: &'a mut [u8],
    /// Length of each but the last.
    pub segment: usize,
}

struct RxLane {
    opening: Box<OpeningLane>,
    traffic: Arc<Traffic>,
}

/// The receiver's state.
pub struct Receiver {
    start: Instant,
    udp: UdpSegmentation,
    /// Names are ours to choose, so a fast hash does.
    lanes: HashMap<LaneId, RxLane, DefaultHashBuilder>,
    reassembly: Reassembly,
    counters: Arc<ThreadCounters>,
}

impl Receiver {
    /// `start` is what times are counted from.
    pub fn new(udp: UdpSegmentation, start: Instant, counters: Arc<ThreadCounters>) -> Receiver {
        Receiver { start, udp, lanes: HashMap::default(), reassembly: Reassembly::default(), counters }
    }

    /// Takes an order.
    pub fn handle_order(&mut self, order: ReceiverOrder) {
        match order {
            ReceiverOrder::InstallRx { lane, opening, traffic } => {
                self.lanes.insert(lane, RxLane { opening, traffic });
            }
            ReceiverOrder::RetireRx(lane) => {
                self.lanes.remove(&lane);
            }
        }
    }

    /// Takes what a round of reading brought. Everything is written when it returns.
    pub fn handle_batch<'a>(
        &mut self,
        table: &EndpointTable,
        batch: impl Iterator<Item = Received<'a>>,
        now: Instant,
        io: &mut impl ReceiverIo,
    ) {
        let mut rebuilder = Rebuilder::new(self.udp);
        let mut sink = Sink { table, io, counters: &self.counters, traffic: None };
        for received in batch {
            if received.bytes.is_empty() {
                self.counters.dropped(DropReason::DatagramEmpty, 1);
                continue;
            }
            let segment = received.segment.max(1);
            for datagram in received.bytes.chunks_mut(segment) {
                if datagram[0] != KIND_LANE {
                    let bytes = datagram.to_vec();
                    sink.io.control(ControlInput::Datagram { from: received.from, bytes });
                    continue;
                }
                let Some(header) = LaneHeader::parse(datagram) else {
                    self.counters.dropped(DropReason::LaneHeaderMalformed, 1);
                    continue;
                };
                let Some(lane) = self.lanes.get_mut(&header.lane) else {
                    self.counters.dropped(DropReason::LaneUnknown, 1);
                    continue;
                };
                let record = match lane.opening.open(header, datagram) {
                    Ok(record) => record,
                    Err(reason) => {
                        self.counters.dropped(reason, 1);
                        continue;
                    }
                };
                lane.traffic.datagrams.add(1);
                lane.traffic.last.set(millis(self.start, now));
                let origin = Origin { peer: lane.opening.peer(), lane: header.lane, counter: header.counter };
                if !sink.traffic.as_ref().is_some_and(|traffic| Arc::ptr_eq(traffic, &lane.traffic)) {
                    rebuilder.flush(&mut sink);
                    sink.traffic = Some(Arc::clone(&lane.traffic));
                }
                if record.first() == Some(&KIND_FRAGMENT) {
                    rebuilder.flush(&mut sink);
                    fragment(&mut self.reassembly, self.udp, origin, record, now, &mut sink);
                } else {
                    rebuilder.record(origin, record, &mut sink);
                }
            }
        }
        rebuilder.flush(&mut sink);
    }
}

fn fragment<Io: ReceiverIo>(
    reassembly: &mut Reassembly,
    udp: UdpSegmentation,
    origin: Origin,
    fragment: &[u8],
    now: Instant,
    sink: &mut Sink<'_, Io>,
) {
    let (result, expired) = reassembly.insert(origin, fragment, now);
    sink.dropped(DropReason::FragmentExpired, expired);
    match result {
        Ok(Some(mut record)) => {
            let mut rebuilder = Rebuilder::new(udp);
            rebuilder.record(origin, &mut record, sink);
            rebuilder.flush(sink);
            reassembly.recycle(record);
        }
        Ok(None) => {}
        Err(reason) => sink.dropped(reason, 1),
    }
}

struct Sink<'a, Io> {
    table: &'a EndpointTable,
    io: &'a mut Io,
    counters: &'a ThreadCounters,
    /// Of the lane whose records are being rebuilt.
    traffic: Option<Arc<Traffic>>,
}

impl<Io: ReceiverIo> FrameSink for Sink<'_, Io> {
    fn admit(&mut self, peer: PeerId, ethernet: &Ethernet) -> Result<(), DropReason> {
        if !ethernet.src.is_unicast() {
            return Err(DropReason::SourceInvalid);
        }
        match self.table.owner(ethernet.src) {
            Some(Owner::Peer(owner)) if owner == peer => {}
            Some(Owner::Peer(_) | Owner::Local) => return Err(DropReason::SourceOfOther),
            // Its announcement may still be on the way.
            None => {}
        }
        if frame::is_link_local_protocol(ethernet.dst) {
            return Err(DropReason::LinkLocalProtocol);
        }
        match self.table.owner(ethernet.dst) {
            _ if frame::is_group(ethernet.dst) => Ok(()),
            Some(Owner::Local) => Ok(()),
            // The bridge would flood it to every container.
            Some(Owner::Peer(_)) | None => Err(DropReason::DestinationNotHere),
        }
    }

    fn write(&mut self, _peer: PeerId, parts: &[IoSlice<'_>], frames: usize) {
        if let Some(traffic) = &self.traffic {
            traffic.frames.add(frames);
            // The headers stand in each frame that was joined.
            let headers = parts.get(1).map_or(0, |part| part.len());
            let bytes: usize = parts[1..].iter().map(|part| part.len()).sum();
            traffic.bytes.add(bytes + (frames - 1) * headers);
        }
        if let Err(reason) = self.io.write(parts) {
            self.counters.dropped(reason, 1);
        }
    }

    fn dropped(&mut self, reason: DropReason, count: usize) {
        if count > 0 {
            self.counters.dropped(reason, count);
        }
    }
}
