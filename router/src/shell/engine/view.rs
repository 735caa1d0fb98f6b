//! Answers of the control socket, made from what the node and the data path tell.

use std::time::Instant;

use control::api::{self, ApiError, ErrorCode, Problem};
use gossip::{MemberState, PeerId};
use ipam::AllocateError;
use ipnet::{Ipv4Net, Ipv6Net};

use super::call::{self, refusal_with};
use super::{Engine, Running, fabric};
use crate::core::node::{Node, Pong};
use crate::core::session::{ConnectionState, ConnectionView, Direction, OTHER_SEEDS, Want};
use crate::shell::state::dir::FabricFile;

/// Blocks listed for one owner, the largest ones; state is near one block a peer, so more are rare.
const MAX_BLOCKS: usize = 64;
/// Connections that fail and are named one by one in the status: what a screen holds. A router that is cut off has as many as it had peers.
const MAX_UNREACHABLE: usize = 8;

pub(super) fn lease(node: &Node, file: &FabricFile, lease: &ipam::Lease, fresh: bool) -> call::Lease {
    call::Lease {
        v4: Ipv4Net::new_assert(lease.addr, file.range.prefix_len()),
        v6: Ipv6Net::new_assert(node.embed(lease.addr), node.range6().prefix_len()),
        fresh,
    }
}

pub(super) fn pong(node: &Node, pong: &Pong) -> api::PingAnswer {
    let connection = node.sessions().connections().find(|c| c.peer == Some(pong.peer));
    api::PingAnswer {
        peer: pong.peer.to_string(),
        nickname: node.nickname(pong.peer),
        path: if pong.via.is_some() { "direct" } else { "local" }.to_owned(),
        via: pong.via,
        cipher: connection.and_then(|c| c.cipher).map(|cipher| cipher.to_string()),
        rtt_us: pong.rtt.as_micros() as u64,
    }
}

pub(super) fn allocate_refusal(error: &AllocateError, node: &Node) -> ApiError {
    let name = |peer: &PeerId| node.nickname(*peer);
    let (code, hint) = match error {
        AllocateError::OwnerTooLong { .. }
        | AllocateError::OutOfRange { .. }
        | AllocateError::Reserved { .. } => {
            (ErrorCode::BadRequest, "weavectl status ipam shows the range".to_owned())
        }
        AllocateError::InUse { by, .. } => {
            (ErrorCode::Conflict, format!("weavectl ps on {} shows who holds it", name(by)))
        }
        AllocateError::Exhausted { .. } => {
            (ErrorCode::Exhausted, "weavectl status ipam shows who has what".to_owned())
        }
        AllocateError::OwnerUnreachable { owner, .. } => (
            ErrorCode::Unreachable,
            format!(
                "start {} again, or if it is gone for good: weavectl rmpeer {}",
                name(owner),
                name(owner)
            ),
        ),
        AllocateError::OwnersUnreachable { owners } => {
            let names: Vec<String> = owners.iter().map(name).collect();
            let gone = names.first().cloned().unwrap_or_default();
            (
                ErrorCode::Unreachable,
                format!("start {} again, or if gone for good: weavectl rmpeer {gone}", names.join(", ")),
            )
        }
        AllocateError::NoSpaceYet { .. } => (
            ErrorCode::Unreachable,
            "weavectl status connections shows whether the fabric is reached".to_owned(),
        ),
        AllocateError::DeadlinePassed { .. } | AllocateError::TakeoverPending { .. } => {
            (ErrorCode::Timeout, "weavectl status peers shows who does not answer; try again".to_owned())
        }
        AllocateError::Contested { .. } => {
            (ErrorCode::Conflict, "weavectl status ipam shows what is quarantined".to_owned())
        }
        AllocateError::Removed { .. } => {
            (ErrorCode::Conflict, "weavectl reset, then weavectl join TOKEN".to_owned())
        }
        AllocateError::Leaving => (ErrorCode::Conflict, "weavectl join TOKEN".to_owned()),
        AllocateError::TooManyWaiting { .. } => (ErrorCode::Timeout, "try again".to_owned()),
    };
    refusal_with(code, format!("no address: {error}"), hint)
}

