//! Where and when the plugin is served: on the socket whose name is the driver's, as long as Docker is there.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use super::book::Waits;
use super::fabric::Fabric;
use super::{Driver, Scope, plugin};

/// Where Docker looks for plugins. It looks nowhere else for sockets, whatever its own paths are.
pub const DEFAULT: &str = "/run/docker/plugins/weave.sock";
/// Docker makes it when it starts, and so says that it is there.
const DOCKERS_FOLDER: &str = "/run/docker";
/// Longest name of a socket that the kernel takes (`sun_path`), its NUL left out.
const MAX_PATH: usize = 107;
/// How often Docker's folder and our socket are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often orphans are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(30);

/// Whether Docker is served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Choice {
    /// As soon as Docker is there.
    #[default]
    Auto,
    /// Not at all.
    Off,
    /// Here.
    At(PathBuf),
}

/// A word that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is neither `auto`, `off` nor the absolute path of a socket such as `{DEFAULT}` of at most {MAX_PATH} bytes"
)]
pub struct NotAChoice(String);

impl FromStr for Choice {
    type Err = NotAChoice;

    fn from_str(text: &str) -> Result<Choice, NotAChoice> {
        match text {
            "auto" => Ok(Choice::Auto),
            "off" => Ok(Choice::Off),
            path if path.starts_with('/')
                && path.len() <= MAX_PATH
                && Path::new(path).file_stem().is_some() =>
            {
                Ok(Choice::At(path.into()))
            }
            other => Err(NotAChoice(other.to_owned())),
        }
    }
}

impl<'de> serde::Deserialize<'de> for Choice {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Choice, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Serves Docker as configured, until the task is dropped.
pub async fn run<F: Fabric>(choice: Choice, scope: Scope, fabric: F, state_dir: PathBuf) {
    let path = match choice {
        Choice::Off => return,
        Choice::Auto => {
            wait_for_docker().await;
            PathBuf::from(DEFAULT)
        }
        Choice::At(path) => path,
    };
    // The driver's name in `docker network create --driver`.
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let driver = match Driver::open(fabric, scope, name, &state_dir, Waits::Beside) {
        Ok(driver) => driver,
        Err(error) => {
            tracing::error!(%error, "Docker is not served: its journal cannot be opened");
            return;
        }
    };
    if let Err(why) = driver.recover().await {
        tracing::error!(
            why = why.0,
            "leases and records of Docker's networks may disagree until the next start"
        );
    }
    tokio::spawn(sweep(Arc::clone(&driver)));
    keep_serving(&path, &driver).await;
}

/// Also when Docker is installed, started, or removed and installed again while we run.
async fn keep_serving<F: Fabric>(path: &Path, driver: &Arc<Driver<F>>) {
    let mut serving: Option<JoinHandle<io::Result<()>>> = None;
    let mut said = None;
    loop {
        let gone = serving.as_ref().is_none_or(|task| task.is_finished() || !path.exists());
        if gone {
            serving.take().inspect(JoinHandle::abort);
            match listen(path) {
                Ok(listener) => {
                    tracing::info!(socket = %path.display(), driver = driver.name, "serving Docker");
                    serving = Some(tokio::spawn(plugin::serve(listener, Arc::clone(driver))));
                    said = None;
                }
                Err(error) => {
                    let text = error.to_string();
                    if said.as_ref() != Some(&text) {
                        tracing::warn!(error = text, socket = %path.display(), "Docker is not served; trying on");
                        said = Some(text);
                    }
                }
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn wait_for_docker() {
    while !Path::new(DOCKERS_FOLDER).is_dir() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Takes the place of a dead router's socket, never of a living one's.
fn listen(path: &Path) -> io::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another plugin answers on it"));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let listener = UnixListener::bind(path)?;
    // Whoever calls it changes the host's network: for root, as Docker is.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn sweep<F: Fabric>(driver: Arc<Driver<F>>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        if let Err(why) = driver.sweep(Instant::now()).await {
            tracing::debug!(why = why.0, "orphans of Docker's are looked for later");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_words_or_absolute_paths() {
        assert_eq!("auto".parse(), Ok(Choice::Auto));
        assert_eq!("off".parse(), Ok(Choice::Off));
        assert_eq!(
            "/run/docker/plugins/azure-vnet.sock".parse(),
            Ok(Choice::At("/run/docker/plugins/azure-vnet.sock".into()))
        );
        for wrong in ["", "on", "weave.sock", "/", &format!("/{}", "x".repeat(MAX_PATH))] {
            assert_eq!(wrong.parse::<Choice>(), Err(NotAChoice(wrong.to_owned())));
        }
    }
}
