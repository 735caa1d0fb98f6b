//! An append-only journal of checksummed entries.
//!
//! Each entry is `length u32 LE, crc32 of the payload u32 LE, payload`. Where that stops making sense, the file is kept aside, its
//! undamaged beginning is used, and the caller is told, since entries may be missing. A tail that was being written when power went
//! was never promised, but looks the same as a file that was cut short, which was; so both are told.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::file::{move_aside, sibling, sync_parent};

/// Longest entry; ours are below 1 KiB, so a longer one is damage.
pub const MAX_ENTRY: usize = 64 * 1024;
/// First bytes of the file, with the version of the format.
const MAGIC: &[u8; 16] = b"weave-journal 1\n";
const HEAD: usize = 8;

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    /// Bytes that are known to be durable and whole; a failed append is cut back to here.
    durable: u64,
    /// Entries in the file, for deciding when to compact.
    entries: u64,
    /// So many entries are not worth a look at how many a snapshot would have.
    short: u64,
}

/// What opening found.
#[derive(Debug)]
pub struct Opened {
    /// The journal, ready to append.
    pub journal: Journal,
    /// The entries, oldest first.
    pub entries: Vec<Vec<u8>>,
    /// Where a damaged file was kept, and what was wrong.
    pub set_aside: Option<(PathBuf, String)>,
}

impl Journal {
    /// Opens or creates the journal and reads it whole.
    pub fn open(dir: &Path, name: &str) -> io::Result<Opened> {
        let path = dir.join(name);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let journal = write_whole(&path, std::iter::empty())?;
                return Ok(Opened { journal, entries: Vec::new(), set_aside: None });
            }
            Err(error) => return Err(error),
        };
        let scan = scan(&bytes);
        let Some(why) = scan.damage else {
            let file = OpenOptions::new().read(true).write(true).open(&path)?;
            let entries = scan.entries.len() as u64;
            let journal = Journal { path, file, durable: scan.whole, entries, short: 0 };
            return Ok(Opened { journal, entries: scan.entries, set_aside: None });
        };
        let kept = move_aside(&path)?;
        let journal = write_whole(&path, scan.entries.iter().map(Vec::as_slice))?;
        Ok(Opened { journal, entries: scan.entries, set_aside: Some((kept, why)) })
    }

    /// Appends entries with one write and one fsync; all or none of them are durable when it returns.
    ///
    /// After an error the file is cut back, so that a full disk leaves no half entry behind.
    pub fn append(&mut self, entries: &[Vec<u8>]) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(entries.iter().map(|e| e.len() + HEAD).sum());
        for entry in entries {
            put(&mut buffer, entry);
        }
        let written = self
            .file
            .seek(SeekFrom::Start(self.durable))
            .and_then(|_| self.file.write_all(&buffer))
            .and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => {
                self.durable += buffer.len() as u64;
                self.entries += entries.len() as u64;
                Ok(())
            }
            Err(error) => {
                // If cutting back fails as well, the next append overwrites the same place.
                let _ = self.file.set_len(self.durable);
                Err(error)
            }
        }
    }

    /// Whether it has more entries than that, and so many that a snapshot may be much shorter.
    pub fn is_longer_than(&self, entries: u64) -> bool {
        self.entries > entries.max(self.short)
    }

    /// Replaces everything by a snapshot, unless that is nearly as long and not worth the write. Then there is no need for another one
    /// before the journal is twice as long as this one: a snapshot is a walk over everything.
    pub fn shrink(&mut self, snapshot: &[Vec<u8>]) -> io::Result<()> {
        self.short = 2 * snapshot.len() as u64;
        if self.entries > self.short { self.compact(snapshot.iter().map(Vec::as_slice)) } else { Ok(()) }
    }

    /// Replaces everything by the entries of a snapshot.
    pub fn compact<'a>(&mut self, entries: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
        *self = write_whole(&self.path, entries)?;
        Ok(())
    }

    /// Reads again what is durable.
    pub fn read_back(&mut self) -> io::Result<Vec<Vec<u8>>> {
        let mut bytes = Vec::new();
        self.file.seek(SeekFrom::Start(0))?;
        self.file.read_to_end(&mut bytes)?;
        bytes.truncate(self.durable as usize);
        Ok(scan(&bytes).entries)
    }

    /// Entries in the file.
    pub fn entries(&self) -> u64 {
        self.entries
    }
}

struct Scan {
    entries: Vec<Vec<u8>>,
    /// Length of the undamaged beginning.
    whole: u64,
    damage: Option<String>,
}

fn scan(bytes: &[u8]) -> Scan {
    let mut entries = Vec::new();
    // The file gets its name when its head is durable, so a shorter one has been cut.
    if bytes.len() < MAGIC.len() {
        return Scan { entries, whole: 0, damage: Some(format!("only {} bytes long", bytes.len())) };
    }
    if &bytes[..MAGIC.len()] != MAGIC {
        return Scan { entries, whole: 0, damage: Some("does not start as a journal".to_owned()) };
    }
    let mut at = MAGIC.len();
    while at < bytes.len() {
        match entry_at(bytes, at) {
            Some(payload) => {
                entries.push(payload.to_vec());
                at += HEAD + payload.len();
            }
            None => break,
        }
    }
    let damage = (at < bytes.len()).then(|| {
        let what =
            if readable_after(bytes, at) { "damaged, entries after it are not used" } else { "cut short" };
        format!("entry {} at byte {at} is {what}", entries.len())
    });
    Scan { entries, whole: at as u64, damage }
}

