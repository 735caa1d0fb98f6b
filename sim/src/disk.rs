//! The disk of one router: two journals that are appended to and one small file that is replaced whole.
//!
//! What was synced survives everything but a rollback and damage. What was written and not synced survives the end of the
//! process, and is lost or torn when the power goes.

use std::time::Duration;

use crate::dice::{Dice, mix};

/// Length and check sum before each entry.
const HEAD: usize = 8;

/// One of the journals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum File {
    /// What allocation must not forget.
    Ipam,
    /// What is attached.
    Attachments,
}

/// Why nothing became durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskError {
    /// There is no room.
    Full,
    /// The host died while it wrote.
    Died,
}

/// What a start finds in a journal.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// The entries before the first one that is not whole.
    pub entries: Vec<Vec<u8>>,
    /// Whether anything is behind them.
    pub damaged: bool,
}

/// What the membership file holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Membership {
    /// This router created the fabric.
    pub founder: bool,
    /// Starts so far.
    pub boot: u32,
    /// Addresses that it was told to dial.
    pub targets: Vec<std::net::SocketAddr>,
    /// Addresses of peers that it knew.
    pub known: Vec<std::net::SocketAddr>,
}

#[derive(Debug, Clone, Default)]
struct Journal {
    bytes: Vec<u8>,
    synced: usize,
    entries: usize,
}

/// See the top of the file.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    ipam: Journal,
    attachments: Journal,
    membership: Option<Membership>,
    /// Nothing more can be written.
    pub full: bool,
    /// How long each fsync takes.
    pub delay: Duration,
    /// The host dies at the next write, with so many thousandths of it on the disk.
    pub trap: Option<u32>,
    /// A bug of the host's, planted: it answers before the fsync.
    pub sync_skipped: bool,
}

impl Disk {
    /// Appends entries and syncs them; all or none are durable.
    pub fn append(&mut self, file: File, entries: &[Vec<u8>]) -> Result<(), DiskError> {
        let mut buffer = Vec::new();
        for entry in entries {
            put(&mut buffer, entry);
        }
        let (full, trap, sync_skipped) = (self.full, self.trap.take(), self.sync_skipped);
        let journal = self.journal(file);
        if let Some(per_mille) = trap {
            let kept = buffer.len() * per_mille as usize / 1000;
            journal.bytes.extend_from_slice(&buffer[..kept]);
            return Err(DiskError::Died);
        }
        if full {
            return Err(DiskError::Full);
        }
        journal.bytes.extend_from_slice(&buffer);
        journal.entries += entries.len();
        if !sync_skipped {
            journal.synced = journal.bytes.len();
        }
        Ok(())
    }

    /// Replaces a journal by a snapshot: written aside, synced, renamed.
    pub fn compact(&mut self, file: File, entries: &[Vec<u8>]) -> Result<(), DiskError> {
        if self.full {
            return Err(DiskError::Full);
        }
        let mut bytes = Vec::new();
        entries.iter().for_each(|entry| put(&mut bytes, entry));
        *self.journal(file) = Journal { synced: bytes.len(), entries: entries.len(), bytes };
        Ok(())
    }

    /// Replaces the membership file.
    pub fn store(&mut self, membership: &Membership) -> Result<(), DiskError> {
        if self.full {
            return Err(DiskError::Full);
        }
        self.membership = Some(membership.clone());
        Ok(())
    }

    /// The membership file, if there is one.
    pub fn membership(&self) -> Option<&Membership> {
        self.membership.as_ref()
    }

    /// Entries in a journal since it was compacted.
    pub fn entries(&self, file: File) -> usize {
        match file {
            File::Ipam => self.ipam.entries,
            File::Attachments => self.attachments.entries,
        }
    }

    /// Reads a journal as a start does: keeps the whole entries and cuts off the rest.
    pub fn open(&mut self, file: File) -> Found {
        let journal = self.journal(file);
        let found = scan(&journal.bytes);
        let mut whole = Vec::new();
        found.entries.iter().for_each(|entry| put(&mut whole, entry));
        *journal = Journal { synced: whole.len(), entries: found.entries.len(), bytes: whole };
        found
    }

    /// Reads a journal as it stands.
    pub fn read(&self, file: File) -> Found {
        match file {
            File::Ipam => scan(&self.ipam.bytes),
            File::Attachments => scan(&self.attachments.bytes),
        }
    }

