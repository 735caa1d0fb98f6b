//! Whole-path tests without system calls: frames into a `Sender`, its trains through a bad network into a `Receiver`, and what
//! that writes, cut into wire frames by a reference segmenter, against what the first frame is cut into.

mod coalescing;

use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use proptest::prelude::*;
use smoltcp::wire::{Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket};
use zeroize::Zeroizing;

use super::checksum;
use super::control::ControlInput;
use super::counters::{ThreadCounters, Traffic};
use super::drops::DropReason;
use super::frame::{Headers, Network, Transport};
use super::keys::{Cipher, LaneId, PeerId, RxLaneKey, TxLaneKey};
use super::open::OpeningLane;
use super::rebuild::UdpSegmentation;
use super::receive::{Received, Receiver, ReceiverIo, ReceiverOrder};
use super::seal::{SealedTrain, SealingLane};
use super::send::{Sender, SenderIo, SenderOrder};
use super::table::{Endpoint, EndpointTable, Owner};
use super::virtio;
use crate::core::mac::Mac;

const ALICE: PeerId = PeerId([1; 16]);
const BOB: PeerId = PeerId([2; 16]);
const CAROL: PeerId = PeerId([3; 16]);
const MAC_A: Mac = Mac([0x0a, 0x77, 10, 32, 0, 1]);
const MAC_B: Mac = Mac([0x0a, 0x77, 10, 32, 0, 2]);
const MAC_C: Mac = Mac([0x0a, 0x77, 10, 32, 0, 3]);

/// A frame as it is on a TAP device.
type TapFrame = (virtio::Header, Vec<u8>);

#[derive(Default)]
struct World {
    trains: Vec<Vec<Vec<u8>>>,
    answers: Vec<Vec<u8>>,
    written: Vec<TapFrame>,
    control: Vec<ControlInput>,
}

impl SenderIo for World {
    fn send(&mut self, _to: SocketAddr, train: SealedTrain<'_>) -> Result<(), DropReason> {
        self.trains.push(train.bytes().chunks(train.segment()).map(<[u8]>::to_vec).collect());
        Ok(())
    }

    fn answer(&mut self, frame: &[u8]) -> Result<(), DropReason> {
        self.answers.push(frame.to_vec());
        Ok(())
    }

    fn control(&mut self, input: ControlInput) {
        self.control.push(input);
    }
}

impl ReceiverIo for World {
    fn write(&mut self, parts: &[IoSlice<'_>]) -> Result<(), DropReason> {
        let header = virtio::Header::parse(parts[0].first_chunk().expect("virtio header"));
        self.written.push((header, parts[1..].iter().flat_map(|part| part.iter().copied()).collect()));
        Ok(())
    }

    fn control(&mut self, input: ControlInput) {
        self.control.push(input);
    }
}

/// Alice's sender and Bob's receiver with a lane between them.
struct Pair {
    sender: Sender,
    receiver: Receiver,
    at_alice: EndpointTable,
    at_bob: EndpointTable,
    world: World,
    sender_counters: Arc<ThreadCounters>,
    receiver_counters: Arc<ThreadCounters>,
    now: Instant,
}

impl Pair {
    fn new(limit: usize) -> Pair {
        let mut pair = Pair::without_lane(limit);
        pair.connect();
        pair
    }

