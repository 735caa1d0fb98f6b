//! What can go wrong between us and the kernel. Each error names the operation, the object and what the kernel answered.
//!
//! Sorted by blame: first what the caller asked wrongly, then what is missing or in the way on this machine, then refusals of the kernel.

use std::{fmt, io, path::PathBuf};

/// Result of every operation of this module.
pub type Result<T, E = KernelError> = std::result::Result<T, E>;

/// Why an operation on kernel state failed. Unless a variant says otherwise, nothing was changed or the change was undone.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The caller's specification cannot work; nothing was tried. Wrong configuration or a bug of ours.
    #[error("bad {field} (got `{got}`, want {want})")]
    BadSpec {
        /// Which part of the specification.
        field: &'static str,
        /// The value that offended.
        got: String,
        /// What would have been accepted.
        want: String,
    },
    /// The namespace path does not exist. Happens in healthy systems when a container dies while it is being attached.
    #[error("network namespace `{path}` does not exist")]
    NetnsMissing {
        /// The path that was given.
        path: PathBuf,
    },
    /// The path exists, but is not a network namespace: a plain file, or a namespace of another type. Often a bind mount that was
    /// taken away and left its empty mount point.
    #[error("`{path}` is not a network namespace")]
    NotANetns {
        /// The path that was given.
        path: PathBuf,
    },
    /// The namespace is the router's own. Attaching the host to itself would cut its network.
    #[error("`{path}` is the network namespace of the host itself (want one of a container)")]
    HostNetns {
        /// The path that was given.
        path: PathBuf,
    },
    /// An interface of that name exists already. Happens when an attachment is repeated.
    #[error("interface name `{name}` is already taken {side}")]
    NameTaken {
        /// The name that both want.
        name: String,
        /// Where the other interface is.
        side: Side,
    },
    /// A device that must exist is not there. The bridge may have been deleted by somebody: reconcile and try again.
    #[error("device `{name}` does not exist")]
    DeviceMissing {
        /// Name of the device.
        name: String,
    },
    /// A device has our name and is of another kind; we do not touch it.
    #[error("device `{name}` is not of the right kind (got {got}, want {want})")]
    WrongKind {
        /// Name of the device.
        name: String,
        /// What it is.
        got: String,
        /// What we need.
        want: &'static str,
    },
    /// The kernel refused a request.
    #[error("cannot {operation} `{object}`: {errno}{}", Note(.note))]
    Refused {
        /// What was tried, as a verb with its noun.
        operation: &'static str,
        /// What it was tried on.
        object: String,
        /// The kernel's answer.
        errno: io::Error,
        /// The kernel's explanation (extended acknowledgement), empty when it gave none.
        note: String,
    },
    /// The ruleset kept changing under us. Healthy systems settle at once; the next reconciliation tries again.
    #[error("somebody else kept changing nftables (got {attempts} conflict(s), want a quiet moment)")]
    NftablesBusy {
        /// How often we tried.
        attempts: u32,
    },
    /// The netlink socket answered something that we do not understand. A bug of ours, or a kernel newer than we know.
    #[error("unexpected netlink answer to {operation} (got {got}, want {want})")]
    UnexpectedAnswer {
        /// What was asked.
        operation: &'static str,
        /// What came.
        got: String,
        /// What should have come.
        want: &'static str,
    },
    /// The worker thread ended without an answer: a bug of ours. What it did so far stays.
    #[error("worker thread for {operation} ended without an answer")]
    WorkerLost {
        /// What the thread was to do.
        operation: &'static str,
    },
}

impl KernelError {
    /// A refusal without an explanation.
    pub(super) fn refused(operation: &'static str, object: impl Into<String>, errno: io::Error) -> Self {
        Self::Refused { operation, object: object.into(), errno, note: String::new() }
    }

    /// The raw errno of a refusal.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { errno, .. } => errno.raw_os_error(),
            Self::BadSpec { .. }
            | Self::NetnsMissing { .. }
            | Self::NotANetns { .. }
            | Self::HostNetns { .. }
            | Self::NameTaken { .. }
            | Self::DeviceMissing { .. }
            | Self::WrongKind { .. }
            | Self::NftablesBusy { .. }
            | Self::UnexpectedAnswer { .. }
            | Self::WorkerLost { .. } => None,
        }
    }
}

/// Which end of a veth pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// In the router's namespace.
    Host,
    /// In the container's namespace.
    Container,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "on the host",
            Self::Container => "in the container",
        })
    }
}

struct Note<'a>(&'a str);

impl fmt::Display for Note<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " ({})", self.0) }
    }
}
