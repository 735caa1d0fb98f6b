//! House rules that no lint knows: they are checked over the tracked sources and over the graph of crates.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cargo;

/// A file that is longer holds more than one noun.
const MAX_LINES: usize = 1000;

/// Which of our own crates each crate may depend on: dependencies point inwards.
const MAY_DEPEND_ON: [(&str, &[&str]); 11] = [
    ("gossip", &[]),
    ("ipam", &["gossip"]),
    ("control", &[]),
    ("router", &["control", "gossip", "ipam"]),
    ("weavectl", &["control"]),
    ("cni-plugin", &["control"]),
    ("docker-plugin", &[]),
    ("sim", &["gossip", "ipam", "netns-tests", "router"]),
    ("benches", &["gossip", "ipam", "router"]),
    ("netns-tests", &[]),
    ("xtask", &["netns-tests"]),
];

/// Crates without I/O, and what would bring it in.
const PURE: [&str; 2] = ["gossip", "ipam"];
const IMPURE: [&str; 8] = ["tokio", "rustix", "libc", "rand", "getrandom", "rtnetlink", "axum", "hyper"];

/// Folders whose code does no I/O, and words that would mean some. Tests below them may.
const PURE_FOLDERS: [&str; 3] = ["gossip/src/", "ipam/src/", "router/src/core/"];
const IMPURE_WORDS: [&str; 11] = [
    "std::fs",
    "std::thread",
    "std::process",
    "std::env",
    "UdpSocket",
    "TcpStream",
    "Instant::now(",
    "SystemTime",
    "tokio::",
    "SystemRandom",
    "rustix::",
];

/// Checks everything.
pub(crate) fn run() -> Result<()> {
    let root = cargo::root();
    let mut findings = Vec::new();
    for path in sources(&root)? {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
        let name = path.strip_prefix(&root).unwrap_or(&path).display().to_string();
        findings.extend(check_source(&text).into_iter().map(|finding| format!("{name}: {finding}")));
        if PURE_FOLDERS.iter().any(|folder| name.starts_with(folder)) && !name.contains("tests") {
            findings.extend(check_purity(&text).into_iter().map(|finding| format!("{name}: {finding}")));
        }
    }
    findings.extend(check_graph(&cargo::metadata()?));
    if findings.is_empty() {
        return Ok(());
    }
    bail!("{} findings:\n  {}", findings.len(), findings.join("\n  "))
}

/// What is wrong with one file.
fn check_source(text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    if !text.starts_with("//! ") {
        findings.push("does not open with `//!`: say what the file is and what it must not know".to_owned());
    }
    let lines = text.lines().count();
    if lines > MAX_LINES {
        findings.push(format!("too long (got {lines} lines, want at most {MAX_LINES})"));
    }
    // Put together here, so that this file does not find itself.
    let silenced = [concat!("#[", "allow("), concat!("#![", "allow("), concat!("#[", "ignore]")];
    for (number, line) in text.lines().enumerate() {
        if silenced.iter().any(|pattern| line.trim_start().starts_with(pattern)) {
            findings.push(format!(
                "line {}: silenced without a reason; use `expect(.., reason = \"..\")`",
                number + 1
            ));
        }
    }
    findings
}

/// I/O in a file that must have none; what stands behind `#[cfg(test)]` does not count.
fn check_purity(text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate().take_while(|(_, line)| line.trim() != "#[cfg(test)]") {
        let code = line.split("//").next().unwrap_or_default();
        for word in IMPURE_WORDS.iter().filter(|word| code.contains(**word)) {
            findings.push(format!("line {}: knows no I/O, so `{word}` must come from the shell", number + 1));
        }
    }
    findings
}

/// Edges that must not be.
fn check_graph(metadata: &Value) -> Vec<String> {
    let rules: BTreeMap<&str, &[&str]> = MAY_DEPEND_ON.into_iter().collect();
    let mut findings = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(allowed) = rules.get(name) else {
            findings.push(format!("the crate `{name}` has no rule about its dependencies"));
            continue;
        };
        findings.extend(check_simulation(name, package));
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let to = dependency["name"].as_str().unwrap_or_default();
            if rules.contains_key(to) && !allowed.contains(&to) {
                findings.push(format!("`{name}` must not depend on `{to}`"));
            }
            // Tests of a pure crate may do I/O; the crate may not.
            if PURE.contains(&name) && IMPURE.contains(&to) && dependency["kind"].is_null() {
                findings.push(format!("`{name}` knows no I/O and must not depend on `{to}`"));
            }
        }
    }
    findings
}

