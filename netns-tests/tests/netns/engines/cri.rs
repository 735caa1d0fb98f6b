//! A client of the Kubernetes Container Runtime Interface, v1: what a kubelet asks for pods, and no more.
//!
//! The messages are written out, with the numbers of `api.proto`: the published bindings compile that file with `protoc`, which a
//! machine that only builds the project would then need.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

/// A kubelet waits two minutes.
const LIMIT: Duration = Duration::from_secs(60);

/// One runtime.
pub(super) struct Cri {
    runtime: Runtime,
    channel: Channel,
}

/// A pod, as far as it matters here.
#[derive(Clone, PartialEq, Message)]
struct PodSandboxConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Metadata>,
    #[prost(string, tag = "2")]
    hostname: String,
    #[prost(string, tag = "3")]
    log_directory: String,
    #[prost(message, optional, tag = "4")]
    dns: Option<DnsConfig>,
    #[prost(message, repeated, tag = "5")]
    port_mappings: Vec<PortMapping>,
    #[prost(message, optional, tag = "8")]
    linux: Option<Linux>,
}

#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
    #[prost(uint32, tag = "4")]
    attempt: u32,
}

/// Whom the pod asks for names. A kubelet says so; the result of the network plugin is not looked at.
#[derive(Clone, PartialEq, Message)]
struct DnsConfig {
    #[prost(string, repeated, tag = "1")]
    servers: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    searches: Vec<String>,
}

/// A TCP port of the pod at one of its host.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct PortMapping {
    #[prost(int32, tag = "2")]
    pub(super) container_port: i32,
    #[prost(int32, tag = "3")]
    pub(super) host_port: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Linux {
    #[prost(string, tag = "1")]
    cgroup_parent: String,
}

#[derive(Clone, PartialEq, Message)]
struct RunRequest {
    #[prost(message, optional, tag = "1")]
    config: Option<PodSandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct PodId {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct Nothing {}

#[derive(Clone, PartialEq, Message)]
struct PodStatusAnswer {
    #[prost(message, optional, tag = "1")]
    status: Option<PodStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct PodStatus {
    #[prost(message, optional, tag = "5")]
    network: Option<PodNetwork>,
}

#[derive(Clone, PartialEq, Message)]
struct PodNetwork {
    #[prost(string, tag = "1")]
    ip: String,
    #[prost(message, repeated, tag = "2")]
    more: Vec<PodIp>,
}

#[derive(Clone, PartialEq, Message)]
struct PodIp {
    #[prost(string, tag = "1")]
    ip: String,
}

#[derive(Clone, PartialEq, Message)]
struct StatusAnswer {
    #[prost(message, optional, tag = "1")]
    status: Option<RuntimeStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct RuntimeStatus {
    #[prost(message, repeated, tag = "1")]
    conditions: Vec<Condition>,
}

#[derive(Clone, PartialEq, Message)]
struct Condition {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(bool, tag = "2")]
    holds: bool,
}

impl Cri {
    /// A client of the runtime at this socket.
    pub(super) fn connect(socket: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let path: PathBuf = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The address is not used, and has to be one.
        let endpoint = Endpoint::from_static("http://runtime").timeout(LIMIT);
        let channel = runtime
            .block_on(endpoint.connect_with_connector(connector))
            .with_context(|| format!("no runtime at `{}`", socket.display()))?;
        Ok(Self { runtime, channel })
    }

    /// Starts a pod and answers its id.
    pub(super) fn run_pod(&self, name: &str, cgroup: &str, ports: &[PortMapping]) -> Result<String> {
        let metadata = Metadata {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            namespace: "default".to_owned(),
            attempt: 0,
        };
        let config = PodSandboxConfig {
            metadata: Some(metadata),
            hostname: name.to_owned(),
            log_directory: String::new(),
            dns: Some(DnsConfig {
                servers: vec!["169.254.67.83".to_owned()],
                searches: vec!["weave.local".to_owned()],
            }),
            port_mappings: ports.to_vec(),
            linux: Some(Linux { cgroup_parent: cgroup.to_owned() }),
        };
        let answer: PodId = self.ask("RunPodSandbox", RunRequest { config: Some(config) })?;
        Ok(answer.id)
    }

    /// The addresses of a pod, the first one first.
    pub(super) fn addresses(&self, pod: &str) -> Result<Vec<String>> {
        let answer: PodStatusAnswer = self.ask("PodSandboxStatus", PodId { id: pod.to_owned() })?;
        let network = answer.status.and_then(|status| status.network).context("a pod without network")?;
        Ok(std::iter::once(network.ip).chain(network.more.into_iter().map(|more| more.ip)).collect())
    }

    /// Stops and removes a pod.
    pub(super) fn remove_pod(&self, pod: &str) -> Result<()> {
        let id = || PodId { id: pod.to_owned() };
        let _stopped: Nothing = self.ask("StopPodSandbox", id())?;
        let _removed: Nothing = self.ask("RemovePodSandbox", id())?;
        Ok(())
    }

    /// Whether the runtime says that its network is ready.
    pub(super) fn network_ready(&self) -> Result<bool> {
        let answer: StatusAnswer = self.ask("Status", Nothing {})?;
        let conditions = answer.status.context("no status")?.conditions;
        let ready = conditions.iter().find(|condition| condition.kind == "NetworkReady");
        Ok(ready.context("the status says nothing of the network")?.holds)
    }

    fn ask<Q: Message + 'static, A: Message + Default + 'static>(&self, call: &str, request: Q) -> Result<A> {
        let path = PathAndQuery::try_from(format!("/runtime.v1.RuntimeService/{call}"))?;
        let answer = self.runtime.block_on(async {
            let mut client = Grpc::new(self.channel.clone());
            client.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
            client.unary(tonic::Request::new(request), path, ProstCodec::default()).await
        });
        Ok(answer.with_context(|| format!("{call} failed"))?.into_inner())
    }
}
