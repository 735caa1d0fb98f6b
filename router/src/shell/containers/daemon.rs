//! The daemon that runs containers, Docker or Podman with Docker's API: which container a name means, where its network is, what happens.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::models::{ContainerInspectResponse, EndpointSettings, EventActor};
use bollard::query_parameters::{EventsOptionsBuilder, InspectContainerOptions, ListContainersOptions};
use bollard::{ClientVersion, Docker};
use futures_util::{Stream, StreamExt};

/// Where Docker listens, and Podman where `podman-docker` is installed.
pub const DEFAULT_SOCKET: &str = "/run/docker.sock";
/// Longest wait for an answer. A daemon that starts containers on a busy machine takes seconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// Versions of the API, the one that most daemons of now speak first: 1.41 is Docker 20.10 to 28 and Podman, 1.44 Docker 25 and later
/// (29 speaks nothing older), 1.24 is what older ones understand.
const VERSIONS: [usize; 3] = [41, 44, 24];
/// How far back events are asked for, so that none is missed between two connections.
const OVERLAP: Duration = Duration::from_secs(2);
/// Label of Swarm's with the name of a task's service.
const SERVICE: &str = "com.docker.swarm.service.name";
/// Longest name or id: Docker's names have no limit of their own, and fit a DNS label where they are used as one.
const MAX_NAME: usize = 255;

/// A daemon, which need not be there yet.
#[derive(Debug, Clone)]
pub struct Daemon {
    socket: PathBuf,
}

/// A container that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// 64 hexadecimal digits.
    pub id: String,
    /// As people call it.
    pub name: String,
    /// Process whose namespaces are the container's, while it runs.
    pub pid: Option<u32>,
    /// Whether its network is the host's own.
    pub network: Network,
}

/// What a container is called.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Called {
    /// 64 hexadecimal digits.
    pub id: String,
    /// As people call it.
    pub name: String,
    /// As it calls itself: the beginning of its id, unless somebody chose another name.
    pub hostname: String,
    /// The service of Swarm's that it is a task of.
    pub service: Option<String>,
    /// Where it hangs.
    pub endpoints: Vec<Connected>,
}

/// A container on one of the daemon's networks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Connected {
    /// The endpoint's id.
    pub endpoint: String,
    /// Other names of the container there.
    pub aliases: Vec<String>,
}

/// Whose network a container has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// A namespace, its own or another container's.
    Namespace,
    /// The host's.
    Host,
}

/// Why the daemon cannot be asked, or does not know.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Nothing that a container could be called.
    #[error("`{0}` is no name or id of a container")]
    BadName(String),
    /// No socket is there.
    #[error("there is no `{0}`, so no Docker runs here")]
    Absent(PathBuf),
    /// It refuses, or answers nothing that can be understood.
    #[error("the daemon on `{socket}` does not answer as Docker does")]
    Unusable {
        /// Its socket.
        socket: PathBuf,
        /// Why.
        source: bollard::errors::Error,
    },
    /// There is no such container.
    #[error("there is no container `{0}`")]
    Unknown(String),
    /// It ended while it was looked at.
    #[error("container `{0}` is not running")]
    Stopped(String),
    /// Its namespace cannot be opened.
    #[error("cannot open the network namespace of container `{container}`")]
    Namespace {
        /// The container.
        container: String,
        /// Why.
        source: io::Error,
    },
}

