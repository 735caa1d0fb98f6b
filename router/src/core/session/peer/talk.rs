//! Inside the session: messages, pings, and the lane exchange.

use std::time::Instant;

use super::Peer;
use crate::core::session::chunks::{SessionTag, Stream, boot_tag, split};
use crate::core::session::common::Common;
use crate::core::session::control;
use crate::core::session::drops::DropReason;
use crate::core::session::lanes::{LaneAction, LaneContext, Lanes};
use crate::core::session::types::{DownReason, SessionEvent, Want};

/// Unanswered pings whose time is remembered.
const MAX_PINGS: usize = 16;
pub(in crate::core::session) const PING: u8 = 1;
pub(in crate::core::session) const PONG: u8 = 2;
pub(in crate::core::session) const BYE: u8 = 3;
pub(in crate::core::session) const BYE_IDLE: u8 = 0;
pub(in crate::core::session) const BYE_LEAVING: u8 = 1;
pub(in crate::core::session) const BYE_REMOVED: u8 = 2;

impl Peer {
    pub(super) fn payload(
        &mut self,
        chunk: &[u8],
        common: &mut Common,
        now: Instant,
    ) -> Result<(), DropReason> {
        let accepted = self.reassembly.accept(chunk, now);
        let shed = self.reassembly.shed();
        common.drops.add(DropReason::ReassemblyShed, shed - self.shed);
        self.shed = shed;
        let Some((stream, message)) = accepted.map_err(control::chunk_reason)? else { return Ok(()) };
        control::message(self, stream, message, common, now)
    }

    pub(in crate::core::session) fn transmit(&mut self, stream: Stream, message: &[u8], common: &mut Common) {
        let Some(active) = &mut self.active else { return };
        self.message_id = self.message_id.wrapping_add(1);
        let tag = SessionTag { boot: boot_tag(&common.boot), session: self.session_number };
        let Some(chunks) = split(stream, self.message_id, tag, message) else {
            common.drops.count(DropReason::MessageTooLong);
            return;
        };
        self.sent += 1;
        for chunk in chunks {
            if let Some(datagram) = active.seal(&chunk) {
                common.send(active.address, datagram);
            }
        }
    }

    pub(super) fn ping(&mut self, common: &mut Common, now: Instant) {
        self.ping_number += 1;
        self.last_ping = now;
        self.pings.push_back((self.ping_number, now));
        if self.pings.len() > MAX_PINGS {
            self.pings.pop_front();
        }
        let mut message = vec![PING, u8::from(self.keeps())];
        message.extend_from_slice(&self.ping_number.to_be_bytes());
        self.transmit(Stream::Session, &message, common);
    }

    pub(in crate::core::session) fn pong(&mut self, number: u64, now: Instant) {
        let Some(at) = self.pings.iter().position(|(sent, _)| *sent == number) else { return };
        let Some((_, sent)) = self.pings.remove(at) else { return };
        let sample = now.saturating_duration_since(sent);
        // RFC 6298, section 2: SRTT with alpha = 1/8.
        self.rtt = Some(self.rtt.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
    }

    /// The peer has pinged, and says whether it keeps the session.
    pub(in crate::core::session) fn pinged(&mut self, flags: u8, now: Instant) {
        self.pinged = now;
        self.wanted_by_peer = flags & 1 != 0;
    }

    /// Whether a session is kept without being used.
    pub(super) fn keeps(&self) -> bool {
        self.wants.contains(&Want::Gossip) || self.wants.contains(&Want::Target)
    }

    pub(in crate::core::session) fn with_lanes<T>(
        &mut self,
        common: &mut Common,
        run: impl FnOnce(&mut Lanes, &mut LaneContext<'_>) -> T,
    ) -> T {
        let mut actions = Vec::new();
        let mut context = LaneContext {
            fabric: common.keys.fabric(),
            me: common.me,
            my_keys: common.public,
            peer: self.id,
            peer_keys: self.public,
            capabilities: common.config.capabilities,
            random: &mut common.random,
            ids: &mut common.lane_ids,
            actions: &mut actions,
        };
        let result = run(&mut self.lanes, &mut context);
        let address = self.active.as_ref().map(|link| link.address);
        for action in actions {
            match (action, address) {
                (LaneAction::Send(message), _) => self.transmit(Stream::Session, &message, common),
                (LaneAction::Retire(lane), _) => {
                    common.emit(SessionEvent::LaneRetired { peer: self.id, lane });
                }
                (LaneAction::Ready(lane), Some(address)) => {
                    common.emit(SessionEvent::LaneReady { peer: self.id, address, lane });
                }
                (LaneAction::Ready(_), None) => {}
            }
        }
        result
    }
}

pub(super) fn bye_code(reason: DownReason) -> u8 {
    match reason {
        DownReason::Idle | DownReason::Silent | DownReason::Expired => BYE_IDLE,
        DownReason::Leaving | DownReason::Quarantined => BYE_LEAVING,
        DownReason::Removed => BYE_REMOVED,
        DownReason::PeerIdle
        | DownReason::PeerLeft
        | DownReason::PeerRestarted
        | DownReason::RemovedByPeer => BYE_IDLE,
    }
}
