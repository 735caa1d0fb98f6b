//! The layout of lane datagrams and of the records in them. Bytes and offsets only: no keys, no frames.
//!
//! ```text
//! datagram   0x20 | version 0 | reserved 2 | lane 4 | counter 8 | sealed record | tag 16      (first 16 bytes: AAD)
//! packed     0x01 | { flags 1 | length 2 | frame }*
//! slice      0x02 | flags 1 | header length 2 | segment 2 | index 2 | reserved 4 | headers | slice of the payload
//! fragment   0x03 | reserved 1 | index 2 | count 2 | piece 2 | total 4 | piece of another record
//! ```
//!
//! Numbers are in network order. Slices of one super-frame, and fragments of one record, have consecutive counters, so that
//! counter less index names the whole that they belong to.

use super::frame::be16;
use super::keys::LaneId;

/// First byte of every lane datagram. Anything else belongs to the control plane.
pub const KIND_LANE: u8 = 0x20;
/// Length of the header before the sealed record.
pub const LANE_HEADER: usize = 16;
/// Length of the authentication tag, for both ciphers.
pub const TAG: usize = 16;

/// First byte of a record of whole frames.
pub const KIND_PACKED: u8 = 1;
/// First byte of a record with one slice of a super-frame.
pub const KIND_SLICE: u8 = 2;
/// First byte of a record with a piece of a longer record.
pub const KIND_FRAGMENT: u8 = 3;

/// Length of what precedes the headers in a slice.
pub const SLICE_HEADER: usize = 12;
/// Length of what precedes the piece in a fragment.
pub const FRAGMENT_HEADER: usize = 12;
/// Length of what precedes each packed frame.
pub const PACKED_HEADER: usize = 3;

const FRAME_PARTIAL_CHECKSUM: u8 = 1;
const SLICE_LAST: u8 = 1;

/// What is to be known about a packed frame beside its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameFlags {
    /// Its bytes are all there is.
    Complete,
    /// Its transport checksum is left to the receiver, who finds the place by parsing.
    PartialChecksum,
}

/// The header of a lane datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaneHeader {
    /// The receiver's name for the lane.
    pub lane: LaneId,
    /// The nonce.
    pub counter: u64,
}

impl LaneHeader {
    /// Reads the header; `None` when it is short, of another kind or version, or has reserved bits set.
    pub fn parse(datagram: &[u8]) -> Option<LaneHeader> {
        let bytes: &[u8; LANE_HEADER] = datagram.first_chunk()?;
        if bytes[..4] != [KIND_LANE, 0, 0, 0] {
            return None;
        }
        let lane = LaneId(u32::from_be_bytes(*bytes[4..].first_chunk()?));
        let counter = u64::from_be_bytes(*bytes[8..].first_chunk()?);
        Some(LaneHeader { lane, counter })
    }

    /// The opposite of `parse`.
    pub fn emit(&self) -> [u8; LANE_HEADER] {
        let mut bytes = [0; LANE_HEADER];
        bytes[0] = KIND_LANE;
        bytes[4..8].copy_from_slice(&self.lane.0.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.counter.to_be_bytes());
        bytes
    }
}

/// What a slice says about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SliceHeader {
    /// Whether it ends its super-frame.
    pub last: Last,
    /// How long the headers that follow are.
    pub headers: usize,
    /// Payload of every slice but the last.
    pub segment: usize,
    /// Its place in the super-frame.
    pub index: usize,
}

/// Whether a slice is the last one of its super-frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Last {
    /// No more slices follow.
    Yes,
    /// More slices follow.
    No,
}

impl SliceHeader {
    /// Reads the header of a record that begins with `KIND_SLICE`.
    pub fn parse(record: &[u8]) -> Option<SliceHeader> {
        let bytes: &[u8; SLICE_HEADER] = record.first_chunk()?;
        let last = match bytes[1] {
            0 => Last::No,
            SLICE_LAST => Last::Yes,
            _ => return None,
        };
        if bytes[8..] != [0; 4] {
            return None;
        }
        let field = |at| be16(bytes, at).map(usize::from);
        Some(SliceHeader { last, headers: field(2)?, segment: field(4)?, index: field(6)? })
    }

    /// The opposite of `parse`. `None` when a field is too large for its place.
    pub fn emit(&self) -> Option<[u8; SLICE_HEADER]> {
        let flags = match self.last {
            Last::Yes => SLICE_LAST,
            Last::No => 0,
        };
        let mut bytes = [0; SLICE_HEADER];
        bytes[0] = KIND_SLICE;
        bytes[1] = flags;
        bytes[2..4].copy_from_slice(&u16::try_from(self.headers).ok()?.to_be_bytes());
        bytes[4..6].copy_from_slice(&u16::try_from(self.segment).ok()?.to_be_bytes());
        bytes[6..8].copy_from_slice(&u16::try_from(self.index).ok()?.to_be_bytes());
        Some(bytes)
    }
}

