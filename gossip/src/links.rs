//! All links, and which of them may have something to send: whoever looks for the next message or wake-up looks at those alone. A router
//! has a link with everybody with whom it has a session, and exchanges gossip with a few of them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Instant;

use crate::link::Link;
use crate::peer::PeerId;

/// See the top of the file.
#[derive(Debug, Default)]
pub(crate) struct Links {
    all: BTreeMap<PeerId, Link>,
    /// Those that were handed out to be changed, until they are found idle. Whoever is not among them has nothing to send.
    busy: BTreeSet<PeerId>,
}

impl Links {
    /// The link to a peer.
    pub(crate) fn get(&self, peer: &PeerId) -> Option<&Link> {
        self.all.get(peer)
    }

    /// The same, to be changed.
    pub(crate) fn get_mut(&mut self, peer: &PeerId) -> Option<&mut Link> {
        let link = self.all.get_mut(peer)?;
        self.busy.insert(*peer);
        Some(link)
    }

    /// Whether there is one.
    pub(crate) fn contains_key(&self, peer: &PeerId) -> bool {
        self.all.contains_key(peer)
    }

    /// A new link, in the place of the one that there was.
    pub(crate) fn insert(&mut self, peer: PeerId, link: Link) {
        self.all.insert(peer, link);
        self.busy.insert(peer);
    }

    /// Takes a link out.
    pub(crate) fn remove(&mut self, peer: &PeerId) -> Option<Link> {
        self.busy.remove(peer);
        self.all.remove(peer)
    }

    /// All peers with a link.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &PeerId> {
        self.all.keys()
    }

    /// All links.
    pub(crate) fn values(&self) -> impl Iterator<Item = &Link> {
        self.all.values()
    }

    /// All links, to be changed.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut Link> {
        self.busy.extend(self.all.keys());
        self.all.values_mut()
    }

    /// Links that may have something to send.
    pub(crate) fn busy(&self) -> impl Iterator<Item = &Link> {
        self.busy.iter().filter_map(|peer| self.all.get(peer))
    }

    /// The first of them behind `cursor`, all around, that `wanted` likes.
    pub(crate) fn next_busy(&self, cursor: PeerId, wanted: impl Fn(&Link) -> bool) -> Option<PeerId> {
        let behind = self.busy.range((Bound::Excluded(cursor), Bound::Unbounded));
        let mut around = behind.chain(self.busy.range(..=cursor));
        around.find(|peer| self.all.get(peer).is_some_and(&wanted)).copied()
    }

    /// Time has passed for those that may have something to send. All others catch up when they are used.
    pub(crate) fn refill(&mut self, now: Instant) {
        for peer in &self.busy {
            if let Some(link) = self.all.get_mut(peer) {
                link.refill(now);
            }
        }
    }

    /// Forgets about those that have nothing to send.
    pub(crate) fn let_rest(&mut self) {
        let all = &self.all;
        self.busy.retain(|peer| all.get(peer).is_some_and(|link| !link.is_idle()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::link::Flow;
    use crate::record::{Kind, RecordKey};

    #[test]
    fn only_links_with_something_to_send_are_looked_at() {
        let now = Instant::now();
        let mut links = Links::default();
        let peers: Vec<PeerId> = (0..40).map(|n| PeerId([n; 16])).collect();
        peers.iter().for_each(|peer| links.insert(*peer, Link::new(&Config::default(), now)));
        links.let_rest();
        assert_eq!(links.busy().count(), 0);
        for peer in [&peers[3], &peers[7]] {
            let link = links.get_mut(peer).expect("it is there");
            let _ = link.queue_push(peers[0], &RecordKey::only(Kind::PEER));
        }
        let _looked_at = links.get_mut(&peers[9]);
        assert_eq!(links.busy().count(), 3);
        links.let_rest();
        assert_eq!(links.busy().count(), 2);
        let next = |cursor| links.next_busy(cursor, |link| link.may_send(Flow::Open));
        assert_eq!(next(peers[3]), Some(peers[7]));
        assert_eq!(next(peers[7]), Some(peers[3]), "all around");
        links.remove(&peers[3]);
        links.values_mut().for_each(|link| link.rumours.clear());
        links.let_rest();
        assert_eq!((links.busy().count(), links.values().count()), (1, 39));
    }
}