/// A peer by full id, unique beginning of it, or nickname.
pub(super) fn peer_named(node: &Node, text: &str) -> Result<PeerId, ApiError> {
    let found: Vec<PeerId> = node
        .peer_states()
        .into_keys()
        .filter(|id| node.nickname(*id) == text || (text.len() >= 4 && id.to_string().starts_with(text)))
        .collect();
    match found.as_slice() {
        [one] => Ok(*one),
        [] => Err(refusal_with(
            ErrorCode::NotFound,
            format!("no peer is called `{text}`"),
            "weavectl status peers lists ids and nicknames",
        )),
        many => Err(refusal_with(
            ErrorCode::Conflict,
            format!("`{text}` means {} peers", many.len()),
            "give the id, as weavectl status peers shows it",
        )),
    }
}

impl Engine {
    pub(super) fn status(&self) -> api::Status {
        let running = self.running.as_ref();
        let connections = self.connections();
        let count = |state: &str| connections.connections.iter().filter(|c| c.state == state).count();
        api::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            peer: self.identity.peer_id().to_string(),
            nickname: self.config.nickname.clone(),
            fabric: running.map(|r| r.file.fabric.clone()),
            listen: self.config.listen,
            uptime_s: self.started.elapsed().as_secs(),
            bridge: self.config.bridge.clone(),
            mtu: running.map_or(0, |r| r.mtu),
            connections: api::ConnectionCounts {
                established: count("established"),
                connecting: count("connecting") + count("handshaking"),
                failed: count("failed"),
            },
            peers: running.map(peer_counts).unwrap_or_default(),
            ipam: running.map(|r| summary(&r.node)),
            attachments: self.attachments.len(),
            exposed: self
                .exposed
                .and_then(|v4| running.map(|r| Ipv4Net::new_assert(v4, r.file.range.prefix_len()))),
            traffic: running.map(traffic).unwrap_or_default(),
            dns: running.map(|running| self.dns_in_short(running)),
            problems: self.all_problems(&connections),
        }
    }

    pub(super) fn connections(&self) -> api::Connections {
        let Some(running) = &self.running else {
            return api::Connections { connections: Vec::new(), refused: Vec::new(), drops: Vec::new() };
        };
        let now = Instant::now();
        let counters = running.datapath.counters();
        let sessions = running.node.sessions();
        let connections = sessions
            .connections()
            .filter(|view| view.state != ConnectionState::Ourselves)
            .map(|view| {
                let bytes = view.peer.and_then(|peer| counters.peers.get(&peer));
                let bytes = bytes.map_or((0, 0), |t| (t.tx.bytes, t.rx.bytes));
                connection(&running.node, &view, bytes, now)
            })
            .collect();
        let refused = sessions
            .refused()
            .iter()
            .map(|sender| api::Refused {
                address: sender.address,
                reason: sender.reason.as_str().to_owned(),
                count: sender.count,
                last_s: now.saturating_duration_since(sender.last).as_secs(),
            })
            .collect();
        let drops = sessions
            .drops()
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| api::Count { reason: reason.as_str().to_owned(), count })
            .collect();
        api::Connections { connections, refused, drops }
    }

    pub(super) fn peers(&self) -> Vec<api::Peer> {
        let Some(running) = &self.running else { return Vec::new() };
        let node = &running.node;
        node.peer_views()
            .into_iter()
            .map(|view| api::Peer {
                id: view.id.to_string(),
                nickname: node.nickname(view.id),
                state: state_word(node, view.id, view.state).to_owned(),
                addresses: view.advert.as_ref().map(|a| a.addresses.clone()).unwrap_or_default(),
                version: view.advert.as_ref().map(|a| a.version.clone()).unwrap_or_default(),
                links: view.links.iter().map(ToString::to_string).collect(),
                endpoints: view.endpoints,
                unreachable: view.unreachable,
            })
            .collect()
    }

    pub(super) fn ipam(&self) -> Result<api::Ipam, ApiError> {
        let Some(running) = &self.running else { return Err(fabric::no_fabric()) };
        let node = &running.node;
        let all = node.ipam_summary();
        let owners = all
            .peers
            .iter()
            .map(|owner| api::IpamOwner {
                peer: owner.peer.to_string(),
                nickname: node.nickname(owner.peer),
                state: owner_word(node, owner.peer).to_owned(),
                reclaim_in_s: node.reclaim_in(owner.peer, Instant::now()).map(|time| time.as_secs()),
                addresses: owner.addresses,
                blocks: largest(&owner.blocks),
            })
            .collect();
        let leases = node.leases().map(|(owner, address)| api::Lease { address, owner: owner.0 }).collect();
        let quarantined = node
            .ipam_quarantined()
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| api::Count { reason: reason.to_owned(), count })
            .collect();
        Ok(api::Ipam { summary: summary(node), owners, leases, quarantined })
    }

    pub(super) fn targets(&self) -> Vec<api::Target> {
        let Some(running) = &self.running else { return Vec::new() };
        let views: Vec<ConnectionView> = running.node.sessions().connections().collect();
        self.targets
            .iter()
            .map(|(name, resolved, error)| {
                let mine = |view: &&ConnectionView| view.address.is_some_and(|a| resolved.contains(&a));
                let connected = views.iter().filter(mine).any(|view| is_up(view.state));
                let ourselves = views.iter().filter(mine).any(|v| v.state == ConnectionState::Ourselves);
                let failed = views.iter().filter(mine).find_map(|view| view.reason.clone());
                let reason = error.map(str::to_owned).or(failed);
                let state = match (connected, ourselves, &reason) {
                    (true, ..) => "connected",
                    (false, true, _) => "self",
                    (false, false, Some(_)) => "failed",
                    (false, false, None) => "dialling",
                };
                let reason = reason.filter(|_| state == "failed");
                api::Target { address: name.to_owned(), resolved, state: state.to_owned(), reason }
            })
            .collect()
    }

    pub(super) fn report(&self) -> api::Report {
        api::Report {
            status: self.status(),
            connections: self.connections(),
            peers: self.peers(),
            targets: self.targets(),
            ipam: self.ipam().ok(),
            attachments: self.attachment_list(),
        }
    }

    fn all_problems(&self, connections: &api::Connections) -> Vec<Problem> {
        let mut problems = self.problems.clone();
        let mut add = |code: &str, severity: &str, message: String, hint: &str| {
            let hint = (!hint.is_empty()).then(|| hint.to_owned());
            problems.push(Problem { code: code.to_owned(), severity: severity.to_owned(), message, hint });
        };
        let Some(running) = &self.running else {
            add(
                "no-fabric",
                "error",
                "this router belongs to no fabric yet".to_owned(),
                "weavectl up to create one, or weavectl join TOKEN",
            );
            return problems;
        };
        if let Some(why) = running.datapath.failure() {
            let text = format!("the data path has stopped ({why}): containers reach only this host");
            add("data-path", "error", text, "restart weaved; its log says what happened");
        }
        let counts = peer_counts(running);
        // This router itself is one of those alive.
        if counts.alive <= 1 && counts.suspect + counts.dead > 0 && running.node.has_unreachable_members() {
            let text = format!("none of the {} other peers answers", counts.suspect + counts.dead);
            add(
                "isolated",
                "error",
                text,
                "weavectl status connections says why; look at the underlay first",
            );
        }
        if let Some(text) = &self.clone {
            add(
                "clone",
                "error",
                text.clone(),
                "weavectl reset --force on the copy, then weavectl join TOKEN there",
            );
        }
        if let Some(why) = &self.not_durable {
            add(
                "state-not-durable",
                "error",
                format!("the state directory cannot be written ({why}); nothing new is attached"),
                "free space in the state directory",
            );
        }
        if let Some(by) = self.removed_by {
            add(
                "removed",
                "error",
                format!("this router was removed from the fabric by {}", running.node.nickname(by)),
                "weavectl reset, then weavectl join TOKEN",
            );
        }
        let failed = || connections.connections.iter().filter(|connection| connection.state == "failed");
        for connection in failed().take(MAX_UNREACHABLE) {
            let (text, hint) = unreachable(connection);
            add("unreachable", "error", text, &hint);
        }
        let more = failed().count().saturating_sub(MAX_UNREACHABLE);
        if more > 0 {
            let text = format!("{more} more cannot be reached");
            add("unreachable", "error", text, "weavectl status connections lists them all");
        }
        for (mac, peers) in running.node.contested() {
            let names: Vec<String> = peers.iter().map(|peer| running.node.nickname(*peer)).collect();
            add("contested", "warning", format!("{mac} is announced by {}", names.join(" and ")), "");
        }
        let space = running.node.ipam_summary();
        let word = ipam_word(&space);
        if word != "ready" {
            let text = format!(
                "address allocation is {word}: {} free here, {} owned by peers that cannot be reached",
                space.free, space.unreachable
            );
            add(
                "ipam",
                "warning",
                text,
                "weavectl status ipam; owners that are gone for good: weavectl rmpeer PEER",
            );
        }
        if space.contested > 0 {
            add(
                "ipam-contested",
                "error",
                format!("{} addresses are claimed by two peers; nobody allocates from them", space.contested),
                "weavectl ipam audit names who signed what",
            );
        }
        if let Some(owner) = running.node.part_taken_by() {
            let text = format!(
                "the part of the range that is this seed's belongs to {} already: it took a share instead",
                running.node.nickname(owner)
            );
            add(
                "seed-part-taken",
                "warning",
                text,
                "if this host has lost its state: weavectl rmpeer with the id that it had before",
            );
        }
        for takeover in &space.takeovers {
            let names: Vec<String> =
                takeover.waiting_for.iter().map(|peer| running.node.nickname(*peer)).collect();
            let text = format!(
                "{} addresses of removed peer {} are not taken over yet: {} must say first what it was given",
                takeover.addresses,
                takeover.removed.short(),
                names.join(", ")
            );
            add(
                "takeover",
                "warning",
                text,
                "start that peer's weaved, or if it is gone too: weavectl rmpeer PEER",
            );
        }
        for obstacle in &self.obstacles {
            add(
                "firewall",
                "warning",
                obstacle.clone(),
                "let the bridge forward in that firewall, or remove the rule",
            );
        }
        if let Some(why) = self.dns_trouble() {
            add(
                "dns",
                "warning",
                format!("containers of this host cannot ask for names: {why}"),
                "stop what has port 53 (ss -lnp sport = :53), or let it listen on its own addresses alone; --dns-address chooses another, --no-dns none",
            );
        }
        if space.lost > 0 {
            let text =
                format!("{} containers here have addresses that belong to another host now", space.lost);
            add("lost-leases", "error", text, "weavectl detach them and attach them again");
        }
        problems
    }
}

