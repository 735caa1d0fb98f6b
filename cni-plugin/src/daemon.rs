//! What an error of `weaved`, or its absence, means to a container runtime.

use control::api::{ApiError, ErrorCode};
use control::netns::NetnsError;
use control::{Client, ClientError};

use crate::config::Config;
use crate::error::{CniError, Code};

/// A client for the configuration's socket.
pub(crate) fn client(config: &Config) -> Result<Client, CniError> {
    Client::new(&config.socket).map_err(|error| refused("start", error))
}

/// The error that answers a failed call; `what` completes "cannot ...".
pub(crate) fn refused(what: &str, error: ClientError) -> CniError {
    let code = match &error {
        ClientError::SocketMissing { .. }
        | ClientError::NotRunning { .. }
        | ClientError::ConnectTimeout { .. }
        | ClientError::Timeout { .. }
        | ClientError::Closed { .. } => Code::TryAgain,
        ClientError::PermissionDenied { .. } => Code::NotPermitted,
        ClientError::Api(error) => code_of(error),
        ClientError::Protocol { .. } => Code::Internal,
        ClientError::Io { .. } => Code::Io,
    };
    let mut message = format!("cannot {what}: {error}");
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        message.push_str(&format!(": {error}"));
        cause = error.source();
    }
    CniError::new(code, message).hint(error.hint().unwrap_or_default())
}

fn code_of(error: &ApiError) -> Code {
    match error.code {
        ErrorCode::BadRequest => Code::InvalidConfig,
        ErrorCode::Forbidden => Code::NotPermitted,
        ErrorCode::NotFound | ErrorCode::UnknownContainer => Code::UnknownContainer,
        ErrorCode::Conflict => Code::Taken,
        ErrorCode::NoFabric | ErrorCode::Exhausted | ErrorCode::Timeout | ErrorCode::Unreachable => {
            Code::TryAgain
        }
        ErrorCode::BadNetns => Code::InvalidNetns,
        ErrorCode::StateNotDurable => Code::Io,
        ErrorCode::Kernel => Code::Kernel,
        ErrorCode::Internal | ErrorCode::Unknown => Code::Internal,
    }
}

/// A namespace that is gone means that the container is: nothing was made and nothing needs cleaning up (code 3). One that is
/// there and is no network namespace is a mistake of the caller (code 8).
pub(crate) fn bad_netns(error: NetnsError) -> CniError {
    let code = match &error {
        NetnsError::Missing { .. } => Code::UnknownContainer,
        NetnsError::NotANamespace { .. } => Code::InvalidNetns,
        NetnsError::Unreadable { .. } => Code::Io,
    };
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
    CniError::new(code, format!("CNI_NETNS: {error}{cause}"))
}
