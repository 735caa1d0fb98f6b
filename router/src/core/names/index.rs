//! Who is found by a name, and by which names somebody is found: the announcements of all peers that are alive.
//!
//! A name may stand for addresses of several containers on several hosts; all of them answer. A peer that is not alive answers nothing,
//! and is remembered, so that its names come back with it. What an origin said is only ever replaced by what it says later (gossip
//! compares its versions), so nobody else can bring a name back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, RwLock};

use gossip::PeerId;

use super::advert::Said;
use super::name::DnsName;
use crate::core::endpoints::Presence;

/// Records of names taken from one peer, as many as endpoints.
pub const MAX_PER_PEER: usize = crate::core::endpoints::MAX_PER_PEER;
/// Addresses that one answer can have: some 8 KiB of a message.
pub const MAX_ADDRESSES_OF_NAME: usize = 512;
/// Names that one address is told to have.
pub const MAX_NAMES_OF_ADDRESS: usize = 16;

/// The index, read by whoever answers questions while the control half changes it. A question holds it for microseconds.
pub type SharedNames = Arc<RwLock<NameIndex>>;

/// Origin and name of a record.
type Key = (PeerId, Vec<u8>);

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It stands for these, in order; at most [`MAX_ADDRESSES_OF_NAME`].
    Addresses(Vec<IpAddr>),
    /// It stands for nothing, but there are names below it (RFC 8020).
    NamesBelow,
    /// There is no such name.
    Nothing,
}

/// See the module's text.
#[derive(Debug)]
pub struct NameIndex {
    me: PeerId,
    /// What everybody said, also who is not alive.
    said: BTreeMap<Key, Arc<Said>>,
    counts: BTreeMap<PeerId, usize>,
    present: BTreeSet<PeerId>,
    /// Of those alive, by name with the labels from the right.
    by_name: BTreeMap<String, BTreeSet<Key>>,
    by_address: BTreeMap<IpAddr, BTreeSet<Key>>,
    refused: u64,
}

impl NameIndex {
    /// Without a name. Only this router itself is present.
    pub fn new(me: PeerId) -> NameIndex {
        NameIndex {
            me,
            said: BTreeMap::new(),
            counts: BTreeMap::new(),
            present: BTreeSet::from([me]),
            by_name: BTreeMap::new(),
            by_address: BTreeMap::new(),
            refused: 0,
        }
    }

    /// `origin` says this under a record of this name, in place of what it said there before.
    pub fn say(&mut self, origin: PeerId, record: &[u8], said: Said) {
        let key = (origin, record.to_vec());
        match self.said.get(&key).cloned() {
            Some(before) if *before == said => return,
            Some(before) => self.hide(&key, &before),
            None => {
                let count = self.counts.entry(origin).or_default();
                if *count >= MAX_PER_PEER {
                    self.refused += 1;
                    return;
                }
                *count += 1;
            }
        }
        let said = Arc::new(said);
        if self.present.contains(&origin) {
            self.show(&key, &said);
        }
        self.said.insert(key, said);
    }