/// What to say of a connection that does not come about, and what to type.
fn unreachable(connection: &api::Connection) -> (String, String) {
    let address = connection.address.map(|address| address.to_string()).unwrap_or_default();
    let reason = connection.reason.clone().unwrap_or_default();
    let (who, way_out) = match &connection.nickname {
        Some(name) => (name.clone(), format!("weavectl rmpeer {name}")),
        None => (address.clone(), format!("weavectl forget {address}")),
    };
    let hint = match reason.contains(OTHER_SEEDS) {
        true => "weavectl reset where the list is wrong, then weavectl up with the same list everywhere"
            .to_owned(),
        false => format!("check that UDP port 6783 is open both ways; if it is gone for good: {way_out}"),
    };
    (format!("{who} cannot be reached: {reason}"), hint)
}

/// The largest blocks of an owner, in ascending order.
fn largest(blocks: &[ipam::Block]) -> Vec<api::Block> {
    let mut all: Vec<&ipam::Block> = blocks.iter().collect();
    all.sort_by_key(|block| (block.prefix.prefix_len(), block.prefix));
    all.truncate(MAX_BLOCKS);
    all.sort_by_key(|block| block.prefix);
    all.into_iter().map(|block| api::Block { prefix: block.prefix, epoch: block.epoch }).collect()
}

