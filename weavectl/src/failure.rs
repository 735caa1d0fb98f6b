//! Why a command failed: what to tell a person, and the exit code for a script.
//!
//! The codes are part of the interface; `weavectl --help` lists them.

use std::error::Error;

use control::ClientError;
use control::api::ErrorCode;
use control::netns::NetnsError;

use crate::render::commands::quoted;

/// Anything that has no code of its own.
pub(crate) const FAILED: u8 = 1;
/// Arguments that make no sense; clap uses the same.
pub(crate) const USAGE: u8 = 2;
/// `weaved` is not running.
pub(crate) const NOT_RUNNING: u8 = 3;
/// No permission.
pub(crate) const PERMISSION: u8 = 4;
/// No answer in time.
pub(crate) const TIMEOUT: u8 = 5;
/// This router belongs to no fabric.
pub(crate) const NO_FABRIC: u8 = 6;
/// No such peer, address, container or namespace.
pub(crate) const NOT_FOUND: u8 = 7;
/// Exists already or belongs to somebody else.
pub(crate) const CONFLICT: u8 = 8;
/// No free address, or whoever is needed cannot be reached; may succeed later.
pub(crate) const TRY_AGAIN: u8 = 9;
/// Joined, and no connection yet.
pub(crate) const NOT_CONNECTED: u8 = 10;
/// `status --exit-code` is NOT OK.
pub(crate) const NOT_OK: u8 = 11;
/// `weaved` could not be started.
pub(crate) const NOT_STARTED: u8 = 12;
/// `ping` got no answer.
pub(crate) const NO_ANSWER: u8 = 13;
/// `ipam audit` found a conflict.
pub(crate) const AUDIT_CONFLICT: u8 = 14;

/// What failed, why, what to type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What failed.
    pub(crate) what: String,
    /// Why, outermost first.
    pub(crate) causes: Vec<String>,
    /// The command to type next.
    pub(crate) hint: Option<String>,
    /// For scripts.
    pub(crate) exit: u8,
}

impl Failure {
    /// A failure without causes.
    pub(crate) fn new(exit: u8, what: impl Into<String>) -> Failure {
        Failure { what: what.into(), causes: Vec::new(), hint: None, exit }
    }

    /// The same with one more cause.
    pub(crate) fn because(mut self, cause: impl Into<String>) -> Failure {
        self.causes.push(cause.into());
        self
    }

    /// The same with the command to type next.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Failure {
        Failure { hint: Some(hint.into()), ..self }
    }

    /// A call that failed; `what` completes "cannot ...".
    pub(crate) fn of_call(what: &str, error: &ClientError) -> Failure {
        let failure = Failure::new(exit_of(error), format!("cannot {what}")).with_chain(error);
        Failure { hint: error.hint().map(|hint| quoted(&hint)), ..failure }
    }

    /// A namespace that cannot be attached to.
    pub(crate) fn of_netns(error: &NetnsError) -> Failure {
        let exit = match error {
            NetnsError::Missing { .. } => NOT_FOUND,
            NetnsError::NotANamespace { .. } => USAGE,
            NetnsError::Unreadable { .. } => PERMISSION,
        };
        Failure::new(exit, "cannot use that network namespace")
            .with_chain(error)
            .hint("list namespaces with `ip netns`, or name a process with `--pid PID`")
    }

    /// A file that cannot be used.
    pub(crate) fn of_io(what: impl Into<String>, error: &std::io::Error) -> Failure {
        Failure::new(FAILED, what).with_chain(error)
    }

    fn with_chain(mut self, error: &dyn Error) -> Failure {
        let mut next = Some(error);
        while let Some(error) = next {
            self.causes.push(error.to_string());
            next = error.source();
        }
        self
    }
}

fn exit_of(error: &ClientError) -> u8 {
    match error {
        ClientError::SocketMissing { .. } | ClientError::NotRunning { .. } => NOT_RUNNING,
        ClientError::PermissionDenied { .. } => PERMISSION,
        ClientError::ConnectTimeout { .. } | ClientError::Timeout { .. } => TIMEOUT,
        ClientError::Closed { .. } | ClientError::Protocol { .. } | ClientError::Io { .. } => FAILED,
        ClientError::Api(error) => match error.code {
            ErrorCode::BadRequest => USAGE,
            ErrorCode::Forbidden => PERMISSION,
            ErrorCode::NotFound | ErrorCode::BadNetns | ErrorCode::UnknownContainer => NOT_FOUND,
            ErrorCode::Conflict => CONFLICT,
            ErrorCode::NoFabric => NO_FABRIC,
            ErrorCode::Exhausted | ErrorCode::Unreachable => TRY_AGAIN,
            ErrorCode::Timeout => TIMEOUT,
            ErrorCode::StateNotDurable | ErrorCode::Kernel | ErrorCode::Internal | ErrorCode::Unknown => {
                FAILED
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Args;
    use clap::CommandFactory;

    #[test]
    fn help_lists_every_exit_code() {
        let codes = [
            FAILED,
            USAGE,
            NOT_RUNNING,
            PERMISSION,
            TIMEOUT,
            NO_FABRIC,
            NOT_FOUND,
            CONFLICT,
            TRY_AGAIN,
            NOT_CONNECTED,
            NOT_OK,
            NOT_STARTED,
            NO_ANSWER,
            AUDIT_CONFLICT,
        ];
        let help = Args::command().render_long_help().to_string();
        let listed = help.split("Exit codes:").nth(1).unwrap_or_default();
        let listed: Vec<u8> =
            listed.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect();
        let mut want = vec![0];
        want.extend(codes);
        assert_eq!(listed, want);
    }
}