/// Features that are for the simulator alone, and the crate that has each beside it.
const FOR_SIMULATION: [(&str, &str); 2] = [("planted", "gossip"), ("simulated", "router")];

/// Bugs that are put in on purpose, and what stands for cryptography: no crate but the simulator can switch them on, by a feature or a
/// dependency, and it only when it is told to.
fn check_simulation(name: &str, package: &Value) -> Vec<String> {
    let mut findings = Vec::new();
    let with = FOR_SIMULATION.map(|(_, with)| with);
    if (name == "sim" || with.contains(&name))
        && package["features"]["default"].as_array().is_some_and(|default| !default.is_empty())
    {
        findings.push(format!("`{name}` must have no default features"));
    }
    for (feature, with) in FOR_SIMULATION {
        if ![with, "sim"].contains(&name) && package["features"].to_string().contains(feature) {
            findings.push(format!("`{name}` must not have a feature that switches on `{feature}`"));
        }
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            if dependency["features"].to_string().contains(feature) {
                findings
                    .push(format!("`{name}` must not depend on `{}` with `{feature}`", dependency["name"]));
            }
        }
    }
    findings
}

/// All Rust files of the workspace.
fn sources(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot list `{}`", folder.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot list `{}`", folder.display()))?;
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let is_folder = entry.file_type().with_context(|| format!("cannot look at `{name}`"))?.is_dir();
            if is_folder && !name.starts_with('.') && name != "target" {
                folders.push(path);
            } else if !is_folder && name.ends_with(".rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{check_graph, check_purity, check_source};

    #[test]
    fn file_without_purpose_is_found() {
        assert_eq!(check_source("//! A file.\nfn f() {}\n"), Vec::<String>::new());
        assert_eq!(check_source("fn f() {}\n").len(), 1);
    }

    #[test]
    fn silenced_lint_is_found_and_expectation_is_not() {
        let silenced = format!("//! A file.\n#[{}dead_code)]\nfn f() {{}}\n", "allow(");
        assert_eq!(check_source(&silenced).len(), 1);
        assert!(
            check_source("//! A file.\n#[expect(dead_code, reason = \"shown\")]\nfn f() {}\n").is_empty()
        );
    }

    #[test]
    fn clock_in_a_core_is_found_and_in_its_tests_is_not() {
        assert_eq!(check_purity("fn f() { Instant::now(); }\n").len(), 1);
        assert!(
            check_purity("// Instant::now() is for the shell\n#[cfg(test)]\nlet now = Instant::now();\n")
                .is_empty()
        );
    }

    #[test]
    fn long_file_is_found() {
        assert_eq!(check_source(&format!("//! A file.\n{}", "\n".repeat(1000))).len(), 1);
    }

    #[test]
    fn what_is_for_the_simulator_alone_is_found_elsewhere() {
        let graph = |package| check_graph(&json!({"packages": [package]})).len();
        let feature = json!({"planted": ["gossip/planted"]});
        assert_eq!(graph(json!({"name": "sim", "features": feature, "dependencies": []})), 0);
        assert_eq!(graph(json!({"name": "router", "features": feature, "dependencies": []})), 1);
        let on = json!({"default": ["planted"], "planted": []});
        assert_eq!(graph(json!({"name": "gossip", "features": on, "dependencies": []})), 1);
        let with = json!([{"name": "gossip", "kind": null, "features": ["planted"]}]);
        assert_eq!(graph(json!({"name": "sim", "dependencies": with})), 1);
        let cheap = json!({"simulated": []});
        assert_eq!(graph(json!({"name": "router", "features": cheap, "dependencies": []})), 0);
        assert_eq!(graph(json!({"name": "weavectl", "features": cheap, "dependencies": []})), 1);
        let with = json!([{"name": "router", "kind": "dev", "features": ["simulated"]}]);
        assert_eq!(graph(json!({"name": "sim", "dependencies": with})), 1);
    }

    #[test]
    fn outward_and_impure_edges_are_found() {
        let graph = |name: &str, to: &str, kind: Option<&str>| {
            check_graph(&json!({"packages": [{"name": name, "dependencies": [{"name": to, "kind": kind}]}]}))
                .len()
        };
        assert_eq!(graph("ipam", "gossip", None), 0);
        assert_eq!(graph("gossip", "ipam", None), 1);
        assert_eq!(graph("control", "router", Some("dev")), 1);
        assert_eq!(graph("ipam", "tokio", None), 1);
        assert_eq!(graph("ipam", "tokio", Some("dev")), 0);
        assert_eq!(graph("newcomer", "serde", None), 1);
    }
}