fn peer_counts(running: &Running) -> api::PeerCounts {
    let mut counts = api::PeerCounts::default();
    for state in running.node.peer_states().into_values() {
        match state {
            Some(MemberState::Alive) => counts.alive += 1,
            Some(MemberState::Suspect) => counts.suspect += 1,
            Some(MemberState::Dead | MemberState::Left) | None => counts.dead += 1,
        }
    }
    counts
}

fn summary(node: &Node) -> api::IpamSummary {
    let summary = node.ipam_summary();
    api::IpamSummary {
        range: summary.range,
        range6: node.range6(),
        state: ipam_word(&summary).to_owned(),
        owned: summary.owned,
        used: summary.used,
        resting: summary.resting,
        unreachable: summary.unreachable,
        unknown: summary.unknown,
    }
}

/// How allocation stands on this host.
fn ipam_word(summary: &ipam::Summary) -> &'static str {
    let others: u64 = summary.peers.iter().filter_map(|peer| peer.free).map(u64::from).sum();
    match summary {
        s if s.removed_by.is_some() => "removed",
        s if s.leaving_to.is_some() => "leaving",
        s if s.free > 0 => "ready",
        // Space is asked for with the first address, so a router that never needed one owns none.
        _ if others > 0 => "ready",
        s if s.unknown > 0 => "waiting",
        s if s.unreachable > 0 => "unreachable",
        _ => "exhausted",
    }
}

