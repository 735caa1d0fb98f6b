//! One link: what waits to be sent over it, within bounds, and how much may still be sent and checked.
//!
//! Rumours and records wait by name, not by content: whatever is sent is the newest, and a slow link only makes the
//! list of names longer, up to its bound. What is shed is made up for by comparing digests.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::peer::PeerId;
use crate::record::RecordKey;

/// Ready messages waiting: answers and digests, a turn's worth many times over.
pub(crate) const MAX_READY: usize = 256;

/// Names of records waiting: one origin with everything it may have.
pub(crate) const MAX_PUSHES: usize = 8_192;

/// Signatures checked at once for one neighbour, and how many more per second: a tenth of a core at most.
const VERIFY_BURST: u32 = 4_096;

/// See [`VERIFY_BURST`].
const VERIFY_RATE: u32 = 1_024;

/// Steps of comparisons answered at once for one neighbour: what a newcomer needs in a fabric of ten thousand.
const COMPARE_BURST: u32 = 1_024;

/// And how many more per second: a member that asks without end costs a walk over the store this often.
const COMPARE_RATE: u32 = 64;

/// How often the budgets are filled up.
const REFILL: Duration = Duration::from_millis(50);

/// Shortest and longest time between two comparisons that one link's probes set off.
const REPAIR_MIN: Duration = Duration::from_secs(1);

/// See [`REPAIR_MIN`]. Differences that cannot be settled (a full table) must not cost more than this.
const REPAIR_MAX: Duration = Duration::from_secs(32);

/// So many records fill a message: they wait for no more.
const FULL: usize = 8;

/// How long announcements wait for more of them.
const ANNOUNCE_PAUSE: Duration = Duration::from_millis(100);

/// How records go over a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushing {
    /// Whole and at once: the link is part of the broadcast tree.
    Eager,
    /// By name, after a while.
    Lazy,
}

#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) last_heard: Instant,
    ready: VecDeque<Vec<u8>>,
    pub(crate) rumours: BTreeSet<PeerId>,
    pushes: BTreeSet<(PeerId, RecordKey)>,
    announcements: BTreeSet<(PeerId, RecordKey)>,
    /// When the announcements that wait are sent.
    announce_at: Option<Instant>,
    announce: Announce,
    pushing: Pushing,
    send: Budget,
    verify: Budget,
    compare: Budget,
    last_refill: Instant,
    next_repair: Instant,
    repair_pause: Duration,
}

/// What became of something that should wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Queued {
    Yes,
    Full,
}

/// Whether what waits may go, or waits for more of its kind unless it fills a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    Open,
    Gathering,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Announce {
    Later,
    Now,
}

/// A bucket of tokens that may be overdrawn once.
#[derive(Debug)]
struct Budget {
    left: i64,
    rate: u32,
    burst: u32,
}

impl Budget {
    fn new(rate: u32, burst: u32) -> Self {
        Budget { left: i64::from(burst), rate, burst }
    }

    /// Takes one token, if there is any left.
    fn take(&mut self) -> bool {
        let may = self.left > 0;
        self.left -= i64::from(may);
        may
    }

    fn fill(&mut self, passed: Duration) {
        let more = passed.as_micros().min(1_000_000_000) as i64 * i64::from(self.rate) / 1_000_000;
        self.left = (self.left + more).min(i64::from(self.burst));
    }
}

impl Link {
    pub(crate) fn new(config: &Config, now: Instant) -> Self {
        Link {
            last_heard: now,
            ready: VecDeque::new(),
            rumours: BTreeSet::new(),
            pushes: BTreeSet::new(),
            announcements: BTreeSet::new(),
            announce_at: None,
            announce: Announce::Later,
            pushing: Pushing::Eager,
            send: Budget::new(config.link_rate, config.link_burst),
            verify: Budget::new(VERIFY_RATE, VERIFY_BURST),
            compare: Budget::new(COMPARE_RATE, COMPARE_BURST),
            last_refill: now,
            next_repair: now,
            repair_pause: REPAIR_MIN,
        }
    }

    pub(crate) fn queue(&mut self, message: Vec<u8>) -> Queued {
        if self.ready.len() >= MAX_READY {
            return Queued::Full;
        }
        self.ready.push_back(message);
        Queued::Yes
    }

    pub(crate) fn queue_push(&mut self, origin: PeerId, key: &RecordKey) -> Queued {
        if self.pushes.len() >= MAX_PUSHES && !self.pushes.contains(&(origin, key.clone())) {
            return Queued::Full;
        }
        self.pushes.insert((origin, key.clone()));
        Queued::Yes
    }

    /// A record is new here: pushes or announces it.
    pub(crate) fn queue_news(&mut self, origin: PeerId, key: &RecordKey, now: Instant) -> Queued {
        match self.pushing {
            Pushing::Eager => self.queue_push(origin, key),
            Pushing::Lazy if self.announcements.len() >= MAX_PUSHES => Queued::Full,
            Pushing::Lazy => {
                self.announcements.insert((origin, key.clone()));
                self.announce_at.get_or_insert(now + ANNOUNCE_PAUSE);
                Queued::Yes
            }
        }
    }

    /// Something that waits needs not be sent: the other side has it.
    pub(crate) fn unqueue_push(&mut self, origin: PeerId, key: &RecordKey) {
        if !self.pushes.is_empty() || !self.announcements.is_empty() {
            let id = (origin, key.clone());
            self.pushes.remove(&id);
            self.announcements.remove(&id);
        }
    }

