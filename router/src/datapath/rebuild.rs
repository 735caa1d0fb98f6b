//! The receiving side of super-frames: records become frames again, contiguous slices one super-frame each, and so datagrams
//! that follow each other. Pure: opened records in, writes for the TAP device out, payload by reference.
//!
//! Nothing of the virtio header comes from the peer: it is made anew from the headers that were parsed here.

use std::io::IoSlice;

use super::coalesce;
use super::cut::MIN_SEGMENT;
use super::drops::DropReason;
use super::frame::{Ethernet, Headers, Network, Transport};
use super::keys::{LaneId, PeerId};
use super::rewrite::{self, Run};
use super::virtio;
use super::wire::{self, FrameFlags, KIND_PACKED, KIND_SLICE, Last, SLICE_HEADER, SliceHeader};

/// Segments of one rebuilt TCP super-frame: what one send of ours holds at most.
const MAX_RUN: usize = super::mtu::MAX_SEGMENTS;

/// Segments of one rebuilt UDP super-frame: kernels before 6.9 refuse more (`UDP_MAX_SEGMENTS`).
const MAX_UDP_RUN: usize = 64;

/// Longest IP packet.
const MAX_PACKET: usize = 65_535;

/// Whether the kernel takes UDP super-frames from us (Linux 6.2 and later).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UdpSegmentation {
    /// It does.
    Available,
    /// UDP slices are written one by one.
    Missing,
}

/// Where a record came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin {
    /// Who sealed it.
    pub peer: PeerId,
    /// The lane it came on.
    pub lane: LaneId,
    /// Its counter there.
    pub counter: u64,
}

/// Takes the rebuilt frames.
pub trait FrameSink {
    /// Decides whether the peer may send this frame to this host.
    fn admit(&mut self, peer: PeerId, ethernet: &Ethernet) -> Result<(), DropReason>;
    /// Takes a frame, in parts: virtio header, headers, payload. It stands for so many frames as the sender counts them.
    fn write(&mut self, peer: PeerId, parts: &[IoSlice<'_>], frames: usize);
    /// Counts records that were let go.
    fn dropped(&mut self, reason: DropReason, count: usize);
}

/// Puts the records of one batch together. The buffers outlive it, so that slices are kept by reference.
pub struct Rebuilder<'a> {
    udp: UdpSegmentation,
    run: Option<OpenRun<'a>>,
    slices: [IoSlice<'a>; MAX_RUN],
}

/// What the parts of a run are parts of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whole {
    /// A super-frame that was cut: its lane, and the counter that slice 0 has or had there.
    Slices(LaneId, u64),
    /// Nothing yet: datagrams that came as frames of their own.
    Datagrams,
}

struct OpenRun<'a> {
    peer: PeerId,
    whole: Whole,
    head: &'a mut [u8],
    headers: Headers,
    segment: usize,
    first: usize,
    count: usize,
    payload: usize,
    last: Last,
}

struct Slice<'a> {
    header: SliceHeader,
    head: &'a mut [u8],
    payload: &'a [u8],
    whole: Whole,
}

