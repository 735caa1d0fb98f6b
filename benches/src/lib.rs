//! What the benchmarks of the hot path need of it. Nothing here is used by the product.
//!
//! - `cargo bench -p benches`: criterion, no root: each part beside its limit. `-- NAME` selects, `-- --test` runs each once.
//! - `cargo run --release -p benches --example tap`: needs root: a TCP stream through our TAP device and through tun-tap's (ADR 0002).
//!
//! The benchmarks know the hot path through these functions only, so that a change of it is followed in one place.

use std::hint::black_box;
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use router::core::mac::Mac;
use router::datapath::control::ControlInput;
use router::datapath::cut;
use router::datapath::drops::DropReason;
use router::datapath::frame::{Ethernet, Headers};
use router::datapath::neighbour::{MAX_ANSWER, Question};
use router::datapath::open::OpeningLane;
use router::datapath::rebuild::{FrameSink, Origin, Rebuilder, UdpSegmentation};
use router::datapath::replay::{ReplayWindow, Verdict};
use router::datapath::seal::{Outbox, SealedTrain, SealingLane};
use router::datapath::send::{Sender, SenderIo, SenderOrder};
use router::datapath::wire::LaneHeader;
use router::datapath::{
    Cipher, Endpoint, EndpointTable, LaneId, Owner, PeerId, RxLaneKey, TxLaneKey, checksum, rewrite, virtio,
};
use zeroize::Zeroizing;

pub use router::datapath::virtio::Header as VirtioHeader;

/// The address of the container that sends.
pub const SOURCE: Mac = Mac([0x0a, 0x77, 10, 32, 0, 1]);
/// The address of the container that receives.
pub const DESTINATION: Mac = Mac([0x0a, 0x77, 10, 32, 0, 2]);
/// The longest datagram of an underlay with MTU 1500 and IPv4 addresses.
pub const LIMIT: usize = 1472;
/// Payload of a TCP segment that fills such a datagram.
pub const SEGMENT: usize = 1358;
/// Payload of a super-frame that fills one send.
pub const PAYLOAD: usize = 42 * SEGMENT;
/// Length of the buffer for an answer.
pub const ARP: usize = MAX_ANSWER;

const LANE: LaneId = LaneId(0x100);
const PEER: PeerId = PeerId([2; 16]);

/// A super-frame of TCP over IPv4 with timestamps, as the kernel hands it over.
pub fn super_frame(payload: usize, segment: usize) -> (VirtioHeader, Vec<u8>) {
    let mut frame = [DESTINATION.0, SOURCE.0].concat();
    let total = u16::try_from(52 + payload).unwrap_or(u16::MAX);
    frame.extend([0x08, 0x00, 0x45, 0]);
    frame.extend(total.to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 10, 32, 0, 1, 10, 32, 0, 2]);
    tcp_with_payload(frame, payload, segment)
}

/// The same over IPv6.
pub fn super_frame_ipv6(payload: usize, segment: usize) -> (VirtioHeader, Vec<u8>) {
    let mut frame = [DESTINATION.0, SOURCE.0].concat();
    let length = u16::try_from(32 + payload).unwrap_or(u16::MAX);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend([6, 64]);
    for last in [1, 2] {
        frame.extend([0xfd; 15]);
        frame.push(last);
    }
    tcp_with_payload(frame, payload, segment)
}

fn tcp_with_payload(mut frame: Vec<u8>, payload: usize, segment: usize) -> (VirtioHeader, Vec<u8>) {
    let l4 = frame.len();
    frame.extend([0x80, 0, 0x14, 0x51, 0, 0, 0, 1, 0, 0, 0, 1, 0x80, 0x18, 1, 0, 0, 0, 0, 0]);
    frame.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 1]);
    let whole = frame.len();
    frame.resize(whole + payload, 0x5a);
    let Some(headers) = Headers::parse(&frame) else { return (VirtioHeader::default(), frame) };
    rewrite::seed(&mut frame, &headers, 32 + payload);
    let gso = if frame[12] == 0x08 { virtio::GSO_TCPV4 } else { virtio::GSO_TCPV6 };
    let header = VirtioHeader {
        flags: virtio::NEEDS_CSUM,
        gso_type: if payload > segment { gso } else { virtio::GSO_NONE },
        hdr_len: u16::try_from(whole).unwrap_or(u16::MAX),
        gso_size: u16::try_from(segment).unwrap_or(u16::MAX),
        csum_start: u16::try_from(l4).unwrap_or(u16::MAX),
        csum_offset: 16,
    };
    (header, frame)
}

