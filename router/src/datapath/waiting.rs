//! Frames that wait for a session: the first packets to a peer that there is no lane to yet.

use std::collections::VecDeque;
use std::hash::RandomState;
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use super::counters::ThreadCounters;
use super::drops::DropReason;
use super::keys::PeerId;
use super::virtio;

/// Frames kept for one peer: the first flight of a few connections. Newer push out older ones.
const MAX_FRAMES: usize = 64;

/// Bytes kept for one peer; the same limit for large frames.
const MAX_BYTES: usize = 256 * 1024;

/// Peers that frames are kept for: a broadcast to a large fabric must not take more than 64 MiB.
const MAX_PEERS: usize = 256;

/// A frame that waited longer is of no use: TCP has sent it again, and others gave up.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often a session is asked for again while frames go on coming.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// A frame as it came from the TAP device.
pub struct WaitingFrame {
    /// Its virtio header.
    pub header: virtio::Header,
    /// Its bytes.
    pub bytes: Vec<u8>,
    since: Instant,
}

/// Whether control should be asked for a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// It should.
    Now,
    /// It was asked a moment ago.
    Not,
}

struct Queue {
    frames: VecDeque<WaitingFrame>,
    bytes: usize,
    asked: Instant,
}

/// The frames that wait, by peer.
#[derive(Default)]
pub struct WaitingRoom {
    queues: HashMap<PeerId, Queue, RandomState>,
}

impl WaitingRoom {
    /// Keeps a copy of the frame.
    pub fn enter(
        &mut self,
        peer: PeerId,
        header: virtio::Header,
        frame: &[u8],
        now: Instant,
        counters: &ThreadCounters,
    ) -> Ask {
        if self.queues.len() >= MAX_PEERS && !self.queues.contains_key(&peer) {
            counters.dropped(DropReason::QueuesFull, 1);
            return Ask::Now;
        }
        let mut ask = Ask::Not;
        let queue = self.queues.entry(peer).or_insert_with(|| {
            ask = Ask::Now;
            Queue { frames: VecDeque::new(), bytes: 0, asked: now }
        });
        if now.saturating_duration_since(queue.asked) >= ASK_AGAIN {
            queue.asked = now;
            ask = Ask::Now;
        }
        queue.frames.push_back(WaitingFrame { header, bytes: frame.to_vec(), since: now });
        queue.bytes += frame.len();
        while queue.frames.len() > MAX_FRAMES || queue.bytes > MAX_BYTES {
            if let Some(oldest) = queue.frames.pop_front() {
                queue.bytes -= oldest.bytes.len();
                counters.dropped(DropReason::QueueFull, 1);
            }
        }
        ask
    }

    /// Gives out the frames of a peer, oldest first, as there is a lane to it now.
    pub fn leave(
        &mut self,
        peer: PeerId,
        now: Instant,
        counters: &ThreadCounters,
    ) -> impl Iterator<Item = WaitingFrame> + use<> {
        let mut frames = self.queues.remove(&peer).map(|queue| queue.frames).unwrap_or_default();
        let before = frames.len();
        frames.retain(|frame| now.saturating_duration_since(frame.since) <= PATIENCE);
        counters.dropped(DropReason::QueueExpired, before - frames.len());
        frames.into_iter()
    }

    /// Lets go of what waited too long.
    pub fn expire(&mut self, now: Instant, counters: &ThreadCounters) {
        self.queues.retain(|_, queue| {
            while let Some(oldest) = queue.frames.front()
                && now.saturating_duration_since(oldest.since) > PATIENCE
            {
                queue.bytes -= oldest.bytes.len();
                queue.frames.pop_front();
                counters.dropped(DropReason::QueueExpired, 1);
            }
            !queue.frames.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: PeerId = PeerId([4; 16]);

    fn bytes_of(room: &mut WaitingRoom, now: Instant, counters: &ThreadCounters) -> Vec<u8> {
        room.leave(PEER, now, counters).map(|frame| frame.bytes[0]).collect()
    }

    #[test]
    fn oldest_frames_go_first_and_are_counted() {
        let (mut room, counters, now) = (WaitingRoom::default(), ThreadCounters::default(), Instant::now());
        for i in 0..70u8 {
            let ask = room.enter(PEER, virtio::Header::default(), &[i; 60], now, &counters);
            assert_eq!(ask, if i == 0 { Ask::Now } else { Ask::Not });
        }
        assert_eq!(counters.drops(DropReason::QueueFull), 6);
        assert_eq!(bytes_of(&mut room, now, &counters), (6..70).collect::<Vec<u8>>());
        assert_eq!(bytes_of(&mut room, now, &counters), Vec::<u8>::new());
    }

    #[test]
    fn stale_frames_are_not_sent() {
        let (mut room, counters, now) = (WaitingRoom::default(), ThreadCounters::default(), Instant::now());
        room.enter(PEER, virtio::Header::default(), &[1], now, &counters);
        let later = now + PATIENCE + Duration::from_millis(1);
        assert_eq!(room.enter(PEER, virtio::Header::default(), &[2], later, &counters), Ask::Now);
        assert_eq!(bytes_of(&mut room, later, &counters), [2]);
        assert_eq!(counters.drops(DropReason::QueueExpired), 1);
        room.enter(PEER, virtio::Header::default(), &[3], now, &counters);
        room.expire(later, &counters);
        assert!(room.queues.is_empty());
        assert_eq!(counters.drops(DropReason::QueueExpired), 2);
    }
}
