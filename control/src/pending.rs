//! Detachments that were asked for while `weaved` could not answer: one small durable file for each.
//!
//! A container runtime deletes containers whenever it likes, also while `weaved` restarts, and does not ask twice. `weave-cni`
//! therefore writes the wish down, `weaved` carries it out before it serves its first request, and removes the file after that.
//! So that no wish falls between the two, `weaved` binds its socket first and reads this journal second, and the plugin asks once
//! more after it has written: whoever is refused then is read later.
//! This module knows files and nothing of how a detachment is done.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::api::DetachRequest;

/// Version of the file format. A reader sets files of another version aside.
pub const FORMAT: u32 = 1;

/// Longest container id. Runtimes use 64 characters at most, nested ids of Mesos a few times 37; with the encoded interface
/// name it must fit a file name of 255 bytes.
pub const MAX_CONTAINER_ID: usize = 200;

/// Longest file that is read; what we write is well below 1 KiB.
const MAX_FILE_BYTES: u64 = 16 * 1024;

/// One detachment to carry out later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingDetach {
    /// [`FORMAT`].
    pub format: u32,
    /// Container id.
    pub container: String,
    /// Interface inside the container.
    pub ifname: String,
    /// Only what this attempt made, see [`crate::api::UndoRequest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<String>,
    /// No attachment at all but the lease of this name, see [`crate::lease::ReleaseRequest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
}

impl PendingDetach {
    /// Detach whatever is attached as (`container`, `ifname`).
    pub fn new(container: &str, ifname: &str) -> PendingDetach {
        PendingDetach {
            format: FORMAT,
            container: container.to_owned(),
            ifname: ifname.to_owned(),
            attempt: None,
            lease: None,
        }
    }

    /// Release the lease `name`, which was made for (`container`, `ifname`).
    pub fn of_lease(container: &str, ifname: &str, name: &str) -> PendingDetach {
        PendingDetach { lease: Some(name.to_owned()), ..PendingDetach::new(container, ifname) }
    }

    /// Detach only what `attempt` made.
    pub fn of_attempt(container: &str, ifname: &str, attempt: &str) -> PendingDetach {
        PendingDetach { attempt: Some(attempt.to_owned()), ..PendingDetach::new(container, ifname) }
    }

    /// The request that carries it out.
    pub fn request(&self) -> DetachRequest {
        DetachRequest { container: self.container.clone(), ifname: Some(self.ifname.clone()) }
    }

    /// Name of the file: readable, unique for each pair, never a path. `~` cannot occur in a container id.
    fn file_name(&self) -> String {
        let kind = if self.lease.is_some() { "~l" } else { "" };
        format!("{}~{}{kind}.json", encoded(&self.container), encoded(&self.ifname))
    }
}

/// What [`read_all`] found.
#[derive(Debug, Default)]
pub struct Found {
    /// To carry out, ordered by file name.
    pub pending: Vec<PendingDetach>,
    /// Files that are none of ours, cut short or of another version, each with the reason. They stay where they are.
    pub rejected: Vec<(PathBuf, String)>,
}

/// Where the files are below `weaved`'s state directory.
pub fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join("pending-del")
}

/// Make `pending` durable: after this returns it survives power loss. The same pair again replaces the file.
pub fn write(state_dir: &Path, pending: &PendingDetach) -> io::Result<PathBuf> {
    let directory = directory(state_dir);
    DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
    let name = pending.file_name();
    let target = directory.join(&name);
    // Written aside and renamed, so that a reader never sees half a file. The process id alone does not keep two writers apart,
    // since they may be in different process namespaces.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let aside = directory.join(format!(".{}-{}.new", std::process::id(), now.as_nanos()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    let written = serde_json::to_vec(pending)
        .map_err(io::Error::from)
        .and_then(|bytes| file.write_all(&bytes))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&aside, &target));
    if let Err(error) = written {
        // The first error is the one to report; a leftover is invisible to readers.
        let _ = fs::remove_file(&aside);
        return Err(error);
    }
    // The directories must be durable as well, also those that were made just now.
    File::open(&directory)?.sync_all()?;
    File::open(state_dir)?.sync_all()?;
    Ok(target)
}

