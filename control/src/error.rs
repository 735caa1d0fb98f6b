//! What can go wrong between a caller and `weaved`, sorted by what the caller can do about it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::api::ApiError;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no socket: `weaved` never ran, runs with another `--socket`, or was stopped cleanly. Nothing was asked.
    #[error("there is no socket at `{}`", path.display())]
    SocketMissing {
        /// The socket.
        path: PathBuf,
    },
    /// The socket is a leftover: nobody listens. Nothing was asked.
    #[error("nobody listens on `{}`", path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
    },
    /// The user may not open the socket. Nothing was asked.
    #[error("no permission to open `{}`", path.display())]
    PermissionDenied {
        /// The socket.
        path: PathBuf,
    },
    /// `weaved` did not take the connection in time. Nothing was asked.
    #[error("`weaved` did not take the connection on `{}` within {}", path.display(), seconds(*after))]
    ConnectTimeout {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        after: Duration,
    },
    /// `weaved` took the request and did not answer in time. Whether it did what was asked is not known.
    #[error("`weaved` did not answer `{call}` within {}", seconds(*after))]
    Timeout {
        /// Method and path.
        call: String,
        /// How long was waited.
        after: Duration,
    },
    /// `weaved` went away before it answered. Whether it did what was asked is not known.
    #[error("`weaved` closed the connection before it answered `{call}`: {reason}")]
    Closed {
        /// Method and path.
        call: String,
        /// What was seen.
        reason: String,
    },
    /// `weaved` refused, and says why.
    #[error("{}", .0.message)]
    Api(ApiError),
    /// The answer makes no sense; the two are of different versions, or somebody else listens there.
    #[error("the answer to `{call}` is not understood: {reason}")]
    Protocol {
        /// Method and path.
        call: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The kernel refused; never happens in a healthy system. Nothing was asked.
    #[error("cannot open `{}`", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl ClientError {
    /// What to type next.
    pub fn hint(&self) -> Option<String> {
        match self {
            ClientError::SocketMissing { .. } | ClientError::NotRunning { .. } => {
                Some("start it with `weavectl up`, or enter a fabric with `weavectl join TOKEN`".into())
            }
            ClientError::PermissionDenied { .. } => Some("try again as root, for example with `sudo`".into()),
            ClientError::ConnectTimeout { .. } | ClientError::Timeout { .. } => {
                Some("try again; if it stays so, look at the log of `weaved`".into())
            }
            ClientError::Closed { .. } => {
                Some("see with `weavectl status` whether `weaved` is back, and look at its log".into())
            }
            ClientError::Api(error) => error.hint.clone(),
            ClientError::Protocol { .. } => Some("compare the versions with `weavectl version`".into()),
            ClientError::Io { .. } => Some("give the right socket with `--socket PATH`".into()),
        }
    }

    /// Whether the request certainly never reached a running `weaved`.
    pub fn never_asked(&self) -> bool {
        match self {
            ClientError::SocketMissing { .. }
            | ClientError::NotRunning { .. }
            | ClientError::PermissionDenied { .. }
            | ClientError::ConnectTimeout { .. }
            | ClientError::Io { .. } => true,
            ClientError::Timeout { .. }
            | ClientError::Closed { .. }
            | ClientError::Api(_)
            | ClientError::Protocol { .. } => false,
        }
    }

    /// Whether `weaved` may or may not have done what was asked.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            ClientError::Timeout { .. } | ClientError::Closed { .. } | ClientError::Protocol { .. } => true,
            ClientError::SocketMissing { .. }
            | ClientError::NotRunning { .. }
            | ClientError::PermissionDenied { .. }
            | ClientError::ConnectTimeout { .. }
            | ClientError::Api(_)
            | ClientError::Io { .. } => false,
        }
    }
}

fn seconds(duration: Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{} s", duration.as_secs())
    } else {
        format!("{} ms", duration.as_millis())
    }
}
