//! Containers that a person attached by name: they have their interface whenever they run, as long as the daemon knows them.
//!
//! `weavectl attach CONTAINER` is written down in the `book` first; `settle` makes what is there as it is written, for a command, after a
//! start, and whenever the `daemon` tells that a container was started or ended. A container that ended gives its address back, to rest
//! as any other; when it is started again it asks for the same one.

pub mod book;
pub mod daemon;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use control::api::{
    ApiError, AttachContainerRequest, AttachRequest, Attachment, Caller, DetachAnswer,
    DetachContainerRequest, DetachRequest, ErrorCode,
};
use futures_util::StreamExt;
use tokio::sync::{Mutex, Notify};

use self::book::{Book, Wanted, Wish};
use self::daemon::{Daemon, DaemonError, Found, Network, namespace_path};
use super::attach::{Attacher, to_the_end};
use super::engine::call::{Call, Hub, Name, refusal_with};
use super::locks::Locks;
use crate::core::names::DnsName;

/// How often all of it is looked at, whatever the daemon told: it may have forgotten to, and what failed is tried again.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How soon a daemon that went away is looked for again, at first and at most.
const RECONNECT: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(15)];

/// See the module's text.
pub struct Containers {
    hub: Hub,
    attacher: Arc<Attacher>,
    daemon: Daemon,
    book: Mutex<Book>,
    /// One for each container.
    locks: Locks,
    /// There may be something to watch for.
    written: Notify,
}

impl Containers {
    /// With the book in the state directory.
    pub fn open(
        hub: Hub,
        attacher: Arc<Attacher>,
        daemon: Daemon,
        state_dir: &Path,
    ) -> io::Result<Arc<Containers>> {
        let book = Mutex::new(Book::open(state_dir)?);
        Ok(Arc::new(Containers {
            hub,
            attacher,
            daemon,
            book,
            locks: Locks::default(),
            written: Notify::new(),
        }))
    }

    /// `POST /containers/attach`.
    pub async fn attach(self: &Arc<Self>, request: AttachContainerRequest) -> Result<Attachment, ApiError> {
        let this = Arc::clone(self);
        to_the_end(async move { this.attach_flow(request).await }).await
    }

    /// `POST /containers/detach`: the container is not attached again when it starts.
    pub async fn detach(self: &Arc<Self>, request: DetachContainerRequest) -> Result<DetachAnswer, ApiError> {
        let this = Arc::clone(self);
        to_the_end(async move {
            let known = this.book.lock().await.named(&request.container).map(str::to_owned);
            let container = match known {
                Some(id) => id,
                None => this.daemon.find(&request.container).await.map_err(explained)?.id,
            };
            this.detach_flow(DetachRequest { container, ifname: request.ifname }).await
        })
        .await
    }

    /// `POST /detach` of anything; what was attached by name stays off.
    pub async fn detach_any(self: &Arc<Self>, request: DetachRequest) -> Result<DetachAnswer, ApiError> {
        let this = Arc::clone(self);
        to_the_end(async move { this.detach_flow(request).await }).await
    }

    /// The fabric was left.
    pub async fn forget_all(&self) -> Result<(), ApiError> {
        self.book.lock().await.clear().map_err(not_durable)
    }

    /// Keeps what is written true, until the task is dropped.
    pub async fn watch(self: Arc<Self>) {
        let mut said = None;
        let mut wait = RECONNECT[0];
        loop {
            while self.containers().await.is_empty() {
                self.written.notified().await;
            }
            match self.daemon.changes().await {
                Ok(mut changes) => {
                    (said, wait) = (None, RECONNECT[0]);
                    self.settle_all().await;
                    loop {
                        match tokio::time::timeout(LOOK_EVERY, changes.next()).await {
                            Ok(Some(container)) => self.settle(&container).await,
                            Ok(None) => break,
                            Err(_) => self.settle_all().await,
                        }
                    }
                }
                Err(error) => {
                    let text = explained(error).message;
                    if said.as_ref() != Some(&text) {
                        tracing::warn!(error = text, "named containers are not watched; trying on");
                        said = Some(text);
                    }
                }
            }
            tokio::time::sleep(wait).await;
            wait = (2 * wait).min(RECONNECT[1]);
        }
    }

