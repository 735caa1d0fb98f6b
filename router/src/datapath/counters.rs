//! What the threads count. Each counter has one writer, so that counting is a load and a store; anybody may read.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::drops::DropReason;
use super::keys::PeerId;

/// A number that one thread changes and others read.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only ever called by the counter's one writer.
    pub fn add(&self, number: usize) {
        let number = u64::try_from(number).unwrap_or(u64::MAX);
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(number), Ordering::Relaxed);
    }

    /// Sets; only ever called by the counter's one writer.
    pub fn set(&self, number: u64) {
        self.0.store(number, Ordering::Relaxed);
    }

    /// Reads.
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one thread counts for itself.
pub struct ThreadCounters {
    drops: Box<[Counter]>,
    /// Reads of the TAP device or the socket that brought something.
    pub reads: Counter,
    /// Writes to the TAP device, or sends on the socket.
    pub writes: Counter,
    /// Questions for hardware addresses that were answered here.
    pub answered: Counter,
    /// Sends that had to go without segmentation offload.
    pub single_sends: Counter,
    /// Questions that wait for an announcement, at present.
    pub open_questions: Counter,
}

impl Default for ThreadCounters {
    fn default() -> Self {
        ThreadCounters {
            drops: DropReason::ALL.iter().map(|_| Counter::default()).collect(),
            reads: Counter::default(),
            writes: Counter::default(),
            answered: Counter::default(),
            single_sends: Counter::default(),
            open_questions: Counter::default(),
        }
    }
}

impl ThreadCounters {
    /// Counts a drop of `count` frames or datagrams.
    pub fn dropped(&self, reason: DropReason, count: usize) {
        self.drops[reason as usize].add(count);
    }

    /// How many were dropped for this reason.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].read()
    }
}

/// Traffic with one peer in one direction. A super-frame counts as one frame.
#[derive(Default)]
pub struct Traffic {
    /// Frames.
    pub frames: Counter,
    /// Bytes of frames.
    pub bytes: Counter,
    /// Datagrams on the wire.
    pub datagrams: Counter,
    /// When the last one was, in milliseconds after the start and plus one; zero for never.
    pub last: Counter,
}

impl Traffic {
    /// A copy of the numbers.
    pub fn read(&self, start: Instant) -> TrafficCounters {
        let last = self.last.read().checked_sub(1).map(|ms| start + Duration::from_millis(ms));
        TrafficCounters {
            frames: self.frames.read(),
            bytes: self.bytes.read(),
            datagrams: self.datagrams.read(),
            last,
        }
    }
}

/// Traffic with one peer in one direction, as read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TrafficCounters {
    /// Frames; a super-frame counts as one.
    pub frames: u64,
    /// Bytes of frames, Ethernet header included.
    pub bytes: u64,
    /// Datagrams on the wire.
    pub datagrams: u64,
    /// When the last one was.
    pub last: Option<Instant>,
}

/// Traffic with one peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PeerCounters {
    /// To the peer.
    pub tx: TrafficCounters,
    /// From the peer.
    pub rx: TrafficCounters,
}

impl PeerCounters {
    /// When the peer's lanes were last used in either direction.
    pub fn last_used(&self) -> Option<Instant> {
        self.tx.last.max(self.rx.last)
    }
}

/// Everything that the hot path counts, at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DatapathCounters {
    /// By peer.
    pub peers: BTreeMap<PeerId, PeerCounters>,
    /// Drops of all threads; reasons that never occurred are left out.
    pub drops: BTreeMap<DropReason, u64>,
    /// Reads of the TAP device that brought a frame.
    pub tap_reads: u64,
    /// Frames written to the TAP device, rebuilt super-frames as one.
    pub tap_writes: u64,
    /// Reads of the socket that brought datagrams.
    pub socket_reads: u64,
    /// Sends on the socket.
    pub socket_sends: u64,
    /// Sends without segmentation offload because the kernel refused it.
    pub single_sends: u64,
    /// Questions for hardware addresses that were answered here.
    pub answered: u64,
}
