//! Another plugin that chooses addresses (`"ipam": {"type": "host-local", ...}`), run as the specification's section 4 says: found
//! in CNI_PATH, same variables, same configuration, its log is ours.
//!
//! It chooses, and the fabric confirms: the address it names is leased from the fabric's own books, so that two hosts whose
//! configurations overlap cannot both have it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use control::api::Route;
use ipnet::IpNet;
use serde_json::Value;

use crate::config::{Config, Provider, invalid};
use crate::environment::Environment;
use crate::error::{CniError, Code};
use crate::result::CniResult;

/// An IPAM plugin that is not ours.
#[derive(Debug)]
pub(crate) struct Delegate<'a> {
    kind: &'a str,
    program: PathBuf,
    variables: &'a BTreeMap<String, OsString>,
    stdin: String,
}

/// What it chose.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) address: Ipv4Addr,
    /// `None` when it names none: the container then gets a default route, as with our own addresses.
    pub(crate) routes: Option<Vec<Route>>,
}

impl<'a> Delegate<'a> {
    /// The one that the configuration names, if it is not us.
    pub(crate) fn of(
        environment: &'a Environment,
        config: &'a Config,
    ) -> Result<Option<Delegate<'a>>, CniError> {
        let Provider::Plugin(kind) = &config.ipam.provider else { return Ok(None) };
        if kind.contains('/') {
            return Err(invalid(format!("`ipam.type` is `{kind}` (want the name of a plugin, not a path)")));
        }
        let path = environment.variables.get("CNI_PATH").cloned().unwrap_or_default();
        let program = std::env::split_paths(&path)
            .map(|folder| folder.join(kind))
            .find(|program| program.is_absolute() && program.is_file());
        let Some(program) = program else {
            let message = format!("IPAM plugin `{kind}` is in no folder of CNI_PATH `{}`", path.display());
            return Err(CniError::new(Code::InvalidConfig, message)
                .hint("install it there, or leave `ipam.type` out: `weaved` then chooses the address"));
        };
        let stdin = config.raw.to_string();
        Ok(Some(Delegate { kind, program, variables: &environment.variables, stdin }))
    }

    /// ADD, and what follows from the answer for an interface on the fabric.
    pub(crate) fn choose(&self) -> Result<Choice, CniError> {
        let answer = self.run("ADD")?;
        let answer: Value = serde_json::from_slice(&answer).map_err(|error| {
            let message = format!("IPAM plugin `{}` answered no result: {error}", self.kind);
            CniError::new(Code::Delegate, message)
        })?;
        let chosen = CniResult::parse(&answer).and_then(|result| self.read(&result));
        chosen.map_err(|error| CniError { code: Code::Delegate, ..error })
    }

    fn read(&self, result: &CniResult) -> Result<Choice, CniError> {
        let mut addresses = result.every_address();
        let (Some(IpNet::V4(address)), None) = (addresses.next(), addresses.next()) else {
            let all: Vec<String> = result.every_address().map(|address| address.to_string()).collect();
            return Err(invalid(format!(
                "IPAM plugin `{}` chose `{}` (want one IPv4 address; the IPv6 address follows from it)",
                self.kind,
                all.join(", ")
            )));
        };
        let gateways = result.gateways();
        let routes: Vec<Route> = result
            .routes()
            .map(|(dst, gw)| {
                // Its gateway is an address of its own subnet that nobody has here; the bridge does the work.
                let gw = gw.filter(|gw: &IpAddr| !gateways.contains(gw));
                Route { dst, gw }
            })
            .collect();
        Ok(Choice { address: address.addr(), routes: (!routes.is_empty()).then_some(routes) })
    }

    /// Any other command; what it prints on success is of no interest.
    pub(crate) fn tell(&self, command: &str) -> Result<(), CniError> {
        self.run(command).map(drop)
    }

    fn run(&self, command: &str) -> Result<Vec<u8>, CniError> {
        let failed = |what: &str, error: std::io::Error| {
            let message = format!("cannot {what} IPAM plugin `{}`: {error}", self.program.display());
            CniError::new(Code::Io, message)
        };
        let mut child = Command::new(&self.program)
            .envs(self.variables)
            .env("CNI_COMMAND", command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| failed("start", error))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A plugin may answer without having read it all; what it answers counts.
            let _ = stdin.write_all(self.stdin.as_bytes());
        }
        let output = child.wait_with_output().map_err(|error| failed("hear from", error))?;
        if output.status.success() { Ok(output.stdout) } else { Err(self.refused(command, &output.stdout)) }
    }

    /// An error's words are passed on; its number is of the other plugin's own list.
    fn refused(&self, command: &str, stdout: &[u8]) -> CniError {
        let said: Value = serde_json::from_slice(stdout).unwrap_or_default();
        let words = match (said["msg"].as_str(), said["code"].as_u64()) {
            (Some(words), Some(code)) => format!("{words} (code {code})"),
            (Some(words), None) => words.to_owned(),
            (None, _) => "it failed without a word that can be read".to_owned(),
        };
        let code = match said["code"].as_u64() {
            Some(11) => Code::TryAgain,
            Some(50) => Code::Unavailable,
            Some(51) => Code::UnavailableLimited,
            Some(_) | None => Code::Delegate,
        };
        let details = said["details"].as_str().unwrap_or_default();
        CniError::new(code, format!("IPAM plugin `{}` refused {command}: {words}", self.kind)).hint(details)
    }
}