    fn without_lane(limit: usize) -> Pair {
        let now = Instant::now();
        let (sender_counters, receiver_counters) = (Arc::default(), Arc::default());
        let mut pair = Pair {
            sender: Sender::new(limit, now, Arc::clone(&sender_counters)),
            receiver: Receiver::new(UdpSegmentation::Available, now, Arc::clone(&receiver_counters)),
            at_alice: EndpointTable::default(),
            at_bob: EndpointTable::default(),
            world: World::default(),
            sender_counters,
            receiver_counters,
            now,
        };
        for (mac, peer, ip) in
            [(MAC_A, ALICE, "10.32.0.1"), (MAC_B, BOB, "10.32.0.2"), (MAC_C, CAROL, "10.32.0.3")]
        {
            for (table, home) in [(&mut pair.at_alice, ALICE), (&mut pair.at_bob, BOB)] {
                let owner = if peer == home { Owner::Local } else { Owner::Peer(peer) };
                let v6 = format!("fd00::{}", mac.0[5]).parse().expect("address");
                table.upsert(mac, Endpoint { owner, ips: vec![ip.parse().expect("address"), v6] });
                table.set_flood_peers(vec![if home == ALICE { BOB } else { ALICE }]);
                table.set_ranges(vec![
                    "10.32.0.0/12".parse().expect("net"),
                    "fd00::/64".parse().expect("net"),
                ]);
            }
        }
        pair
    }

    fn connect(&mut self) {
        self.connect_with(Arc::default(), Arc::default());
    }

    /// A lane whose traffic is counted here, on its sender's and its receiver's side.
    fn connect_with(&mut self, sent: Arc<Traffic>, received: Arc<Traffic>) {
        let (lane, cipher, key) = (LaneId(0x100), Cipher::ChaCha20Poly1305, || Zeroizing::new([5; 32]));
        let sealing = SealingLane::new(TxLaneKey { lane, cipher, key: key() }).expect("key");
        let address = "192.0.2.2:6783".parse().expect("address");
        let order = SenderOrder::SetTx { peer: BOB, address, lane: sealing, traffic: sent };
        self.sender.handle_order(order, self.now, &mut self.world);
        let opening = OpeningLane::new(&RxLaneKey { lane, peer: ALICE, cipher, key: key() }).expect("key");
        let order = ReceiverOrder::InstallRx { lane, opening: Box::new(opening), traffic: received };
        self.receiver.handle_order(order);
    }

    fn send(&mut self, frames: &[TapFrame]) {
        for (header, frame) in frames {
            let mut frame = frame.clone();
            self.sender.handle_frame(&self.at_alice, *header, &mut frame, self.now, &mut self.world);
        }
        self.sender.flush(self.now, &mut self.world);
    }

    /// Brings the trains over; `keep` says of each datagram whether it arrives.
    fn carry(&mut self, mut keep: impl FnMut() -> bool) {
        let from: SocketAddr = "192.0.2.1:6783".parse().expect("address");
        let mut reads: Vec<(Vec<u8>, usize)> = Vec::new();
        for train in std::mem::take(&mut self.world.trains) {
            let kept: Vec<Vec<u8>> = train.into_iter().filter(|_| keep()).collect();
            let segment = kept.first().map_or(1, Vec::len);
            if kept.iter().rev().skip(1).all(|datagram| datagram.len() == segment) && !kept.is_empty() {
                reads.push((kept.concat(), segment));
            } else {
                reads.extend(kept.into_iter().map(|datagram| (datagram.clone(), datagram.len())));
            }
        }
        let batch = reads.iter_mut().map(|(bytes, segment)| Received { from, bytes, segment: *segment });
        self.receiver.handle_batch(&self.at_bob, batch, self.now, &mut self.world);
    }

