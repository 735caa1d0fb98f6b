//! The way of a datagram to its owner: HELLOs, their answers, REJECTs, and WireGuard's four kinds.

use std::net::SocketAddr;
use std::time::Instant;

use boringtun::noise::{Packet, Tunn};
use gossip::PeerId;

use super::{CHALLENGE_EVERY, CloneWatch, Sessions};
use crate::core::hello::{Hello, HelloError, HelloKind, Reject, RejectReason, reject_note};
use crate::core::seeds::same_family;
use crate::core::session::bucket::Taken;
use crate::core::session::common::Purpose;
use crate::core::session::drops::DropReason;
use crate::core::session::link::WireKind;
use crate::core::session::types::{DownReason, Newer, Refusal, SessionEvent, Want};

impl Sessions {
    pub(super) fn handle_hello(
        &mut self,
        from: SocketAddr,
        bytes: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        let unverified = match Hello::authenticate(bytes, &self.common.keys) {
            Ok(unverified) => unverified,
            Err(error) => {
                if let Some(reason) = reject_reason(error) {
                    self.reject(from, bytes, reason, now);
                }
                return Err(hello_drop(error));
            }
        };
        // Only what a member made, or what somebody replays, gets so far: strangers cannot use up the members' tokens.
        if self.hellos.take(now) == Taken::Empty {
            return Err(DropReason::HelloFlood);
        }
        let hello = unverified.verify().map_err(hello_drop)?;
        if hello.public == self.common.public {
            return Err(self.hello_of_ours(from, &hello, now));
        }
        let peer = hello.public.peer_id();
        if self.removed.contains(&peer) {
            self.reject(from, bytes, RejectReason::Removed, now);
            return Err(DropReason::HelloRemoved);
        }
        if !self.learn(peer, hello.public, now) {
            return Err(DropReason::PeerTableFull);
        }
        self.common.reply(from, &hello, now);
        self.with_peer(peer, now, |peer, _| peer.hint(from, now));
        Ok(())
    }

    pub(super) fn reject(&mut self, from: SocketAddr, hello: &[u8], reason: RejectReason, now: Instant) {
        if self.rejects.take(now) == Taken::Token
            && let Some(reject) = Reject::answer(hello, reason, self.common.keys.fabric())
        {
            // Only for those whose password and range are the same: the list names hosts.
            let kin = reason == RejectReason::ForeignFabric && same_family(reject.named, reject.fabric);
            self.common.send(from, reject.emit(self.seeds.as_deref().filter(|_| kin)));
        }
    }

    /// A HELLO with our own identity: we dialled ourselves, or there is a clone, or somebody replays an old one of ours.
    pub(super) fn hello_of_ours(&mut self, from: SocketAddr, hello: &Hello, now: Instant) -> DropReason {
        if hello.boot == self.common.boot {
            if let Some(probe) = self.common.take_probe(&hello.nonce, now) {
                self.note_ourselves(probe.to, probe.purpose, now);
            }
            return DropReason::HelloFromSelf;
        }
        // A challenge is as long as what it answers, so a spoofed sender gains nothing; never a challenge and a reply.
        let challenge = match self.clone {
            CloneWatch::None => true,
            CloneWatch::Challenged(at) => now >= at + CHALLENGE_EVERY,
            CloneWatch::Newer | CloneWatch::Quarantined => false,
        };
        if challenge {
            self.clone = CloneWatch::Challenged(now);
            self.common.probe(from, Purpose::CloneCheck, now);
        } else {
            self.common.reply(from, hello, now);
        }
        DropReason::HelloFromClone
    }

    pub(super) fn note_ourselves(&mut self, address: SocketAddr, purpose: Purpose, now: Instant) {
        match purpose {
            Purpose::Target => {
                if let Some(target) = self.targets.get_mut(&address) {
                    target.is_ourselves(now);
                }
            }
            Purpose::Peer(id) => self.with_peer(id, now, |peer, _| peer.ourselves(address)),
            Purpose::CloneCheck => {}
        }
    }

    pub(super) fn handle_reply(&mut self, bytes: &[u8], now: Instant) -> Result<(), DropReason> {
        let hello = Hello::parse(bytes, &self.common.keys).map_err(hello_drop)?;
        debug_assert_eq!(hello.kind, HelloKind::Reply);
        let probe = self.common.take_probe(&hello.echo, now).ok_or(DropReason::ReplyUnasked)?;
        if hello.public == self.common.public {
            return self.clone_proven(probe.to, probe.uptime, &hello, now);
        }
        let id = hello.public.peer_id();
        if self.removed.contains(&id) {
            return Err(DropReason::HelloRemoved);
        }
        if !self.learn(id, hello.public, now) {
            return Err(DropReason::PeerTableFull);
        }
        match probe.purpose {
            Purpose::Peer(wanted) if wanted != id => {
                self.with_peer(wanted, now, |peer, _| peer.other_peer(probe.to, id));
                return Ok(());
            }
            Purpose::Peer(_) | Purpose::CloneCheck => {}
            Purpose::Target => self.target_answered(probe.to, id, now),
        }
        self.with_peer(id, now, |peer, common| peer.hello_reply(probe.to, &hello, common, now));
        Ok(())
    }

    pub(super) fn target_answered(&mut self, address: SocketAddr, id: PeerId, now: Instant) {
        let Some(target) = self.targets.get_mut(&address) else { return };
        let before = target.peer.replace(id);
        target.answered(id, now);
        if self.peers.get(&id).is_some_and(|peer| peer.active.is_some())
            && let Some(target) = self.targets.get_mut(&address)
        {
            target.connected(now);
        }
        if let Some(before) = before.filter(|before| *before != id) {
            self.drop_target_want(before, now);
        }
        self.with_peer(id, now, |peer, _| {
            peer.wants.insert(Want::Target);
        });
    }