fn entry_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let head = bytes.get(at..at + HEAD)?;
    let length = u32::from_le_bytes(head[..4].try_into().ok()?) as usize;
    let sum = u32::from_le_bytes(head[4..].try_into().ok()?);
    if length == 0 || length > MAX_ENTRY {
        return None;
    }
    let payload = bytes.get(at + HEAD..at + HEAD + length)?;
    (crc32fast::hash(payload) == sum).then_some(payload)
}

/// Is there an undamaged entry anywhere behind `at`? Then the bytes at `at` are not just a torn tail.
fn readable_after(bytes: &[u8], at: usize) -> bool {
    (at + 1..bytes.len().min(at + 2 * MAX_ENTRY)).any(|from| entry_at(bytes, from).is_some())
}

fn put(buffer: &mut Vec<u8>, entry: &[u8]) {
    assert!(!entry.is_empty() && entry.len() <= MAX_ENTRY, "journal entry of {} bytes", entry.len());
    buffer.extend_from_slice(&(entry.len() as u32).to_le_bytes());
    buffer.extend_from_slice(&crc32fast::hash(entry).to_le_bytes());
    buffer.extend_from_slice(entry);
}

fn write_whole<'a>(path: &Path, entries: impl Iterator<Item = &'a [u8]>) -> io::Result<Journal> {
    let mut buffer = MAGIC.to_vec();
    let mut count = 0;
    for entry in entries {
        put(&mut buffer, entry);
        count += 1;
    }
    let fresh = sibling(path, "new");
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(&buffer)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    sync_parent(path)?;
    Ok(Journal {
        path: path.to_owned(),
        file,
        durable: buffer.len() as u64,
        entries: count,
        short: 2 * count,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("weaved-journal-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("dir");
        dir
    }

    fn words(count: u8) -> Vec<Vec<u8>> {
        (0..count).map(|n| vec![n; 5 + n as usize]).collect()
    }

    #[test]
    fn entries_survive_reopening_and_compaction() {
        let dir = scratch("reopen");
        let mut journal = Journal::open(&dir, "j").expect("open").journal;
        journal.append(&words(3)).expect("append");
        let mut opened = Journal::open(&dir, "j").expect("open");
        assert_eq!(opened.entries, words(3));
        let rest = words(3)[1..].to_vec();
        opened.journal.compact(rest.iter().map(Vec::as_slice)).expect("compact");
        opened.journal.append(&words(1)).expect("append");
        let again = Journal::open(&dir, "j").expect("open");
        assert_eq!(again.entries, [words(3)[1].clone(), words(3)[2].clone(), words(1)[0].clone()]);
        std::fs::remove_dir_all(dir).expect("clean");
    }

    #[test]
    fn a_snapshot_that_is_nearly_as_long_is_not_wanted_again_soon() {
        let dir = scratch("shrink");
        let mut journal = Journal::open(&dir, "j").expect("open").journal;
        journal.append(&words(10)).expect("append");
        assert!(journal.is_longer_than(5));
        journal.shrink(&words(6)).expect("shrink");
        assert_eq!((journal.entries(), journal.is_longer_than(5)), (10, false));
        journal.append(&words(3)).expect("append");
        assert!(journal.is_longer_than(5));
        journal.shrink(&words(6)).expect("shrink");
        assert_eq!((journal.entries(), journal.is_longer_than(5)), (6, false));
        std::fs::remove_dir_all(dir).expect("clean");
    }

    #[test]
    fn cut_at_any_byte_keeps_every_whole_entry() {
        let dir = scratch("cut");
        let mut journal = Journal::open(&dir, "j").expect("open").journal;
        journal.append(&words(4)).expect("append");
        let whole = std::fs::read(dir.join("j")).expect("read");
        for cut in 0..=whole.len() {
            std::fs::write(dir.join("j"), &whole[..cut]).expect("cut");
            let opened = Journal::open(&dir, "j").expect("open");
            assert_eq!(opened.entries, words(4)[..opened.entries.len()], "cut at {cut}");
            let end: usize = MAGIC.len() + opened.entries.iter().map(|e| e.len() + HEAD).sum::<usize>();
            assert!(end + HEAD + 9 > cut || cut < MAGIC.len(), "cut at {cut}: lost more than the torn entry");
            // Between two entries a cut leaves nothing that could tell.
            let told = opened.set_aside.map(|(kept, _)| std::fs::read(kept).expect("kept"));
            assert_eq!(told, (cut != end).then(|| whole[..cut].to_vec()), "cut at {cut}");
        }
        std::fs::remove_dir_all(dir).expect("clean");
    }

    #[test]
    fn damage_in_the_middle_is_set_aside_and_told() {
        let dir = scratch("damage");
        let mut journal = Journal::open(&dir, "j").expect("open").journal;
        journal.append(&words(4)).expect("append");
        let whole = std::fs::read(dir.join("j")).expect("read");
        for at in 0..whole.len() - (HEAD + 8) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            std::fs::write(dir.join("j"), &bytes).expect("write");
            let opened = Journal::open(&dir, "j").expect("open");
            let (kept, _) = opened.set_aside.unwrap_or_else(|| panic!("flip at {at} was not noticed"));
            assert_eq!(std::fs::read(kept).expect("kept"), bytes);
            assert_eq!(opened.entries, words(4)[..opened.entries.len()]);
            assert_eq!(Journal::open(&dir, "j").expect("reopen").entries, opened.entries);
            std::fs::remove_dir_all(&dir).expect("clean");
            std::fs::create_dir_all(&dir).expect("dir");
        }
        let _ = std::fs::remove_dir_all(dir);
    }
}
