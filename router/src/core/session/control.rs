//! What whole messages of a session mean: the session's own are acted on, the others go to their owners.

use std::time::Instant;

use zeroize::Zeroizing;

use super::chunks::{ChunkError, Stream};
use super::common::Common;
use super::drops::DropReason;
use super::lanes::{LaneError, OFFER, SWITCHED};
use super::peer::{BYE, BYE_IDLE, BYE_LEAVING, BYE_REMOVED, PING, PONG, Peer};
use super::types::{Channel, DownReason, SessionEvent};

/// Takes a message that the peer sealed.
pub(super) fn message(
    peer: &mut Peer,
    stream: Stream,
    bytes: Vec<u8>,
    common: &mut Common,
    now: Instant,
) -> Result<(), DropReason> {
    let channel = match stream {
        Stream::Session => return session(peer, &Zeroizing::new(bytes), common, now),
        Stream::Gossip => Channel::Gossip,
        Stream::Ipam => Channel::Ipam,
        Stream::Ping => Channel::Ping,
    };
    peer.received += 1;
    peer.last_used = now;
    common.emit(SessionEvent::Message { peer: peer.id, channel, bytes });
    Ok(())
}

fn session(peer: &mut Peer, bytes: &[u8], common: &mut Common, now: Instant) -> Result<(), DropReason> {
    match bytes {
        [PING, flags, number @ ..] if number.len() == 8 => {
            peer.pinged(*flags, now);
            let mut pong = vec![PONG];
            pong.extend_from_slice(number);
            peer.transmit(Stream::Session, &pong, common);
            Ok(())
        }
        [PONG, number @ ..] => {
            let number = number.try_into().map_err(|_| DropReason::ControlMalformed)?;
            peer.pong(u64::from_be_bytes(number), now);
            Ok(())
        }
        [BYE, code] => {
            let reason = match *code {
                BYE_IDLE => DownReason::PeerIdle,
                BYE_LEAVING => DownReason::PeerLeft,
                BYE_REMOVED => DownReason::RemovedByPeer,
                _ => return Err(DropReason::ControlMalformed),
            };
            peer.end(reason, common, now);
            Ok(())
        }
        [OFFER..=SWITCHED, ..] => {
            peer.with_lanes(common, |lanes, context| lanes.handle(bytes, context, now)).map_err(lane_reason)
        }
        _ => Err(DropReason::ControlMalformed),
    }
}

/// How a chunk error is counted.
pub(super) fn chunk_reason(error: ChunkError) -> DropReason {
    match error {
        ChunkError::Malformed | ChunkError::Repeated => DropReason::ChunkMalformed,
        ChunkError::UnknownStream => DropReason::ChunkUnknownStream,
    }
}

fn lane_reason(error: LaneError) -> DropReason {
    match error {
        LaneError::Stale => DropReason::LaneStale,
        LaneError::Malformed | LaneError::NotYourTurn | LaneError::WrongCipher | LaneError::Kem => {
            DropReason::LaneMisbehaved
        }
    }
}
