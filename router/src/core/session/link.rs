//! One WireGuard handshake and the session keys it gave: a boringtun `Tunn` that is used once.
//!
//! A `Tunn` reads the clock itself, so its timers are never run: `Peer` repeats, replaces and drops links by the caller's clock (ADR 0003).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use zeroize::{Zeroize, Zeroizing};

use super::chunks::MAX_DATAGRAM;
use super::drops::DropReason;
use crate::core::sealed::SealedDatagram;

/// Longest datagram given to boringtun: what the control channel sends, and some room for a later version.
pub(super) const MAX_RECEIVED: usize = 2048;
/// boringtun panics if its buffer is shorter than payload + 32 or 148; the longest payload is `MAX_RECEIVED`.
const SCRATCH: usize = MAX_RECEIVED + 64;
/// Turns of boringtun's flush loop; it has queued nothing, since nothing is sealed without keys.
const MAX_FLUSH: usize = 4;
/// WireGuard's REJECT_AFTER_MESSAGES, 2^64 − 2^13 − 1, far below which boringtun's own arithmetic is safe.
const MAX_COUNTER: u64 = u64::MAX - (1 << 13) - 1;
const _: () = assert!(SCRATCH >= MAX_DATAGRAM + 32 && SCRATCH >= 148);

/// Which side sent the initiation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    Initiator,
    Responder,
}

/// What a datagram made of a link.
pub(super) enum Received {
    /// A handshake response: the link has keys and the peer is alive. The datagram proves it to the peer.
    Established(SealedDatagram),
    /// A handshake initiation was good so far: send the response.
    Respond(SealedDatagram),
    /// A cookie: the next initiation will carry it.
    Cookie,
    /// Authenticated and empty.
    Keepalive,
    /// Authenticated content.
    Payload(Zeroizing<Vec<u8>>),
    /// Nothing changed.
    Dropped(DropReason),
}

/// What a new link is made of.
pub(super) struct LinkKeys {
    pub(super) secret: StaticSecret,
    pub(super) peer: PublicKey,
    pub(super) psk: [u8; 32],
    pub(super) limiter: Arc<RateLimiter>,
}

/// What makes the datagrams.
pub(super) enum Seal {
    /// boringtun.
    WireGuard(Box<Tunn>),
    /// What stands for it in a simulation.
    #[cfg(feature = "simulated")]
    Pretend(Box<super::pretend::Tunnel>),
}

impl Seal {
    pub(super) fn wire_guard(keys: LinkKeys, index: u32) -> Self {
        let LinkKeys { secret, peer, mut psk, limiter } = keys;
        let tunn = Tunn::new(secret, peer, Some(psk), None, index, Some(limiter));
        psk.zeroize();
        Self::WireGuard(Box::new(tunn))
    }

    #[cfg(feature = "simulated")]
    pub(super) fn pretend(me: [u8; 32], peer: [u8; 32], psk: [u8; 32], index: u32) -> Self {
        Self::Pretend(Box::new(super::pretend::Tunnel::new(me, peer, psk, index)))
    }
}

/// A handshake under way or done.
pub(super) struct Link {
    with: Seal,
    pub(super) index: u32,
    pub(super) role: Role,
    /// Where the peer is, as far as this link has seen.
    pub(super) address: SocketAddr,
    /// When the handshake started, then when it was proven.
    pub(super) since: Instant,
}

impl Link {
    pub(super) fn new(with: Seal, role: Role, index: u32, address: SocketAddr, now: Instant) -> Self {
        Self { with, index, role, address, since: now }
    }

    /// The next initiation; each has a new ephemeral key and a later timestamp.
    pub(super) fn initiate(&mut self) -> Option<SealedDatagram> {
        match &mut self.with {
            Seal::WireGuard(tunn) => initiate(tunn),
            #[cfg(feature = "simulated")]
            Seal::Pretend(tunnel) => Some(tunnel.initiate()),
        }
    }

    /// Seals a chunk. Only for a link that has been proven: boringtun would start a handshake of its own otherwise.
    pub(super) fn seal(&mut self, chunk: &[u8]) -> Option<SealedDatagram> {
        match &mut self.with {
            Seal::WireGuard(tunn) => seal(tunn, chunk),
            #[cfg(feature = "simulated")]
            Seal::Pretend(tunnel) => tunnel.seal(chunk),
        }
    }

    /// Takes a datagram whose index, or initiator, led to this link.
    pub(super) fn receive(&mut self, kind: WireKind, datagram: &[u8]) -> Received {
        if kind == WireKind::Data && counter(datagram) > MAX_COUNTER {
            return Received::Dropped(DropReason::CounterBeyondLimit);
        }
        match &mut self.with {
            Seal::WireGuard(tunn) => receive(tunn, kind, datagram),
            #[cfg(feature = "simulated")]
            Seal::Pretend(tunnel) => tunnel.receive(kind, datagram),
        }
    }
}

