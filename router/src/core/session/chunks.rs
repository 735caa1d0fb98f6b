//! The control channel inside a session: messages cut into chunks that look like IPv4 to boringtun, and put together again.
//!
//! boringtun passes a decrypted payload only if its first nibble and its length field fit an IP packet of 20 bytes or more, so
//! the first four bytes of a chunk are a shim that satisfies it (ADR 0003). Knows nothing of who sends.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gossip::Fill;
use zeroize::Zeroizing;

/// Longest message. Chosen as what one UDP datagram could hold at most: nobody needs more, and reassembly stays small.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// Longest UDP payload on the control channel: passes IPv6's minimum MTU of 1280 with its headers and room for one more tunnel.
pub(super) const MAX_DATAGRAM: usize = 1200;
/// What boringtun adds: 16 bytes of header, 16 of tag.
const SEAL: usize = 32;
/// Shim, message id, index, count, stream, length, and the sender's tag.
const HEADER: usize = 24;
const CHUNK: usize = MAX_DATAGRAM - SEAL - HEADER;
/// boringtun drops what is shorter than an IPv4 header.
const _: () = assert!(HEADER >= 20);
const SHIM: u8 = 0x40;
/// Messages in parts at a time, of one peer: more than a burst of lane offers and gossip makes.
const MAX_PARTIALS: usize = 16;
/// Bytes in parts at a time, of one peer: four of the longest messages.
const MAX_PARTIAL_BYTES: usize = 4 * MAX_MESSAGE;
/// A message that is not whole by then never will be: parts are sent in one go and not again.
const PARTIAL_LIFETIME: Duration = Duration::from_secs(5);

/// What a message is for. The first is the session's own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Stream {
    Session,
    Gossip,
    Ipam,
    Ping,
}

impl Stream {
    fn code(self) -> u8 {
        match self {
            Self::Session => 0,
            Self::Gossip => 1,
            Self::Ipam => 2,
            Self::Ping => 3,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Session),
            1 => Some(Self::Gossip),
            2 => Some(Self::Ipam),
            3 => Some(Self::Ping),
            _ => None,
        }
    }
}

/// Why a chunk was dropped. None happens between healthy routers of one version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ChunkError {
    /// The header does not fit the bytes, the message, or the chunks before.
    Malformed,
    /// A stream of a later version.
    UnknownStream,
    /// The same part again: boringtun's replay window makes this the peer's doing.
    Repeated,
}

/// Tells one session from the next, in every chunk: which start of the sender it is of, and which of its sessions with the receiver. A
/// peer that was killed, or that has given a session up which we still hold, is known as such by its first sealed word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SessionTag {
    /// The first bytes of the sender's boot nonce.
    pub(super) boot: [u8; 4],
    /// Counts the sender's sessions with the receiver; a rekey does not end one.
    pub(super) session: u32,
}

impl SessionTag {
    /// The tag in a chunk, if it is one.
    pub(super) fn in_chunk(chunk: &[u8]) -> Option<Self> {
        Header::parse(chunk).ok().map(|header| header.tag)
    }
}

/// The part of a boot nonce that tags carry.
pub(super) fn boot_tag(boot: &[u8; 16]) -> [u8; 4] {
    [boot[0], boot[1], boot[2], boot[3]]
}

/// Cuts a message; `None` if it is longer than [`MAX_MESSAGE`].
pub(super) fn split(
    stream: Stream,
    id: u32,
    tag: SessionTag,
    message: &[u8],
) -> Option<Vec<Zeroizing<Vec<u8>>>> {
    if message.len() > MAX_MESSAGE {
        return None;
    }
    let count = message.len().div_ceil(CHUNK).max(1);
    let mut chunks = Vec::with_capacity(count);
    for index in 0..count {
        let part = &message[index * CHUNK..message.len().min((index + 1) * CHUNK)];
        let total = HEADER + part.len();
        let mut chunk = Zeroizing::new(Vec::with_capacity(total));
        chunk.extend_from_slice(&[SHIM, 0]);
        chunk.extend_from_slice(&short(total));
        chunk.extend_from_slice(&id.to_be_bytes());
        chunk.extend_from_slice(&short(index));
        chunk.extend_from_slice(&short(count));
        chunk.extend_from_slice(&[stream.code(), 0]);
        chunk.extend_from_slice(&short(part.len()));
        chunk.extend_from_slice(&tag.boot);
        chunk.extend_from_slice(&tag.session.to_be_bytes());
        chunk.extend_from_slice(part);
        chunks.push(chunk);
    }
    Some(chunks)
}

