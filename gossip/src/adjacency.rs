//! Who says to be whose neighbour: our own adjacency record, and what those of others tell about the graph.
//!
//! A claim counts for an edge only when both ends make it, so that one liar cannot make two halves look connected.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::codec;
use crate::gossip::Gossip;
use crate::keys::Keys;
use crate::membership::{MemberState, Membership};
use crate::peer::PeerId;
use crate::record::{Kind, MAX_VALUE, RecordKey};
use crate::stats::DropReason;
use crate::store::Store;

/// Neighbours in one record: as many as fit its value, well above any degree.
const MAX_NEIGHBOURS: usize = (MAX_VALUE - 4) / 16;

/// A member is looked for in the graph so long after it may have published its adjacency: that needs time to spread.
const SPREAD: Duration = Duration::from_secs(7);

/// So many members make the pause between two records of a peer as much longer as itself: the records of a fabric that changes go to all,
/// so that with a fixed pause everybody would receive the more of them the larger it is.
const MEMBERS_FOR_PAUSE: u32 = 100;

/// And so many times longer at most: the mesh of halves that found each other again is judged by these records.
const LONGEST_PAUSE: u32 = 30;

/// When to publish our adjacency.
#[derive(Debug)]
pub(crate) struct Adjacency {
    freshness: Freshness,
    not_before: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Freshness {
    Published,
    Changed,
}

impl Adjacency {
    pub(crate) fn new(now: Instant) -> Self {
        Adjacency { freshness: Freshness::Published, not_before: now }
    }

    /// The neighbours changed.
    pub(crate) fn touch(&mut self) {
        self.freshness = Freshness::Changed;
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        match self.freshness {
            Freshness::Published => None,
            Freshness::Changed => Some(self.not_before),
        }
    }

    /// Whether `peer` says to be a neighbour of `other`.
    pub(crate) fn claims(&self, store: &Store, peer: PeerId, other: PeerId) -> bool {
        neighbours_of(store, peer).is_some_and(|neighbours| neighbours.contains(&other))
    }

    /// Members that are alive and to which no chain of mutual neighbours leads from `me`.
    pub(crate) fn cut_off(
        &self,
        me: PeerId,
        store: &Store,
        membership: &Membership,
        graph_age: Duration,
        now: Instant,
    ) -> Vec<PeerId> {
        let alive = membership.iter().filter(|member| match member.state {
            MemberState::Alive | MemberState::Suspect => true,
            MemberState::Dead | MemberState::Left => false,
        });
        let mut graph: BTreeMap<PeerId, BTreeSet<PeerId>> = BTreeMap::new();
        let mut settled = Vec::new();
        for member in alive {
            // Somebody who was met, and of whom not even this has come, is cut off as well.
            graph.insert(member.id, neighbours_of(store, member.id).unwrap_or_default());
            if now >= member.since + graph_age {
                settled.push(member.id);
            }
        }
        graph.insert(me, neighbours_of(store, me).unwrap_or_default());
        let mut reached = BTreeSet::from([me]);
        let mut border = vec![me];
        while let Some(peer) = border.pop() {
            for &other in &graph[&peer] {
                let mutual = graph.get(&other).is_some_and(|back| back.contains(&peer));
                if mutual && reached.insert(other) {
                    border.push(other);
                }
            }
        }
        settled.retain(|peer| !reached.contains(peer));
        settled
    }
}

/// How long after a change the graph shows every member.
pub(crate) fn graph_age(interval: Duration) -> Duration {
    SPREAD + interval
}

impl<K: Keys> Gossip<K> {
    /// The pause between two adjacency records, for a fabric of the present size.
    pub(crate) fn adjacency_interval(&self) -> Duration {
        let members = u32::try_from(self.membership.count()).unwrap_or(u32::MAX);
        self.config.adjacency_interval * (members / MEMBERS_FOR_PAUSE).clamp(1, LONGEST_PAUSE)
    }

    /// Publishes who our neighbours are, if that changed and the last time is long enough ago.
    pub(crate) fn publish_adjacency(&mut self, now: Instant) {
        if self.adjacency.poll_timeout().is_none_or(|at| at > now) {
            return;
        }
        self.adjacency.freshness = Freshness::Published;
        self.adjacency.not_before = now + self.adjacency_interval();
        let neighbours: Vec<PeerId> = self.mesh.neighbours().take(MAX_NEIGHBOURS).collect();
        if self.publish(RecordKey::only(Kind::ADJACENCY), codec::encode(&neighbours), now).is_err() {
            // Only when a caller filled all room for records of our own: the graph is then judged without us.
            self.stats.count(DropReason::AdjacencyUnpublished);
        }
    }
}

/// The neighbours that a peer claims. Nothing without a record, or with one that does not decode.
fn neighbours_of(store: &Store, peer: PeerId) -> Option<BTreeSet<PeerId>> {
    let record = store.get(peer, &RecordKey::only(Kind::ADJACENCY))?;
    let neighbours: Vec<PeerId> = codec::decode(record.value.as_deref()?, MAX_VALUE).ok()?;
    Some(neighbours.into_iter().collect())
}