    async fn attach_flow(&self, request: AttachContainerRequest) -> Result<Attachment, ApiError> {
        let found = self.daemon.find(&request.container).await.map_err(explained)?;
        let _held = self.locks.hold(&found.id).await;
        let wish = match (request.address, request.subnet) {
            (Some(address), _) => Wish::Address(address),
            (None, Some(subnet)) => Wish::Within(subnet),
            (None, None) => Wish::Any,
        };
        let wanted = Wanted {
            daemon: self.daemon.socket().to_owned(),
            container: found.id.clone(),
            name: found.name.clone(),
            ifname: request.ifname,
            label: request.name,
            wish,
            last: None,
        };
        let before = self.book.lock().await.find(&wanted.container, &wanted.ifname).cloned();
        self.put(wanted.clone()).await?;
        let made = self.make(&found, &wanted).await;
        match &made {
            Ok(attachment) => self.put(Wanted { last: Some(attachment.address.addr()), ..wanted }).await?,
            Err(_) => {
                let mut book = self.book.lock().await;
                match before {
                    Some(before) => book.put(before),
                    None => book.remove(&wanted.container, Some(&wanted.ifname)),
                }
                .map_err(not_durable)?;
            }
        }
        self.written.notify_one();
        made
    }

    async fn detach_flow(&self, request: DetachRequest) -> Result<DetachAnswer, ApiError> {
        let _held = self.locks.hold(&request.container).await;
        let removed = self.book.lock().await.remove(&request.container, request.ifname.as_deref());
        removed.map_err(not_durable)?;
        self.attacher.detach(request).await
    }

    async fn settle_all(&self) {
        for id in self.containers().await {
            self.settle(&id).await;
        }
    }

    /// Makes one container as it is written.
    async fn settle(&self, container: &str) {
        if !self.containers().await.contains(container) {
            return;
        }
        let _held = self.locks.hold(container).await;
        // Looked up under the lock: it may have been detached meanwhile.
        let wanted = self.book.lock().await.of(self.daemon.socket(), container);
        let settled = match self.daemon.find(container).await {
            Ok(found) if found.pid.is_some() => self.start(&found, wanted).await,
            Ok(_) => self.stop(container).await,
            Err(DaemonError::Unknown(_)) => self.end(container).await,
            // It says nothing of its containers: they may run on.
            Err(error) => Err(explained(error)),
        };
        if let Err(error) = settled {
            tracing::warn!(
                container,
                error = error.message,
                "container is not attached as it should be; trying on"
            );
        }
    }

    async fn start(&self, found: &Found, wanted: Vec<Wanted>) -> Result<(), ApiError> {
        for wanted in wanted {
            let wanted = Wanted { name: found.name.clone(), ..wanted };
            let attachment = self.make(found, &wanted).await?;
            // It may have another name than when it was attached.
            let name = Name {
                container: attachment.container,
                ifname: attachment.ifname,
                name: Some(wanted.label(found)),
                names: wanted.names(found),
            };
            self.hub.ask(|reply| Call::Called(name, reply)).await?;
            self.put(Wanted { last: Some(attachment.address.addr()), ..wanted }).await?;
        }
        Ok(())
    }

    async fn stop(&self, container: &str) -> Result<(), ApiError> {
        let request = DetachRequest { container: container.to_owned(), ifname: None };
        self.attacher.detach(request).await.map(drop)
    }

    async fn end(&self, container: &str) -> Result<(), ApiError> {
        self.stop(container).await?;
        self.book.lock().await.remove(container, None).map_err(not_durable)
    }