/// Messages of one peer that are not whole yet.
#[derive(Default)]
pub(super) struct Reassembly {
    partials: BTreeMap<u32, Partial>,
    bytes: usize,
    shed: u64,
}

struct Partial {
    stream: Stream,
    parts: Vec<Option<Zeroizing<Vec<u8>>>>,
    missing: usize,
    bytes: usize,
    started: Instant,
}

impl Reassembly {
    /// How much is kept of messages that are not whole.
    pub(super) fn fill(&self) -> Fill {
        Fill::of("bytes of messages in parts", self.bytes, MAX_PARTIAL_BYTES)
    }

    /// Takes a chunk; gives the message when this was the last part.
    pub(super) fn accept(
        &mut self,
        chunk: &[u8],
        now: Instant,
    ) -> Result<Option<(Stream, Vec<u8>)>, ChunkError> {
        let header = Header::parse(chunk)?;
        let part = &chunk[HEADER..HEADER + header.length];
        if header.count == 1 {
            return Ok(Some((header.stream, part.to_vec())));
        }
        self.expire(now);
        let partial = self.partials.entry(header.id).or_insert_with(|| Partial {
            stream: header.stream,
            parts: vec![None; header.count],
            missing: header.count,
            bytes: 0,
            started: now,
        });
        if partial.stream != header.stream || partial.parts.len() != header.count {
            return Err(ChunkError::Malformed);
        }
        let slot = &mut partial.parts[header.index];
        if slot.is_some() {
            return Err(ChunkError::Repeated);
        }
        *slot = Some(Zeroizing::new(part.to_vec()));
        partial.missing -= 1;
        partial.bytes += part.len();
        self.bytes += part.len();
        if partial.missing > 0 {
            self.shed_beyond_limits(header.id);
            return Ok(None);
        }
        let Some(whole) = self.forget(header.id) else { return Ok(None) };
        // Of the right size at once: a vector that grows leaves copies behind.
        let mut message = Vec::with_capacity(whole.bytes);
        for part in whole.parts.iter().flatten() {
            message.extend_from_slice(part);
        }
        Ok(Some((whole.stream, message)))
    }

    /// Messages given up, because parts were lost or there were too many.
    pub(super) fn shed(&self) -> u64 {
        self.shed
    }

    fn expire(&mut self, now: Instant) {
        let late = |partial: &Partial| now.saturating_duration_since(partial.started) >= PARTIAL_LIFETIME;
        let old: Vec<u32> = self.partials.iter().filter(|(_, p)| late(p)).map(|(id, _)| *id).collect();
        for id in old {
            self.forget(id);
            self.shed += 1;
        }
    }

    fn shed_beyond_limits(&mut self, newest: u32) {
        while self.partials.len() > MAX_PARTIALS || self.bytes > MAX_PARTIAL_BYTES {
            let others = self.partials.iter().filter(|(id, _)| **id != newest);
            let oldest = others.min_by_key(|(_, partial)| partial.started).map(|(id, _)| *id);
            self.forget(oldest.unwrap_or(newest));
            self.shed += 1;
        }
    }

    fn forget(&mut self, id: u32) -> Option<Partial> {
        let partial = self.partials.remove(&id)?;
        self.bytes -= partial.bytes;
        Some(partial)
    }
}

struct Header {
    id: u32,
    index: usize,
    count: usize,
    stream: Stream,
    length: usize,
    tag: SessionTag,
}

