//! Moving messages and events between the parts of a node until nobody has anything left to say.

use std::sync::Arc;
use std::time::Instant;

use gossip::{Event as GossipEvent, Kind, MemberState, PeerId, RecordKey};
use ipam::Presence as IpamPresence;

use super::{Door, MAX_ROUNDS, Node, Output, Pong};
use crate::core::advert::{EndpointAdvert, PeerAdvert};
use crate::core::endpoints::Presence;
use crate::core::names::Said;
use crate::core::session::{Channel, LaneKeys, Newer, SessionEvent, Want as SessionWant};

/// A ping message is its kind and a nonce.
const PING_LENGTH: usize = 9;

/// The two halves of a ping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PingKind {
    /// Please answer.
    Request,
    /// The answer.
    Reply,
}

pub(super) fn ping_message(kind: PingKind, nonce: u64) -> Vec<u8> {
    let tag = match kind {
        PingKind::Request => 1,
        PingKind::Reply => 2,
    };
    let mut message = vec![tag];
    message.extend_from_slice(&nonce.to_be_bytes());
    message
}

fn parse_ping(bytes: &[u8]) -> Option<(PingKind, u64)> {
    let bytes: &[u8; PING_LENGTH] = bytes.try_into().ok()?;
    let nonce = u64::from_be_bytes(bytes[1..].try_into().ok()?);
    match bytes[0] {
        1 => Some((PingKind::Request, nonce)),
        2 => Some((PingKind::Reply, nonce)),
        _ => None,
    }
}

impl Node {
    /// Lets sessions and gossip talk until both are silent. Allocation is heard only in `settle`.
    pub(super) fn pump(&mut self, now: Instant) {
        for _ in 0..MAX_ROUNDS {
            let mut moved = false;
            while let Some(event) = self.sessions.poll_event() {
                self.on_session_event(event, now);
                moved = true;
            }
            while let Some(event) = self.gossip.poll_event() {
                self.on_gossip_event(event, now);
                moved = true;
            }
            while let Some(message) = self.gossip.poll_transmit() {
                self.sessions.send(message.to, Channel::Gossip, message.payload, now);
                moved = true;
            }
            if !moved {
                break;
            }
        }
        self.name_other_heir(now);
        while let Some((to, datagram)) = self.sessions.poll_transmit() {
            self.outputs.push_back(Output::Transmit(to, datagram));
        }
        self.publish_table();
    }

    /// What allocation has recorded is durable: let it speak.
    pub fn settle(&mut self, now: Instant) {
        while let Some(publish) = self.ipam.poll_publish() {
            match publish.value {
                Some(value) => self.publish(publish.key, value, now),
                None => self.gossip.withdraw(&publish.key, now),
            }
            self.stirred = true;
        }
        while let Some(message) = self.ipam.poll_transmit() {
            self.sessions.send(message.to, Channel::Ipam, message.payload, now);
            self.stirred = true;
        }
        while let Some(peer) = self.ipam.poll_reclaimed() {
            let name = self.nickname(peer);
            self.outputs
                .push_back(Output::Notice(format!("{name} ({peer}) was dead for too long and is removed")));
            self.drop_removed(peer, now);
            self.stirred = true;
        }
        while let Some(answer) = self.ipam.poll_answer() {
            self.outputs.push_back(Output::Leased(answer.ticket, answer.result));
        }
        // Whatever came in was talked about when it came; in most turns allocation has nothing to add.
        if std::mem::take(&mut self.stirred) {
            self.pump(now);
        }
    }

    /// Tells a rebuilt allocator what gossip knows.
    pub(super) fn retell_ipam(&mut self, now: Instant) {
        for kind in [Kind::BLOCK, Kind::FREE_SPACE, Kind::REMOVAL] {
            let records: Vec<(PeerId, RecordKey, Vec<u8>)> = self
                .gossip
                .records(kind)
                .filter(|record| record.origin != self.me)
                .filter_map(|record| Some((record.origin, record.key.clone(), record.value.clone()?)))
                .collect();
            for (origin, key, value) in records {
                self.tell_ipam(origin, &key, Some(&value), now);
            }
        }
        let members: Vec<_> = self.gossip.members().collect();
        for member in members {
            self.ipam.handle_reachable(member.id, presence(member.state), now);
        }
    }