    fn drops(&self) -> Vec<(DropReason, u64)> {
        let count = |reason| self.sender_counters.drops(reason) + self.receiver_counters.drops(reason);
        DropReason::ALL
            .iter()
            .map(|&reason| (reason, count(reason)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}

/// What to build a frame from.
#[derive(Clone, Debug)]
struct Shape {
    network: Network,
    transport: Transport,
    options: usize,
    tags: usize,
    payload: usize,
    segment: usize,
    tcp_flags: u8,
    seq: u32,
    id: u16,
}

fn shapes(payload: impl Strategy<Value = usize>) -> impl Strategy<Value = Shape> {
    let network = prop_oneof![Just(Network::Ipv4), Just(Network::Ipv6)];
    let transport = prop_oneof![Just(Transport::Tcp), Just(Transport::Udp)];
    let segment = prop_oneof![Just(1358usize), 500..1360usize, 40..600usize];
    (network, transport, 0..11usize, 0..2usize, payload, segment, any::<u8>(), any::<u32>(), any::<u16>())
        .prop_map(|(network, transport, options, tags, payload, segment, tcp_flags, seq, id)| Shape {
            network,
            transport,
            options: options.min(10),
            tags,
            payload,
            segment,
            tcp_flags,
            seq,
            id,
        })
}

impl Shape {
    /// The frame as the kernel gives it: checksum left out, and a super-frame if it is longer than a segment.
    fn build(&self) -> TapFrame {
        let mut f = [MAC_B.0, MAC_A.0].concat();
        for _ in 0..self.tags {
            f.extend([0x81, 0x00, 0x00, 0x07]);
        }
        let transport_header = match self.transport {
            Transport::Tcp => 20 + self.options * 4,
            Transport::Udp => 8,
        };
        let l4_len = transport_header + self.payload;
        self.add_network_header(&mut f, l4_len);
        let l4 = f.len();
        match self.transport {
            Transport::Tcp => {
                f.extend([0x12, 0x34, 0, 80]);
                f.extend(self.seq.to_be_bytes());
                f.extend([
                    0,
                    0,
                    0,
                    9,
                    u8::try_from((5 + self.options) << 4).expect("fits"),
                    self.tcp_flags,
                    1,
                    0,
                ]);
                f.extend([0, 0, 0, 0]);
                f.extend(vec![1; self.options * 4]);
            }
            Transport::Udp => {
                f.extend([0x12, 0x34, 0, 80]);
                f.extend(u16::try_from(l4_len).expect("fits").to_be_bytes());
                f.extend([0, 0]);
            }
        }
        f.extend((0..self.payload).map(|i| (i * 7 % 253) as u8));
        let parsed = Headers::parse(&f).expect("well formed");
        assert_eq!((parsed.l4, parsed.claimed_end), (l4, f.len()));
        super::rewrite::seed(&mut f, &parsed, l4_len);
        let mut header = virtio::Header {
            flags: virtio::NEEDS_CSUM,
            csum_start: u16::try_from(l4).expect("fits"),
            csum_offset: u16::try_from(self.transport.checksum_offset()).expect("fits"),
            ..virtio::Header::default()
        };
        if self.payload > self.segment {
            header.gso_size = u16::try_from(self.segment).expect("fits");
            header.gso_type = match (self.transport, self.network) {
                (Transport::Tcp, Network::Ipv4) => virtio::GSO_TCPV4,
                (Transport::Tcp, Network::Ipv6) => virtio::GSO_TCPV6,
                (Transport::Udp, _) => virtio::GSO_UDP_L4,
            };
        }
        (header, f)
    }

    fn add_network_header(&self, f: &mut Vec<u8>, l4_len: usize) {
        match self.network {
            Network::Ipv4 => {
                let header = 20 + self.options * 4;
                let total = u16::try_from(header + l4_len).expect("fits");
                let ihl = 0x40 | u8::try_from(header / 4).expect("fits");
                f.extend([0x08, 0x00, ihl, 0]);
                f.extend(total.to_be_bytes());
                f.extend(self.id.to_be_bytes());
                f.extend([0x40, 0, 64, self.transport.number(), 0, 0, 10, 32, 0, 1, 10, 32, 0, 2]);
                f.extend(vec![1; self.options * 4]);
                let start = f.len() - header;
                let sum = !checksum::sum(0, &f[start..]);
                f[start + 10..start + 12].copy_from_slice(&sum.to_be_bytes());
            }
            Network::Ipv6 => {
                let extension = if self.options > 5 { 8 } else { 0 };
                let next = if extension > 0 { 60 } else { self.transport.number() };
                f.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                f.extend(u16::try_from(extension + l4_len).expect("fits").to_be_bytes());
                f.extend([next, 64]);
                f.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
                f.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
                f.extend(&[self.transport.number(), 0, 1, 4, 0, 0, 0, 0][..extension]);
            }
        }
    }
}

/// What a device with segmentation offload would put on a wire: an independent, slow reference.
fn segment((header, frame): &TapFrame) -> Vec<Vec<u8>> {
    if header.flags & virtio::NEEDS_CSUM == 0 {
        return vec![frame.clone()];
    }
    let h = Headers::parse(frame).expect("headers");
    assert_eq!(usize::from(header.csum_start), h.l4);
    assert_eq!(usize::from(header.csum_offset), h.transport.checksum_offset());
    assert_eq!(h.claimed_end, frame.len(), "length of {frame:02x?}");
    let at = h.l4 + h.transport.checksum_offset();
    let seed = u16::from_be_bytes([frame[at], frame[at + 1]]);
    assert_eq!(seed, h.pseudo_header_sum(frame, frame.len() - h.l4), "seed is for the length of the run");
    let payload = &frame[h.len..];
    let size =
        if header.gso_type == virtio::GSO_NONE { payload.len().max(1) } else { usize::from(header.gso_size) };
    let parts: Vec<&[u8]> = if payload.is_empty() { vec![payload] } else { payload.chunks(size).collect() };
    let count = parts.len();
    assert!(header.gso_type == virtio::GSO_NONE || count > 1);
    parts
        .iter()
        .enumerate()
        .map(|(i, part)| one_segment(&h, &frame[..h.len], i, count, i * size, part))
        .collect()
}

fn one_segment(h: &Headers, head: &[u8], i: usize, count: usize, skipped: usize, part: &[u8]) -> Vec<u8> {
    let mut f = [head, part].concat();
    match h.network {
        Network::Ipv4 => {
            let mut ip = Ipv4Packet::new_unchecked(&mut f[h.l3..]);
            let id = ip.ident().wrapping_add(i as u16);
            ip.set_ident(id);
            ip.set_total_len((head.len() + part.len() - h.l3) as u16);
            ip.fill_checksum();
        }
        Network::Ipv6 => {
            let len = (head.len() + part.len() - h.l3 - 40) as u16;
            Ipv6Packet::new_unchecked(&mut f[h.l3..]).set_payload_len(len);
        }
    }
    let l4_len = f.len() - h.l4;
    match h.transport {
        Transport::Tcp => {
            let mut tcp = TcpPacket::new_unchecked(&mut f[h.l4..]);
            let seq = tcp.seq_number() + skipped;
            tcp.set_seq_number(seq);
            if i + 1 < count {
                f[h.l4 + 13] &= !0x09;
            }
            if i > 0 {
                f[h.l4 + 13] &= !0x80;
            }
        }
        Transport::Udp => UdpPacket::new_unchecked(&mut f[h.l4..]).set_len(l4_len as u16),
    }
    super::rewrite::seed(&mut f, h, l4_len);
    checksum::complete(&mut f[h.l4..], h.transport.checksum_offset()).expect("field");
    f
}

fn checksums_verify(frame: &[u8]) -> bool {
    let Some(h) = Headers::parse(frame) else { return false };
    let seed = h.pseudo_header_sum(frame, frame.len() - h.l4);
    let ip_fine = match h.network {
        Network::Ipv4 => Ipv4Packet::new_checked(&frame[h.l3..]).is_ok_and(|ip| ip.verify_checksum()),
        Network::Ipv6 => Ipv6Packet::new_checked(&frame[h.l3..]).is_ok(),
    };
    ip_fine && checksum::sum(seed, &frame[h.l4..]) == 0xffff
}

fn segments_of(frames: &[TapFrame]) -> Vec<Vec<u8>> {
    frames.iter().flat_map(segment).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn super_frames_arrive_as_what_they_are_cut_into(
        shapes in proptest::collection::vec(shapes(prop_oneof![0..3000usize, 3000..65_000usize]), 1..5),
        limit in prop_oneof![Just(1472usize), Just(1452), Just(1232), 1300..9000usize],
    ) {
        let frames: Vec<TapFrame> = shapes.iter().filter(|s| s.payload < 65_300).map(Shape::build).collect();
        let mut pair = Pair::new(limit);
        pair.send(&frames);
        prop_assert!(pair.world.trains.iter().flatten().all(|datagram| datagram.len() <= limit));
        pair.carry(|| true);
        prop_assert_eq!(pair.drops(), vec![]);
        let arrived = segments_of(&pair.world.written);
        prop_assert!(arrived.iter().all(|frame| checksums_verify(frame)));
        prop_assert_eq!(arrived, segments_of(&frames));
    }

    #[test]
    fn lost_datagrams_cost_their_segments_only(
        shape in shapes(4000..65_000usize), seed in any::<u64>(), loss in 1..60u64,
    ) {
        let frames = [shape.build()];
        let mut pair = Pair::new(1472);
        pair.send(&frames);
        // Which segments share a datagram: one each, but for segments too small for slices, whose order is all we check.
        let datagrams: usize = pair.world.trains.iter().map(Vec::len).sum();
        let mut state = seed | 1;
        let mut kept = Vec::new();
        pair.carry(|| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            kept.push((state >> 33) % 100 >= loss);
            kept[kept.len() - 1]
        });
        let all = segments_of(&frames);
        let arrived = segments_of(&pair.world.written);
        prop_assert!(arrived.iter().all(|frame| checksums_verify(frame)));
        if datagrams == all.len() {
            let expected: Vec<_> = all.into_iter().zip(&kept).filter(|(_, keep)| **keep).map(|(f, _)| f).collect();
            prop_assert_eq!(arrived, expected);
        } else {
            let mut rest = all.iter();
            prop_assert!(arrived.iter().all(|frame| rest.any(|other| other == frame)), "unknown or out of order");
        }
    }

    #[test]
    fn arbitrary_records_never_panic(
        records in proptest::collection::vec((0..5u8, proptest::collection::vec(any::<u8>(), 0..200)), 1..20),
    ) {
        let mut pair = Pair::new(1472);
        let key = || TxLaneKey { lane: LaneId(0x100), cipher: Cipher::ChaCha20Poly1305, key: Zeroizing::new([5; 32]) };
        let mut lane = SealingLane::new(key()).expect("key");
        let mut outbox = super::seal::Outbox::default();
        let trains = &mut pair.world.trains;
        let mut sink = |train: SealedTrain<'_>| {
            trains.push(train.bytes().chunks(train.segment()).map(<[u8]>::to_vec).collect::<Vec<_>>());
        };
        for (kind, mut record) in records {
            record.insert(0, kind);
            if kind == 2 && record.len() > 80 {
                record[1] = 0;
                record[2..12].copy_from_slice(&[0, 54, 2, 0x58, 0, 0, 0, 0, 0, 0]);
                record[24..27].copy_from_slice(&[8, 0, 0x45]);
                record.resize(12 + 54 + 0x258, 1);
            }
            outbox.room()[..record.len()].copy_from_slice(&record);
            outbox.stage(record.len());
            outbox.seal(&mut lane, &mut sink).expect("sealed");
        }
        outbox.send(&mut sink);
        pair.carry(|| true);
    }

    #[test]
    fn arbitrary_frames_and_datagrams_never_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..1600), header in any::<[u8; 10]>(), known: bool,
    ) {
        let mut pair = Pair::new(1472);
        if known && bytes.len() > 40 {
            bytes[..12].copy_from_slice(&[MAC_B.0, MAC_A.0].concat());
            bytes[12..15].copy_from_slice(&[8, 0, 0x45]);
        }
        let mut header = virtio::Header::parse(&header);
        header.gso_type &= 0x87;
        pair.send(&[(header, bytes.clone())]);
        pair.carry(|| true);
        if let Some(first) = bytes.first_mut() {
            *first = 0x20;
        }
        pair.world.trains.push(vec![bytes]);
        pair.carry(|| true);
    }
}