    pub(super) fn drop_target_want(&mut self, id: PeerId, now: Instant) {
        if !self.targets.values().any(|target| target.peer == Some(id)) {
            self.unwant(id, Want::Target, now);
        }
    }

    /// Our own identity signed our fresh nonce, and it was not this process. The one that runs for less time gives way; if both started in
    /// the same millisecond, the one with the smaller boot nonce.
    pub(super) fn clone_proven(
        &mut self,
        address: SocketAddr,
        our_uptime: u64,
        hello: &Hello,
        now: Instant,
    ) -> Result<(), DropReason> {
        if hello.boot == self.common.boot {
            return Err(DropReason::HelloFromSelf);
        }
        let ours = (our_uptime, self.common.boot);
        let newer = if ours < (hello.uptime, hello.boot) { Newer::Ours } else { Newer::Theirs };
        let before = self.clone;
        self.clone = match newer {
            Newer::Ours => CloneWatch::Quarantined,
            Newer::Theirs => CloneWatch::Newer,
        };
        if before != self.clone {
            self.common.emit(SessionEvent::CloneDetected { address, newer });
        }
        match newer {
            Newer::Ours => self.end_all(DownReason::Quarantined, now),
            Newer::Theirs => {}
        }
        Err(DropReason::HelloFromClone)
    }

    pub(super) fn handle_reject(
        &mut self,
        from: SocketAddr,
        bytes: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        let reject = Reject::parse(bytes).ok_or(DropReason::RejectUnasked)?;
        let probe = self.common.peek_probe(&reject.echo, now).ok_or(DropReason::RejectUnasked)?;
        if probe.to != from {
            return Err(DropReason::RejectUnasked);
        }
        let lists = self.seeds.clone().zip(reject_note(bytes));
        let lists = lists.filter(|_| same_family(reject.fabric, self.common.keys.fabric()));
        let refusal = Refusal::from_reject(&reject, self.common.keys.fabric(), lists);
        match probe.purpose {
            Purpose::Peer(id) => self.with_peer(id, now, |peer, _| peer.refused(from, refusal)),
            Purpose::Target => {
                if let Some(target) = self.targets.get_mut(&from) {
                    target.refused(refusal);
                }
            }
            Purpose::CloneCheck => {}
        }
        Ok(())
    }

    // ---- WireGuard ----

    pub(super) fn handle_wireguard(
        &mut self,
        from: SocketAddr,
        bytes: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        let packet = Tunn::parse_incoming_packet(bytes).map_err(|_| DropReason::HandshakeMalformed)?;
        let (kind, index) = match &packet {
            Packet::HandshakeInit(_) => (WireKind::Initiation, 0),
            Packet::HandshakeResponse(response) => (WireKind::Response, response.receiver_idx >> 8),
            Packet::PacketCookieReply(cookie) => (WireKind::Cookie, cookie.receiver_idx >> 8),
            Packet::PacketData(data) => (WireKind::Data, data.receiver_idx >> 8),
        };
        match kind {
            WireKind::Initiation | WireKind::Response => self.check_handshake(from, bytes, now)?,
            WireKind::Cookie | WireKind::Data => {}
        }
        if let Packet::HandshakeInit(init) = &packet {
            let key = self.common.guard.initiator(init, bytes).ok_or(DropReason::HandshakeInvalid)?;
            if self.removed_keys.contains_key(&key) {
                return Err(DropReason::HandshakeRemoved);
            }
            let id = self.owner_of(&key, now).ok_or(DropReason::HandshakeUnknownPeer)?;
            return self.peer_result(id, now, |peer, common| peer.initiation(from, bytes, common, now));
        }
        let id = self.common.indices.get(&index).copied();
        let id = id.ok_or(match kind {
            WireKind::Data => DropReason::UnknownSession,
            WireKind::Initiation | WireKind::Response | WireKind::Cookie => DropReason::HandshakeUnexpected,
        })?;
        self.peer_result(id, now, |peer, common| peer.datagram(from, index, kind, bytes, common, now))
    }

    /// The cheap check of a handshake before any scalar multiplication, and the cookie when there are too many.
    pub(super) fn check_handshake(
        &mut self,
        from: SocketAddr,
        bytes: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        if !self.common.guard.is_genuine(from, bytes) {
            return Err(DropReason::HandshakeBadMac);
        }
        if self.handshakes.take(now) == Taken::Token {
            return Ok(());
        }
        match self.common.guard.check_cookie(from.ip(), bytes) {
            Ok(()) => return Ok(()),
            Err(Some(answer)) => self.common.send(from, answer),
            Err(None) => {}
        }
        Err(DropReason::HandshakeUnderLoad)
    }
}

/// What the far side is told, if anything: a damaged or lying datagram gets no answer.
fn reject_reason(error: HelloError) -> Option<RejectReason> {
    match error {
        HelloError::OtherVersion { .. } => Some(RejectReason::Version),
        HelloError::ForeignFabric { .. } => Some(RejectReason::ForeignFabric),
        HelloError::WrongSecret => Some(RejectReason::WrongSecret),
        HelloError::Malformed | HelloError::BadSignature => None,
    }
}

fn hello_drop(error: HelloError) -> DropReason {
    match error {
        HelloError::Malformed => DropReason::HelloMalformed,
        HelloError::OtherVersion { .. } => DropReason::HelloVersion,
        HelloError::ForeignFabric { .. } => DropReason::HelloForeignFabric,
        HelloError::WrongSecret => DropReason::HelloWrongSecret,
        HelloError::BadSignature => DropReason::HelloBadSignature,
    }
}