    /// `origin` says nothing there any more.
    pub fn unsay(&mut self, origin: PeerId, record: &[u8]) {
        let key = (origin, record.to_vec());
        let Some(said) = self.said.remove(&key) else { return };
        self.hide(&key, &said);
        if let Some(count) = self.counts.get_mut(&origin) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&origin);
            }
        }
    }

    /// A peer came or went.
    pub fn set_present(&mut self, peer: PeerId, presence: Presence) {
        let changed = match presence {
            Presence::Here => self.present.insert(peer),
            Presence::Gone => peer != self.me && self.present.remove(&peer),
        };
        if !changed {
            return;
        }
        let of = self.said.range((peer, Vec::new())..).take_while(|((origin, _), _)| *origin == peer);
        let all: Vec<(Key, Arc<Said>)> = of.map(|(key, said)| (key.clone(), Arc::clone(said))).collect();
        for (key, said) in all {
            match presence {
                Presence::Here => self.show(&key, &said),
                Presence::Gone => self.hide(&key, &said),
            }
        }
    }

    /// What a name stands for.
    pub fn find(&self, name: &DnsName) -> Found {
        let reversed = name.reversed();
        if let Some(keys) = self.by_name.get(&reversed) {
            let mut addresses: BTreeSet<IpAddr> = BTreeSet::new();
            let all = keys.iter().filter_map(|key| self.said.get(key)).flat_map(|said| said.addresses());
            for address in all {
                if addresses.len() >= MAX_ADDRESSES_OF_NAME {
                    break;
                }
                addresses.insert(*address);
            }
            return Found::Addresses(addresses.into_iter().collect());
        }
        // `/` is the byte after `.`, so this is everything with the name and a dot in front.
        let below = format!("{reversed}.")..format!("{reversed}/");
        match self.by_name.range(below).next() {
            Some(_) => Found::NamesBelow,
            None => Found::Nothing,
        }
    }

    /// The names of an address, in order; at most [`MAX_NAMES_OF_ADDRESS`].
    pub fn names_of(&self, address: IpAddr) -> Vec<DnsName> {
        let keys = self.by_address.get(&address).into_iter().flatten();
        let names: BTreeSet<&DnsName> =
            keys.filter_map(|key| self.said.get(key)).flat_map(|said| said.names()).collect();
        names.into_iter().take(MAX_NAMES_OF_ADDRESS).cloned().collect()
    }

    /// All that is answered, by name: who says so, and the addresses. One name can come several times.
    pub fn entries(&self) -> impl Iterator<Item = (&DnsName, PeerId, &[IpAddr])> {
        self.by_name.iter().flat_map(move |(reversed, keys)| {
            keys.iter().filter_map(move |key| {
                let said = self.said.get(key)?;
                let name = said.names().iter().find(|name| name.reversed() == *reversed)?;
                Some((name, key.0, said.addresses()))
            })
        })
    }

    /// Different names that are answered.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Records that were over the limit of their peer.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    fn show(&mut self, key: &Key, said: &Said) {
        for name in said.names() {
            self.by_name.entry(name.reversed()).or_default().insert(key.clone());
        }
        for address in said.addresses() {
            self.by_address.entry(*address).or_default().insert(key.clone());
        }
    }

    fn hide(&mut self, key: &Key, said: &Said) {
        for name in said.names() {
            take(&mut self.by_name, &name.reversed(), key);
        }
        for address in said.addresses() {
            take(&mut self.by_address, address, key);
        }
    }
}