/// What a fragment says about itself. Piece `index` begins at `index * piece`; all but the last are `piece` bytes long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FragmentHeader {
    /// Its place in the record.
    pub index: usize,
    /// How many pieces there are.
    pub count: usize,
    /// Length of every piece but the last.
    pub piece: usize,
    /// Length of the record.
    pub total: usize,
}

impl FragmentHeader {
    /// Reads the header of a record that begins with `KIND_FRAGMENT`.
    pub fn parse(record: &[u8]) -> Option<FragmentHeader> {
        let bytes: &[u8; FRAGMENT_HEADER] = record.first_chunk()?;
        let total = u32::from_be_bytes(*bytes[8..].first_chunk()?);
        let field = |at| be16(bytes, at).map(usize::from);
        let header = FragmentHeader {
            index: field(2)?,
            count: field(4)?,
            piece: field(6)?,
            total: usize::try_from(total).ok()?,
        };
        (bytes[1] == 0).then_some(header)
    }

    /// The opposite of `parse`. `None` when a field is too large for its place.
    pub fn emit(&self) -> Option<[u8; FRAGMENT_HEADER]> {
        let mut bytes = [0; FRAGMENT_HEADER];
        bytes[0] = KIND_FRAGMENT;
        bytes[2..4].copy_from_slice(&u16::try_from(self.index).ok()?.to_be_bytes());
        bytes[4..6].copy_from_slice(&u16::try_from(self.count).ok()?.to_be_bytes());
        bytes[6..8].copy_from_slice(&u16::try_from(self.piece).ok()?.to_be_bytes());
        bytes[8..12].copy_from_slice(&u32::try_from(self.total).ok()?.to_be_bytes());
        Some(bytes)
    }
}

/// Writes one packed frame to the beginning of `out`; `None` when it does not fit or is too long for the length field.
pub fn emit_packed(out: &mut [u8], flags: FrameFlags, frame: &[u8]) -> Option<usize> {
    let flags = match flags {
        FrameFlags::Complete => 0,
        FrameFlags::PartialChecksum => FRAME_PARTIAL_CHECKSUM,
    };
    let length = u16::try_from(frame.len()).ok()?;
    let place = out.get_mut(..PACKED_HEADER + frame.len())?;
    place[0] = flags;
    place[1..3].copy_from_slice(&length.to_be_bytes());
    place[PACKED_HEADER..].copy_from_slice(frame);
    Some(place.len())
}

/// Takes the first packed frame off `rest`, which is what follows the kind byte: flags and frame. `Err` when it is cut short.
pub fn next_packed<'a>(rest: &mut &'a mut [u8]) -> Result<Option<(FrameFlags, &'a mut [u8])>, Malformed> {
    if rest.is_empty() {
        return Ok(None);
    }
    let taken = std::mem::take(rest);
    let length = be16(taken, 1).ok_or(Malformed)?;
    let flags = match taken[0] {
        0 => FrameFlags::Complete,
        FRAME_PARTIAL_CHECKSUM => FrameFlags::PartialChecksum,
        _ => return Err(Malformed),
    };
    let (frame, after) = taken[PACKED_HEADER..].split_at_mut_checked(usize::from(length)).ok_or(Malformed)?;
    *rest = after;
    Ok(Some((flags, frame)))
}

/// A record that contradicts itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("record contradicts itself")]
pub struct Malformed;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = LaneHeader::parse(&bytes);
            let _ = SliceHeader::parse(&bytes);
            let _ = FragmentHeader::parse(&bytes);
            let mut rest = &mut bytes[..];
            while let Ok(Some(_)) = next_packed(&mut rest) {}
        }

        #[test]
        fn headers_round_trip(lane: u32, counter: u64, a: u16, b: u16, c: u16, total: u32, ends: bool) {
            let lane = LaneHeader { lane: LaneId(lane), counter };
            prop_assert_eq!(LaneHeader::parse(&lane.emit()), Some(lane));
            let (a, b, c) = (usize::from(a), usize::from(b), usize::from(c));
            let last = if ends { Last::Yes } else { Last::No };
            let slice = SliceHeader { last, headers: a, segment: b, index: c };
            prop_assert_eq!(slice.emit().and_then(|bytes| SliceHeader::parse(&bytes)), Some(slice));
            let fragment = FragmentHeader { index: a, count: b, piece: c, total: total as usize };
            prop_assert_eq!(fragment.emit().and_then(|bytes| FragmentHeader::parse(&bytes)), Some(fragment));
        }

        #[test]
        fn packed_frames_round_trip(frames in proptest::collection::vec((prop_oneof![Just(FrameFlags::Complete), Just(FrameFlags::PartialChecksum)], proptest::collection::vec(any::<u8>(), 0..90)), 0..12)) {
            let mut buffer = vec![0; 4096];
            let mut len = 0;
            for (flags, frame) in &frames {
                len += emit_packed(&mut buffer[len..], *flags, frame).expect("fits");
            }
            let mut rest = &mut buffer[..len];
            let mut out = Vec::new();
            while let Some((flags, frame)) = next_packed(&mut rest).expect("whole") {
                out.push((flags, frame.to_vec()));
            }
            prop_assert_eq!(out, frames);
        }
    }
}