fn traffic(running: &Running) -> api::Traffic {
    let counters = running.datapath.counters();
    let mut traffic = api::Traffic::default();
    for peer in counters.peers.values() {
        traffic.tx_frames += peer.tx.frames;
        traffic.tx_bytes += peer.tx.bytes;
        traffic.rx_frames += peer.rx.frames;
        traffic.rx_bytes += peer.rx.bytes;
    }
    traffic.drops = counters
        .drops
        .iter()
        .map(|(reason, count)| api::Count { reason: reason.name().to_owned(), count: *count })
        .collect();
    traffic
}

fn connection(node: &Node, view: &ConnectionView, bytes: (u64, u64), now: Instant) -> api::Connection {
    api::Connection {
        direction: match view.direction {
            Direction::Outgoing => "->",
            Direction::Incoming => "<-",
        }
        .to_owned(),
        address: view.address,
        state: match view.state {
            ConnectionState::Connecting => "connecting",
            ConnectionState::Handshaking => "handshaking",
            ConnectionState::Established | ConnectionState::Ready => "established",
            ConnectionState::Failed => "failed",
            ConnectionState::Ourselves => "self",
        }
        .to_owned(),
        peer: view.peer.map(|peer| peer.to_string()),
        nickname: view.peer.map(|peer| node.nickname(peer)),
        cipher: view.cipher.map(|cipher| cipher.to_string()),
        rtt_us: view.rtt.map(|rtt| rtt.as_micros() as u64),
        reason: view.reason.clone().filter(|_| !is_up(view.state)),
        since_s: now.saturating_duration_since(view.since).as_secs(),
        retry_s: view.next_retry.map(|at| at.saturating_duration_since(now).as_secs()),
        tx_bytes: bytes.0,
        rx_bytes: bytes.1,
        uses: view.wants.iter().map(|want| want_word(*want).to_owned()).collect(),
    }
}

fn want_word(want: Want) -> &'static str {
    match want {
        Want::Gossip => "gossip",
        Want::Traffic => "traffic",
        Want::Message => "message",
        Want::Target => "target",
    }
}

fn is_up(state: ConnectionState) -> bool {
    matches!(state, ConnectionState::Established | ConnectionState::Ready)
}

fn state_word(node: &Node, peer: PeerId, state: Option<MemberState>) -> &'static str {
    match state {
        _ if peer == node.me() => "self",
        None => "removed",
        Some(MemberState::Alive) => "alive",
        Some(MemberState::Suspect) => "suspect",
        Some(MemberState::Dead) => "dead",
        Some(MemberState::Left) => "left",
    }
}

fn owner_word(node: &Node, peer: PeerId) -> &'static str {
    match () {
        () if peer == node.me() => "self",
        () if node.is_removed(peer) => "removed",
        () if node.is_alive(peer) => "alive",
        () => "unreachable",
    }
}
