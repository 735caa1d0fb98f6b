//! Which few peers to keep a gossip link with: a sparse random graph that stays connected.
//!
//! Each peer looks for [`Config::target_degree`] neighbours among the living, at random, and accepts up to
//! [`Config::max_degree`]. A neighbour too many is only let go when it says that it has more than it needs itself. A link
//! that merely exists (for traffic) is no neighbour. One dead peer at a time is dialled again, so that the halves of a
//! partition find each other. It knows neither messages nor records.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::peer::PeerId;
use crate::rng::Rng;

/// How long a peer that did not come up, or turned us away, is passed over while there are others.
const AVOID: Duration = Duration::from_secs(30);

/// How long the session to a peer that turned us away is kept: long enough to compare all that both know, as it may be
/// the only one that knows of anybody else.
const LINGER: Duration = Duration::from_secs(5);

/// How often the graph of all published adjacencies is searched for peers that are cut off: it costs a walk over everybody.
const BRIDGE_INTERVAL: Duration = Duration::from_secs(10);

/// Peers passed over at a time; beyond that the first to expire is forgotten.
pub(crate) const MAX_AVOIDED: usize = 256;

/// Neighbours above the maximum that are accepted when they have nobody else: they could not join otherwise.
pub(crate) const NEEDY_EXTRA: usize = 8;

/// Below this number of neighbours a peer counts as needy: one link lost and it would be alone.
const NEEDY_BELOW: u8 = 2;

/// What is to be done about links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Make a session to it and keep it.
    Want(PeerId),
    /// The session is no longer needed here.
    Drop(PeerId),
    /// It is a neighbour now, over a link that is up.
    Adopt(PeerId),
    /// It is no neighbour any more; tell it.
    Prune(PeerId),
    /// It is no neighbour any more, by its own word. The session is kept.
    Unwatch(PeerId),
    /// No way leads to it: the graph shows none, and it or somebody with it was dialled in vain.
    Accuse(PeerId),
}

/// What the mesh needs to know of the world when it looks around.
#[derive(Debug, Default)]
pub struct View {
    /// Peers that are alive, or may be, without this one.
    pub alive: Vec<PeerId>,
    /// Dead peers that are worth another try.
    pub dead: Vec<PeerId>,
    /// Peers that are alive and to which the published adjacencies show no way.
    pub cut_off: Vec<PeerId>,
    /// Peers with a link that is up.
    pub linked: BTreeSet<PeerId>,
}

/// What need not be looked for: each look at everybody costs a walk over all members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calm {
    /// The graph has not changed since it must have been looked at, and nobody waits outside of it.
    pub graph: bool,
    /// Everybody lives.
    pub members: bool,
}

/// Why a peer is passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// The link to it did not come up.
    NoAnswer,
    /// It has neighbours enough.
    TurnedAway,
}

/// How far to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// [`View::cut_off`] is not needed.
    Peers,
    /// All of the view.
    Graph,
}

/// The neighbours of this peer, present and wished for.
#[derive(Debug)]
pub struct Mesh {
    neighbours: BTreeMap<PeerId, u8>,
    /// Wanted, not up yet, and when patience ends.
    dialling: BTreeMap<PeerId, Instant>,
    /// No neighbours, and when their sessions are given up.
    lingering: BTreeMap<PeerId, Instant>,
    /// Until when, and why.
    avoided: BTreeMap<PeerId, (Instant, Refusal)>,
    next_look: Instant,
    next_reconnect: Instant,
    next_bridge: Instant,
    /// What the last look at the graph found.
    is_whole: bool,
    target: usize,
    max: usize,
    look_interval: Duration,
    reconnect_interval: Duration,
    patience: Duration,
}

impl Mesh {
    /// No neighbours yet.
    pub fn new(config: &Config, now: Instant) -> Self {
        Mesh {
            neighbours: BTreeMap::new(),
            dialling: BTreeMap::new(),
            lingering: BTreeMap::new(),
            avoided: BTreeMap::new(),
            next_look: now,
            next_reconnect: now + config.reconnect_interval,
            next_bridge: now + BRIDGE_INTERVAL,
            is_whole: false,
            target: config.target_degree,
            max: config.max_degree,
            look_interval: config.mesh_interval,
            reconnect_interval: config.reconnect_interval,
            patience: config.dial_patience,
        }
    }

    /// The neighbours, by id.
    pub fn neighbours(&self) -> impl Iterator<Item = PeerId> {
        self.neighbours.keys().copied()
    }