    fn tell_ipam(&mut self, origin: PeerId, key: &RecordKey, value: Option<&[u8]>, now: Instant) {
        if !matches!(key.kind, Kind::BLOCK | Kind::FREE_SPACE | Kind::REMOVAL) {
            return;
        }
        if let Err(error) = self.ipam.handle_record(origin, key, value, now) {
            tracing::debug!(peer = %origin.short(), ?key, %error, "allocation record refused");
        }
    }

    pub(super) fn drop_removed(&mut self, peer: PeerId, now: Instant) {
        if peer == self.me || self.removed.contains_key(&peer) {
            return;
        }
        let connected = self.sessions.address(peer).is_some();
        self.removed.insert(peer, connected.then_some(Door::open(now)));
        self.gossip.remove_peer(peer, now);
        self.set_presence(peer, Presence::Gone);
    }

    fn on_session_event(&mut self, event: SessionEvent, now: Instant) {
        match event {
            SessionEvent::Up { peer, .. } => {
                self.gossip.handle_link_up(peer, now);
                if let Some(door @ None) = self.removed.get_mut(&peer) {
                    *door = Some(Door::open(now));
                }
                // The fabric is found: gossip keeps the links that it needs.
                for address in std::mem::take(&mut self.remembered) {
                    self.sessions.forget_address(address, now);
                }
            }
            SessionEvent::Down { peer, reason } => {
                self.gossip.handle_link_down(peer, now);
                // Perhaps it was cut off and has not heard of its removal: should it come back, it is let in to listen again.
                if let Some(door) = self.removed.get_mut(&peer) {
                    *door = None;
                }
                self.outputs.push_back(Output::ClearTx(peer));
                self.outputs.push_back(Output::Notice(format!("session with {} ended: {reason}", peer.short())));
            }
            SessionEvent::Message { peer, channel, bytes } => self.on_message(peer, channel, &bytes, now),
            SessionEvent::Unreachable { peer, failure } => {
                tracing::debug!(peer = %peer.short(), %failure, "peer cannot be reached");
            }
            SessionEvent::LaneReady { peer, address, lane } => self.outputs.push_back(match lane {
                LaneKeys::Rx(key) => Output::InstallRx(key),
                LaneKeys::Tx(key) => Output::SetTx(peer, address, key),
            }),
            SessionEvent::LaneRetired { peer: _, lane } => self.outputs.push_back(Output::RetireRx(lane)),
            SessionEvent::AddressChanged { peer, address } => {
                self.outputs.push_back(Output::SetAddress(peer, address));
            }
            SessionEvent::Observed { by: _, our_address } => {
                // A few views from outside are enough, and peers must not be able to fill our record.
                if self.observed.len() < 4 && self.observed.insert(our_address) {
                    self.publish_self(now);
                }
            }
            SessionEvent::CloneDetected { address, newer } => self.outputs.push_back(Output::Clone(match newer {
                Newer::Ours => format!(
                    "an older router at {address} has this router's identity: this one is a copy and stays out"
                ),
                Newer::Theirs => format!("a copy of this router runs at {address}"),
            })),
        }
    }

    fn on_message(&mut self, peer: PeerId, channel: Channel, bytes: &[u8], now: Instant) {
        match channel {
            Channel::Gossip => {
                if let Err(error) = self.gossip.handle_message(peer, bytes, now) {
                    tracing::debug!(peer = %peer.short(), %error, "gossip message refused");
                }
            }
            Channel::Ipam => {
                if let Err(error) = self.ipam.handle_message(peer, bytes, now) {
                    tracing::debug!(peer = %peer.short(), %error, "allocation message refused");
                }
                // Heirs hear of removals by message as well.
                self.heed_new_removals(now);
            }
            Channel::Ping => self.on_ping(peer, bytes, now),
        }
    }