fn small(last: u8, len: usize) -> TapFrame {
    let mut frame = [MAC_B.0, MAC_A.0].concat();
    frame.extend([0x88, 0xb5]);
    frame.resize(len, last);
    (virtio::Header::default(), frame)
}

#[test]
fn small_frames_share_datagrams_and_datagrams_share_sends() {
    let mut pair = Pair::new(1472);
    let frames: Vec<TapFrame> = (0..100).map(|i| small(i, 100)).collect();
    pair.send(&frames);
    let datagrams: Vec<usize> = pair.world.trains.iter().map(Vec::len).collect();
    assert_eq!(datagrams, [8], "13 frames of 103 bytes share a record of 1440");
    pair.carry(|| true);
    assert_eq!(pair.world.written, frames);
    assert_eq!(pair.drops(), []);
}

#[test]
fn super_frame_leaves_in_one_send_and_arrives_as_one() {
    let shape = Shape {
        network: Network::Ipv4,
        transport: Transport::Tcp,
        options: 0,
        tags: 0,
        payload: 58_000,
        segment: 1358,
        tcp_flags: 0x98,
        seq: u32::MAX - 20_000,
        id: 65_530,
    };
    let frame = shape.build();
    let mut pair = Pair::new(1472);
    pair.send(std::slice::from_ref(&frame));
    assert_eq!(pair.world.trains.len(), 1);
    pair.carry(|| true);
    let (header, bytes) = &pair.world.written[0];
    assert_eq!(pair.world.written.len(), 1);
    assert_eq!(*bytes, frame.1);
    assert_eq!(header.gso_type, virtio::GSO_TCPV4 | virtio::GSO_ECN, "congestion-window-reduced is set");
    assert_eq!(header.gso_size, 1358);
}