    /// Peers that are left alone for a while.
    pub(crate) fn avoided(&self) -> usize {
        self.avoided.len()
    }

    /// Whether a peer is a neighbour.
    pub fn is_neighbour(&self, peer: PeerId) -> bool {
        self.neighbours.contains_key(&peer)
    }

    /// Number of neighbours.
    pub fn degree(&self) -> u8 {
        u8::try_from(self.neighbours.len()).unwrap_or(u8::MAX)
    }

    /// Whether a session to `peer` was asked for and not given up.
    pub fn wants(&self, peer: PeerId) -> bool {
        self.is_neighbour(peer) || self.dialling.contains_key(&peer) || self.lingering.contains_key(&peer)
    }

    /// A link came up.
    pub fn handle_link_up(&mut self, peer: PeerId) -> Vec<Action> {
        if self.is_neighbour(peer) {
            return vec![Action::Adopt(peer)];
        }
        if self.dialling.contains_key(&peer) || self.neighbours.len() < self.target {
            return self.adopt(peer);
        }
        Vec::new()
    }

    /// A link went down. True when it was a neighbour's; it is wanted still.
    pub fn handle_link_down(&mut self, peer: PeerId, now: Instant) -> bool {
        let was = self.neighbours.remove(&peer).is_some();
        if was {
            self.dialling.insert(peer, now + self.patience);
            self.look_soon(now);
        }
        was
    }

    /// A peer with so many neighbours regards us as one more.
    pub fn handle_claim(&mut self, peer: PeerId, degree: u8, now: Instant) -> Vec<Action> {
        if let Some(known) = self.neighbours.get_mut(&peer) {
            *known = degree;
            return Vec::new();
        }
        let limit = if degree < NEEDY_BELOW { self.max + NEEDY_EXTRA } else { self.max };
        if !self.dialling.contains_key(&peer) && self.neighbours.len() >= limit {
            return vec![Action::Prune(peer)];
        }
        let actions = self.adopt(peer);
        self.neighbours.insert(peer, degree);
        if self.neighbours.len() > self.max {
            self.next_look = self.next_look.min(now + self.look_interval);
        }
        actions
    }

    /// A neighbour told its number of neighbours.
    pub fn note_degree(&mut self, peer: PeerId, degree: u8) {
        if let Some(known) = self.neighbours.get_mut(&peer) {
            *known = degree;
        }
    }

    /// A peer does not want us as a neighbour.
    pub fn handle_prune(&mut self, peer: PeerId, now: Instant) -> Vec<Action> {
        if !self.wants(peer) {
            return Vec::new();
        }
        self.avoid(peer, Refusal::TurnedAway, now);
        self.neighbours.remove(&peer);
        self.dialling.remove(&peer);
        self.lingering.insert(peer, now + LINGER);
        self.look_soon(now);
        vec![Action::Unwatch(peer)]
    }

    /// A peer died, left or was removed.
    pub fn handle_gone(&mut self, peer: PeerId, now: Instant) -> Vec<Action> {
        self.let_go(peer, now)
    }

    /// Somebody may be worth a link: looks around soon instead of at the next interval.
    pub fn look_soon(&mut self, now: Instant) {
        self.next_look = self.next_look.min(now);
        self.avoided.retain(|_, (until, _)| *until > now);
    }

