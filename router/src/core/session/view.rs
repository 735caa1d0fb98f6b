//! Sessions as a person sees them: the rows of `status connections`.

use gossip::PeerId;

use super::link::Role;
use super::peer::{Dial, Peer};
use super::sessions::Sessions;
use super::target::{Target, TargetState};
use super::types::{ConnectionState, ConnectionView, Direction, Want};

impl Sessions {
    /// Every peer with a session or a want, and every target whose peer is not among them.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionView> + '_ {
        let shown = |id: PeerId| self.peer(id).is_some_and(is_shown);
        let targets = self.targets().filter(move |target| !target.peer.is_some_and(shown));
        self.peers().filter(|peer| is_shown(peer)).map(peer_row).chain(targets.map(target_row))
    }
}

fn is_shown(peer: &Peer) -> bool {
    let wanted = peer.wants.iter().any(|want| *want != Want::Target);
    peer.active.is_some() || peer.dialing.is_some() || wanted
}

fn peer_row(peer: &Peer) -> ConnectionView {
    let link = peer.active.as_ref().or(peer.dialing.as_ref().map(|dialing| &dialing.link));
    let direction = match link.map(|link| link.role) {
        Some(Role::Responder) => Direction::Incoming,
        Some(Role::Initiator) | None => Direction::Outgoing,
    };
    let (state, next_retry) = match (&peer.active, &peer.dialing, &peer.dial) {
        (Some(_), _, _) if peer.lanes.cipher().is_some() => (ConnectionState::Ready, None),
        (Some(_), _, _) => (ConnectionState::Established, None),
        (None, Some(_), _) => (ConnectionState::Handshaking, None),
        (None, None, Dial::Waiting(until)) => (ConnectionState::Failed, Some(*until)),
        (None, None, Dial::Probing(_) | Dial::Idle) => (ConnectionState::Connecting, None),
    };
    let failure = peer.failure.as_ref().map(ToString::to_string);
    ConnectionView {
        direction,
        address: link.map(|link| link.address).or_else(|| peer.addresses.first().copied()),
        state,
        peer: Some(peer.id),
        cipher: peer.lanes.cipher(),
        rtt: peer.rtt,
        reason: failure.or_else(|| peer.down.map(|reason| reason.to_string())),
        since: peer.since,
        next_retry,
        wants: peer.wants.iter().copied().collect(),
        messages: (peer.sent, peer.received),
        lanes: peer.lanes.completed(),
    }
}

fn target_row(target: &Target) -> ConnectionView {
    let (state, next_retry) = match &target.state {
        TargetState::Probing(_) => (ConnectionState::Connecting, None),
        TargetState::Waiting(until) => (ConnectionState::Failed, Some(*until)),
        TargetState::Answered(_) => (ConnectionState::Handshaking, None),
        TargetState::Connected => (ConnectionState::Established, None),
        TargetState::Ourselves => (ConnectionState::Ourselves, None),
    };
    ConnectionView {
        direction: Direction::Outgoing,
        address: Some(target.address),
        state,
        peer: target.peer,
        cipher: None,
        rtt: None,
        reason: target.failure.as_ref().map(ToString::to_string),
        since: target.since,
        next_retry,
        wants: vec![Want::Target],
        messages: (0, 0),
        lanes: 0,
    }
}