#[test]
fn super_frames_of_full_segments_do_not_share_a_send() {
    let shape = Shape {
        network: Network::Ipv4,
        transport: Transport::Tcp,
        options: 0,
        tags: 0,
        payload: 42 * 1358,
        segment: 1358,
        tcp_flags: 0x10,
        seq: 1,
        id: 1,
    };
    let frames = [shape.build(), shape.build()];
    let mut pair = Pair::new(1472);
    pair.send(&frames);
    assert_eq!(pair.world.trains.iter().map(Vec::len).collect::<Vec<_>>(), [42, 42]);
    pair.carry(|| true);
    assert_eq!(pair.world.written.len(), 2);
}

#[test]
fn checksum_in_an_unusual_place_is_completed_once_also_when_flooded() {
    let mut pair = Pair::new(1472);
    // An IPv6 packet with an authentication header, which the receiver would not look behind.
    let mut frame = [[0xff; 6], MAC_A.0].concat();
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 51, 64]);
    frame.extend([9; 32]);
    frame.extend([17, 1, 0, 0, 0, 0, 0, 0]);
    frame.extend([0; 8]);
    frame.extend([1, 2, 3, 4, 0, 8, 0x12, 0x34]);
    let start = frame.len() - 8;
    let header = virtio::Header {
        flags: virtio::NEEDS_CSUM,
        csum_start: u16::try_from(start).expect("fits"),
        csum_offset: 6,
        ..virtio::Header::default()
    };
    let mut expected = frame.clone();
    checksum::complete(&mut expected[start..], 6).expect("field");
    pair.at_alice.set_flood_peers(vec![CAROL, BOB, BOB]);
    pair.send(&[(header, frame)]);
    pair.carry(|| true);
    assert_eq!(pair.world.written, vec![(virtio::Header::default(), expected); 2]);
}