    /// When [`Mesh::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Instant {
        self.next_look
    }

    /// Looks around if it is time.
    pub(crate) fn handle_timeout(
        &mut self,
        now: Instant,
        rng: &mut Rng,
        calm: Calm,
        view: impl FnOnce(Scope) -> View,
    ) -> Vec<Action> {
        if self.next_look > now {
            return Vec::new();
        }
        self.next_look = now + rng.jitter(self.look_interval);
        self.avoided.retain(|_, (until, _)| *until > now);
        let mut actions = self.shed(rng);
        actions.extend(self.end_lingering(now));
        self.pass_over(calm, now, rng);
        if self.is_settled(now) {
            self.rest(now);
            return actions;
        }
        let view = view(if self.next_bridge <= now { Scope::Graph } else { Scope::Peers });
        actions.extend(self.give_up_dialling(now, &view));
        actions.extend(self.accuse(rng, &view));
        actions.extend(self.fill(now, rng, &view));
        actions.extend(self.bridge(now, rng, &view));
        actions.extend(self.reconnect(now, rng, &view));
        actions
    }

    /// Lets one neighbour go when there are too many, if it can spare us.
    fn shed(&mut self, rng: &mut Rng) -> Vec<Action> {
        if self.neighbours.len() <= self.max {
            return Vec::new();
        }
        let spare = |degree: u8| usize::from(degree) > self.target;
        let can: Vec<PeerId> =
            self.neighbours.iter().filter(|(_, d)| spare(**d)).map(|(&peer, _)| peer).collect();
        let Some(&peer) = rng.choose(&can) else { return Vec::new() };
        self.neighbours.remove(&peer);
        vec![Action::Prune(peer), Action::Drop(peer)]
    }

    fn end_lingering(&mut self, now: Instant) -> Vec<Action> {
        let late = self.lingering.extract_if(.., |_, until| *until <= now);
        late.map(|(peer, _)| Action::Drop(peer)).collect()
    }

    /// Stops to wait for links that do not come up, while there are other peers to try.
    fn give_up_dialling(&mut self, now: Instant, view: &View) -> Vec<Action> {
        let late: Vec<PeerId> =
            self.dialling.iter().filter(|(_, until)| **until <= now).map(|(&peer, _)| peer).collect();
        let mut actions = Vec::new();
        for peer in late {
            self.avoid(peer, Refusal::NoAnswer, now);
            let alive = view.alive.contains(&peer);
            if alive && !view.alive.iter().any(|other| self.is_open(*other)) {
                self.dialling.insert(peer, now + self.patience);
                continue;
            }
            actions.extend(self.let_go(peer, now));
        }
        actions
    }

    /// Looks for neighbours until there are enough.
    fn fill(&mut self, now: Instant, rng: &mut Rng, view: &View) -> Vec<Action> {
        let have = self.neighbours.len() + self.dialling.len();
        let mut open: Vec<PeerId> = view.alive.iter().copied().filter(|peer| self.is_open(*peer)).collect();
        rng.shuffle(&mut open);
        let chosen = open.into_iter().take(self.target.saturating_sub(have));
        chosen.flat_map(|peer| self.seek(peer, now, view)).collect()
    }

    /// Accuses peers on the far side after one there was dialled in vain. Only neighbours are probed, and whoever has none on this side
    /// would be taken for alive as long as a partition lasts. All on this side find that out at the same time, so each accuses its share of
    /// them, twice over for those who do not. Who is not cut off hears of it and contradicts.
    fn accuse(&self, rng: &mut Rng, view: &View) -> Vec<Action> {
        let in_vain =
            |peer: &PeerId| self.avoided.get(peer).is_some_and(|(_, why)| *why == Refusal::NoAnswer);
        if !view.cut_off.iter().any(in_vain) {
            return Vec::new();
        }
        let alive: BTreeSet<PeerId> = view.alive.iter().copied().collect();
        let far = view.cut_off.iter().copied();
        let mut far: Vec<PeerId> =
            far.filter(|peer| alive.contains(peer) && !view.linked.contains(peer)).collect();
        if !far.iter().any(in_vain) {
            return Vec::new();
        }
        rng.shuffle(&mut far);
        far.sort_by_key(|peer| !in_vain(peer));
        let near = alive.len() - far.len() + 1;
        let tried = far.iter().filter(|peer| in_vain(peer)).count();
        far.truncate(tried.max((2 * far.len()).div_ceil(near)));
        far.into_iter().map(Action::Accuse).collect()
    }

    /// Looks for one neighbour on the far side when the graph shows that it fell apart.
    fn bridge(&mut self, now: Instant, rng: &mut Rng, view: &View) -> Vec<Action> {
        if self.next_bridge > now {
            return Vec::new();
        }
        self.next_bridge = now + rng.jitter(BRIDGE_INTERVAL);
        self.is_whole = view.cut_off.is_empty();
        if view.cut_off.iter().any(|peer| self.wants(*peer))
            || self.neighbours.len() >= self.max + NEEDY_EXTRA
        {
            return Vec::new();
        }
        let open: Vec<PeerId> = view.cut_off.iter().copied().filter(|peer| self.is_open(*peer)).collect();
        rng.choose(&open).map(|&peer| self.seek(peer, now, view)).unwrap_or_default()
    }

    /// Dials one of the dead now and then.
    fn reconnect(&mut self, now: Instant, rng: &mut Rng, view: &View) -> Vec<Action> {
        if self.next_reconnect > now {
            return Vec::new();
        }
        self.next_reconnect = now + rng.jitter(self.reconnect_interval);
        let open: Vec<PeerId> = view.dead.iter().copied().filter(|peer| !self.wants(*peer)).collect();
        rng.choose(&open).map(|&peer| self.seek(peer, now, view)).unwrap_or_default()
    }

    fn seek(&mut self, peer: PeerId, now: Instant, view: &View) -> Vec<Action> {
        if view.linked.contains(&peer) {
            return self.adopt(peer);
        }
        self.dialling.insert(peer, now + self.patience);
        vec![Action::Want(peer)]
    }

    fn adopt(&mut self, peer: PeerId) -> Vec<Action> {
        let wanted = self.wants(peer);
        self.dialling.remove(&peer);
        self.lingering.remove(&peer);
        // Until it says otherwise it has nobody but us.
        self.neighbours.insert(peer, 1);
        if wanted { vec![Action::Adopt(peer)] } else { vec![Action::Want(peer), Action::Adopt(peer)] }
    }

    fn let_go(&mut self, peer: PeerId, now: Instant) -> Vec<Action> {
        let had = self.wants(peer);
        self.neighbours.remove(&peer);
        self.dialling.remove(&peer);
        self.lingering.remove(&peer);
        self.look_soon(now);
        if had { vec![Action::Drop(peer)] } else { Vec::new() }
    }

    fn avoid(&mut self, peer: PeerId, why: Refusal, now: Instant) {
        if self.avoided.len() >= MAX_AVOIDED
            && let Some((&first, _)) = self.avoided.iter().min_by_key(|(_, (until, _))| *until)
        {
            self.avoided.remove(&first);
        }
        self.avoided.insert(peer, (now + AVOID, why));
    }

    /// Puts off the looks that can find nothing. A graph that was found whole and has not changed since is looked at no more.
    fn pass_over(&mut self, calm: Calm, now: Instant, rng: &mut Rng) {
        if calm.members && self.next_reconnect <= now {
            self.next_reconnect = now + rng.jitter(self.reconnect_interval);
        }
        if calm.graph && self.is_whole && self.next_bridge <= now {
            self.next_bridge = now + rng.jitter(BRIDGE_INTERVAL);
        }
    }

    /// Nothing is to be done before one of these times, unless something happens; whatever does calls for a look.
    fn rest(&mut self, now: Instant) {
        if self.neighbours.len() > self.max {
            return;
        }
        let waits = self.dialling.values().chain(self.lingering.values()).min().copied();
        let next = self.next_reconnect.min(self.next_bridge);
        self.next_look = waits.map_or(next, |at| at.min(next)).max(now);
    }

    /// Whether there is nothing to do that needs a look at everybody.
    fn is_settled(&self, now: Instant) -> bool {
        self.neighbours.len() + self.dialling.len() >= self.target
            && self.dialling.values().all(|until| *until > now)
            && self.next_reconnect > now
            && self.next_bridge > now
    }

    fn is_open(&self, peer: PeerId) -> bool {
        !self.wants(peer) && !self.avoided.contains_key(&peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STIR: Calm = Calm { graph: false, members: false };

    fn id(n: u8) -> PeerId {
        PeerId([n; 16])
    }

    fn start() -> (Mesh, Rng, Instant) {
        let now = Instant::now();
        (Mesh::new(&Config::default(), now), Rng::new(3), now)
    }

    fn look(mesh: &mut Mesh, rng: &mut Rng, now: Instant, view: View) -> Vec<Action> {
        mesh.look_soon(now);
        mesh.handle_timeout(now, rng, STIR, |_| view)
    }

    #[test]
    fn looks_for_as_many_as_it_needs_and_no_more() {
        let (mut mesh, mut rng, now) = start();
        let view = View { alive: (1..100).map(id).collect(), ..View::default() };
        assert_eq!(look(&mut mesh, &mut rng, now, view).len(), Config::default().target_degree);
        let view = View { alive: (1..100).map(id).collect(), ..View::default() };
        assert_eq!(look(&mut mesh, &mut rng, now, view), []);
    }

    #[test]
    fn a_full_peer_takes_the_needy_and_turns_others_away() {
        let (mut mesh, _, now) = start();
        for n in 0..8 {
            assert_eq!(mesh.handle_claim(id(n), 5, now), [Action::Want(id(n)), Action::Adopt(id(n))]);
        }
        assert_eq!(mesh.handle_claim(id(50), 4, now), [Action::Prune(id(50))]);
        assert_eq!(mesh.handle_claim(id(51), 1, now), [Action::Want(id(51)), Action::Adopt(id(51))]);
    }

    #[test]
    fn sheds_only_whoever_can_spare_us() {
        let (mut mesh, mut rng, now) = start();
        for n in 0..10 {
            mesh.handle_claim(id(n), 1, now);
        }
        assert_eq!(look(&mut mesh, &mut rng, now, View::default()), []);
        mesh.note_degree(id(4), 7);
        assert_eq!(
            look(&mut mesh, &mut rng, now, View::default()),
            [Action::Prune(id(4)), Action::Drop(id(4))]
        );
    }

    #[test]
    fn a_settled_mesh_is_left_alone_until_something_is_due() {
        let (mut mesh, mut rng, now) = start();
        (0..5).for_each(|n| drop(mesh.handle_claim(id(n), 5, now)));
        assert_eq!(look(&mut mesh, &mut rng, now, View::default()), []);
        assert!(mesh.poll_timeout() >= now + BRIDGE_INTERVAL.min(Config::default().reconnect_interval));
        mesh.handle_prune(id(3), now);
        assert_eq!(mesh.poll_timeout(), now, "one less than are wanted");
        (10..15).for_each(|n| drop(mesh.handle_claim(id(n), 1, now)));
        assert!(mesh.poll_timeout() <= now + Config::default().mesh_interval, "one too many");
    }

    #[test]
    fn tries_another_when_a_link_does_not_come_up() {
        let (mut mesh, mut rng, now) = start();
        let view = |n| View { alive: (1..=n).map(id).collect(), ..View::default() };
        assert_eq!(look(&mut mesh, &mut rng, now, view(1)), [Action::Want(id(1))]);
        let later = now + Config::default().dial_patience;
        assert_eq!(look(&mut mesh, &mut rng, later, view(1)), [], "there is nobody else: keeps trying");
        let later = later + Config::default().dial_patience;
        let actions = look(&mut mesh, &mut rng, later, view(9));
        assert!(actions.contains(&Action::Drop(id(1))) && !actions.contains(&Action::Want(id(1))));
    }

    #[test]
    fn a_session_outlives_being_turned_away_for_a_while() {
        let (mut mesh, mut rng, now) = start();
        (0..6).for_each(|n| drop(mesh.handle_claim(id(n), 5, now)));
        assert_eq!(mesh.handle_prune(id(3), now), [Action::Unwatch(id(3))]);
        assert_eq!(look(&mut mesh, &mut rng, now, View::default()), []);
        assert_eq!(look(&mut mesh, &mut rng, now + LINGER, View::default()), [Action::Drop(id(3))]);
        assert!(!mesh.wants(id(3)));
    }

    #[test]
    fn accuses_its_share_of_the_far_side_after_a_dial_in_vain() {
        let (mut mesh, mut rng, start) = start();
        let view = |near: u8| View {
            alive: (1..=near).chain(20..40).map(id).collect(),
            cut_off: (20..40).map(id).collect(),
            linked: (1..=near).map(id).collect(),
            ..View::default()
        };
        let accused = |actions: &[Action]| actions.iter().filter(|a| matches!(a, Action::Accuse(_))).count();
        let mut now = start + BRIDGE_INTERVAL * 2;
        assert_eq!(accused(&look(&mut mesh, &mut rng, now, view(9))), 0, "nobody was dialled yet");
        assert!(mesh.dialling.keys().any(|peer| *peer >= id(20)));
        let far = mesh.dialling.len();
        now += mesh.patience + BRIDGE_INTERVAL;
        assert_eq!(accused(&look(&mut mesh, &mut rng, now, view(9))), far.max(2 * 20 / 10));
        now += BRIDGE_INTERVAL;
        assert_eq!(accused(&look(&mut mesh, &mut rng, now, view(0))), 20, "alone, all of them");
    }

    #[test]
    fn dials_the_far_side_when_the_graph_fell_apart() {
        let (mut mesh, mut rng, now) = start();
        (0..5).for_each(|n| drop(mesh.handle_claim(id(n), 5, now)));
        let view = || View { cut_off: (20..30).map(id).collect(), ..View::default() };
        let now = now + BRIDGE_INTERVAL;
        assert!(matches!(look(&mut mesh, &mut rng, now, view())[..], [Action::Want(_)]));
        let now = now + BRIDGE_INTERVAL;
        assert_eq!(look(&mut mesh, &mut rng, now, view()), [], "one bridge at a time");
    }
}
