//! `weaved`: reads the configuration, opens state and sockets, runs the engine until it is told to stop.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use router::core::identity::Identity;
use router::shell::api::{self, Control};
use router::shell::attach::Attacher;
use router::shell::config::{Args, Config};
use router::shell::containers::Containers;
use router::shell::containers::daemon::Daemon;
use router::shell::docker::fabric::Ours;
use router::shell::docker::names;
use router::shell::docker::socket::{self, Choice};
use router::shell::engine::call::Hub;
use router::shell::engine::{self, Engine};
use router::shell::kernel::Kernel;
use router::shell::state::dir::{Contents, StateDir};
use router::shell::{metrics, pending, random, reconcile};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> anyhow::Result<()> {
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let config = Config::settle(Args::parse(), &hostname)?;
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_new(&config.log).context("--log")?)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    // Control work is light; the data path has threads of its own, so one is enough here.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(config))
}

async fn run(config: Config) -> anyhow::Result<()> {
    let (dir, mut contents) = StateDir::open(&config.state_dir)?;
    let listener = api::bind(&config.socket)?;
    let identity = Arc::new(identity(&dir, &mut contents)?);
    let kernel = Kernel::open(&config.bridge).context("cannot talk to the kernel over netlink")?;
    let (hub, calls) = Hub::new();
    let mut engine = Engine::new(config.clone(), kernel.clone(), dir, &contents, identity, calls);
    engine
        .resume(contents)
        .await
        .map_err(|error| anyhow::anyhow!("cannot resume in the fabric: {}", error.message))?;
    let attacher = Attacher::new(hub.clone(), kernel.clone(), config.bridge.clone());
    tokio::spawn(reconcile::run(kernel, Arc::clone(&attacher)));
    if let Some(address) = config.metrics {
        let hub = hub.clone();
        tokio::spawn(async move {
            if let Err(error) = metrics::serve(address, hub).await {
                tracing::error!(%error, %address, "metrics cannot be served");
            }
        });
    }
    let docker = Ours::new(hub.clone(), Arc::clone(&attacher));
    tokio::spawn(socket::run(
        config.docker_socket.clone(),
        config.docker_scope,
        docker,
        config.state_dir.clone(),
    ));
    let daemon = Daemon::new(config.container_engine.clone());
    if config.docker_socket != Choice::Off {
        tokio::spawn(names::run(daemon.clone(), hub.clone()));
    }
    let containers = Containers::open(hub.clone(), Arc::clone(&attacher), daemon, &config.state_dir)
        .context("cannot read which containers were attached by name")?;
    tokio::spawn(Arc::clone(&containers).watch());
    let state_dir = config.state_dir.clone();
    tokio::spawn(async move {
        // Before the first request, so that no runtime meets an attachment that it asked to be gone.
        pending::replay(&state_dir, &hub, &attacher).await;
        if let Err(error) = api::serve(listener, Control { hub, attacher, containers }).await {
            tracing::error!(%error, "the control socket failed");
        }
    });
    tracing::info!(socket = %config.socket.display(), state = %config.state_dir.display(), "ready");
    let (stop, stopped) = oneshot::channel();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let _ = stop.send(());
    });
    engine.run(stopped).await;
    let _ = std::fs::remove_file(&config.socket);
    Ok(())
}

/// The stored identity, or a new one, stored before it is used.
fn identity(dir: &StateDir, contents: &mut Contents) -> anyhow::Result<Identity> {
    if let Some(identity) = contents.identity.as_ref().and_then(engine::read_identity) {
        return Ok(identity);
    }
    let identity = Identity::from_seed(random::bytes());
    dir.identity.store(&engine::identity_file(&identity)).context("cannot store the new identity")?;
    tracing::info!(peer = %identity.peer_id(), "made an identity");
    Ok(identity)
}