    /// The power goes: of what was not synced, some beginning is left, perhaps with its last sector torn.
    pub fn lose_power(&mut self, dice: &mut Dice) {
        for journal in [&mut self.ipam, &mut self.attachments] {
            let loose = journal.bytes.len() - journal.synced;
            if loose > 0 {
                let kept = journal.synced + dice.index(loose);
                journal.bytes.truncate(kept);
                if kept > journal.synced && dice.happens(300) {
                    let torn = journal.synced + dice.index(kept - journal.synced);
                    journal.bytes[torn] ^= 0x40;
                }
            }
        }
    }

    /// A byte of the allocation journal rots. Says whether there was one.
    pub fn damage(&mut self, dice: &mut Dice) -> bool {
        if self.ipam.bytes.is_empty() {
            return false;
        }
        let at = dice.index(self.ipam.bytes.len());
        self.ipam.bytes[at] ^= 1 << dice.below(8);
        true
    }

    /// Everything is erased.
    pub fn wipe(&mut self) {
        *self = Disk { delay: self.delay, full: self.full, ..Disk::default() };
    }

    fn journal(&mut self, file: File) -> &mut Journal {
        match file {
            File::Ipam => &mut self.ipam,
            File::Attachments => &mut self.attachments,
        }
    }
}

fn put(buffer: &mut Vec<u8>, entry: &[u8]) {
    buffer.extend_from_slice(&(entry.len() as u32).to_le_bytes());
    buffer.extend_from_slice(&checksum(entry).to_le_bytes());
    buffer.extend_from_slice(entry);
}

fn scan(bytes: &[u8]) -> Found {
    let mut found = Found::default();
    let mut at = 0;
    while let Some(entry) = entry_at(bytes, at) {
        at += HEAD + entry.len();
        found.entries.push(entry.to_vec());
    }
    found.damaged = at < bytes.len();
    found
}

fn entry_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let head = bytes.get(at..at + HEAD)?;
    let length = u32::from_le_bytes(head[..4].try_into().ok()?) as usize;
    let sum = u32::from_le_bytes(head[4..].try_into().ok()?);
    let entry = bytes.get(at + HEAD..at.checked_add(HEAD)?.checked_add(length)?)?;
    (length > 0 && checksum(entry) == sum).then_some(entry)
}

fn checksum(bytes: &[u8]) -> u32 {
    let fold = |hash, chunk: &[u8]| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(hash, u64::from_le_bytes(word))
    };
    bytes.chunks(8).fold(bytes.len() as u64, fold) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(count: u8) -> Vec<Vec<u8>> {
        (1..=count).map(|n| vec![n; usize::from(n)]).collect()
    }

    #[test]
    fn what_was_synced_survives_the_power() {
        let mut disk = Disk::default();
        disk.append(File::Ipam, &words(5)).expect("there is room");
        disk.lose_power(&mut Dice::new(1, 0));
        assert_eq!(disk.open(File::Ipam).entries, words(5));
    }

    #[test]
    fn what_was_not_synced_is_lost_or_torn() {
        let mut lost = 0;
        for seed in 0..20 {
            let mut disk = Disk { sync_skipped: true, ..Disk::default() };
            disk.append(File::Ipam, &words(5)).expect("there is room");
            disk.lose_power(&mut Dice::new(seed, 0));
            let found = disk.open(File::Ipam);
            assert!(words(5).starts_with(&found.entries));
            lost += usize::from(found.entries.len() < 5);
        }
        assert!(lost > 10);
    }

    #[test]
    fn a_write_that_dies_leaves_a_beginning() {
        let mut disk = Disk { trap: Some(500), ..Disk::default() };
        assert_eq!(disk.append(File::Attachments, &words(4)), Err(DiskError::Died));
        let found = disk.open(File::Attachments);
        assert!(found.damaged && words(4).starts_with(&found.entries));
        assert!(!disk.open(File::Attachments).damaged);
    }

    #[test]
    fn a_full_disk_keeps_what_it_has() {
        let mut disk = Disk::default();
        disk.append(File::Ipam, &words(2)).expect("there is room");
        disk.full = true;
        assert_eq!(disk.append(File::Ipam, &words(3)), Err(DiskError::Full));
        assert_eq!(disk.read(File::Ipam).entries, words(2));
    }
}