impl<'a> Rebuilder<'a> {
    /// For one batch.
    pub fn new(udp: UdpSegmentation) -> Rebuilder<'a> {
        Rebuilder { udp, run: None, slices: [IoSlice::new(&[]); MAX_RUN] }
    }

    /// Takes a record of whole frames or a slice. Fragments must have been put together before.
    pub fn record(&mut self, origin: Origin, record: &'a mut [u8], sink: &mut impl FrameSink) {
        match record.first() {
            Some(&KIND_PACKED) => {
                self.packed(origin.peer, &mut record[1..], sink);
            }
            Some(&KIND_SLICE) => match Slice::parse(origin, record) {
                Some(slice) => self.slice(origin.peer, slice, sink),
                None => sink.dropped(DropReason::SliceInconsistent, 1),
            },
            Some(_) => sink.dropped(DropReason::RecordKindUnknown, 1),
            None => sink.dropped(DropReason::RecordMalformed, 1),
        }
    }

    /// Writes the run that is open, if any. To be called at the end of a batch.
    pub fn flush(&mut self, sink: &mut impl FrameSink) {
        let Some(run) = self.run.take() else { return };
        let count = run.count;
        if let Err(reason) = run.write(&self.slices[..count], sink) {
            sink.dropped(reason, count);
        }
    }

    fn slice(&mut self, peer: PeerId, slice: Slice<'a>, sink: &mut impl FrameSink) {
        if let Some(run) = &mut self.run
            && run.continues(&slice, self.udp)
        {
            self.slices[run.count] = IoSlice::new(slice.payload);
            run.count += 1;
            run.payload += slice.payload.len();
            run.last = slice.header.last;
            return;
        }
        self.flush(sink);
        let Some(headers) = Headers::parse(slice.head).filter(|headers| headers.len == slice.head.len())
        else {
            sink.dropped(DropReason::SliceInconsistent, 1);
            return;
        };
        self.slices[0] = IoSlice::new(slice.payload);
        self.run = Some(OpenRun {
            peer,
            whole: slice.whole,
            head: slice.head,
            headers,
            segment: slice.header.segment,
            first: slice.header.index,
            count: 1,
            payload: slice.payload.len(),
            last: slice.header.last,
        });
    }
}

impl<'a> Rebuilder<'a> {
    fn packed(&mut self, peer: PeerId, mut rest: &'a mut [u8], sink: &mut impl FrameSink) {
        loop {
            match wire::next_packed(&mut rest) {
                Ok(Some((flags, frame))) => self.frame(peer, flags, frame, sink),
                Ok(None) => return,
                Err(wire::Malformed) => {
                    sink.dropped(DropReason::RecordMalformed, 1);
                    return;
                }
            }
        }
    }

    fn frame(&mut self, peer: PeerId, flags: FrameFlags, frame: &'a mut [u8], sink: &mut impl FrameSink) {
        if self.udp == UdpSegmentation::Available
            && let Some(headers) = coalesce::datagram(flags, frame)
        {
            self.datagram(peer, headers, frame, sink);
            return;
        }
        self.flush(sink);
        if let Err(reason) = plain(peer, flags, frame, sink) {
            sink.dropped(reason, 1);
        }
    }

    fn datagram(&mut self, peer: PeerId, headers: Headers, frame: &'a mut [u8], sink: &mut impl FrameSink) {
        let (head, payload) = frame.split_at_mut(headers.len);
        if let Some(run) = &mut self.run
            && run.takes(peer, head, payload)
        {
            self.slices[run.count] = IoSlice::new(payload);
            run.count += 1;
            run.payload += payload.len();
            run.last = if payload.len() < run.segment { Last::Yes } else { Last::No };
            return;
        }
        self.flush(sink);
        let (segment, whole) = (payload.len(), Whole::Datagrams);
        self.slices[0] = IoSlice::new(payload);
        self.run = Some(OpenRun {
            peer,
            whole,
            head,
            headers,
            segment,
            first: 0,
            count: 1,
            payload: segment,
            last: Last::No,
        });
    }
}

impl<'a> Slice<'a> {
    fn parse(origin: Origin, record: &'a mut [u8]) -> Option<Slice<'a>> {
        let header = SliceHeader::parse(record)?;
        let (head, payload) = record[SLICE_HEADER..].split_at_mut_checked(header.headers)?;
        let fits = match header.last {
            Last::No => payload.len() == header.segment,
            Last::Yes => (1..=header.segment).contains(&payload.len()),
        };
        let index = u64::try_from(header.index).ok()?;
        let whole = Whole::Slices(origin.lane, origin.counter.checked_sub(index)?);
        let plausible = header.segment >= MIN_SEGMENT && header.index * header.segment <= MAX_PACKET;
        (fits && plausible).then_some(Slice { header, head, payload, whole })
    }
}

impl OpenRun<'_> {
    fn continues(&self, slice: &Slice<'_>, udp: UdpSegmentation) -> bool {
        let most = match (self.headers.transport, udp) {
            (Transport::Tcp, _) => MAX_RUN,
            (Transport::Udp, UdpSegmentation::Available) => MAX_UDP_RUN,
            (Transport::Udp, UdpSegmentation::Missing) => 1,
        };
        self.whole == slice.whole
            && slice.header.index == self.first + self.count
            && self.last == Last::No
            && self.segment == slice.header.segment
            && self.head.len() == slice.head.len()
            && self.count < most
            && self.headers.len - self.headers.l3 + self.payload + slice.payload.len() <= MAX_PACKET
    }

