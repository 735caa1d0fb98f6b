//! Opening the network namespace of a container on behalf of `weaved`.
//!
//! A runtime names a namespace by a path of *its* mount namespace, which `weaved` may not share. So the caller opens it and gives
//! `weaved` the way to the open file through `/proc`, which is right for as long as the caller lives and keeps it open.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// File system type of namespaces, `NSFS_MAGIC` in `linux/magic.h`.
const NSFS_MAGIC: rustix::fs::FsWord = 0x6e73_6673;

/// The caller's own namespace. `/proc/1/ns/net` would name the host's, and is unreadable inside many containers.
const OWN: &str = "/proc/self/ns/net";

/// Why a path is no namespace to attach to.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// Nothing is there: the container has ended.
    #[error("network namespace `{}` does not exist", path.display())]
    Missing {
        /// As given.
        path: PathBuf,
    },
    /// A file, but no namespace.
    #[error("`{}` is not a network namespace", path.display())]
    NotANamespace {
        /// As given.
        path: PathBuf,
    },
    /// It is there and cannot be opened.
    #[error("cannot open network namespace `{}`", path.display())]
    Unreadable {
        /// As given.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// An open network namespace.
#[derive(Debug)]
pub struct Netns {
    file: File,
    device: u64,
    inode: u64,
}

impl Netns {
    /// Open what `path` names and make sure that it is a namespace.
    pub fn open(path: &Path) -> Result<Netns, NetnsError> {
        let unreadable = |source| NetnsError::Unreadable { path: path.to_owned(), source };
        let file = File::open(path).map_err(|error| match error.kind() {
            // A link of /proc to a process that has just ended says ENOENT too, a path through a file ENOTDIR.
            ErrorKind::NotFound | ErrorKind::NotADirectory => NetnsError::Missing { path: path.to_owned() },
            _ => unreadable(error),
        })?;
        let kind = rustix::fs::fstatfs(&file).map_err(|error| unreadable(error.into()))?.f_type;
        if kind != NSFS_MAGIC {
            return Err(NetnsError::NotANamespace { path: path.to_owned() });
        }
        if other_kind(&file) {
            return Err(NetnsError::NotANamespace { path: path.to_owned() });
        }
        let metadata = file.metadata().map_err(unreadable)?;
        Ok(Netns { device: metadata.dev(), inode: metadata.ino(), file })
    }

    /// Whether it is the namespace that this process runs in.
    pub fn is_own(&self) -> Result<bool, NetnsError> {
        let own = Netns::open(Path::new(OWN))?;
        Ok((own.device, own.inode) == (self.device, self.inode))
    }

    /// Path by which another process can open it while this value lives.
    pub fn path_for_others(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Number that tells it from every other namespace that exists at the same time.
    pub fn inode(&self) -> u64 {
        self.inode
    }
}

/// Whether it is visibly a namespace of another kind: `/proc/PID/ns/mnt` is shown as `mnt:[4026531840]`. One that is bound to a
/// path is shown by that path, and `weaved` finds out.
fn other_kind(file: &File) -> bool {
    let shown = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
    shown.is_ok_and(|shown| {
        let shown = shown.to_string_lossy();
        shown.contains(":[") && !shown.starts_with('/') && !shown.starts_with("net:[")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_namespace_is_recognised() {
        let netns = Netns::open(Path::new(OWN)).unwrap();
        assert!(netns.is_own().unwrap());
        assert!(netns.inode() > 0);
        let again = Netns::open(Path::new(&netns.path_for_others())).unwrap();
        assert_eq!(again.inode(), netns.inode());
    }

    #[test]
    fn paths_that_are_none_are_told_apart() {
        let missing = Netns::open(Path::new("/nonexistent/netns"));
        assert!(matches!(missing, Err(NetnsError::Missing { .. })), "{missing:?}");
        let file = Netns::open(Path::new("/etc/passwd"));
        assert!(matches!(file, Err(NetnsError::NotANamespace { .. })), "{file:?}");
        let other = Netns::open(Path::new("/proc/self/ns/mnt"));
        assert!(matches!(other, Err(NetnsError::NotANamespace { .. })), "{other:?}");
    }
}
