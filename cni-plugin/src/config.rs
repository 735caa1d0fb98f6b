//! The network configuration on standard input. Unknown keys are other people's business and are ignored.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use control::api::{DEFAULT_SOCKET, DEFAULT_STATE_DIR, Pair};
use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::environment::is_identifier;
use crate::error::{CniError, Code};
use crate::version::SpecVersion;

/// What we read of a configuration; the parts that only some commands need are checked when they are needed.
#[derive(Debug)]
pub(crate) struct Config {
    /// As it came, for a plugin that we call in turn.
    pub(crate) raw: Value,
    pub(crate) version: SpecVersion,
    pub(crate) name: String,
    pub(crate) socket: PathBuf,
    pub(crate) state_dir: PathBuf,
    pub(crate) mtu: Option<u32>,
    pub(crate) ipam: Ipam,
    pub(crate) dns: Map<String, Value>,
    /// `args.cni`
    pub(crate) args: Map<String, Value>,
    pub(crate) runtime: Map<String, Value>,
    pub(crate) previous: Option<Value>,
    pub(crate) valid: Option<Vec<Pair>>,
}

/// `ipam` of the configuration. What another plugin's keys mean is that plugin's business.
#[derive(Debug, Default)]
pub(crate) struct Ipam {
    pub(crate) provider: Provider,
    pub(crate) subnet: Option<Ipv4Net>,
    pub(crate) routes: Option<Vec<RouteWish>>,
    /// For interfaces that another plugin makes; ours have the bridge.
    pub(crate) gateway: Option<Ipv4Addr>,
}

/// Who chooses addresses.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum Provider {
    /// `weaved`.
    #[default]
    Fabric,
    /// The plugin of that name.
    Plugin(String),
}

/// `ipam.type` values that mean us: none, this plugin, and the name that it has as an IPAM plugin.
const OWN_IPAM: [&str; 3] = ["", "weave-cni", "weave-ipam"];

#[derive(Default, Deserialize)]
struct RawIpam {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    subnet: Value,
    #[serde(default)]
    routes: Value,
    #[serde(default)]
    gateway: Value,
}

impl RawIpam {
    fn read(self) -> Result<Ipam, serde_json::Error> {
        let kind = self.kind.unwrap_or_default();
        if !OWN_IPAM.contains(&kind.as_str()) {
            return Ok(Ipam { provider: Provider::Plugin(kind), ..Ipam::default() });
        }
        Ok(Ipam {
            provider: Provider::Fabric,
            subnet: Option::deserialize(self.subnet)?,
            routes: Option::deserialize(self.routes)?,
            gateway: Option::deserialize(self.gateway)?,
        })
    }
}

/// One of `ipam.routes`.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct RouteWish {
    pub(crate) dst: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gw: Option<IpAddr>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    cni_version: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    socket: Option<PathBuf>,
    #[serde(default)]
    state_dir: Option<PathBuf>,
    #[serde(default)]
    mtu: Option<u32>,
    #[serde(default)]
    ipam: Option<RawIpam>,
    #[serde(default)]
    dns: Option<Map<String, Value>>,
    #[serde(default)]
    args: Option<Args>,
    #[serde(default)]
    runtime_config: Option<Map<String, Value>>,
    #[serde(default)]
    prev_result: Option<Value>,
    #[serde(default, rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<ValidAttachment>>,
    /// The name before 1.1.0 was final; libcni sends both.
    #[serde(default, rename = "cni.dev/attachments")]
    attachments: Option<Vec<ValidAttachment>>,
}

#[derive(Deserialize)]
struct Args {
    #[serde(default)]
    cni: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
struct ValidAttachment {
    #[serde(rename = "containerID")]
    container: String,
    ifname: String,
}

/// Standard input as a JSON object.
pub(crate) fn decode(input: &[u8]) -> Result<Value, CniError> {
    let failed =
        |reason: String| CniError::new(Code::Decode, format!("the configuration is not JSON: {reason}"));
    let value: Value = serde_json::from_slice(input).map_err(|error| failed(error.to_string()))?;
    // serde would also take a list for a structure.
    if value.is_object() { Ok(value) } else { Err(failed("want an object".to_owned())) }
}

/// The version that the configuration states, whether we speak it or not.
pub(crate) fn stated_version(value: &Value) -> Option<&str> {
    value.get("cniVersion")?.as_str().filter(|version| !version.is_empty())
}

impl Config {
    /// Check what every command needs: version, name and paths.
    pub(crate) fn read(value: Value) -> Result<Config, CniError> {
        let version = match stated_version(&value) {
            // Specification 0.1.0 had no such key.
            None => SpecVersion::V0_1_0,
            Some(text) => SpecVersion::named(text).ok_or_else(|| unknown_version(text))?,
        };
        let not_understood = |error: serde_json::Error| {
            CniError::new(Code::Decode, format!("the configuration is not understood: {error}"))
        };
        let raw = Raw::deserialize(&value).map_err(not_understood)?;
        let ipam = raw.ipam.unwrap_or_default().read().map_err(not_understood)?;
        // Only wrong types of the key get here; a string was dealt with above.
        drop(raw.cni_version);
        let name = raw.name.unwrap_or_default();
        if !is_identifier(&name) {
            return Err(invalid(format!(
                "`name` is `{name}` (want a letter or digit, then letters, digits, `_`, `.` or `-`)"
            )));
        }
        let valid = raw.valid_attachments.or(raw.attachments).map(|list| {
            let pair = |entry: ValidAttachment| Pair { container: entry.container, ifname: entry.ifname };
            list.into_iter().map(pair).collect()
        });
        Ok(Config {
            raw: value,
            version,
            name,
            socket: absolute("socket", raw.socket, DEFAULT_SOCKET)?,
            state_dir: absolute("stateDir", raw.state_dir, DEFAULT_STATE_DIR)?,
            mtu: raw.mtu,
            ipam,
            dns: raw.dns.unwrap_or_default(),
            args: raw.args.and_then(|args| args.cni).unwrap_or_default(),
            runtime: raw.runtime_config.unwrap_or_default(),
            previous: raw.prev_result,
            valid,
        })
    }
}

/// Runtimes start plugins in any directory, so a relative path would mean something else each time.
fn absolute(key: &str, given: Option<PathBuf>, default: &str) -> Result<PathBuf, CniError> {
    match given {
        None => Ok(PathBuf::from(default)),
        Some(path) if path == Path::new("") => Ok(PathBuf::from(default)),
        Some(path) if path.is_absolute() => Ok(path),
        Some(path) => Err(invalid(format!("`{key}` is `{}` (want an absolute path)", path.display()))),
    }
}

fn unknown_version(text: &str) -> CniError {
    let known: Vec<&str> = SpecVersion::ALL.iter().map(|version| version.as_str()).collect();
    let message = format!("cniVersion `{text}` is not supported (want one of {})", known.join(", "));
    CniError::new(Code::IncompatibleVersion, message)
}

pub(crate) fn invalid(message: impl Into<String>) -> CniError {
    CniError::new(Code::InvalidConfig, message)
}
