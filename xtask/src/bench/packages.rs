//! Programs of Debian packages of any release, fetched and unpacked below the target folder and never installed.
//!
//! apt-get does it with state, cache and sources of its own, derived from the machine's: its mirror, its proxy, its keys. Nothing of
//! the machine's own state is changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::run_ok;

use crate::cargo;
use crate::tools;
use crate::ui::Ui;

/// Keys of all releases of Debian, where a Debian machine has them.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A slow mirror takes minutes for an index of 10 MB, not more.
const FETCH_LIMIT: Duration = Duration::from_secs(300);

/// A package of a release.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Package {
    pub(crate) name: &'static str,
    pub(crate) suite: &'static str,
    /// How the version begins; another one would be another rival.
    pub(crate) version: &'static str,
    /// The program inside.
    pub(crate) program: &'static str,
}

/// Where everything of the rivals is kept.
pub(crate) fn folder() -> Result<PathBuf> {
    Ok(cargo::target_dir()?.join("bench-rivals"))
}

/// The program of a package, fetched unless it is there already.
pub(crate) fn fetch(package: Package, ui: &Ui) -> Result<PathBuf> {
    let unpacked = folder()?.join(format!("{}-{}", package.name, package.version));
    let program = unpacked.join(package.program);
    if program.is_file() {
        return Ok(program);
    }
    ui.say(format!("fetching {} {} of {}, once", package.name, package.version, package.suite));
    let apt = Apt::new(package.suite)?;
    let file = apt.download(package)?;
    let dpkg = "dpkg-deb";
    run_ok(Command::new(dpkg).arg("-x").arg(&file).arg(&unpacked), FETCH_LIMIT)?;
    if !program.is_file() {
        bail!("there is no `{}` in `{}`", package.program, file.display());
    }
    Ok(program)
}

/// apt-get with everything of its own.
struct Apt {
    folder: PathBuf,
    suite: &'static str,
}

impl Apt {
    fn new(suite: &'static str) -> Result<Self> {
        if tools::find_program("apt-get").is_none() {
            bail!("there is no apt-get here to fetch it with");
        }
        let apt = Self { folder: folder()?.join("apt").join(suite), suite };
        for part in ["state/lists/partial", "cache/archives/partial", "packages"] {
            let part = apt.folder.join(part);
            fs::create_dir_all(&part).with_context(|| format!("cannot make `{}`", part.display()))?;
        }
        let keys =
            if Path::new(KEYRING).exists() { format!("[signed-by={KEYRING}] ") } else { String::new() };
        let source = format!("deb {keys}{} {suite} main\n", mirror()?);
        let sources = apt.folder.join("sources.list");
        fs::write(&sources, source).with_context(|| format!("cannot write `{}`", sources.display()))?;
        Ok(apt)
    }

    /// Fetches a package; answers the file.
    fn download(&self, package: Package) -> Result<PathBuf> {
        run_ok(self.command().args(["update", "--quiet"]), FETCH_LIMIT)
            .with_context(|| format!("cannot list the packages of {}", self.suite))?;
        let folder = self.folder.join("packages");
        run_ok(self.command().args(["download", package.name]).current_dir(&folder), FETCH_LIMIT)?;
        let wanted = format!("{}_{}", package.name, package.version);
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot list `{}`", folder.display()))?;
        let names: Vec<String> =
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        match names.iter().find(|name| name.starts_with(&wanted)) {
            Some(name) => Ok(folder.join(name)),
            None => {
                bail!("{} has another version (got `{}`, want `{wanted}`)", self.suite, names.join("`, `"))
            }
        }
    }

    fn command(&self) -> Command {
        let folder = self.folder.display();
        let mut command = Command::new("apt-get");
        command.env("LC_ALL", "C");
        for option in [
            format!("Dir::State={folder}/state"),
            "Dir::State::status=/dev/null".to_owned(),
            format!("Dir::Cache={folder}/cache"),
            format!("Dir::Etc::sourcelist={folder}/sources.list"),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            "Dir::Etc::preferences=/dev/null".to_owned(),
            "Dir::Etc::preferencesparts=/dev/null".to_owned(),
            "Acquire::Languages=none".to_owned(),
            // The user that apt-get would change to cannot write below the target folder.
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command
    }
}

/// Where the machine itself gets Debian from.
fn mirror() -> Result<String> {
    let format = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)";
    let mut command = Command::new("apt-get");
    command.env("LC_ALL", "C").args(["indextargets", "--format", format, "Created-By: Packages"]);
    let listed = run_ok(&mut command, FETCH_LIMIT)?.stdout;
    mirror_of(&listed).context("the machine's sources name no Debian mirror")
}

/// The first that has Debian's main releases: not its security updates, not somebody else's packages.
fn mirror_of(listed: &str) -> Option<String> {
    listed.lines().find_map(|line| {
        let [uri, release, component] = line.split('|').collect::<Vec<_>>()[..] else { return None };
        let plain = component == "main" && !release.contains('-') && !release.contains('/');
        let (_, path) = uri.split_once("://")?.1.split_once('/')?;
        (plain && path.contains("debian") && !path.contains("security")).then(|| uri.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::mirror_of;

    #[test]
    fn mirror_is_the_one_of_the_main_releases() {
        let listed = "http://vendor.test/apt|stable|main\n\
            http://mirror.test/debian-security/|bookworm-security|main\n\
            http://mirror.test/debian/|bookworm-updates|main\n\
            http://mirror.test/debian/|bookworm|contrib\n\
            http://mirror.test/debian/|bookworm|main\n";
        assert_eq!(mirror_of(listed).as_deref(), Some("http://mirror.test/debian/"));
        assert_eq!(mirror_of("http://mirror.test/ubuntu/|noble|main\n"), None);
    }
}
