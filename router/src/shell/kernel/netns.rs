//! Opening a container's network namespace, and doing work inside it.
//!
//! A thread changes its namespace for good, so the work runs on a thread of its own that ends with it: never on a worker of the runtime.
//! `/proc/sys/net` is resolved by the namespace of the thread that opens a file in it, so sysctls of the container are written there too.

use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{Mode, OFlags, fstat, fstatfs, open},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use tokio::sync::oneshot;

use super::error::{KernelError, Result};

/// The calling thread's namespace. `/proc/1/ns/net` may be unreadable, and in a container is not even the right one.
const OWN_NETNS: &str = "/proc/thread-self/ns/net";

/// File system magic of namespace files (`NSFS_MAGIC`).
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// How a caller names a container's network namespace.
#[derive(Debug, Clone)]
pub enum Netns {
    /// A path such as `/run/netns/NAME` or `/proc/PID/ns/net`.
    Path(PathBuf),
    /// An open namespace file, which cannot vanish meanwhile; the path is for messages only.
    Fd(Arc<OwnedFd>, PathBuf),
}

impl Netns {
    /// Opens the namespace and makes sure that it is one, and not ours.
    pub(super) fn open(&self, host: &NetnsId) -> Result<OpenNetns> {
        let (file, path) = match self {
            Self::Path(path) => (open_path(path)?, path.clone()),
            Self::Fd(fd, path) => {
                let copy = fd.try_clone().map_err(|errno| {
                    KernelError::refused("duplicate namespace", path.display().to_string(), errno)
                })?;
                (copy, path.clone())
            }
        };
        let stat = |errno: rustix::io::Errno| {
            KernelError::refused("inspect namespace", path.display().to_string(), errno.into())
        };
        // The width of the field differs between architectures.
        #[expect(clippy::useless_conversion, reason = "f_type is not an i64 on every architecture")]
        let magic = i64::from(fstatfs(&file).map_err(stat)?.f_type);
        if magic != NSFS_MAGIC {
            return Err(KernelError::NotANetns { path });
        }
        if NetnsId::of(&file).map_err(stat)? == *host {
            return Err(KernelError::HostNetns { path });
        }
        Ok(OpenNetns { file, path })
    }
}

fn open_path(path: &Path) -> Result<OwnedFd> {
    // Non-blocking, so that a FIFO in place of a namespace cannot hold us up.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    open(path, flags, Mode::empty()).map_err(|errno| match errno {
        rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR => {
            KernelError::NetnsMissing { path: path.to_owned() }
        }
        errno => KernelError::refused("open namespace", path.display().to_string(), errno.into()),
    })
}

/// A namespace that was checked.
#[derive(Debug)]
pub(super) struct OpenNetns {
    file: OwnedFd,
    path: PathBuf,
}

impl OpenNetns {
    pub(super) fn file(&self) -> &OwnedFd {
        &self.file
    }

    /// Moves the calling thread into the namespace, for the rest of its life.
    pub(super) fn enter(&self) -> Result<()> {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network)).map_err(|errno| {
            match errno {
                // A namespace, but of users, mounts or the like.
                rustix::io::Errno::INVAL => KernelError::NotANetns { path: self.path.clone() },
                errno => {
                    KernelError::refused("enter namespace", self.path.display().to_string(), errno.into())
                }
            }
        })
    }
}

/// Identity of a namespace: device and inode of its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NetnsId(u64, u64);

impl NetnsId {
    /// Of the calling thread.
    pub(super) fn own() -> Result<Self> {
        let refused = |errno| KernelError::refused("inspect namespace", OWN_NETNS, errno);
        let file = File::open(OWN_NETNS).map_err(refused)?;
        Self::of(file).map_err(|errno| refused(errno.into()))
    }

    fn of(file: impl AsFd) -> rustix::io::Result<Self> {
        let stat = fstat(file)?;
        Ok(Self(stat.st_dev, stat.st_ino))
    }
}

/// Runs `work` on a thread that ends with it. When nobody waits for the answer any more, `abandoned` gets it.
pub(super) async fn on_thread<T, W, A>(operation: &'static str, work: W, abandoned: A) -> Result<T>
where
    T: Send + 'static,
    W: FnOnce() -> Result<T> + Send + 'static,
    A: FnOnce(T) + Send + 'static,
{
    let (answer, wait) = oneshot::channel();
    let thread = std::thread::Builder::new().name(format!("weave-{operation}"));
    let body = move || {
        if let Err(Ok(unclaimed)) = answer.send(work()) {
            abandoned(unclaimed);
        }
    };
    thread.spawn(body).map_err(|errno| KernelError::refused("start thread for", operation, errno))?;
    wait.await.unwrap_or(Err(KernelError::WorkerLost { operation }))
}