fn take<K: Ord>(map: &mut BTreeMap<K, BTreeSet<Key>>, at: &K, key: &Key) {
    if let Some(keys) = map.get_mut(at) {
        keys.remove(key);
        if keys.is_empty() {
            map.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ME: PeerId = PeerId([1; 16]);
    const OTHER: PeerId = PeerId([2; 16]);

    fn name(text: &str) -> DnsName {
        text.parse().expect("name")
    }

    fn said(names: &[&str], last: u8) -> Said {
        Said::new(names.iter().map(|text| name(text)), [IpAddr::from([10, 32, 0, last])]).expect("fits")
    }

    fn addresses(lasts: &[u8]) -> Found {
        Found::Addresses(lasts.iter().map(|last| [10, 32, 0, *last].into()).collect())
    }

    #[test]
    fn several_hosts_answer_for_one_name_while_they_live() {
        let mut index = NameIndex::new(ME);
        index.say(ME, b"a", said(&["web"], 1));
        index.say(OTHER, b"b", said(&["web", "web.team"], 2));
        assert_eq!(index.find(&name("web")), addresses(&[1]), "not alive yet");
        index.set_present(OTHER, Presence::Here);
        assert_eq!(index.find(&name("web")), addresses(&[1, 2]));
        assert_eq!(index.names_of([10, 32, 0, 2].into()), [name("web"), name("web.team")]);
        index.set_present(OTHER, Presence::Gone);
        assert_eq!(index.find(&name("web")), addresses(&[1]));
        assert_eq!(index.names_of([10, 32, 0, 2].into()), []);
        index.set_present(OTHER, Presence::Here);
        index.unsay(ME, b"a");
        assert_eq!(index.find(&name("web")), addresses(&[2]));
        index.set_present(ME, Presence::Gone);
        index.say(ME, b"a", said(&["still-here"], 1));
        assert_eq!(index.find(&name("still-here")), addresses(&[1]));
    }

    #[test]
    fn names_above_others_are_there_without_addresses() {
        let mut index = NameIndex::new(ME);
        index.say(ME, b"a", said(&["web.team-a.x"], 1));
        for (text, found) in [
            ("x", Found::NamesBelow),
            ("team-a.x", Found::NamesBelow),
            ("team.x", Found::Nothing),
            ("a.web.team-a.x", Found::Nothing),
            ("team-a", Found::Nothing),
        ] {
            assert_eq!(index.find(&name(text)), found, "{text}");
        }
    }

    #[test]
    fn one_peer_cannot_fill_the_index() {
        let mut index = NameIndex::new(ME);
        index.set_present(OTHER, Presence::Here);
        for n in 0..=MAX_PER_PEER as u32 {
            index.say(OTHER, &n.to_be_bytes(), said(&["web"], 1));
        }
        assert_eq!(index.refused(), 1);
        index.say(OTHER, &0u32.to_be_bytes(), said(&["changed"], 1));
        assert_eq!(index.find(&name("changed")), addresses(&[1]), "what is there can change");
    }

    #[test]
    fn answer_is_bounded() {
        let mut index = NameIndex::new(ME);
        for n in 0..2000u16 {
            let [a, b] = n.to_be_bytes();
            let said = Said::new([name("web")], [IpAddr::from([10, 32, a, b])]).expect("fits");
            index.say(ME, &n.to_be_bytes(), said);
        }
        let Found::Addresses(all) = index.find(&name("web")) else { panic!("found") };
        assert_eq!(all.len(), MAX_ADDRESSES_OF_NAME);
    }

    /// One thing that happens.
    #[derive(Debug, Clone)]
    enum Step {
        Say(u8, u8, Vec<u8>, u8),
        Unsay(u8, u8),
        Presence(u8, bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        let (peer, record) = (0..4u8, 0..5u8);
        prop_oneof![
            4 => (peer.clone(), record.clone(), proptest::collection::vec(0..6u8, 1..4), 1..5u8)
                .prop_map(|(peer, record, names, last)| Step::Say(peer, record, names, last)),
            2 => (peer.clone(), record).prop_map(|(peer, record)| Step::Unsay(peer, record)),
            1 => (peer, any::<bool>()).prop_map(|(peer, here)| Step::Presence(peer, here)),
        ]
    }

    const NAMES: [&str; 6] = ["web", "db", "web.team", "a.web.team", "team", "x"];

    proptest! {
        /// Beside a list of what was said, walked for each question.
        #[test]
        fn agrees_with_a_list(steps in proptest::collection::vec(step(), 1..60)) {
            let peer = |n: u8| PeerId([n + 1; 16]);
            let mut index = NameIndex::new(ME);
            let mut list: BTreeMap<(u8, u8), Said> = BTreeMap::new();
            let mut here = BTreeSet::from([0u8]);
            for step in steps {
                match step {
                    Step::Say(who, record, names, last) => {
                        let names: Vec<&str> = names.iter().map(|n| NAMES[usize::from(*n)]).collect();
                        index.say(peer(who), &[record], said(&names, last));
                        list.insert((who, record), said(&names, last));
                    }
                    Step::Unsay(who, record) => {
                        index.unsay(peer(who), &[record]);
                        list.remove(&(who, record));
                    }
                    Step::Presence(who, true) => {
                        index.set_present(peer(who), Presence::Here);
                        here.insert(who);
                    }
                    Step::Presence(who, false) => {
                        index.set_present(peer(who), Presence::Gone);
                        if who != 0 { here.remove(&who); }
                    }
                }
                let live = || list.iter().filter(|((who, _), _)| here.contains(who)).map(|(_, said)| said);
                for text in NAMES {
                    let wanted = name(text);
                    let with = live().filter(|said| said.names().contains(&wanted));
                    let expected: BTreeSet<IpAddr> = with.flat_map(|said| said.addresses().to_vec()).collect();
                    let below = format!(".{text}");
                    let parent = live().flat_map(|said| said.names()).any(|name| name.as_str().ends_with(&below));
                    let expected = match (expected.is_empty(), parent) {
                        (false, _) => Found::Addresses(expected.into_iter().collect()),
                        (true, true) => Found::NamesBelow,
                        (true, false) => Found::Nothing,
                    };
                    prop_assert_eq!(index.find(&wanted), expected, "{}", text);
                }
                for last in 1..5u8 {
                    let address = IpAddr::from([10, 32, 0, last]);
                    let with = live().filter(|said| said.addresses().contains(&address));
                    let expected: BTreeSet<DnsName> = with.flat_map(|said| said.names().to_vec()).collect();
                    prop_assert_eq!(index.names_of(address), expected.into_iter().collect::<Vec<_>>());
                }
            }
        }
    }
}
