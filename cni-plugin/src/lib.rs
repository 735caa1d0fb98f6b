//! `weave-cni`: translates the calls of a container runtime (CNI 0.1.0 to 1.1.0) into requests to `weaved`.
//!
//! It knows the CNI specification and the control API, and touches neither netlink nor addresses itself: whatever happens to
//! the kernel is done by `weaved`. It keeps no state but the journal of detachments that `weaved` could not take.
//!
//! Error codes of our own: 100 the attachment or the address is taken, 101 not permitted, 102 the kernel refused, 103 CHECK
//! found a difference, 104 `weaved` does not know the command, 105 the IPAM plugin that the configuration names failed. All others are the specification's.

mod commands;
mod config;
mod daemon;
mod delegate;
mod environment;
mod error;
mod ipam;
mod result;
mod version;
mod wish;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::Path;

use config::Config;
use environment::{Command, Environment};

pub use error::{CniError, Code};
pub use version::SpecVersion;

/// Longest configuration on standard input. Kubernetes allows 256 KiB of annotations, which some runtimes pass on; the rest is small.
pub const MAX_CONFIG_BYTES: u64 = 4 * 1024 * 1024;

/// What goes to standard output, and whether the exit code is 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Success; the text may be empty.
    Done(String),
    /// An error as JSON.
    Failed(String),
}

/// Which of our plugins was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `weave-cni`: interfaces with addresses.
    Main,
    /// `weave-ipam`: addresses alone, for another plugin's interfaces.
    Ipam,
}

impl Role {
    /// By the name that the program was started under, as a link to it may be called `weave-ipam`.
    pub fn of_program(name: &OsStr) -> Role {
        match Path::new(name).file_name() {
            Some(name) if name == "weave-ipam" => Role::Ipam,
            Some(_) | None => Role::Main,
        }
    }
}

/// One invocation of the plugin. `stdin` is only called when there is a command that wants it; remarks go to `log`.
pub fn run(
    role: Role,
    environment: &BTreeMap<String, OsString>,
    stdin: impl FnOnce() -> io::Result<Vec<u8>>,
    log: &mut dyn Write,
) -> Outcome {
    // A full or closed standard error must not change what happens to the container.
    if !environment.contains_key("CNI_COMMAND") {
        let _ = writeln!(log, "{}", about());
        return Outcome::Done(String::new());
    }
    let mut spoken = SpecVersion::LATEST.as_str().to_owned();
    match dispatch(role, environment, stdin, log, &mut spoken) {
        Ok(text) => Outcome::Done(text),
        Err(error) => {
            // In one piece, since many plugins share the runtime's log.
            let _ = log.write_all(format!("weave-cni: {error}\n").as_bytes());
            Outcome::Failed(error.to_json(&spoken))
        }
    }
}

/// `spoken` is the version in which an error is to be answered, as soon as it is known.
fn dispatch(
    role: Role,
    environment: &BTreeMap<String, OsString>,
    stdin: impl FnOnce() -> io::Result<Vec<u8>>,
    log: &mut dyn Write,
    spoken: &mut String,
) -> Result<String, CniError> {
    let environment = Environment::read(environment)?;
    let input = stdin();
    if environment.command == Command::Version {
        return Ok(commands::version(&input.unwrap_or_default()));
    }
    let input =
        input.map_err(|error| CniError::new(Code::Io, format!("cannot read standard input: {error}")))?;
    if input.len() as u64 > MAX_CONFIG_BYTES {
        let message = format!("the configuration is longer than {MAX_CONFIG_BYTES} bytes");
        return Err(CniError::new(Code::Decode, message));
    }
    let value = config::decode(&input)?;
    if let Some(version) = config::stated_version(&value) {
        spoken.clear();
        spoken.push_str(version);
    }
    let config = Config::read(value)?;
    spoken.clear();
    spoken.push_str(config.version.as_str());
    environment.command.require(config.version)?;
    match (environment.command, role) {
        (Command::Add, Role::Main) => commands::add(&environment, &config, log),
        (Command::Add, Role::Ipam) => ipam::add(&environment, &config, log),
        (Command::Del, Role::Main) => commands::del(&environment, &config, log),
        (Command::Del, Role::Ipam) => ipam::del(&environment, &config),
        (Command::Check, Role::Main) => commands::check(&environment, &config),
        (Command::Check, Role::Ipam) => ipam::check(&environment, &config),
        (Command::Gc, Role::Main) => commands::gc(&environment, &config, log),
        (Command::Gc, Role::Ipam) => ipam::gc(&config, log),
        (Command::Status, Role::Main) => commands::status(&environment, &config),
        (Command::Status, Role::Ipam) => ipam::status(&config),
        (Command::Version, Role::Main | Role::Ipam) => Ok(commands::version(&[])),
    }
}

fn about() -> String {
    let versions: Vec<&str> = SpecVersion::ALL.iter().map(|version| version.as_str()).collect();
    format!(
        "weave-cni {}: CNI plugin that attaches containers to a Weave fabric; CNI versions {}\n\
         It is started by a container runtime. A configuration for it: \
         {{\"cniVersion\":\"1.0.0\",\"name\":\"weave\",\"type\":\"weave-cni\"}}\n\
         Under the name weave-ipam it gives addresses of the fabric to another plugin's interfaces.",
        env!("CARGO_PKG_VERSION"),
        versions.join(", ")
    )
}