    /// Attaches a running container, at the address from before if it can be had.
    async fn make(&self, found: &Found, wanted: &Wanted) -> Result<Attachment, ApiError> {
        if found.network == Network::Host {
            let text = format!("container `{}` uses the network of the host itself", found.name);
            return Err(refusal_with(ErrorCode::BadNetns, text, "weavectl expose"));
        }
        let namespace = self.daemon.open_namespace(found).await.map_err(explained)?;
        let shown = namespace_path(found.pid.unwrap_or_default());
        let (id, ifname) = (wanted.container.clone(), Some(wanted.ifname.clone()));
        let existing = self.hub.ask(|reply| Call::Find(id, ifname, reply)).await?.pop();
        if let Some(existing) = existing
            && existing.attachment.netns != shown
        {
            // Its namespace was another one's before this start, and the kernel takes its time to remove the interface.
            let (container, ifname) = (wanted.container.clone(), Some(wanted.ifname.clone()));
            self.attacher.detach(DetachRequest { container, ifname }).await?;
        }
        let (address, subnet) = match wanted.wish {
            Wish::Any => (wanted.last, None),
            Wish::Within(subnet) => (wanted.last, Some(subnet)),
            Wish::Address(address) => (Some(address), None),
        };
        let request = AttachRequest {
            container: wanted.container.clone(),
            ifname: wanted.ifname.clone(),
            netns: format!("/proc/self/fd/{}", namespace.as_raw_fd()),
            address,
            address6: None,
            subnet: subnet.filter(|_| address.is_none()),
            mtu: None,
            mac: None,
            routes: None,
            name: Some(wanted.label(found)),
            names: wanted.names(found).into_iter().map(String::from).collect(),
            caller: Caller::Cli,
            sandbox: Some(shown),
            network: None,
            attempt: None,
        };
        let made = self.attacher.attach(request.clone()).await;
        let taken = |error: &ApiError| matches!(error.code, ErrorCode::Conflict | ErrorCode::Unreachable);
        match made {
            Err(error) if taken(&error) && wanted.last.is_some() && !wanted.wish.is_fixed() => {
                tracing::warn!(
                    container = found.name,
                    error = error.message,
                    "cannot have its address back; takes another"
                );
                self.attacher.attach(AttachRequest { address: None, subnet, ..request }).await
            }
            other => other,
        }
    }

    async fn containers(&self) -> BTreeSet<String> {
        self.book.lock().await.containers(self.daemon.socket())
    }

    async fn put(&self, wanted: Wanted) -> Result<(), ApiError> {
        self.book.lock().await.put(wanted).map_err(not_durable)
    }
}

impl Wanted {
    /// What people call it.
    fn label(&self, found: &Found) -> String {
        self.label.clone().unwrap_or_else(|| found.name.clone())
    }

    /// By what others find it: the same, if it can be a name.
    fn names(&self, found: &Found) -> Vec<DnsName> {
        self.label(found).parse().into_iter().collect()
    }
}

impl Wish {
    fn is_fixed(self) -> bool {
        match self {
            Wish::Address(_) => true,
            Wish::Any | Wish::Within(_) => false,
        }
    }
}

fn not_durable(error: io::Error) -> ApiError {
    refusal_with(
        ErrorCode::StateNotDurable,
        format!("the list of named containers cannot be written: {error}"),
        "free space in the state directory, then try again",
    )
}

fn explained(error: DaemonError) -> ApiError {
    let (code, hint) = match &error {
        DaemonError::BadName(_) => (ErrorCode::BadRequest, "weavectl attach --help".to_owned()),
        DaemonError::Absent(_) => (
            ErrorCode::Unreachable,
            "start Docker, tell weaved where it is with --container-engine PATH, or name a process: weavectl attach --pid PID".to_owned(),
        ),
        DaemonError::Unusable { .. } => (ErrorCode::Unreachable, "docker info".to_owned()),
        DaemonError::Unknown(_) => (ErrorCode::UnknownContainer, "docker ps".to_owned()),
        DaemonError::Stopped(name) => (ErrorCode::Conflict, format!("docker start {name}")),
        DaemonError::Namespace { container, .. } => {
            (ErrorCode::BadNetns, format!("docker inspect {container}"))
        }
    };
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    refusal_with(code, text, hint)
}
