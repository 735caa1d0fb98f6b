//! What no part of this node says of itself: records of kinds that a later version may have, and messages of one's own making.
//!
//! For simulations of members of another version, and of members that lie. The shell calls none of it.

use std::time::Instant;

use gossip::wire::Rumour;
use gossip::{PeerId, RecordKey};

use super::Node;
use crate::core::session::Channel;

impl Node {
    /// Says something under any key.
    pub fn publish_strange(&mut self, key: RecordKey, value: Vec<u8>, now: Instant) {
        self.publish(key, value, now);
        self.pump(now);
    }

    /// Says nothing under it any more.
    pub fn withdraw_strange(&mut self, key: &RecordKey, now: Instant) {
        self.gossip.withdraw(key, now);
        self.pump(now);
    }

    /// Sends bytes to a peer as if gossip had.
    pub fn send_strange(&mut self, to: PeerId, bytes: Vec<u8>, now: Instant) {
        self.sessions.send(to, Channel::Gossip, bytes, now);
        self.pump(now);
    }

    /// What gossip would tell of all members, with their own word for it.
    pub fn rumours(&self) -> impl Iterator<Item = Rumour> {
        self.gossip.rumours()
    }
}