    fn on_ping(&mut self, peer: PeerId, bytes: &[u8], now: Instant) {
        match parse_ping(bytes) {
            Some((PingKind::Request, nonce)) => {
                self.sessions.send(peer, Channel::Ping, ping_message(PingKind::Reply, nonce), now);
            }
            Some((PingKind::Reply, nonce)) => {
                if self.pings.get(&nonce).is_some_and(|ping| ping.peer == peer)
                    && let Some(ping) = self.pings.remove(&nonce)
                {
                    let via = self.sessions.address(peer);
                    let pong = Pong { peer, rtt: now - ping.sent, via };
                    self.outputs.push_back(Output::Ponged(ping.ticket, Ok(pong)));
                }
            }
            None => tracing::debug!(peer = %peer.short(), length = bytes.len(), "ping message refused"),
        }
    }

    fn on_gossip_event(&mut self, event: GossipEvent, now: Instant) {
        match event {
            GossipEvent::RecordChanged { origin, key, value } => {
                self.keep_evidence(origin, &key);
                self.on_record(origin, key.kind, &key.name, value.as_deref(), now);
            }
            GossipEvent::MemberUp(peer) => {
                self.set_presence(peer, Presence::Here);
                self.ipam.handle_reachable(peer, IpamPresence::Reachable, now);
            }
            GossipEvent::MemberSuspect(_) => {}
            GossipEvent::MemberDown(peer) => {
                self.set_presence(peer, Presence::Gone);
                self.ipam.handle_reachable(peer, IpamPresence::Unreachable, now);
            }
            GossipEvent::MemberLeft(peer) => {
                self.set_presence(peer, Presence::Gone);
                self.ipam.handle_reachable(peer, IpamPresence::Left, now);
            }
            GossipEvent::WantLink(peer) => self.sessions.want(peer, SessionWant::Gossip, now),
            GossipEvent::DropLink(peer) => self.sessions.unwant(peer, SessionWant::Gossip, now),
            GossipEvent::Quarantined { origin, key, reason } => {
                let text = format!("record {key:?} of {} is quarantined: {reason:?}", origin.short());
                self.outputs.push_back(Output::Notice(text));
            }
            GossipEvent::OwnRecordFound { key, value } => self.on_own_record(&key, &value, now),
            GossipEvent::CloneSuspected { boot, .. } => {
                let text = "records of this router exist that it did not write: its state directory is a copy or was rolled back";
                self.outputs.push_back(Output::Clone(text.to_owned()));
                self.outputs.push_back(Output::BootChanged(boot));
                self.ipam.doubt_memory(now);
            }
        }
    }

    fn on_record(&mut self, origin: PeerId, kind: Kind, name: &[u8], value: Option<&[u8]>, now: Instant) {
        if origin == self.me {
            return;
        }
        match kind {
            Kind::PEER => self.on_peer_record(origin, value, now),
            Kind::ENDPOINT => self.on_endpoint_record(origin, name, value),
            Kind::NAMES => self.on_names_record(origin, name, value),
            Kind::BLOCK | Kind::FREE_SPACE | Kind::REMOVAL => {
                let key = RecordKey::new(kind, name);
                self.tell_ipam(origin, &key, value, now);
                if kind == Kind::BLOCK {
                    let ipam = &self.ipam;
                    self.endpoints.recheck(|peer, v4| ipam.peer_of(v4) == Some(peer));
                }
                if kind == Kind::REMOVAL {
                    self.heed_removals(now);
                }
            }
            // Kinds of newer versions are stored and passed on by gossip; they mean nothing here.
            _ => {}
        }
    }

    /// An earlier life of this router said this, or a copy of it does. What still holds is said again; the rest gossip retires.
    fn on_own_record(&mut self, key: &RecordKey, value: &[u8], now: Instant) {
        match key.kind {
            Kind::PEER => self.publish_self(now),
            Kind::ENDPOINT => self.on_own_endpoint(key, value, now),
            // A shell says all names that it remembers before it lets anything be heard, so what is not among them ended while this
            // router was down: others must not wait until gossip retires it.
            Kind::NAMES => match self.local_names.get(&key.name) {
                Some(said) => self.publish(key.clone(), said.emit(), now),
                None => self.gossip.withdraw(key, now),
            },
            Kind::BLOCK | Kind::FREE_SPACE | Kind::REMOVAL => {
                self.tell_ipam(self.me, key, Some(value), now);
                self.ipam.publish_again(key);
            }
            // Of a newer version of this program; gossip looks after adjacency itself.
            _ => {}
        }
    }

