//! The programs of the rivals: found, fetched or built once below the target folder; never installed but for what apt-get has.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use lab::{run, run_ok};

use crate::bench::datapath::Datapath;
use crate::bench::packages::{self, Package};
use crate::cargo;
use crate::tools;
use crate::ui::Ui;

/// A crate that holds a rival, at the newest version when this was written.
#[derive(Debug, Clone, Copy)]
struct Crate {
    name: &'static str,
    version: &'static str,
}

const BORINGTUN: Crate = Crate { name: "boringtun-cli", version: "0.7.1" };
const VPNCLOUD: Crate = Crate { name: "vpncloud", version: "2.3.0" };

/// The release in which segmentation offload had come (2023), and the one before it.
const WIREGUARD_GO_2023: Package = Package {
    name: "wireguard-go",
    suite: "trixie",
    version: "0.0.20231211",
    program: "usr/bin/wireguard-go",
};
const WIREGUARD_GO_2022: Package = Package {
    name: "wireguard-go",
    suite: "bookworm",
    version: "0.0.20220316",
    program: "usr/bin/wireguard-go",
};
const NEBULA: Package =
    Package { name: "nebula", suite: "trixie", version: "1.9.3", program: "usr/bin/nebula" };

/// A small program is built within this on one slow core.
const BUILD_LIMIT: Duration = Duration::from_secs(1800);

/// Time for a program to say its version.
const VERSION_LIMIT: Duration = Duration::from_secs(10);

/// What is there, and why the rest is not.
#[derive(Debug, Default)]
pub(crate) struct Programs {
    wg: Option<PathBuf>,
    programs: BTreeMap<Datapath, Program>,
    absent: BTreeMap<Datapath, String>,
}

/// A program of a rival.
#[derive(Debug)]
struct Program {
    path: PathBuf,
    version: String,
}

impl Programs {
    /// Those of these data paths; `before` is the folder of another build of our own.
    pub(crate) fn prepare(datapaths: &[Datapath], before: Option<&Path>, ui: &Ui) -> Self {
        let mut programs = Self { wg: tools::find_program("wg"), ..Self::default() };
        for datapath in datapaths {
            let found = match programs.find(*datapath, before, ui) {
                None => continue,
                Some(found) => found,
            };
            match found {
                Ok(program) => drop(programs.programs.insert(*datapath, program)),
                Err(error) => {
                    ui.say(format!("{} is absent: {error:#}", datapath.name()));
                    programs.absent.insert(*datapath, format!("{error:#}"));
                }
            }
        }
        programs
    }

    /// The program of a data path that needs one.
    pub(crate) fn get(&self, datapath: Datapath) -> Result<PathBuf> {
        let program = self.programs.get(&datapath).map(|program| program.path.clone());
        program.with_context(|| format!("no program of {}", datapath.name()))
    }

    /// The tool that configures WireGuard.
    pub(crate) fn wg(&self) -> Result<&Path> {
        self.wg.as_deref().context("there is no `wg`; type `cargo xtask setup --bench`")
    }

    /// Why a data path cannot be measured.
    pub(crate) fn absent(&self) -> &BTreeMap<Datapath, String> {
        &self.absent
    }

    /// What exactly is compared with.
    pub(crate) fn versions(&self) -> BTreeMap<Datapath, String> {
        self.programs.iter().map(|(datapath, program)| (*datapath, program.version.clone())).collect()
    }

    /// `None` when it needs no program but the kernel's and our own.
    fn find(&self, datapath: Datapath, before: Option<&Path>, ui: &Ui) -> Option<Result<Program>> {
        let with_wg = |found: Result<Program>| self.wg().and(found);
        match datapath {
            Datapath::Veth | Datapath::Vxlan | Datapath::WeaveAes | Datapath::WeaveChacha => None,
            Datapath::WeaveBefore => Some(other_build(before)),
            Datapath::WireguardGo2023 => Some(with_wg(fetched(WIREGUARD_GO_2023, ui))),
            Datapath::WireguardGo2022 => Some(with_wg(fetched(WIREGUARD_GO_2022, ui))),
            Datapath::Boringtun => Some(with_wg(built(BORINGTUN, ui))),
            Datapath::Nebula => Some(fetched(NEBULA, ui)),
            Datapath::Tinc => Some(installed("tincd")),
            Datapath::Vpncloud => Some(built(VPNCLOUD, ui)),
        }
    }
}

/// Fetches and builds everything.
pub(crate) fn ensure_all(ui: &Ui) -> Result<()> {
    let programs = Programs::prepare(&Datapath::usual(), None, ui);
    match programs.absent.len() {
        0 => Ok(()),
        absent => {
            bail!("{absent} of the rivals cannot be had here, see above; the benchmark goes without them")
        }
    }
}

fn other_build(folder: Option<&Path>) -> Result<Program> {
    let folder =
        folder.ok_or_else(|| anyhow!("no other build is named; say where it is by `--before FOLDER`"))?;
    lab::Programs::within(folder)?;
    Ok(Program { path: folder.to_owned(), version: folder.display().to_string() })
}

fn fetched(package: Package, ui: &Ui) -> Result<Program> {
    let path = packages::fetch(package, ui)?;
    Ok(Program { path, version: format!("{} {} ({})", package.name, package.version, package.suite) })
}

fn installed(name: &str) -> Result<Program> {
    let path = tools::find_program(name)
        .with_context(|| format!("there is no `{name}`; type `cargo xtask setup --bench`"))?;
    let said = run(Command::new(&path).arg("--version"), &[], VERSION_LIMIT)?;
    let version =
        said.stdout.lines().next().unwrap_or_default().split(" (").next().unwrap_or_default().to_owned();
    Ok(Program { path, version })
}

/// Built once below the target folder.
fn built(source: Crate, ui: &Ui) -> Result<Program> {
    let root = packages::folder()?;
    let path = root.join("bin").join(source.name);
    if !path.is_file() {
        ui.say(format!("building {} {}, once", source.name, source.version));
        let target = root.join("build");
        let mut command = cargo::cargo();
        command.args(["install", source.name, "--locked", "--quiet", "--version", source.version]);
        command.arg("--root").arg(&root).arg("--target-dir").arg(&target);
        run_ok(&mut command, BUILD_LIMIT)?;
        // A cache that is not used again.
        let _kept = fs::remove_dir_all(&target);
    }
    Ok(Program { path, version: format!("{} {}", source.name, source.version) })
}
