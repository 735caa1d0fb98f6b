//! The thread on which names are served, and what is seen of it from outside.
//!
//! A thread and a runtime of its own: who floods it with questions slows down answers, and nothing else.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::PORT;
use super::counters::{Counters, Fate};
use super::forward::Forwarder;
use super::options::Options;
use super::server::{Server, Sockets};
use super::upstream::Upstreams;
use super::zone::Zone;
use crate::core::names::SharedNames;

/// How long after the sockets could not be bound it is tried again: a port gets free, an address comes back.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// What is served.
pub struct Setup {
    /// What the operator chose; with an address.
    pub options: Options,
    /// Where names are served.
    pub address: std::net::Ipv4Addr,
    /// The fabric's part of the name space.
    pub zone: Zone,
    /// The names.
    pub names: SharedNames,
}

/// Whether names are served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Serving {
    /// Not yet.
    #[default]
    Starting,
    /// Since then.
    Yes,
    /// For this reason not; it is tried again.
    No(String),
}

/// A running service; ends when it is dropped.
pub struct Service {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    view: Arc<Shown>,
}

/// What is seen of it.
#[derive(Debug, Clone)]
pub struct View {
    /// Whether names are served.
    pub serving: Serving,
    /// Whom it asks for other names.
    pub upstreams: Vec<SocketAddr>,
    /// Answers of theirs that are kept.
    pub cached: usize,
    /// What became of questions.
    pub fates: Vec<(Fate, u64)>,
}

struct Shown {
    serving: Mutex<Serving>,
    counters: Arc<Counters>,
    server: Arc<Server>,
}

impl Service {
    /// Starts it. Sockets that cannot be bound are tried again and shown, since a host without names still carries frames.
    pub fn start(setup: Setup) -> std::io::Result<Service> {
        let Setup { options, address, zone, names } = setup;
        let counters: Arc<Counters> = Arc::default();
        let upstreams = Upstreams::new(options.upstream, address);
        let forwarder = Forwarder::new(upstreams, Arc::clone(&counters));
        let server = Arc::new(Server::new(zone, names, forwarder, Arc::clone(&counters)));
        let view = Arc::new(Shown { serving: Mutex::default(), counters, server });
        let (stop, stopped) = oneshot::channel();
        let shown = Arc::clone(&view);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let body = move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = keep_serving(&shown, address) => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name("dns".to_owned()).spawn(body)?;
        Ok(Service { stop: Some(stop), thread: Some(thread), view })
    }

    /// What there is to see.
    pub fn view(&self) -> View {
        let forwarder = &self.view.server.forwarder;
        View {
            serving: self.view.serving().clone(),
            upstreams: forwarder.upstreams().servers(Instant::now()),
            cached: forwarder.cached(),
            fates: self.view.counters.read(),
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that serves names has panicked");
        }
    }
}

impl Shown {
    fn serving(&self) -> MutexGuard<'_, Serving> {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn keep_serving(shown: &Shown, address: std::net::Ipv4Addr) {
    loop {
        match Sockets::bind(address).await {
            Ok(sockets) => {
                tracing::info!(%address, "names are served");
                *shown.serving() = Serving::Yes;
                shown.server.serve(sockets).await;
            }
            Err(error) => {
                let why = format!("cannot listen on {address}:{PORT}: {error}");
                let before = std::mem::replace(&mut *shown.serving(), Serving::No(why.clone()));
                if before != Serving::No(why.clone()) {
                    tracing::warn!(why, "names are not served; trying on");
                }
                tokio::time::sleep(TRY_AGAIN).await;
            }
        }
    }
}
