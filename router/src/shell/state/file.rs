//! A small file that is replaced whole, carries a checksum, and keeps its previous version.
//!
//! Format: one line `weave-state 1 <crc32 of the rest, hex>`, then JSON. A reader that finds the file damaged moves it aside as
//! `NAME.corrupt-N`, says so, and goes on with the previous version if that one is good.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

const MAGIC: &str = "weave-state 1";

/// What a read found.
#[derive(Debug)]
pub struct Loaded<T> {
    /// The content, from the file or its previous version.
    pub value: Option<T>,
    /// Damaged files that were moved aside: where to, and what was wrong.
    pub set_aside: Vec<(PathBuf, String)>,
}

/// A file in the state directory.
#[derive(Debug, Clone)]
pub struct CheckedFile {
    path: PathBuf,
}

impl CheckedFile {
    /// Names the file; nothing is opened.
    pub fn new(dir: &Path, name: &str) -> CheckedFile {
        CheckedFile { path: dir.join(name) }
    }

    /// Reads the newest undamaged version. `Err` only when the directory itself cannot be read or written.
    pub fn load<T: DeserializeOwned>(&self) -> io::Result<Loaded<T>> {
        let mut set_aside = Vec::new();
        for path in [self.path.clone(), self.previous()] {
            match read(&path) {
                Ok(None) => {}
                Ok(Some(value)) => return Ok(Loaded { value: Some(value), set_aside }),
                Err(ReadError::Io(error)) => return Err(error),
                Err(ReadError::Damaged(why)) => set_aside.push((move_aside(&path)?, why)),
            }
        }
        Ok(Loaded { value: None, set_aside })
    }

    /// Replaces the content; durable when it returns. The old content stays as `NAME.previous`.
    pub fn store<T: Serialize>(&self, value: &T) -> io::Result<()> {
        let body = serde_json::to_vec_pretty(value).map_err(io::Error::other)?;
        let fresh = self.sibling("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        writeln!(file, "{MAGIC} {:08x}", crc32fast::hash(&body))?;
        file.write_all(&body)?;
        file.sync_all()?;
        if self.path.exists() {
            let previous = self.previous();
            // A hard link keeps the current name valid at every moment.
            let _ = std::fs::remove_file(&previous);
            std::fs::hard_link(&self.path, &previous)?;
        }
        std::fs::rename(&fresh, &self.path)?;
        sync_parent(&self.path)
    }

    /// Removes the file and its previous version; success when there is none.
    pub fn remove(&self) -> io::Result<()> {
        for path in [self.path.clone(), self.previous()] {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        sync_parent(&self.path)
    }

    fn previous(&self) -> PathBuf {
        self.sibling("previous")
    }

    fn sibling(&self, suffix: &str) -> PathBuf {
        sibling(&self.path, suffix)
    }
}

enum ReadError {
    Io(io::Error),
    Damaged(String),
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ReadError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ReadError::Io(error)),
    };
    let damaged = |why: &str| ReadError::Damaged(why.to_owned());
    let line_end = bytes.iter().position(|&b| b == b'\n').ok_or_else(|| damaged("has no first line"))?;
    let (line, body) = (&bytes[..line_end], &bytes[line_end + 1..]);
    let sum = std::str::from_utf8(line)
        .ok()
        .and_then(|line| line.strip_prefix(MAGIC))
        .and_then(|hex| u32::from_str_radix(hex.trim(), 16).ok())
        .ok_or_else(|| damaged("does not start with `weave-state 1` and a checksum"))?;
    if crc32fast::hash(body) != sum {
        return Err(ReadError::Damaged(format!("checksum is {:08x}, want {sum:08x}", crc32fast::hash(body))));
    }
    serde_json::from_slice(body).map(Some).map_err(|error| ReadError::Damaged(error.to_string()))
}

/// Moves a damaged file to the first free `NAME.corrupt-N`, so that a person can look at it.
pub(super) fn move_aside(path: &Path) -> io::Result<PathBuf> {
    let free = (1..)
        .map(|n: u32| sibling(path, &format!("corrupt-{n}")))
        .find(|candidate| !candidate.exists())
        .ok_or_else(|| io::Error::other("no free name"))?;
    std::fs::rename(path, &free)?;
    sync_parent(path)?;
    Ok(free)
}

pub(super) fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(suffix);
    path.with_file_name(name)
}

pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("weaved-file-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("dir");
        dir
    }

    #[test]
    fn what_was_stored_comes_back() {
        let dir = scratch("round-trip");
        let file = CheckedFile::new(&dir, "fabric");
        assert!(file.load::<u32>().expect("load").value.is_none());
        file.store(&7u32).expect("store");
        file.store(&8u32).expect("store");
        assert_eq!(file.load::<u32>().expect("load").value, Some(8));
        file.remove().expect("remove");
        assert!(file.load::<u32>().expect("load").value.is_none());
        std::fs::remove_dir_all(dir).expect("clean");
    }

    #[test]
    fn damage_is_set_aside_and_the_previous_version_serves() {
        let dir = scratch("damage");
        let file = CheckedFile::new(&dir, "fabric");
        file.store(&"first".to_owned()).expect("store");
        file.store(&"second".to_owned()).expect("store");
        let whole = std::fs::read(dir.join("fabric")).expect("read");
        for cut in 0..whole.len() {
            std::fs::write(dir.join("fabric"), &whole[..cut]).expect("cut");
            let loaded = file.load::<String>().expect("load");
            assert_eq!(loaded.value.as_deref(), Some("first"), "cut at {cut}");
            assert_eq!(loaded.set_aside.len(), 1, "cut at {cut}");
            assert!(loaded.set_aside[0].0.exists());
        }
        std::fs::remove_dir_all(dir).expect("clean");
    }
}