    fn on_own_endpoint(&mut self, key: &RecordKey, value: &[u8], now: Instant) {
        let Ok((mac, advert)) = EndpointAdvert::parse(&key.name, value) else { return };
        if let Some(advert) = self.local.get(&mac) {
            return self.publish(key.clone(), advert.emit(), now);
        }
        let address = advert.v4.filter(|v4| self.config.range.contains(v4));
        let held = |address| self.leases().any(|(_, leased)| leased == address);
        match address {
            // Its container went when this router could not say so any more; others would send to it until the grace is over.
            Some(address) if !held(address) => self.gossip.withdraw(key, now),
            // A device that somebody put on the bridge. Whoever looks after the bridge says whether it is still there.
            Some(_) | None => self.meet_foreign(mac, &advert.addresses(), now),
        }
    }

    fn on_peer_record(&mut self, origin: PeerId, value: Option<&[u8]>, now: Instant) {
        let Some(value) = value else { return };
        match PeerAdvert::read(origin, value) {
            Ok(advert) => {
                self.sessions.set_peer(origin, Arc::clone(&advert), now);
                self.peers.insert(origin, advert);
                self.outputs.push_back(Output::PeersChanged);
            }
            Err(error) => tracing::debug!(peer = %origin.short(), %error, "peer record ignored"),
        }
    }

    fn on_endpoint_record(&mut self, origin: PeerId, name: &[u8], value: Option<&[u8]>) {
        let ipam = &self.ipam;
        let owns = |peer, v4| ipam.peer_of(v4) == Some(peer);
        match value {
            Some(value) => match EndpointAdvert::parse(name, value) {
                Ok((mac, advert)) => self.endpoints.announce(origin, mac, advert, owns),
                Err(error) => tracing::debug!(peer = %origin.short(), %error, "endpoint record ignored"),
            },
            None => {
                if let Ok(bytes) = name.try_into() {
                    self.endpoints.withdraw(origin, crate::core::mac::Mac(bytes), owns);
                }
            }
        }
    }

    /// What cannot be read takes the place of what was said before all the same: its origin means that no more.
    fn on_names_record(&mut self, origin: PeerId, name: &[u8], value: Option<&[u8]>) {
        match value.map(Said::parse) {
            Some(Ok(said)) => self.index().say(origin, name, said),
            Some(Err(error)) => {
                tracing::debug!(peer = %origin.short(), %error, "record of names ignored");
                self.index().unsay(origin, name);
            }
            None => self.index().unsay(origin, name),
        }
    }

    fn heed_new_removals(&mut self, now: Instant) {
        if self.ipam.removed().count() != self.heeded {
            self.heed_removals(now);
        }
    }

    /// Refuses whoever was removed; says so if it was this router.
    pub(super) fn heed_removals(&mut self, now: Instant) {
        let removed: Vec<(PeerId, PeerId)> = self.ipam.removed().collect();
        self.heeded = removed.len();
        for (peer, by) in removed {
            if peer == self.me {
                self.outputs.push_back(Output::Removed { by });
            } else {
                self.drop_removed(peer, now);
            }
        }
    }

    fn publish_table(&mut self) {
        let mut changed = false;
        while let Some(change) = self.endpoints.poll_change() {
            self.outputs.push_back(Output::Endpoint(change));
            changed = true;
        }
        if !changed {
            return;
        }
        if self.endpoints.take_hearers_changed() {
            self.outputs.push_back(Output::FloodPeers(self.endpoints.peers().collect()));
        }
    }
}

fn presence(state: MemberState) -> IpamPresence {
    match state {
        MemberState::Alive | MemberState::Suspect => IpamPresence::Reachable,
        MemberState::Dead => IpamPresence::Unreachable,
        MemberState::Left => IpamPresence::Left,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ping_round_trip_and_junk() {
        for kind in [PingKind::Request, PingKind::Reply] {
            assert_eq!(parse_ping(&ping_message(kind, 77)), Some((kind, 77)));
        }
        for junk in [&[][..], &[1; 8], &[3; 9], &[1; 10]] {
            assert_eq!(parse_ping(junk), None);
        }
    }
}
