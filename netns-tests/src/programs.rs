//! Where the programs under test are, and what the machine must offer.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Environment variable that names the folder of the programs under test.
const VARIABLE: &str = "WEAVE_BIN_DIR";

/// Tools that every lab uses.
const LAB_TOOLS: [&str; 3] = ["ip", "nft", "ping"];

/// The programs under test.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The router.
    pub weaved: PathBuf,
    /// The command-line tool.
    pub weavectl: PathBuf,
    /// The CNI plugin.
    pub weave_cni: PathBuf,
}

impl Programs {
    /// Looks into `WEAVE_BIN_DIR`, otherwise beside the running program's folder: into `release`, or else `sim`, where the tests' are.
    ///
    /// # Errors
    /// When one is missing, with the command that builds it.
    pub fn find() -> Result<Self> {
        let folder = match env::var_os(VARIABLE) {
            Some(folder) => PathBuf::from(folder),
            None => {
                let me = env::current_exe().context("cannot find the running program")?;
                let folders = ["release", "sim"].map(|profile| me.ancestors().map(move |a| a.join(profile)));
                let found = folders.into_iter().flatten().find(|folder| folder.join("weaved").is_file());
                found.unwrap_or_else(|| PathBuf::from("target/release"))
            }
        };
        Self::within(&folder)
    }

    /// The programs of one folder.
    ///
    /// # Errors
    /// When one is missing, with the command that builds it.
    pub fn within(folder: &Path) -> Result<Self> {
        let program = |name: &str| {
            let path = folder.join(name);
            if !path.is_file() {
                bail!(
                    "there is no `{}`; type `cargo build --release -p router -p weavectl -p cni-plugin`, \
                     or run the tests by `cargo xtask netns`, which does",
                    path.display()
                );
            }
            Ok(path)
        };
        Ok(Self {
            weaved: program("weaved")?,
            weavectl: program("weavectl")?,
            weave_cni: program("weave-cni")?,
        })
    }
}

/// Refuses to go on without root.
///
/// # Errors
/// When the effective user is not root.
pub fn require_root() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    bail!("network namespaces need root; type the same again with `sudo -E env \"PATH=$PATH\"` before it")
}

/// Refuses to go on when a tool is not in `PATH`.
///
/// # Errors
/// With all that are missing.
pub fn require_tools(more: &[&str]) -> Result<()> {
    let path = env::var_os("PATH").unwrap_or_default();
    let missing: Vec<&str> = LAB_TOOLS
        .iter()
        .chain(more)
        .filter(|tool| !env::split_paths(&path).any(|folder| folder.join(tool).is_file()))
        .copied()
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!("missing in PATH: `{}`; type `cargo xtask setup`", missing.join("`, `"))
}