impl Header {
    fn parse(chunk: &[u8]) -> Result<Self, ChunkError> {
        if chunk.len() < HEADER || chunk[0] != SHIM || chunk[1] != 0 {
            return Err(ChunkError::Malformed);
        }
        let field = |at: usize| usize::from(u16::from_be_bytes([chunk[at], chunk[at + 1]]));
        let (total, index, count, length) = (field(2), field(8), field(10), field(14));
        let whole = total == chunk.len() && total == HEADER + length;
        let within = index < count && length <= CHUNK && count <= MAX_MESSAGE.div_ceil(CHUNK);
        // All parts but the last are full, so that the length of a message is bounded by its count.
        let full = index + 1 == count || length == CHUNK;
        if !(whole && within && full) {
            return Err(ChunkError::Malformed);
        }
        let stream = Stream::from_code(chunk[12]).ok_or(ChunkError::UnknownStream)?;
        let id = u32::from_be_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]);
        let boot = [chunk[16], chunk[17], chunk[18], chunk[19]];
        let session = u32::from_be_bytes([chunk[20], chunk[21], chunk[22], chunk[23]]);
        let tag = SessionTag { boot, session };
        Ok(Self { id, index, count, stream, length, tag })
    }
}

fn short(value: usize) -> [u8; 2] {
    u16::try_from(value).expect("chunk fields fit 16 bits by MAX_MESSAGE").to_be_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TAG: SessionTag = SessionTag { boot: [1, 2, 3, 4], session: 5 };

    fn join(chunks: &[Zeroizing<Vec<u8>>], now: Instant) -> Option<(Stream, Vec<u8>)> {
        let mut reassembly = Reassembly::default();
        let mut whole = None;
        for chunk in chunks {
            whole = reassembly.accept(chunk, now).expect("a good chunk").or(whole);
        }
        assert_eq!((reassembly.partials.len(), reassembly.bytes), (0, 0));
        whole
    }

    #[test]
    fn messages_survive_splitting_in_any_order() {
        let now = Instant::now();
        for length in [0, 1, 4, CHUNK, CHUNK + 1, MAX_MESSAGE] {
            let message: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            let mut chunks = split(Stream::Gossip, 7, TAG, &message).expect("not too long");
            assert!(chunks.iter().all(|c| c.len() >= HEADER && c.len() + SEAL <= MAX_DATAGRAM));
            assert_eq!(join(&chunks, now), Some((Stream::Gossip, message.clone())));
            chunks.reverse();
            assert_eq!(join(&chunks, now), Some((Stream::Gossip, message)));
        }
        assert_eq!(split(Stream::Gossip, 7, TAG, &vec![0; MAX_MESSAGE + 1]), None);
    }

    #[test]
    fn memory_is_bounded_and_parts_expire() {
        let now = Instant::now();
        let mut reassembly = Reassembly::default();
        for id in 0..1000 {
            let chunks = split(Stream::Ipam, id, TAG, &[1; 40_000]).expect("not too long");
            for chunk in &chunks[1..] {
                assert_eq!(reassembly.accept(chunk, now), Ok(None));
            }
            assert!(reassembly.partials.len() <= MAX_PARTIALS && reassembly.bytes <= MAX_PARTIAL_BYTES);
        }
        let later = now + PARTIAL_LIFETIME;
        let chunks = split(Stream::Ipam, 5000, TAG, &[1; 2000]).expect("not too long");
        assert_eq!(reassembly.accept(&chunks[0], later), Ok(None));
        assert_eq!(reassembly.partials.len(), 1);
        assert_eq!(reassembly.shed(), 1000);
    }

    #[test]
    fn a_repeated_part_and_a_changed_count_are_refused() {
        let now = Instant::now();
        let mut reassembly = Reassembly::default();
        let chunks = split(Stream::Ipam, 1, TAG, &[1; 3000]).expect("not too long");
        assert_eq!(reassembly.accept(&chunks[0], now), Ok(None));
        assert_eq!(reassembly.accept(&chunks[0], now), Err(ChunkError::Repeated));
        let other = split(Stream::Ipam, 1, TAG, &[1; 5000]).expect("not too long");
        assert_eq!(reassembly.accept(&other[1], now), Err(ChunkError::Malformed));
    }

    proptest! {
        #[test]
        fn any_chunk_is_taken_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let now = Instant::now();
            let mut reassembly = Reassembly::default();
            let _ = reassembly.accept(&bytes, now);
            let mut framed = bytes;
            framed.resize(framed.len().max(HEADER), 0);
            framed[..2].copy_from_slice(&[SHIM, 0]);
            let total = short(framed.len());
            framed[2..4].copy_from_slice(&total);
            let _ = reassembly.accept(&framed, now);
            prop_assert!(reassembly.bytes <= CHUNK);
        }
    }
}
