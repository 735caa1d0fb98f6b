//! Errors as the specification wants them: a code that a runtime understands, and words for the person who reads its log.

use std::fmt;

use serde_json::json;

/// Why a call failed. The numbers are the specification's ("Error") up to 99, the reference library's for 999, ours in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The configuration's `cniVersion` is none of ours, or has no such command.
    IncompatibleVersion = 1,
    /// The configuration asks for something that we do not do; the message has key and value.
    UnsupportedField = 2,
    /// The container is gone. The runtime need not clean up.
    UnknownContainer = 3,
    /// A variable is missing or invalid; the message names it.
    InvalidEnvironment = 4,
    /// A file or stream cannot be read or written.
    Io = 5,
    /// The configuration is not JSON, or a value has the wrong type.
    Decode = 6,
    /// The configuration makes no sense.
    InvalidConfig = 7,
    /// `CNI_NETNS` is not a network namespace, or the host's own.
    InvalidNetns = 8,
    /// May succeed later.
    TryAgain = 11,
    /// STATUS: containers cannot be attached at present.
    Unavailable = 50,
    /// STATUS: the same, and those that are attached may be cut off.
    UnavailableLimited = 51,
    /// The attachment exists already, or the address belongs to somebody else.
    Taken = 100,
    /// The plugin's user may not ask `weaved` for changes.
    NotPermitted = 101,
    /// The kernel refused `weaved`.
    Kernel = 102,
    /// CHECK found a difference; the message names it.
    Different = 103,
    /// `weaved` is too old for the command.
    NotImplemented = 104,
    /// The IPAM plugin that the configuration names failed; the message has its words.
    Delegate = 105,
    /// Our bug, or `weaved`'s.
    Internal = 999,
}

/// An error to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniError {
    /// What a program should make of it.
    pub code: Code,
    /// What failed and why.
    pub message: String,
    /// What to do about it, if there is something.
    pub details: String,
}

impl CniError {
    /// An error without details.
    pub fn new(code: Code, message: impl Into<String>) -> CniError {
        CniError { code, message: message.into(), details: String::new() }
    }

    /// The same with a piece of advice.
    pub(crate) fn hint(self, details: impl Into<String>) -> CniError {
        CniError { details: details.into(), ..self }
    }

    /// As it goes to standard output, in the version that the runtime speaks.
    pub fn to_json(&self, version: &str) -> String {
        let mut error = json!({ "cniVersion": version, "code": self.code as u32, "msg": self.message });
        if !self.details.is_empty() {
            error["details"] = self.details.as_str().into();
        }
        error.to_string()
    }
}

impl fmt::Display for CniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {})", self.message, self.code as u32)?;
        if self.details.is_empty() { Ok(()) } else { write!(f, "; {}", self.details) }
    }
}