impl Daemon {
    /// On this socket.
    pub fn new(socket: PathBuf) -> Daemon {
        Daemon { socket }
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The container of this name or id, or of this beginning of an id.
    pub async fn find(&self, name: &str) -> Result<Found, DaemonError> {
        // It becomes part of a URL.
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !starts || name.len() > MAX_NAME || !name.chars().all(plain) {
            return Err(DaemonError::BadName(name.to_owned()));
        }
        let docker = self.connect().await?;
        match docker.inspect_container(name, None::<InspectContainerOptions>).await {
            Ok(container) => Ok(found(name, container)),
            Err(error) if status_of(&error) == Some(404) => Err(DaemonError::Unknown(name.to_owned())),
            Err(source) => Err(self.unusable(source)),
        }
    }

    /// What a container is called, by its id. While the daemon starts it there is no answer.
    pub async fn describe(&self, id: &str) -> Result<Called, DaemonError> {
        let docker = self.connect().await?;
        match docker.inspect_container(id, None::<InspectContainerOptions>).await {
            Ok(container) => Ok(called(id, container)),
            Err(error) if status_of(&error) == Some(404) => Err(DaemonError::Unknown(id.to_owned())),
            Err(source) => Err(self.unusable(source)),
        }
    }

    /// Ids of all that run.
    pub async fn running(&self) -> Result<Vec<String>, DaemonError> {
        let docker = self.connect().await?;
        let all = docker.list_containers(None::<ListContainersOptions>).await;
        let all = all.map_err(|source| self.unusable(source))?;
        Ok(all.into_iter().filter_map(|container| container.id).collect())
    }

    /// The network namespace of a running container. The process's number may be another's at any time, so the daemon is asked again
    /// when the namespace is open: then it was this container's.
    pub async fn open_namespace(&self, found: &Found) -> Result<File, DaemonError> {
        let stopped = || DaemonError::Stopped(found.name.clone());
        let pid = found.pid.ok_or_else(stopped)?;
        let opened = File::open(namespace_path(pid));
        let now = self.find(&found.id).await?;
        if now.pid != Some(pid) {
            return Err(stopped());
        }
        opened.map_err(|source| DaemonError::Namespace { container: found.name.clone(), source })
    }

    /// Ids of containers that were started, ended, removed or renamed, from just before now on. Ends when the daemon does.
    pub async fn changes(&self) -> Result<impl Stream<Item = String> + Unpin + use<>, DaemonError> {
        let wanted = [("type", vec!["container"]), ("event", vec!["start", "die", "destroy", "rename"])];
        self.events(HashMap::from(wanted), |actor| actor.id).await
    }

    /// Ids of containers that got a network or another name, from just before now on. Ends when the daemon does.
    pub async fn namings(&self) -> Result<impl Stream<Item = String> + Unpin + use<>, DaemonError> {
        let wanted = [("type", vec!["container", "network"]), ("event", vec!["rename", "connect"])];
        // A network's events are about the network, and name the container beside it.
        let container =
            |actor: EventActor| actor.attributes.unwrap_or_default().remove("container").or(actor.id);
        self.events(HashMap::from(wanted), container).await
    }

    async fn events(
        &self,
        wanted: HashMap<&'static str, Vec<&'static str>>,
        about: fn(EventActor) -> Option<String>,
    ) -> Result<impl Stream<Item = String> + Unpin + use<>, DaemonError> {
        let docker = self.connect().await?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(OVERLAP);
        let options =
            EventsOptionsBuilder::new().since(&since.as_secs().to_string()).filters(&wanted).build();
        let events = docker.events(Some(options));
        let ids = events
            .take_while(|event| std::future::ready(event.is_ok()))
            .filter_map(move |event| std::future::ready(event.ok().and_then(|event| about(event.actor?))));
        Ok(ids.boxed())
    }

    async fn connect(&self) -> Result<Docker, DaemonError> {
        if !self.socket.exists() {
            return Err(DaemonError::Absent(self.socket.clone()));
        }
        let path = self.socket.display().to_string();
        let mut refused = bollard::errors::Error::APIVersionParseError {};
        for minor_version in VERSIONS {
            let version = ClientVersion { major_version: 1, minor_version };
            let docker = Docker::connect_with_unix(&path, PATIENCE.as_secs(), &version);
            let docker = docker.map_err(|source| self.unusable(source))?;
            match docker.version().await {
                Ok(_) => return Ok(docker),
                Err(error) if status_of(&error) == Some(400) => refused = error,
                Err(error) => return Err(self.unusable(error)),
            }
        }
        Err(self.unusable(refused))
    }

    fn unusable(&self, source: bollard::errors::Error) -> DaemonError {
        DaemonError::Unusable { socket: self.socket.clone(), source }
    }
}

/// Where the namespace of a process is.
pub fn namespace_path(pid: u32) -> String {
    format!("/proc/{pid}/ns/net")
}

fn found(asked: &str, container: ContainerInspectResponse) -> Found {
    let name = container.name.as_deref().unwrap_or(asked);
    let state = container.state.unwrap_or_default();
    let running = state.running == Some(true);
    let mode = container.host_config.and_then(|config| config.network_mode);
    Found {
        id: container.id.unwrap_or_else(|| asked.to_owned()),
        name: name.trim_start_matches('/').to_owned(),
        pid: state.pid.filter(|pid| running && *pid > 0).and_then(|pid| u32::try_from(pid).ok()),
        network: if mode.as_deref() == Some("host") { Network::Host } else { Network::Namespace },
    }
}

fn called(asked: &str, container: ContainerInspectResponse) -> Called {
    let config = container.config.unwrap_or_default();
    let networks = container.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
    let connected = |network: EndpointSettings| {
        let endpoint = network.endpoint_id.filter(|id| !id.is_empty())?;
        Some(Connected { endpoint, aliases: network.aliases.unwrap_or_default() })
    };
    let name = container.name.unwrap_or_default();
    Called {
        id: container.id.unwrap_or_else(|| asked.to_owned()),
        name: name.trim_start_matches('/').to_owned(),
        hostname: config.hostname.unwrap_or_default(),
        service: config.labels.and_then(|mut labels| labels.remove(SERVICE)),
        endpoints: networks.into_values().filter_map(connected).collect(),
    }
}

fn status_of(error: &bollard::errors::Error) -> Option<u16> {
    match error {
        bollard::errors::Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_has_a_process_and_what_stopped_has_none() {
        let read = |text: &str| found("asked", serde_json::from_str(text).expect("Docker's JSON"));
        let running = read(
            r#"{"Id":"ab12","Name":"/web","State":{"Running":true,"Pid":42},"HostConfig":{"NetworkMode":"none"}}"#,
        );
        let expected =
            Found { id: "ab12".into(), name: "web".into(), pid: Some(42), network: Network::Namespace };
        assert_eq!(running, expected);
        let stopped = read(r#"{"Id":"ab12","Name":"/web","State":{"Running":false,"Pid":0}}"#);
        assert_eq!(stopped.pid, None);
        let host = read(r#"{"State":{"Running":true,"Pid":7},"HostConfig":{"NetworkMode":"host"}}"#);
        assert_eq!((host.id.as_str(), host.network), ("asked", Network::Host));
    }

    #[test]
    fn names_and_networks_are_read() {
        let text = r#"{"Id":"ab12","Name":"/web.1.x","Config":{"Hostname":"chosen","Labels":{"com.docker.swarm.service.name":"web"}},
            "NetworkSettings":{"Networks":{"fabric":{"EndpointID":"e1","Aliases":["shop"]},"left":{"EndpointID":""}}}}"#;
        let read = called("asked", serde_json::from_str(text).expect("Docker's JSON"));
        let expected = Called {
            id: "ab12".into(),
            name: "web.1.x".into(),
            hostname: "chosen".into(),
            service: Some("web".into()),
            endpoints: vec![Connected { endpoint: "e1".into(), aliases: vec!["shop".into()] }],
        };
        assert_eq!(read, expected);
        assert_eq!(called("asked", ContainerInspectResponse::default()).id, "asked");
    }

    #[tokio::test]
    async fn absent_daemon_is_named() {
        let daemon = Daemon::new("/nonexistent/docker.sock".into());
        let error = daemon.find("web").await.expect_err("nobody there").to_string();
        assert!(error.contains("`/nonexistent/docker.sock`"), "{error}");
    }
}
