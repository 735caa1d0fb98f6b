//! The CNI variables: which command needs which of them, and what they may hold.

use std::collections::BTreeMap;
use std::ffi::OsString;

use control::pending::MAX_CONTAINER_ID;

use crate::error::{CniError, Code};
use crate::version::SpecVersion;

/// Longest name of a network interface, IFNAMSIZ without its final zero.
const MAX_IFNAME: usize = 15;

/// `CNI_COMMAND`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// Attach a container.
    Add,
    /// Detach it.
    Del,
    /// See that it is attached as it was.
    Check,
    /// Detach what the runtime does not know.
    Gc,
    /// Could a container be attached?
    Status,
    /// Which versions are spoken?
    Version,
}

impl Command {
    fn named(name: &str) -> Result<Command, CniError> {
        match name {
            "ADD" => Ok(Command::Add),
            "DEL" => Ok(Command::Del),
            "CHECK" => Ok(Command::Check),
            "GC" => Ok(Command::Gc),
            "STATUS" => Ok(Command::Status),
            "VERSION" => Ok(Command::Version),
            other => Err(invalid(format!(
                "CNI_COMMAND is `{other}` (want ADD, DEL, CHECK, GC, STATUS or VERSION)"
            ))),
        }
    }

    /// Specification: a command that the configuration's version does not have is error 1.
    pub(crate) fn require(self, version: SpecVersion) -> Result<(), CniError> {
        let (name, first) = match self {
            Command::Add | Command::Del | Command::Version => return Ok(()),
            Command::Check => ("CHECK", SpecVersion::V0_4_0),
            Command::Gc => ("GC", SpecVersion::V1_1_0),
            Command::Status => ("STATUS", SpecVersion::V1_1_0),
        };
        if version >= first {
            return Ok(());
        }
        let message =
            format!("cniVersion {} has no {name} (it came with {})", version.as_str(), first.as_str());
        Err(CniError::new(Code::IncompatibleVersion, message))
    }
}

/// The variables, checked as far as the command needs them; the others are empty.
#[derive(Debug, Clone)]
pub(crate) struct Environment {
    pub(crate) command: Command,
    pub(crate) container: String,
    pub(crate) netns: String,
    pub(crate) ifname: String,
    pub(crate) args: String,
    /// All of them as they came, for a plugin that we call in turn.
    pub(crate) variables: BTreeMap<String, OsString>,
    /// The reference library's way to let a test run in the namespace that it attaches.
    pub(crate) own_netns: OwnNetns,
}

/// Whether the container's namespace may be the plugin's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OwnNetns {
    /// As a rule not: it would cut the host off.
    Refused,
    /// `CNI_NETNS_OVERRIDE` says so.
    Allowed,
}

impl Environment {
    /// Check the variables. All that are missing are named at once.
    pub(crate) fn read(variables: &BTreeMap<String, OsString>) -> Result<Environment, CniError> {
        let command = Command::named(&text(variables, "CNI_COMMAND")?)?;
        let wanted: &[&str] = match command {
            Command::Add | Command::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
            Command::Del => &["CNI_CONTAINERID", "CNI_IFNAME"],
            Command::Gc | Command::Status | Command::Version => &[],
        };
        let missing: Vec<&str> = wanted
            .iter()
            .copied()
            .filter(|name| variables.get(*name).is_none_or(|value| value.is_empty()))
            .collect();
        if !missing.is_empty() {
            return Err(invalid(format!("required variables are missing: {}", missing.join(", "))));
        }
        let value = |name| if wanted.contains(&name) { text(variables, name) } else { Ok(String::new()) };
        let environment = Environment {
            command,
            container: value("CNI_CONTAINERID")?,
            netns: value("CNI_NETNS")?,
            ifname: value("CNI_IFNAME")?,
            args: match command {
                Command::Add => text(variables, "CNI_ARGS")?,
                Command::Del | Command::Check | Command::Gc | Command::Status | Command::Version => {
                    String::new()
                }
            },
            variables: variables.clone(),
            own_netns: match text(variables, "CNI_NETNS_OVERRIDE").as_deref() {
                Ok("1" | "true" | "TRUE" | "True") => OwnNetns::Allowed,
                Ok(_) | Err(_) => OwnNetns::Refused,
            },
        };
        if !wanted.is_empty() {
            check_container(&environment.container)?;
            check_ifname(&environment.ifname)?;
        }
        Ok(environment)
    }
}

/// Specification: "Container ID must not be empty, must start with an alphanumeric character, optionally followed by any
/// combination of alphanumeric characters, underscore, dot or hyphen". Network names are the same.
pub(crate) fn is_identifier(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

fn check_container(container: &str) -> Result<(), CniError> {
    if !is_identifier(container) {
        return Err(invalid(format!(
            "CNI_CONTAINERID is `{container}` (want a letter or digit, then letters, digits, `_`, `.` or `-`)"
        )));
    }
    if container.len() > MAX_CONTAINER_ID {
        let got = container.len();
        return Err(invalid(format!(
            "CNI_CONTAINERID has {got} characters (want at most {MAX_CONTAINER_ID})"
        )));
    }
    Ok(())
}

/// The kernel's rules for names, `dev_valid_name`.
fn check_ifname(ifname: &str) -> Result<(), CniError> {
    if ifname.len() > MAX_IFNAME {
        let got = ifname.len();
        return Err(invalid(format!("CNI_IFNAME `{ifname}` has {got} bytes (want at most {MAX_IFNAME})")));
    }
    let forbidden = |c: char| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control();
    if matches!(ifname, "." | "..") || ifname.contains(forbidden) {
        return Err(invalid(format!("CNI_IFNAME `{ifname}` cannot be the name of an interface")));
    }
    Ok(())
}

fn text(variables: &BTreeMap<String, OsString>, name: &str) -> Result<String, CniError> {
    match variables.get(name) {
        None => Ok(String::new()),
        Some(value) => match value.to_str() {
            Some(text) => Ok(text.to_owned()),
            None => Err(invalid(format!("{name} is not UTF-8"))),
        },
    }
}

pub(crate) fn invalid(message: impl Into<String>) -> CniError {
    CniError::new(Code::InvalidEnvironment, message)
}
