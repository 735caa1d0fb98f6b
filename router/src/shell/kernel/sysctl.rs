//! Settings below `/proc/sys/net`, of the network namespace that the calling thread is in.
//!
//! Some machines mount `/proc/sys` read-only, and some kernels have IPv6 switched off: neither may keep a container from its network, so
//! failed writes become warnings for the caller to show.

use std::{
    fmt,
    fs::OpenOptions,
    io::{self, Write as _},
};

/// Root of all settings here.
const ROOT: &str = "/proc/sys/net";

/// A setting that could not be made, and why. The operation went on without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning(pub String);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether this namespace has IPv6 at all.
pub(super) fn ipv6_present() -> bool {
    std::fs::exists(format!("{ROOT}/ipv6/conf")).unwrap_or(false)
}

/// Reads a setting such as `ipv4/ip_forward`.
pub(super) fn read(key: &str) -> io::Result<String> {
    std::fs::read_to_string(format!("{ROOT}/{key}")).map(|text| text.trim().to_owned())
}

/// Makes sure that a setting has the wanted value; writes only when it has not.
pub(super) fn ensure(key: &str, want: &str) -> Result<Change, Warning> {
    let got = read(key).unwrap_or_default();
    if got == want {
        return Ok(Change::None);
    }
    OpenOptions::new()
        .write(true)
        .open(format!("{ROOT}/{key}"))
        .and_then(|mut file| file.write_all(want.as_bytes()))
        .map(|()| Change::Written)
        .map_err(|errno| Warning(format!("cannot set `net/{key}` (got `{got}`, want `{want}`): {errno}")))
}

/// Makes sure of several settings and collects what went wrong.
pub(super) fn ensure_all(settings: &[(String, &str)]) -> (Change, Vec<Warning>) {
    let mut change = Change::None;
    let mut warnings = Vec::new();
    for (key, want) in settings {
        match ensure(key, want) {
            Ok(Change::Written) => change = Change::Written,
            Ok(Change::None) => {}
            Err(warning) => warnings.push(warning),
        }
    }
    (change, warnings)
}

/// Names of the directories below `ipv6/conf` that stand for interfaces.
pub(super) fn ipv6_interfaces() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(format!("{ROOT}/ipv6/conf")) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name != "all" && name != "default")
        .collect();
    names.sort();
    names
}

/// Whether anything had to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    None,
    Written,
}
