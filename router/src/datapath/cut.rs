//! The sending side of super-frames: what a frame from the TAP device is, and how it becomes records. Pure: buffers in,
//! records in an outbox out.

use super::checksum;
use super::drops::DropReason;
use super::frame::{Headers, Network, Transport};
use super::mtu::MAX_SEND;
use super::rewrite::{Run, rewrite};
use super::seal::{Outbox, SealError, SealingLane, TrainSink};
use super::virtio;
use super::wire::{
    self, FRAGMENT_HEADER, FragmentHeader, FrameFlags, KIND_PACKED, LANE_HEADER, Last, PACKED_HEADER,
    SLICE_HEADER, SliceHeader, TAG,
};

/// Slices below this size travel as frames of their own. Receivers refuse smaller ones: a super-frame of tiny segments costs
/// the receiving kernel far more than the sender. 536 less options is the least that an honest TCP path has (RFC 9293 3.7.1).
pub const MIN_SEGMENT: usize = 500;

/// A frame from the TAP device, checked against its virtio header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outgoing {
    /// One frame. Its checksum may be left to the receiver.
    Plain(FrameFlags),
    /// Payload of many segments behind one set of headers.
    Super {
        /// Where the headers are.
        headers: Headers,
        /// Payload of each segment but the last.
        segment: usize,
    },
}

/// Checks a frame against its virtio header. A checksum whose place the receiver could not find is completed here, and the
/// header then says so, so that the same frame can be classified again for another peer.
pub fn classify(header: &mut virtio::Header, frame: &mut [u8]) -> Result<Outgoing, DropReason> {
    let parsed = Headers::parse(frame);
    if header.gso_type == virtio::GSO_NONE {
        return plain(header, frame, parsed);
    }
    let wanted = match header.gso_type & !virtio::GSO_ECN {
        virtio::GSO_TCPV4 => (Network::Ipv4, Transport::Tcp),
        virtio::GSO_TCPV6 => (Network::Ipv6, Transport::Tcp),
        virtio::GSO_UDP_L4 => return super_frame(header, frame, parsed, None),
        _ => return Err(DropReason::OffloadUnknown),
    };
    super_frame(header, frame, parsed, Some(wanted))
}

fn plain(
    header: &mut virtio::Header,
    frame: &mut [u8],
    parsed: Option<Headers>,
) -> Result<Outgoing, DropReason> {
    if header.flags & virtio::NEEDS_CSUM == 0 {
        return Ok(Outgoing::Plain(FrameFlags::Complete));
    }
    let (start, offset) = (usize::from(header.csum_start), usize::from(header.csum_offset));
    if let Some(h) = parsed
        && h.l4 == start
        && h.transport.checksum_offset() == offset
        && h.claimed_end <= frame.len()
    {
        return Ok(Outgoing::Plain(FrameFlags::PartialChecksum));
    }
    let covered = frame.get_mut(start..).ok_or(DropReason::OffloadInconsistent)?;
    checksum::complete(covered, offset).ok_or(DropReason::OffloadInconsistent)?;
    header.flags &= !virtio::NEEDS_CSUM;
    Ok(Outgoing::Plain(FrameFlags::Complete))
}

fn super_frame(
    header: &virtio::Header,
    frame: &[u8],
    parsed: Option<Headers>,
    wanted: Option<(Network, Transport)>,
) -> Result<Outgoing, DropReason> {
    let headers = parsed.ok_or(DropReason::OffloadInconsistent)?;
    let kind = match wanted {
        Some(kind) => kind,
        None => (headers.network, Transport::Udp),
    };
    let segment = usize::from(header.gso_size);
    let consistent = (headers.network, headers.transport) == kind
        && header.flags & virtio::NEEDS_CSUM != 0
        && usize::from(header.csum_start) == headers.l4
        && usize::from(header.csum_offset) == headers.transport.checksum_offset()
        && headers.claimed_end == frame.len()
        && segment > 0;
    if !consistent {
        return Err(DropReason::OffloadInconsistent);
    }
    if frame.len() - headers.len <= segment {
        return Ok(Outgoing::Plain(FrameFlags::PartialChecksum));
    }
    Ok(Outgoing::Super { headers, segment })
}

/// What it takes to put frames into an outbox: the lane, where trains go, how long a datagram may be, and space to work in.
pub struct Writer<'a, S> {
    /// Where datagrams are collected.
    pub outbox: &'a mut Outbox,
    /// What they are sealed with.
    pub lane: &'a mut SealingLane,
    /// Where trains go.
    pub sink: &'a mut S,
    /// Longest datagram of the path.
    pub limit: usize,
    /// Space for a record that is going to be fragmented; grows once.
    pub scratch: &'a mut Vec<u8>,
}