    /// Messages that are ready.
    pub(crate) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Names of records that wait.
    pub(crate) fn pushes(&self) -> usize {
        self.pushes.len()
    }

    /// Names of records that wait to be announced.
    pub(crate) fn announcements(&self) -> usize {
        self.announcements.len()
    }

    pub(crate) fn pushing(&self) -> Pushing {
        self.pushing
    }

    pub(crate) fn set_pushing(&mut self, pushing: Pushing) {
        self.pushing = pushing;
    }

    /// The next name to announce, once it is time.
    pub(crate) fn next_announcement(&mut self) -> Option<(PeerId, RecordKey)> {
        if self.announce == Announce::Later {
            return None;
        }
        let next = self.announcements.pop_first();
        if next.is_none() {
            (self.announce, self.announce_at) = (Announce::Later, None);
        }
        next
    }

    /// A name that found no room in a message.
    pub(crate) fn announce_again(&mut self, origin: PeerId, key: RecordKey) {
        self.announcements.insert((origin, key));
    }

    pub(crate) fn next_ready(&mut self) -> Option<Vec<u8>> {
        self.ready.pop_front()
    }

    /// The next record to send, if there is budget for any.
    pub(crate) fn next_push(&mut self) -> Option<(PeerId, RecordKey)> {
        if self.send.left <= 0 { None } else { self.pushes.pop_first() }
    }

    pub(crate) fn spend(&mut self, bytes: usize) {
        self.send.left -= i64::try_from(bytes).expect("messages are short");
    }

    /// Takes the right to have one signature checked.
    pub(crate) fn may_verify(&mut self) -> bool {
        self.verify.take()
    }

    /// Takes the right to have one step of a comparison answered.
    pub(crate) fn may_compare(&mut self) -> bool {
        self.compare.take()
    }

    /// Whether something waits that may be sent now.
    pub(crate) fn may_send(&self, flow: Flow) -> bool {
        !self.ready.is_empty() || self.may_flow(flow) || self.announce == Announce::Now
    }

    /// Whether rumours or records wait that may be sent now.
    pub(crate) fn may_flow(&self, flow: Flow) -> bool {
        match flow {
            Flow::Open => !self.rumours.is_empty() || (!self.pushes.is_empty() && self.send.left > 0),
            Flow::Gathering => {
                self.rumours.len() >= FULL || (self.pushes.len() >= FULL && self.send.left > 0)
            }
        }
    }

    pub(crate) fn refill(&mut self, now: Instant) {
        if self.announce_at.is_some_and(|at| at <= now) {
            self.announce = Announce::Now;
        }
        let passed = now.saturating_duration_since(self.last_refill);
        if passed >= REFILL {
            self.last_refill = now;
            self.send.fill(passed);
            self.verify.fill(passed);
            self.compare.fill(passed);
        }
    }

    /// When more may be sent, if something waits for that.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let budget = (!self.pushes.is_empty() && self.send.left <= 0).then(|| self.last_refill + REFILL);
        budget.into_iter().chain(self.announce_at).min()
    }

    /// Whether a difference shown by a probe should be looked into now. Each time that it is, the pause doubles.
    pub(crate) fn begin_repair(&mut self, now: Instant) -> bool {
        if now < self.next_repair {
            return false;
        }
        self.next_repair = now + self.repair_pause;
        self.repair_pause = (self.repair_pause * 2).min(REPAIR_MAX);
        true
    }

    /// Comparing was worth it, or there is something new to compare.
    pub(crate) fn repair_is_useful(&mut self) {
        self.repair_pause = REPAIR_MIN;
        self.next_repair = self.next_repair.min(self.last_heard + REPAIR_MIN);
    }

    /// Whether nothing waits to be sent, now or later.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting() == 0 && self.announce == Announce::Later && self.announce_at.is_none()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.ready.len() + self.rumours.len() + self.pushes.len() + self.announcements.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Kind;

    #[test]
    fn a_slow_link_keeps_names_within_bounds() {
        let mut link = Link::new(&Config::default(), Instant::now());
        let key = |n: u32| RecordKey::new(Kind::ENDPOINT, n.to_be_bytes());
        let full = (0..10_000).filter(|&n| link.queue_push(PeerId([1; 16]), &key(n)) == Queued::Full).count();
        assert_eq!(full, 10_000 - MAX_PUSHES);
        assert_eq!(link.queue_push(PeerId([1; 16]), &key(0)), Queued::Yes, "a newer version takes no room");
        let full = (0..300).filter(|_| link.queue(Vec::new()) == Queued::Full).count();
        assert_eq!(full, 300 - MAX_READY);
    }

    #[test]
    fn budget_stops_pushes_and_time_refills_it() {
        let now = Instant::now();
        let mut link = Link::new(&Config::default(), now);
        let _ = link.queue_push(PeerId([1; 16]), &RecordKey::only(Kind::PEER));
        link.spend(1 << 20);
        assert_eq!(link.next_push(), None);
        assert_eq!(link.poll_timeout(), Some(now + REFILL));
        link.refill(now + Duration::from_secs(60));
        assert!(link.next_push().is_some());
    }

    #[test]
    fn fruitless_repairs_become_rare() {
        let start = Instant::now();
        let mut link = Link::new(&Config::default(), start);
        let tries = (0..600).filter(|&s| link.begin_repair(start + Duration::from_secs(s))).count();
        assert!(tries < 30, "{tries} in ten minutes");
    }
}