#[test]
fn frames_wait_for_a_session_in_order() {
    let mut pair = Pair::without_lane(1472);
    let frames: Vec<TapFrame> = (0..5).map(|i| small(i, 60 + usize::from(i) * 300)).collect();
    pair.send(&frames);
    assert_eq!(pair.world.control, [ControlInput::WantSession(BOB)]);
    assert!(pair.world.trains.is_empty());
    pair.connect();
    pair.carry(|| true);
    assert_eq!(pair.world.written, frames);
    assert_eq!(pair.drops(), []);
}

#[test]
fn same_key_again_does_not_repeat_a_nonce() {
    let mut pair = Pair::new(1472);
    pair.send(&[small(1, 60)]);
    pair.connect();
    pair.send(&[small(2, 60)]);
    let counters: Vec<u64> = pair.world.trains.iter().flatten().map(|d| u64::from(d[15])).collect();
    assert_eq!(counters, [0, 1]);
}

fn frame_between(dst: Mac, src: Mac) -> TapFrame {
    let (header, mut frame) = small(1, 60);
    frame[..6].copy_from_slice(&dst.0);
    frame[6..12].copy_from_slice(&src.0);
    (header, frame)
}

#[test]
fn what_must_not_leave_does_not() {
    let stranger = Mac([0x02, 0, 0, 0, 0, 9]);
    for (dst, src, reason) in [
        (MAC_B, MAC_C, DropReason::SourceIsRemote),
        (MAC_B, Mac([0xff; 6]), DropReason::SourceInvalid),
        (stranger, MAC_A, DropReason::DestinationUnknown),
        (MAC_A, MAC_A, DropReason::DestinationLocal),
        (Mac([0x01, 0x80, 0xc2, 0, 0, 0x0e]), MAC_A, DropReason::LinkLocalProtocol),
    ] {
        let mut pair = Pair::new(1472);
        pair.send(&[frame_between(dst, src)]);
        assert_eq!(pair.drops(), [(reason, 1)]);
        assert!(pair.world.trains.is_empty());
    }
}