impl<S: TrainSink> Writer<'_, S> {
    /// Puts a classified frame into the outbox. Everything sealed is in order; a frame that can still share its record with
    /// the next one stays staged.
    pub fn put(&mut self, outgoing: Outgoing, frame: &[u8]) -> Result<(), PutError> {
        match outgoing {
            Outgoing::Plain(flags) => self.put_plain(flags, frame)?,
            Outgoing::Super { headers, segment } if segment < MIN_SEGMENT => {
                self.put_segments(&headers, segment, frame)?;
            }
            Outgoing::Super { headers, segment } => self.put_slices(&headers, segment, frame)?,
        }
        if self.outbox.is_closed() || !self.outbox.has_room_for(1, MAX_SEND / 2) {
            // Nothing, or no second super-frame, can be added to it, so there is nothing to wait for.
            self.outbox.send(self.sink);
        }
        Ok(())
    }

    /// Seals what is staged and sends everything.
    pub fn flush(&mut self) -> Result<(), PutError> {
        self.outbox.seal(self.lane, self.sink)?;
        self.outbox.send(self.sink);
        Ok(())
    }

    fn record_limit(&self) -> usize {
        self.limit - LANE_HEADER - TAG
    }

    fn put_plain(&mut self, flags: FrameFlags, frame: &[u8]) -> Result<(), PutError> {
        let needed = PACKED_HEADER + frame.len();
        if 1 + needed > self.record_limit() {
            return self.put_long(flags, frame);
        }
        if self.outbox.staged() + needed > self.record_limit() {
            self.outbox.seal(self.lane, self.sink)?;
        }
        if self.outbox.staged() == 0 {
            self.outbox.room()[0] = KIND_PACKED;
            self.outbox.stage(1);
        }
        let written = wire::emit_packed(self.outbox.room(), flags, frame).ok_or(PutError::FrameTooLong)?;
        self.outbox.stage(written);
        Ok(())
    }

    /// A frame that no datagram can hold: a record of its own, in fragments.
    fn put_long(&mut self, flags: FrameFlags, frame: &[u8]) -> Result<(), PutError> {
        let mut scratch = std::mem::take(self.scratch);
        scratch.clear();
        scratch.resize(1 + PACKED_HEADER + frame.len(), KIND_PACKED);
        let result = wire::emit_packed(&mut scratch[1..], flags, frame)
            .ok_or(PutError::FrameTooLong)
            .and_then(|_| self.put_fragments(&scratch));
        *self.scratch = scratch;
        result
    }

    /// One slice a record; all records of the super-frame but the last are equally long and leave in one send.
    fn put_slices(&mut self, headers: &Headers, segment: usize, frame: &[u8]) -> Result<(), PutError> {
        self.outbox.seal(self.lane, self.sink)?;
        let (head, payload) = frame.split_at(headers.len);
        let count = payload.len().div_ceil(segment);
        if !self.outbox.has_room_for(count, LANE_HEADER + SLICE_HEADER + head.len() + segment + TAG) {
            // Slices that arrive in one read become one super-frame again; spread over two they may not.
            self.outbox.send(self.sink);
        }
        for (index, slice) in payload.chunks(segment).enumerate() {
            let last = if index + 1 == count { Last::Yes } else { Last::No };
            let header = SliceHeader { last, headers: head.len(), segment, index };
            let header = header.emit().ok_or(PutError::FrameTooLong)?;
            if SLICE_HEADER + head.len() + slice.len() <= self.record_limit() {
                let room = self.outbox.room();
                let (a, rest) = room.split_at_mut(SLICE_HEADER);
                let (b, rest) = rest.split_at_mut(head.len());
                a.copy_from_slice(&header);
                b.copy_from_slice(head);
                rest[..slice.len()].copy_from_slice(slice);
                self.outbox.stage(SLICE_HEADER + head.len() + slice.len());
                self.outbox.seal(self.lane, self.sink)?;
            } else {
                let mut scratch = std::mem::take(self.scratch);
                scratch.clear();
                scratch.extend_from_slice(&header);
                scratch.extend_from_slice(head);
                scratch.extend_from_slice(slice);
                let result = self.put_fragments(&scratch);
                *self.scratch = scratch;
                result?;
            }
        }
        Ok(())
    }

    /// Segments too small for slices, each as a frame of its own; many share a record.
    fn put_segments(&mut self, headers: &Headers, segment: usize, frame: &[u8]) -> Result<(), PutError> {
        let (head, payload) = frame.split_at(headers.len);
        let count = payload.len().div_ceil(segment);
        let mut one = [0; MIN_SEGMENT + MAX_SMALL_HEADERS];
        if head.len() > MAX_SMALL_HEADERS {
            return Err(PutError::FrameTooLong);
        }
        for (index, slice) in payload.chunks(segment).enumerate() {
            let one = &mut one[..head.len() + slice.len()];
            one[..head.len()].copy_from_slice(head);
            one[head.len()..].copy_from_slice(slice);
            let last = if index + 1 == count { Last::Yes } else { Last::No };
            let run = Run { first: index, segment, payload: slice.len(), last };
            rewrite(one, headers, run).map_err(|_| PutError::FrameTooLong)?;
            self.put_plain(FrameFlags::PartialChecksum, one)?;
        }
        Ok(())
    }

    fn put_fragments(&mut self, record: &[u8]) -> Result<(), PutError> {
        self.outbox.seal(self.lane, self.sink)?;
        let piece = self.record_limit() - FRAGMENT_HEADER;
        let count = record.len().div_ceil(piece);
        for (index, part) in record.chunks(piece).enumerate() {
            let header = FragmentHeader { index, count, piece, total: record.len() };
            let header = header.emit().ok_or(PutError::FrameTooLong)?;
            let room = self.outbox.room();
            room[..FRAGMENT_HEADER].copy_from_slice(&header);
            room[FRAGMENT_HEADER..FRAGMENT_HEADER + part.len()].copy_from_slice(part);
            self.outbox.stage(FRAGMENT_HEADER + part.len());
            self.outbox.seal(self.lane, self.sink)?;
        }
        Ok(())
    }
}

/// Headers of segments below `MIN_SEGMENT`: Ethernet with two tags, IPv6 with options, TCP with options fit by far.
const MAX_SMALL_HEADERS: usize = 512;

/// A frame could not be put into the outbox, in part or at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PutError {
    /// Longer than the record format can say.
    #[error("frame is too long for a record")]
    FrameTooLong,
    /// The lane cannot seal any more.
    #[error(transparent)]
    Seal(#[from] SealError),
}
