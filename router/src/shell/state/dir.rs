//! The state directory: which files there are, who may use them, and what was wrong with them at the start.
//!
//! `identity` (keys), `fabric` (membership, secret, targets), `ipam.journal` (leases and blocks), `attachments.journal`, `history.journal` (signed records
//! for audits). They are
//! apart so that damage to one costs only what was in it. One router at a time: the directory is locked.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use control::api::{Attachment, Problem};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::history::History;
use super::{CheckedFile, Journal};

/// Entries in a journal beyond which it is rewritten as a snapshot; about a second's work for the disk.
pub const COMPACT_AFTER: u64 = 4096;

/// Content of `identity`.
#[derive(Serialize, Deserialize)]
pub struct IdentityFile {
    /// Both secret keys, base64.
    pub keys: String,
}

/// Content of `fabric`.
#[derive(Clone, Serialize, Deserialize)]
pub struct FabricFile {
    /// Id of the fabric.
    pub fabric: String,
    /// This router's id in it; another one means that the identity was lost.
    pub peer: String,
    /// Range that is allocated from.
    pub range: Ipv4Net,
    /// The secret, base64.
    pub secret: String,
    /// Whether the secret came from a password, so that tokens leave it out.
    pub from_password: bool,
    /// Whether this router created the fabric.
    pub founder: bool,
    /// Names of the hosts that created it together, if it has no single founder.
    #[serde(default)]
    pub seeds: Vec<String>,
    /// How often this router was started with this fabric; orders its records over restarts.
    pub boot: u32,
    /// Addresses to dial, as given.
    pub targets: Vec<String>,
    /// Whether the host was hidden although containers still have its address as their gateway.
    #[serde(default)]
    pub hidden: bool,
    /// Names that somebody added by hand.
    #[serde(default)]
    pub names: Vec<AddedName>,
    /// Where peers were last seen, so that a restart needs no target.
    #[serde(default)]
    pub known: Vec<KnownPeer>,
}

/// A name that somebody added by hand.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddedName {
    /// Without the domain.
    pub name: crate::core::names::DnsName,
    /// What it stands for.
    pub addresses: Vec<std::net::IpAddr>,
}

/// A peer that was seen.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownPeer {
    /// Its id.
    pub id: String,
    /// Addresses it announced.
    pub addresses: Vec<std::net::SocketAddr>,
}

/// An attachment with what only its author needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// As it is shown.
    pub attachment: Attachment,
    /// Network in the runtime's configuration, for its garbage collection.
    #[serde(default)]
    pub network: Option<String>,
    /// The request that made it, so that its author can undo it and nothing else.
    #[serde(default)]
    pub attempt: Option<String>,
    /// What its names stand for, where that is not all of its addresses: Docker may leave one out.
    #[serde(default)]
    pub named: Vec<std::net::IpAddr>,
}

/// One line of `attachments.journal`.
#[derive(Debug, Serialize, Deserialize)]
pub enum AttachmentEntry {
    /// Made and complete.
    Attached(Box<Kept>),
    /// Undone.
    Detached {
        /// Container id.
        container: String,
        /// Interface inside.
        ifname: String,
    },
}

/// The open state directory.
pub struct StateDir {
    /// Where it is.
    pub path: PathBuf,
    /// Keys of this router.
    pub identity: CheckedFile,
    /// Membership.
    pub fabric: CheckedFile,
    /// Leases and blocks.
    pub ipam: Journal,
    /// Attachments.
    pub attachments: Journal,
    /// Signed records of ownership.
    pub history: History,
    _lock: File,
}

