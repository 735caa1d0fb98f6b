//! `weave-docker`: what Docker runs as a managed plugin. Swarm takes no others.
//!
//! It hands every connection on to the router of the host, which is the driver: `weaved` with `docker-socket = "/run/weave/docker.sock"`. It
//! knows nothing of what is said, needs no privilege, and keeps nothing.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Where Docker expects a plugin's socket; the name is in `config.json`.
const LISTEN: &str = "/run/docker/plugins/weave.sock";
/// Where the router's is; the folder is a mount that `docker plugin set` can change.
const ROUTER: &str = "/run/weave/docker.sock";
/// Longest wait for a router that is being restarted: below Docker's patience of 30 s.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections at a time; Docker keeps a few.
const MAX_CONNECTIONS: usize = 256;

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Docker writes it to its own log.
            eprintln!("error: cannot serve `{LISTEN}`: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> io::Result<()> {
    match std::fs::remove_file(LISTEN) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(LISTEN)?;
    let open = Arc::new(AtomicUsize::new(0));
    for docker in listener.incoming() {
        let docker = docker?;
        if open.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
            open.fetch_sub(1, Ordering::Relaxed);
            eprintln!("more than {MAX_CONNECTIONS} connections: one is refused");
            continue;
        }
        let open = Arc::clone(&open);
        thread::spawn(move || {
            if let Err(error) = hand_on(&docker) {
                eprintln!(
                    "no answer from the router on `{ROUTER}`: {error}; is weaved running, with docker-socket there?"
                );
            }
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
    Ok(())
}

/// Both ways until both have ended. Docker tries again when a connection ends without an answer.
fn hand_on(docker: &UnixStream) -> io::Result<()> {
    let router = connect()?;
    thread::scope(|scope| {
        let there = scope.spawn(|| pass(docker, &router));
        let back = pass(&router, docker);
        there.join().unwrap_or_else(|_| Err(io::Error::other("a thread ended early"))).and(back)
    })
}

fn pass(from: &UnixStream, to: &UnixStream) -> io::Result<()> {
    let (mut reader, mut writer) = (from, to);
    let result = io::copy(&mut reader, &mut writer).map(drop);
    // The other side may have gone first.
    let _gone = to.shutdown(Shutdown::Write);
    match result {
        Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
            Ok(())
        }
        other => other,
    }
}

fn connect() -> io::Result<UnixStream> {
    let begun = Instant::now();
    loop {
        match UnixStream::connect(ROUTER) {
            Err(_) if begun.elapsed() < PATIENCE => thread::sleep(PAUSE),
            other => return other,
        }
    }
}
