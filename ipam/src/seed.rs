//! A fabric that starts on several hosts at once: each of the seeds takes its own part of the range, without asking anybody.
//!
//! Who is a seed and which part is whose follows from a list that all seeds have (ADR 0009); here only the own part is known. Before it
//! is taken the peer listens for a while: one that was a seed before and has lost its state must not take twice.

use std::time::{Duration, Instant};

use gossip::PeerId;
use ipnet::Ipv4Net;

use crate::Ipam;
use crate::span::Span;
use crate::types::Trust;

/// How long is listened when nobody is there. A session takes a fraction of a second; the first caller waits for up to five.
const LISTEN: Duration = Duration::from_secs(3);

/// How long is listened to somebody who has just come: gossip brings everything within a second or two.
const HEAR: Duration = Duration::from_secs(2);

/// Longest wait in all: with seeds coming one after the other somebody is always new.
const LONGEST: Duration = Duration::from_secs(10);

/// The part that this peer is going to take.
#[derive(Debug)]
pub(crate) struct Claim {
    parts: Vec<Ipv4Net>,
    at: Instant,
    latest: Instant,
}

impl Ipam {
    /// Makes this peer the owner of its part of the range, soon: it is one of the seeds that create the fabric. Comes to nothing when
    /// any of it turns out to be somebody's. No-op when that is known already: it was taken in an earlier life.
    pub fn found_part(&mut self, parts: Vec<Ipv4Net>, now: Instant) {
        if parts.iter().any(|part| self.map.within(Span::of(*part)).next().is_some()) {
            return;
        }
        self.claim = Some(Claim { parts, at: now + LISTEN, latest: now + LONGEST });
    }

    /// Who has the part that was meant for this peer, if it came to nothing.
    pub fn part_taken_by(&self) -> Option<PeerId> {
        self.part_taken
    }

    pub(crate) fn next_claim(&self) -> Option<Instant> {
        // Whoever may have forgotten that it took its part, and gave it away, has to hear the fabric first.
        self.claim.as_ref().filter(|_| self.trust == Trust::Sure).map(|claim| claim.at)
    }

    /// Somebody is there now: hear what they know.
    pub(crate) fn hear_before_claim(&mut self, now: Instant) {
        if let Some(claim) = &mut self.claim {
            claim.at = claim.at.max(now + HEAR).min(claim.latest);
        }
    }

    pub(crate) fn claim_part_due(&mut self, now: Instant) {
        let trust = self.trust;
        let Some(claim) = self.claim.take_if(|claim| trust == Trust::Sure && claim.at <= now) else { return };
        let spans = || claim.parts.iter().copied().map(Span::of);
        self.part_taken = spans().find_map(|span| Some(self.map.within(span).next()?.1.owner));
        if self.part_taken.is_none() {
            for part in claim.parts {
                self.claim(part, 1, now);
            }
        }
    }
}