fn initiate(tunn: &mut Tunn) -> Option<SealedDatagram> {
    let mut scratch = [0; SCRATCH];
    match tunn.format_handshake_initiation(&mut scratch, true) {
        TunnResult::WriteToNetwork(bytes) => Some(SealedDatagram::new(bytes.to_vec())),
        TunnResult::Done
        | TunnResult::Err(_)
        | TunnResult::WriteToTunnelV4(..)
        | TunnResult::WriteToTunnelV6(..) => None,
    }
}

fn seal(tunn: &mut Tunn, chunk: &[u8]) -> Option<SealedDatagram> {
    let mut scratch = [0; SCRATCH];
    if chunk.len() + 32 > SCRATCH {
        return None;
    }
    match tunn.encapsulate(chunk, &mut scratch) {
        TunnResult::WriteToNetwork(bytes) => Some(SealedDatagram::new(bytes.to_vec())),
        TunnResult::Done
        | TunnResult::Err(_)
        | TunnResult::WriteToTunnelV4(..)
        | TunnResult::WriteToTunnelV6(..) => None,
    }
}

fn receive(tunn: &mut Tunn, kind: WireKind, datagram: &[u8]) -> Received {
    let mut scratch = [0; SCRATCH];
    let received = match tunn.decapsulate(None, datagram, &mut scratch) {
        TunnResult::Done => match kind {
            WireKind::Cookie => Received::Cookie,
            WireKind::Initiation | WireKind::Response | WireKind::Data => Received::Keepalive,
        },
        TunnResult::WriteToNetwork(bytes) => {
            let bytes = SealedDatagram::new(bytes.to_vec());
            match kind {
                WireKind::Initiation => Received::Respond(bytes),
                WireKind::Response | WireKind::Cookie | WireKind::Data => Received::Established(bytes),
            }
        }
        TunnResult::WriteToTunnelV4(payload, _) | TunnResult::WriteToTunnelV6(payload, _) => {
            Received::Payload(Zeroizing::new(payload.to_vec()))
        }
        TunnResult::Err(error) => Received::Dropped(reason(kind, &error)),
    };
    flush(tunn, &mut scratch);
    scratch.zeroize();
    received
}

/// boringtun asks to be called until it is done after it has written to the network.
fn flush(tunn: &mut Tunn, scratch: &mut [u8]) {
    for _ in 0..MAX_FLUSH {
        match tunn.decapsulate(None, &[], scratch) {
            TunnResult::WriteToNetwork(_) => {}
            TunnResult::Done
            | TunnResult::Err(_)
            | TunnResult::WriteToTunnelV4(..)
            | TunnResult::WriteToTunnelV6(..) => return,
        }
    }
}

/// The four datagrams of WireGuard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum WireKind {
    Initiation,
    Response,
    Cookie,
    Data,
}

fn counter(datagram: &[u8]) -> u64 {
    let field = datagram.get(8..16).and_then(|bytes| bytes.try_into().ok());
    field.map_or(u64::MAX, u64::from_le_bytes)
}

fn reason(kind: WireKind, error: &WireGuardError) -> DropReason {
    match error {
        WireGuardError::InvalidCounter | WireGuardError::DuplicateCounter => DropReason::Replayed,
        WireGuardError::WrongTai64nTimestamp => DropReason::HandshakeReplayed,
        WireGuardError::InvalidMac => DropReason::HandshakeBadMac,
        WireGuardError::UnderLoad => DropReason::HandshakeUnderLoad,
        WireGuardError::UnexpectedPacket => DropReason::HandshakeUnexpected,
        WireGuardError::NoCurrentSession => DropReason::UnknownSession,
        WireGuardError::InvalidPacket => match kind {
            WireKind::Data => DropReason::ChunkMalformed,
            WireKind::Initiation | WireKind::Response | WireKind::Cookie => DropReason::HandshakeMalformed,
        },
        WireGuardError::WrongIndex
        | WireGuardError::InvalidAeadTag
        | WireGuardError::WrongKey
        | WireGuardError::InvalidTai64nTimestamp
        | WireGuardError::DestinationBufferTooSmall
        | WireGuardError::IncorrectPacketLength
        | WireGuardError::WrongPacketType
        | WireGuardError::LockFailed
        | WireGuardError::ConnectionExpired => match kind {
            WireKind::Data => DropReason::BadSeal,
            WireKind::Initiation | WireKind::Response | WireKind::Cookie => DropReason::HandshakeInvalid,
        },
    }
}