/// Frames of the kinds that traffic is made of: name, virtio header, frame, and the length of its headers.
pub fn frames() -> Vec<(&'static str, VirtioHeader, Vec<u8>, usize)> {
    let (bulk4, frame4) = super_frame(PAYLOAD, SEGMENT);
    let (bulk6, frame6) = super_frame_ipv6(PAYLOAD, SEGMENT);
    let (ack, small) = super_frame(0, SEGMENT);
    vec![
        ("TCP super-frame, IPv4", bulk4, frame4, 66),
        ("TCP super-frame, IPv6", bulk6, frame6, 86),
        ("TCP acknowledgement, IPv4", ack, small, 66),
    ]
}

/// Classifies a frame as the sender does.
pub fn classify(mut header: VirtioHeader, frame: &mut [u8]) -> bool {
    cut::classify(&mut header, frame).map(black_box).is_ok()
}

/// An ARP request of the container that sends for the one that receives.
pub fn arp_request() -> Vec<u8> {
    let mut frame = [[0xff; 6], SOURCE.0].concat();
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(SOURCE.0);
    frame.extend([10, 32, 0, 1, 0, 0, 0, 0, 0, 0, 10, 32, 0, 2]);
    frame
}

/// Answers an ARP request, as the sender does once the table has said whose the address is.
pub fn answer_arp(frame: &[u8], out: &mut [u8; ARP]) -> usize {
    Question::parse(frame).map_or(0, |question| question.answer(DESTINATION, out))
}

/// Completes the checksum of a transport header and its payload.
pub fn complete_checksum(bytes: &mut [u8]) -> bool {
    checksum::complete(bytes, 16).is_some()
}

/// A forwarding table with its own two containers and others at a peer.
#[derive(Clone)]
pub struct Table(EndpointTable);

impl Table {
    /// So many others, each with an IPv4 address.
    pub fn with(endpoints: u32) -> Table {
        let mut table = Table(EndpointTable::default());
        table.0.upsert(SOURCE, Endpoint { owner: Owner::Local, ips: vec![] });
        table.0.upsert(DESTINATION, Endpoint { owner: Owner::Peer(PEER), ips: vec![] });
        (0..endpoints).for_each(|i| table.upsert(i));
        table
    }

    /// The hardware address of one of the others.
    pub fn mac(i: u32) -> Mac {
        let [a, b, c, d] = i.to_be_bytes();
        Mac([2, 9, a, b, c, d])
    }

    /// Sets one of the others anew.
    pub fn upsert(&mut self, i: u32) {
        let ips = vec![IpAddr::V4(Ipv4Addr::from(0x0a20_0000 + i))];
        self.0.upsert(Table::mac(i), Endpoint { owner: Owner::Peer(PEER), ips });
    }

    /// What the threads would see from now on.
    pub fn snapshot(&self) -> Arc<Table> {
        Arc::new(self.clone())
    }

    /// Whose a hardware address is.
    pub fn owner(&self, mac: Mac) -> Option<Owner> {
        self.0.owner(mac)
    }

    /// Who has an address.
    pub fn neighbour(&self, ip: IpAddr) -> Option<(Mac, Owner)> {
        self.0.neighbour(ip)
    }
}

/// Both ends of one lane.
pub struct Lanes {
    sealing: SealingLane,
    outbox: Outbox,
    opening: OpeningLane,
}

impl Lanes {
    /// With the same key at both ends.
    pub fn new(cipher: Cipher) -> Lanes {
        let key = RxLaneKey { lane: LANE, peer: PEER, cipher, key: Zeroizing::new([7; 32]) };
        let opening = OpeningLane::new(&key).expect("a key of 32 bytes is taken");
        Lanes { sealing: sealing(cipher), outbox: Outbox::default(), opening }
    }

    /// Seals so many records of whatever the outbox holds.
    pub fn seal(&mut self, count: usize, length: usize, void: &mut Void) {
        let mut sink = |train: SealedTrain<'_>| void.train(train);
        for _ in 0..count {
            self.outbox.stage(length);
            self.outbox.seal(&mut self.sealing, &mut sink).expect("far from the counter's limit");
        }
        self.outbox.send(&mut sink);
    }

