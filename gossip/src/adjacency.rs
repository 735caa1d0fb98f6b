//! Who says to be whose neighbour: our own adjacency record, and what those of others tell about the graph.
//!
//! A claim counts for an edge only when both ends make it, so that one liar cannot make two halves look connected.

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
        let alive: Vec<(PeerId, bool)> =
            alive.map(|member| (member.id, now >= member.since + graph_age)).collect();
        let graph = Graph::new(alive.iter().map(|(id, _)| *id).chain([me]), store);
        let reached = graph.reach(me);
        // Somebody who was met, and of whom not even an adjacency has come, is cut off as well.
        let missed = alive.into_iter().filter(|(id, is_settled)| *is_settled && !reached.contains(id));
        missed.map(|(id, _)| id).collect()
    }
}

/// Claims of neighbourhood among some peers, by their places in the order of ids: a look at the graph of thousands is a walk over a few
/// arrays.
struct Graph {
    ids: Vec<PeerId>,
    /// Of each peer the end of its part of `claims`; it begins where that of the one before ends.
    ends: Vec<u32>,
    claims: Vec<u32>,
}

impl Graph {
    fn new(peers: impl Iterator<Item = PeerId>, store: &Store) -> Self {
        let mut ids: Vec<PeerId> = peers.collect();
        ids.sort_unstable();
        let (mut ends, mut claims) = (Vec::with_capacity(ids.len()), Vec::new());
        for id in &ids {
            for other in neighbours_of(store, *id).unwrap_or_default() {
                claims.extend(place(&ids, &other));
            }
            ends.push(u32::try_from(claims.len()).expect("a few for each of some thousands"));
        }
        Graph { ids, ends, claims }
    }

    /// All to whom a chain of mutual claims leads, `from` included.
    fn reach(&self, from: PeerId) -> Reached<'_> {
        let mut reached = vec![false; self.ids.len()];
        let mut border: Vec<u32> = place(&self.ids, &from).into_iter().collect();
        border.iter().for_each(|&at| reached[at as usize] = true);
        while let Some(at) = border.pop() {
            for &other in self.claims_of(at) {
                if !reached[other as usize] && self.claims_of(other).contains(&at) {
                    reached[other as usize] = true;
                    border.push(other);
                }
            }
        }
        Reached { ids: &self.ids, reached }
    }

    fn claims_of(&self, at: u32) -> &[u32] {
        let at = at as usize;
        let first = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.claims[first as usize..self.ends[at] as usize]
    }
}

/// A part of the peers of a graph.
struct Reached<'a> {
    ids: &'a [PeerId],
    reached: Vec<bool>,
}

impl Reached<'_> {
    fn contains(&self, id: &PeerId) -> bool {
        place(self.ids, id).is_some_and(|at| self.reached[at as usize])
    }
}

fn place(ids: &[PeerId], id: &PeerId) -> Option<u32> {
    let at = ids.binary_search(id).ok()?;
    Some(u32::try_from(at).expect("there are no more than members"))
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
fn neighbours_of(store: &Store, peer: PeerId) -> Option<Vec<PeerId>> {
    let record = store.get(peer, &RecordKey::only(Kind::ADJACENCY))?;
    codec::decode(record.value.as_deref()?, MAX_VALUE).ok()
}
