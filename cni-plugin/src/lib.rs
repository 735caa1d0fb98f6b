//! `weave-cni`: translates the calls of a container runtime (CNI 0.1.0 to 1.1.0) into requests to `weaved`.
//!
//! It knows the CNI specification and the control API, and touches neither netlink nor addresses itself: whatever happens to
//! the kernel is done by `weaved`. It keeps no state but the journal of detachments that `weaved` could not take.
//!
//! Error codes of our own: 100 the attachment or the address is taken, 101 not permitted, 102 the kernel refused, 103 CHECK
//! found a difference, 104 `weaved` does not know the command. All others are the specification's.

mod commands;
mod config;
mod daemon;
mod environment;
mod error;
mod result;
mod version;
mod wish;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Write};

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

/// One invocation of the plugin. `stdin` is only called when there is a command that wants it; remarks go to `log`.
pub fn run(
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
    match dispatch(environment, stdin, log, &mut spoken) {
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
    match environment.command {
        Command::Add => commands::add(&environment, &config, log),
        Command::Del => commands::del(&environment, &config, log),
        Command::Check => commands::check(&environment, &config),
        Command::Gc => commands::gc(&config, log),
        Command::Status => commands::status(&config),
        Command::Version => Ok(commands::version(&[])),
    }
}

fn about() -> String {
    let versions: Vec<&str> = SpecVersion::ALL.iter().map(|version| version.as_str()).collect();
    format!(
        "weave-cni {}: CNI plugin that attaches containers to a Weave fabric; CNI versions {}\n\
         It is started by a container runtime. A configuration for it: \
         {{\"cniVersion\":\"1.0.0\",\"name\":\"weave\",\"type\":\"weave-cni\"}}",
        env!("CARGO_PKG_VERSION"),
        versions.join(", ")
    )
}