    /// Opens a datagram in place.
    pub fn open<'a>(&mut self, datagram: &'a mut [u8]) -> &'a mut [u8] {
        let header = LaneHeader::parse(datagram).expect("a lane datagram");
        self.opening.open(header, datagram).expect("sealed for this lane, and new")
    }
}

fn sealing(cipher: Cipher) -> SealingLane {
    let key = TxLaneKey { lane: LANE, cipher, key: Zeroizing::new([7; 32]) };
    SealingLane::new(key).expect("a key of 32 bytes is taken")
}

/// The sender's decisions, with one lane and no system calls.
pub struct Forwarder {
    sender: Sender,
    now: Instant,
}

impl Forwarder {
    /// With a lane to the peer.
    pub fn new(cipher: Cipher, void: &mut Void) -> Forwarder {
        let now = Instant::now();
        let mut sender = Sender::new(LIMIT, now, Arc::default());
        let address = SocketAddr::from(([192, 0, 2, 1], 6783));
        let order =
            SenderOrder::SetTx { peer: PEER, address, lane: sealing(cipher), traffic: Arc::default() };
        sender.handle_order(order, now, void);
        Forwarder { sender, now }
    }

    /// Takes a frame.
    pub fn frame(&mut self, table: &Table, header: VirtioHeader, frame: &mut [u8], void: &mut Void) {
        self.sender.handle_frame(&table.0, header, frame, self.now, void);
    }

    /// Ends a batch.
    pub fn flush(&mut self, void: &mut Void) {
        self.sender.flush(self.now, void);
    }
}

/// Makes frames of records that were opened.
pub fn rebuild_opened(records: &mut [Vec<u8>], void: &mut Void) {
    let mut rebuilder = Rebuilder::new(UdpSegmentation::Available);
    for (counter, record) in (0..).zip(records) {
        rebuilder.record(Origin { peer: PEER, lane: LANE, counter }, record, void);
    }
    rebuilder.flush(void);
}

/// A replay window as a lane uses it.
#[derive(Default)]
pub struct Window(ReplayWindow);

impl Window {
    /// Whether a counter is new, which it then is no more.
    pub fn accept(&mut self, counter: u64) -> bool {
        let fresh = self.0.check(counter) == Verdict::Fresh;
        if fresh {
            self.0.mark(counter);
        }
        fresh
    }
}

/// Takes everything and keeps only counts, or the datagrams for the other side.
#[derive(Default)]
pub struct Void {
    /// Datagrams given.
    pub datagrams: usize,
    /// Frames written.
    pub frames: usize,
    kept: Option<Vec<u8>>,
    segment: usize,
}

impl Void {
    /// One that keeps datagrams; they must be equally long, but for the last.
    pub fn keeping() -> Void {
        Void { kept: Some(Vec::new()), ..Void::default() }
    }

    /// Forgets what it kept.
    pub fn clear(&mut self) {
        if let Some(kept) = &mut self.kept {
            kept.clear();
        }
    }

    /// The datagrams that it kept.
    pub fn datagrams_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.kept.iter_mut().flat_map(|kept| kept.chunks_mut(self.segment))
    }

    fn train(&mut self, train: SealedTrain<'_>) {
        self.datagrams += train.count();
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(train.bytes());
            self.segment = train.segment();
        } else {
            black_box(train.bytes());
        }
    }
}

impl SenderIo for Void {
    fn send(&mut self, _to: SocketAddr, train: SealedTrain<'_>) -> Result<(), DropReason> {
        self.train(train);
        Ok(())
    }

    fn answer(&mut self, _frame: &[u8]) -> Result<(), DropReason> {
        Ok(())
    }

    fn control(&mut self, _input: ControlInput) {}
}

impl FrameSink for Void {
    fn admit(&mut self, _peer: PeerId, _ethernet: &Ethernet) -> Result<(), DropReason> {
        Ok(())
    }

    fn write(&mut self, _peer: PeerId, parts: &[IoSlice<'_>], _frames: usize) {
        self.frames += 1;
        black_box(parts);
    }

    fn dropped(&mut self, reason: DropReason, _count: usize) {
        // A bench that measures drops measures nothing.
        unreachable!("dropped: {reason:?}");
    }
}
