//! Who may have a connection to the control socket open: so many in all, and fewer of those who may only look.
//!
//! A connection costs a task and a file descriptor, of which a process has a thousand unless told otherwise. Root, as which container runtimes
//! call, waits in the socket's backlog until a place is free; others are told to come again.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use control::api::{ErrorBody, ErrorCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::engine::call::refusal_with;

/// Connections in all: a runtime that starts all containers of a large host at once has a few hundred, and half of the descriptors that a
/// process commonly may have are left for devices and namespaces.
pub const MAX_CALLERS: usize = 512;

/// Of these, by others than root: people and monitors, of which there are a few.
pub const MAX_READERS: usize = 64;

/// How long nothing is accepted after the kernel refused for want of descriptors or memory.
const RECOVER: Duration = Duration::from_millis(200);

/// The control socket with its limits.
pub struct Doorkeeper {
    listener: UnixListener,
    callers: Arc<Semaphore>,
    readers: Arc<Semaphore>,
}

/// A connection that has its place until it is closed.
pub struct Visit {
    stream: UnixStream,
    _places: Places,
}

/// One of all, and one of the readers' unless it is root's.
type Places = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

impl Doorkeeper {
    /// Keeps the door of a bound socket.
    pub fn new(listener: UnixListener) -> Doorkeeper {
        let (callers, readers) = (Semaphore::new(MAX_CALLERS), Semaphore::new(MAX_READERS));
        Doorkeeper { listener, callers: Arc::new(callers), readers: Arc::new(readers) }
    }

    /// A place for a caller, or `None` when there are too many of its kind.
    fn place(&self, caller: OwnedSemaphorePermit, uid: Option<u32>) -> Option<Places> {
        if uid == Some(0) {
            return Some((caller, None));
        }
        let reader = Arc::clone(&self.readers).try_acquire_owned().ok()?;
        Some((caller, Some(reader)))
    }
}

impl Listener for Doorkeeper {
    type Io = Visit;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Visit, SocketAddr) {
        loop {
            let caller = Arc::clone(&self.callers).acquire_owned().await.expect("it is never closed");
            match self.listener.accept().await {
                Ok((stream, address)) => match self.place(caller, peer_uid(&stream)) {
                    Some(places) => return (Visit { stream, _places: places }, address),
                    None => turn_away(&stream),
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot accept on the control socket");
                    tokio::time::sleep(RECOVER).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Visit {
    /// User of the process at the other end.
    pub fn uid(&self) -> Option<u32> {
        peer_uid(&self.stream)
    }
}

fn peer_uid(stream: &UnixStream) -> Option<u32> {
    stream.peer_cred().ok().map(|cred| cred.uid())
}

/// Answers before anything was asked, as far as the socket's buffer takes it, and hangs up.
fn turn_away(stream: &UnixStream) {
    let error = refusal_with(
        ErrorCode::Timeout,
        format!("weaved serves no more than {MAX_READERS} connections of others than root at a time"),
        "end other programs that hold connections to its socket, or run the same command with `sudo`",
    );
    let body = serde_json::to_string(&ErrorBody { error }).unwrap_or_default();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    // Whoever does not read it meets a closed connection.
    let _ = stream.try_write(answer.as_bytes());
}

impl AsyncRead for Visit {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Visit {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn readers_leave_room_for_root() {
        let path = std::env::temp_dir().join(format!("weave-door-{}", std::process::id()));
        let door = Doorkeeper::new(UnixListener::bind(&path).expect("bound"));
        std::fs::remove_file(&path).expect("removed");
        let enter = |uid| {
            let caller = Arc::clone(&door.callers).try_acquire_owned().expect("a place");
            door.place(caller, uid)
        };
        let readers: Vec<_> =
            (0..MAX_READERS).map(|_| enter(Some(1000)).expect("a reader's place")).collect();
        assert!(enter(Some(1000)).is_none() && enter(None).is_none());
        assert!(enter(Some(0)).is_some());
        drop(readers);
        assert!(enter(Some(1000)).is_some());
        assert_eq!(door.callers.available_permits(), MAX_CALLERS, "all places are free again");
    }
}