    /// Whether a datagram can follow those that are here.
    fn takes(&self, peer: PeerId, head: &[u8], payload: &[u8]) -> bool {
        self.whole == Whole::Datagrams
            && self.peer == peer
            && self.last == Last::No
            && payload.len() <= self.segment
            && self.count < MAX_UDP_RUN
            && self.headers.len - self.headers.l3 + self.payload + payload.len() <= MAX_PACKET
            && coalesce::follows(self.head, &self.headers, head, self.count)
    }

    fn write(self, slices: &[IoSlice<'_>], sink: &mut impl FrameSink) -> Result<(), DropReason> {
        let ethernet = Ethernet::parse(self.head).ok_or(DropReason::SliceInconsistent)?;
        sink.admit(self.peer, &ethernet)?;
        let run = Run { first: self.first, segment: self.segment, payload: self.payload, last: self.last };
        rewrite::rewrite(self.head, &self.headers, run).map_err(|_| DropReason::SliceInconsistent)?;
        let mut virtio = partial_checksum(&self.headers).ok_or(DropReason::SliceInconsistent)?;
        if slices.len() > 1 {
            virtio.gso_size = u16::try_from(self.segment).map_err(|_| DropReason::SliceInconsistent)?;
            virtio.gso_type = match (self.headers.transport, self.headers.network) {
                (Transport::Tcp, Network::Ipv4) => virtio::GSO_TCPV4,
                (Transport::Tcp, Network::Ipv6) => virtio::GSO_TCPV6,
                (Transport::Udp, _) => virtio::GSO_UDP_L4,
            };
            if rewrite::has_cwr(self.head, &self.headers) {
                virtio.gso_type |= virtio::GSO_ECN;
            }
        }
        let virtio = virtio.emit();
        let mut parts = [IoSlice::new(&[]); MAX_RUN + 2];
        parts[0] = IoSlice::new(&virtio);
        parts[1] = IoSlice::new(self.head);
        parts[2..2 + slices.len()].copy_from_slice(slices);
        let frames = match self.whole {
            Whole::Slices(..) => 1,
            Whole::Datagrams => slices.len(),
        };
        sink.write(self.peer, &parts[..2 + slices.len()], frames);
        Ok(())
    }
}

fn plain(
    peer: PeerId,
    flags: FrameFlags,
    frame: &mut [u8],
    sink: &mut impl FrameSink,
) -> Result<(), DropReason> {
    let ethernet = Ethernet::parse(frame).ok_or(DropReason::RecordMalformed)?;
    sink.admit(peer, &ethernet)?;
    let virtio = match flags {
        FrameFlags::Complete => virtio::Header::default(),
        FrameFlags::PartialChecksum => {
            let headers = Headers::parse(frame)
                .filter(|headers| headers.claimed_end <= frame.len())
                .ok_or(DropReason::RecordMalformed)?;
            rewrite::seed(frame, &headers, headers.claimed_end - headers.l4);
            partial_checksum(&headers).ok_or(DropReason::RecordMalformed)?
        }
    };
    sink.write(peer, &[IoSlice::new(&virtio.emit()), IoSlice::new(frame)], 1);
    Ok(())
}

fn partial_checksum(headers: &Headers) -> Option<virtio::Header> {
    Some(virtio::Header {
        flags: virtio::NEEDS_CSUM,
        gso_type: virtio::GSO_NONE,
        hdr_len: u16::try_from(headers.len).ok()?,
        gso_size: 0,
        csum_start: u16::try_from(headers.l4).ok()?,
        csum_offset: u16::try_from(headers.transport.checksum_offset()).ok()?,
    })
}