/// What was in it.
pub struct Contents {
    /// Keys, unless this is the first start.
    pub identity: Option<IdentityFile>,
    /// Membership, if any.
    pub fabric: Option<FabricFile>,
    /// Entries of the allocation journal.
    pub ipam: Vec<Vec<u8>>,
    /// Whether entries of the allocation journal may be missing.
    pub ipam_damaged: bool,
    /// Attachments that were complete, in order of their making.
    pub attachments: Vec<Kept>,
    /// Whether attachments may be missing.
    pub attachments_damaged: bool,
    /// What was wrong.
    pub problems: Vec<Problem>,
}

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another router has it.
    #[error("state directory `{0}` is in use by another weaved; give each its own --state-dir")]
    InUse(PathBuf),
    /// The file system refused.
    #[error("cannot use state directory `{path}`")]
    Io {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl StateDir {
    /// Opens or creates the directory and reads everything in it.
    pub fn open(path: &Path) -> Result<(StateDir, Contents), StateError> {
        let fail = |source| StateError::Io { path: path.to_owned(), source };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fail)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).map_err(fail)?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(fail)?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StateError::InUse(path.to_owned())),
            Err(errno) => return Err(fail(errno.into())),
        }
        read_all(path, lock).map_err(fail)
    }
}

fn read_all(path: &Path, lock: File) -> io::Result<(StateDir, Contents)> {
    let mut problems = Vec::new();
    let identity_file = CheckedFile::new(path, "identity");
    let identity = identity_file.load::<IdentityFile>()?;
    note_all(&mut problems, "identity", &identity.set_aside);
    let fabric_file = CheckedFile::new(path, "fabric");
    let fabric = fabric_file.load::<FabricFile>()?;
    note_all(&mut problems, "fabric", &fabric.set_aside);
    let ipam = Journal::open(path, "ipam.journal")?;
    note_all(&mut problems, "ipam.journal", ipam.set_aside.as_slice());
    let attachments = Journal::open(path, "attachments.journal")?;
    note_all(&mut problems, "attachments.journal", attachments.set_aside.as_slice());
    let history = Journal::open(path, "history.journal")?;
    note_all(&mut problems, "history.journal", history.set_aside.as_slice());
    let contents = Contents {
        identity: identity.value,
        fabric: fabric.value,
        ipam_damaged: ipam.set_aside.is_some(),
        ipam: ipam.entries,
        attachments_damaged: attachments.set_aside.is_some(),
        attachments: replay(&attachments.entries, &mut problems),
        problems,
    };
    let dir = StateDir {
        path: path.to_owned(),
        identity: identity_file,
        fabric: fabric_file,
        ipam: ipam.journal,
        attachments: attachments.journal,
        history: History::new(history),
        _lock: lock,
    };
    Ok((dir, contents))
}

fn note_all(problems: &mut Vec<Problem>, name: &str, set_aside: &[(PathBuf, String)]) {
    for (kept, why) in set_aside {
        tracing::error!(file = name, kept = %kept.display(), why, "state file is damaged and was kept aside");
        problems.push(Problem {
            code: "state-damaged".to_owned(),
            severity: "warning".to_owned(),
            message: format!("state file `{name}` was damaged ({why}) and is kept as `{}`", kept.display()),
            hint: Some(format!("look at the disk, then remove `{}`", kept.display())),
        });
    }
}

fn replay(entries: &[Vec<u8>], problems: &mut Vec<Problem>) -> Vec<Kept> {
    let mut attachments: Vec<Kept> = Vec::new();
    let mut unread = 0;
    for entry in entries {
        match serde_json::from_slice(entry) {
            Ok(AttachmentEntry::Attached(kept)) => {
                attachments.retain(|k| !same(k, &kept.attachment.container, &kept.attachment.ifname));
                attachments.push(*kept);
            }
            Ok(AttachmentEntry::Detached { container, ifname }) => {
                attachments.retain(|k| !same(k, &container, &ifname));
            }
            Err(_) => unread += 1,
        }
    }
    if unread > 0 {
        problems.push(Problem {
            code: "state-unread".to_owned(),
            severity: "warning".to_owned(),
            message: format!(
                "{unread} entries of `attachments.journal` are of a newer version and were ignored"
            ),
            hint: None,
        });
    }
    attachments
}

fn same(kept: &Kept, container: &str, ifname: &str) -> bool {
    kept.attachment.container == container && kept.attachment.ifname == ifname
}