/// Everything that waits. A missing directory is an empty one.
pub fn read_all(state_dir: &Path) -> io::Result<Found> {
    let mut found = Found::default();
    let entries = match fs::read_dir(directory(state_dir)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(error),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let ours = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| !name.starts_with('.'));
        if ours && path.extension().is_some_and(|extension| extension == "json") {
            paths.push(path);
        }
    }
    paths.sort();
    for path in paths {
        match read_one(&path) {
            Ok(pending) => found.pending.push(pending),
            Err(reason) => found.rejected.push((path, reason)),
        }
    }
    Ok(found)
}

/// Whether a detachment of this pair waits.
pub fn waits(state_dir: &Path, pending: &PendingDetach) -> bool {
    directory(state_dir).join(pending.file_name()).exists()
}

/// Forget one that was carried out. Success when it is not there.
pub fn remove(state_dir: &Path, pending: &PendingDetach) -> io::Result<()> {
    let directory = directory(state_dir);
    match fs::remove_file(directory.join(pending.file_name())) {
        Ok(()) => File::open(&directory)?.sync_all(),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn read_one(path: &Path) -> Result<PendingDetach, String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut bytes));
    read.map_err(|error| format!("cannot be read: {error}"))?;
    let pending: PendingDetach =
        serde_json::from_slice(&bytes).map_err(|error| format!("is not a pending detachment: {error}"))?;
    if pending.format != FORMAT {
        return Err(format!("has format {} (want {FORMAT})", pending.format));
    }
    Ok(pending)
}

/// Percent-encode all but letters, digits, `_`, `-` and `.`.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_is_read_back_until_removed() {
        let state = scratch("roundtrip");
        let one = PendingDetach::new("a-container", "eth0");
        let two = PendingDetach::of_attempt("a-container", "e%/~th", "17-4");
        write(&state, &one).unwrap();
        write(&state, &two).unwrap();
        write(&state, &one).unwrap();
        let found = read_all(&state).unwrap();
        assert_eq!(found.pending.len(), 2, "{found:?}");
        assert!(found.pending.contains(&one) && found.pending.contains(&two));
        assert!(waits(&state, &one));
        remove(&state, &one).unwrap();
        remove(&state, &one).unwrap();
        assert!(!waits(&state, &one));
        assert_eq!(read_all(&state).unwrap().pending, [two]);
        fs::remove_dir_all(&state).unwrap();
    }

    #[test]
    fn nothing_waits_where_nothing_is() {
        let found = read_all(Path::new("/nonexistent/state")).unwrap();
        assert!(found.pending.is_empty() && found.rejected.is_empty());
    }

    #[test]
    fn damaged_files_are_named_and_do_not_stop_the_rest() {
        let state = scratch("damaged");
        let good = PendingDetach::new("good", "eth0");
        write(&state, &good).unwrap();
        fs::write(directory(&state).join("a.json"), b"{\"format\":1,\"conta").unwrap();
        fs::write(directory(&state).join("b.json"), br#"{"format":9,"container":"x","ifname":"y"}"#).unwrap();
        fs::write(directory(&state).join(".77.new"), b"half").unwrap();
        let found = read_all(&state).unwrap();
        assert_eq!(found.pending, [good]);
        let reasons: Vec<_> = found.rejected.iter().map(|(_, reason)| reason.as_str()).collect();
        assert!(reasons[0].starts_with("is not a pending detachment"), "{reasons:?}");
        assert_eq!(reasons[1], "has format 9 (want 1)");
        fs::remove_dir_all(&state).unwrap();
    }

    #[test]
    fn names_at_their_limits_fit_a_file_name() {
        let longest = PendingDetach::of_lease(&"c".repeat(MAX_CONTAINER_ID), &"%".repeat(15), "a lease");
        assert!(longest.file_name().len() <= 255);
    }

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("weave-pending-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }
}
