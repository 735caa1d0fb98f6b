//! Signed records of ownership as they came, for audits: a journal that forgets its oldest half when it is full.
//!
//! Nothing is promised on the strength of it. What is missing shows as a gap in an audit.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;

use super::journal::{Journal, Opened};

/// Entries that are kept: each takes some 220 bytes, so the file stays below 5 MB, and a fabric of 1,000 peers has room for ten steps
/// each.
const MAX_ENTRIES: usize = 20_000;

/// See the module's text.
#[derive(Debug)]
pub struct History {
    journal: Journal,
    /// Of the entries in the file: gossip brings everything again after a restart.
    known: HashSet<u64>,
}

impl History {
    /// Goes on with what was opened.
    pub fn new(opened: Opened) -> History {
        History { known: opened.entries.iter().map(|entry| digest(entry)).collect(), journal: opened.journal }
    }

    /// Keeps what is not there yet.
    pub fn keep(&mut self, entries: Vec<Vec<u8>>) -> io::Result<()> {
        let mut fresh = entries;
        fresh.retain(|entry| self.known.insert(digest(entry)));
        if fresh.is_empty() {
            return Ok(());
        }
        if self.known.len() > MAX_ENTRIES {
            self.forget_older_half()?;
            self.known.extend(fresh.iter().map(|entry| digest(entry)));
        }
        self.journal.append(&fresh)
    }

    /// Everything that is kept, oldest first.
    pub fn read(&mut self) -> io::Result<Vec<Vec<u8>>> {
        self.journal.read_back()
    }

    /// Forgets all of it.
    pub fn clear(&mut self) -> io::Result<()> {
        self.known.clear();
        self.journal.compact(std::iter::empty())
    }

    fn forget_older_half(&mut self) -> io::Result<()> {
        let entries = self.journal.read_back()?;
        let newer = &entries[entries.len() / 2..];
        self.journal.compact(newer.iter().map(Vec::as_slice))?;
        self.known = newer.iter().map(|entry| digest(entry)).collect();
        Ok(())
    }
}

/// Not a secret and not proof of anything: a collision loses one entry.
fn digest(entry: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    entry.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_twice_is_kept_once_and_the_oldest_go() {
        let dir = std::env::temp_dir().join(format!("weave-history-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("dir");
        let open = || History::new(Journal::open(&dir, "history.journal").expect("open"));
        let mut history = open();
        let words = |range: std::ops::Range<u32>| range.map(|n| n.to_be_bytes().to_vec()).collect::<Vec<_>>();
        history.keep(words(0..10)).expect("write");
        history.keep(words(5..12)).expect("write");
        assert_eq!(history.read().expect("read"), words(0..12));
        let mut again = open();
        again.keep(words(0..12)).expect("write");
        assert_eq!(again.read().expect("read"), words(0..12));
        again.keep(words(12..MAX_ENTRIES as u32)).expect("write");
        again.keep(words(90_000..90_001)).expect("write");
        let kept = again.read().expect("read");
        assert_eq!((kept.len(), kept.last()), (MAX_ENTRIES / 2 + 1, words(90_000..90_001).last()));
        again.clear().expect("clear");
        assert_eq!(again.read().expect("read"), Vec::<Vec<u8>>::new());
        std::fs::remove_dir_all(&dir).expect("clean");
    }
}