#[test]
fn peer_cannot_speak_for_others_nor_reach_past_this_host() {
    let stranger = Mac([0x02, 0, 0, 0, 0, 9]);
    let mac_d = Mac([0x02, 0, 0, 0, 0, 4]);
    for (dst, src, reason) in [
        (MAC_B, MAC_C, DropReason::SourceOfOther),
        (MAC_B, mac_d, DropReason::SourceOfOther),
        (MAC_C, MAC_A, DropReason::DestinationNotHere),
        (stranger, MAC_A, DropReason::DestinationNotHere),
    ] {
        let mut pair = Pair::new(1472);
        pair.at_bob.upsert(mac_d, Endpoint { owner: Owner::Local, ips: vec![] });
        // A table that lets Alice send this to Bob.
        pair.at_alice = EndpointTable::default();
        pair.at_alice.upsert(dst, Endpoint { owner: Owner::Peer(BOB), ips: vec![] });
        pair.at_alice.upsert(src, Endpoint { owner: Owner::Local, ips: vec![] });
        pair.send(&[frame_between(dst, src)]);
        pair.carry(|| true);
        assert_eq!(pair.drops(), [(reason, 1)]);
        assert!(pair.world.written.is_empty());
    }
}

#[test]
fn unknown_local_address_is_reported_once() {
    let stranger = Mac([0x02, 0, 0, 0, 0, 9]);
    let mut pair = Pair::new(1472);
    pair.send(&[frame_between(MAC_B, stranger), frame_between(MAC_B, stranger)]);
    assert_eq!(pair.world.control, [ControlInput::LocalMac { mac: stranger, ips: vec![] }]);
    assert_eq!(pair.world.trains.len(), 1, "and its frames are forwarded");
}

fn arp_request(from: [u8; 4], target: [u8; 4]) -> TapFrame {
    let mut frame = [[0xff; 6], MAC_A.0].concat();
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(MAC_A.0);
    frame.extend(from);
    frame.extend([0; 6]);
    frame.extend(target);
    (virtio::Header::default(), frame)
}

#[test]
fn questions_for_neighbours_are_answered_dropped_or_flooded() {
    let mut pair = Pair::new(1472);
    pair.send(&[arp_request([10, 32, 0, 1], [10, 32, 0, 2])]);
    assert_eq!(pair.world.answers.len(), 1);
    assert_eq!(pair.world.answers[0][..12], [MAC_A.0, MAC_B.0].concat());
    pair.send(&[arp_request([0; 4], [10, 32, 0, 2])]);
    assert_eq!(pair.world.answers.len(), 2, "a probe is answered too");
    pair.send(&[arp_request([10, 32, 0, 1], [10, 32, 0, 99])]);
    pair.send(&[arp_request([10, 32, 0, 1], [10, 32, 0, 1])]);
    assert_eq!(pair.drops(), [(DropReason::NeighbourUnknown, 1), (DropReason::NeighbourLocal, 1)]);
    assert!(pair.world.trains.is_empty());
    pair.send(&[arp_request([10, 32, 0, 1], [192, 168, 0, 1])]);
    assert_eq!(pair.world.trains.len(), 1, "out of range goes to everybody");
}

#[test]
fn what_every_host_says_at_its_start_makes_no_sessions() {
    let solicitation = |source: &str| {
        let mut frame = [[0x33, 0x33, 0xff, 0, 0, 7], MAC_A.0].concat();
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 58, 255]);
        for address in [source, "ff02::1:ff00:7"] {
            frame.extend(address.parse::<std::net::Ipv6Addr>().expect("address").octets());
        }
        frame.extend([135, 0, 0, 0, 0, 0, 0, 0]);
        frame.extend("fe80::7".parse::<std::net::Ipv6Addr>().expect("address").octets());
        (virtio::Header::default(), frame)
    };
    let group =
        |last: [u8; 6]| (virtio::Header::default(), [&last, &MAC_A.0[..], &[0x08, 0x06, 0, 1]].concat());
    let quiet = [
        group([0x33, 0x33, 0, 0, 0, 0x16]),
        group([0x33, 0x33, 0, 0, 0, 0x02]),
        group([0x01, 0, 0x5e, 0, 0, 0x16]),
        solicitation("::"),
    ];
    let mut pair = Pair::new(1472);
    pair.at_alice.set_flood_peers(vec![BOB, CAROL]);
    for (number, frame) in quiet.into_iter().enumerate() {
        pair.send(&[frame]);
        assert_eq!(pair.world.trains.len(), number + 1, "Bob, who has a session, gets frame {number}");
        assert_eq!(pair.drops(), [(DropReason::NotWorthASession, number as u64 + 1)]);
    }
    let wants = |pair: &Pair| {
        let of_carol = |input: &&ControlInput| matches!(input, ControlInput::WantSession(CAROL));
        pair.world.control.iter().filter(of_carol).count()
    };
    assert_eq!(wants(&pair), 0);
    for frame in [solicitation("fe80::1"), group([0x33, 0x33, 0, 0, 0, 0xfb]), group([0xff; 6])] {
        pair.send(&[frame]);
    }
    assert_eq!(wants(&pair), 1, "others are for everybody");
}

#[test]
fn early_question_is_answered_when_the_address_is_announced() {
    let mut pair = Pair::new(1472);
    pair.send(&[arp_request([10, 32, 0, 1], [10, 32, 0, 99])]);
    assert!(pair.world.answers.is_empty());
    let endpoint = Endpoint { owner: Owner::Peer(BOB), ips: vec!["10.32.0.99".parse().expect("address")] };
    let late = Mac([10, 119, 10, 32, 0, 99]);
    pair.at_alice.upsert(late, endpoint);
    pair.sender.answer_open(&pair.at_alice, pair.now, &mut pair.world);
    pair.sender.answer_open(&pair.at_alice, pair.now, &mut pair.world);
    assert_eq!(pair.world.answers.len(), 1, "once");
    assert_eq!(pair.world.answers[0][..12], [MAC_A.0, late.0].concat());
}
