//! HTTP over a unix socket, blocking, with a deadline on everything. Knows nothing of who listens there.
//!
//! It runs a single-threaded runtime of its own, so that a caller need not know that there is one.

use std::fmt;
use std::future::Future;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, header};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout};

use crate::error::ClientError;

/// How long the server may take to accept. It accepts from a loop that does nothing slow, so this is generous.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// How long between two tries while the socket's backlog is full.
const BACKLOG_RETRY: Duration = Duration::from_millis(10);

/// Longest answer that is read. A report of a fabric of ten thousand peers stays below a third of it.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// What is done with a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Look.
    Get,
    /// Change.
    Post,
}

/// One request, but for its body.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// What to do.
    pub verb: Verb,
    /// Who is asked, for servers that look at it.
    pub host: &'a str,
    /// With what.
    pub path: &'a str,
    /// How long the answer may take.
    pub deadline: Duration,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP's code.
    pub status: u16,
    /// All of it.
    pub body: Vec<u8>,
}

/// A client of the server behind one socket.
pub struct Http {
    socket: PathBuf,
    runtime: Runtime,
    cap: Option<Duration>,
}

impl Answer {
    /// Whether the code says so.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

impl Http {
    /// Connects with each request only.
    pub fn new(socket: impl Into<PathBuf>) -> Result<Http, ClientError> {
        let socket = socket.into();
        match tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build() {
            Ok(runtime) => Ok(Http { socket, runtime, cap: None }),
            Err(source) => Err(ClientError::Io { path: socket, source }),
        }
    }

    /// The same, with no deadline longer than `cap`.
    pub fn capped(self, cap: Duration) -> Http {
        Http { cap: Some(cap), ..self }
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Asks with a JSON body, or none when it is empty.
    pub fn exchange(&self, request: &Request<'_>, body: Vec<u8>) -> Result<Answer, ClientError> {
        self.runtime.block_on(async {
            let stream = self.open().await?;
            let deadline = self.capped_to(request.deadline);
            match timeout(deadline, ask(request, stream, body.into())).await {
                Ok(answer) => answer,
                Err(_) => Err(ClientError::Timeout { call: request.name(), after: deadline }),
            }
        })
    }

    async fn open(&self) -> Result<UnixStream, ClientError> {
        let after = self.capped_to(CONNECT_DEADLINE);
        let path = self.socket.clone();
        match within(after, connect(&self.socket)).await {
            None => Err(ClientError::ConnectTimeout { path, after }),
            Some(Ok(stream)) => Ok(stream),
            Some(Err(source)) => Err(match source.kind() {
                ErrorKind::NotFound => ClientError::SocketMissing { path },
                ErrorKind::ConnectionRefused => ClientError::NotRunning { path },
                ErrorKind::PermissionDenied => ClientError::PermissionDenied { path },
                _ => ClientError::Io { path, source },
            }),
        }
    }

    fn capped_to(&self, deadline: Duration) -> Duration {
        self.cap.map_or(deadline, |cap| cap.min(deadline))
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verb::Get => "GET",
            Verb::Post => "POST",
        })
    }
}

impl Request<'_> {
    /// As errors name it.
    fn name(&self) -> String {
        format!("{} {}", self.verb, self.path)
    }
}

/// Connect; while the backlog is full the kernel says `EAGAIN` to a non-blocking socket, and there is nothing to wait on.
async fn connect(socket: &Path) -> std::io::Result<UnixStream> {
    loop {
        match UnixStream::connect(socket).await {
            Err(error) if error.kind() == ErrorKind::WouldBlock => sleep(BACKLOG_RETRY).await,
            other => return other,
        }
    }
}

async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    timeout(limit, future).await.ok()
}

async fn ask(request: &Request<'_>, stream: UnixStream, body: Bytes) -> Result<Answer, ClientError> {
    let closed =
        |error: hyper::Error| ClientError::Closed { call: request.name(), reason: error.to_string() };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(closed)?;
    // Errors of the connection come back through the request as well.
    tokio::spawn(connection);
    let method = match request.verb {
        Verb::Get => Method::GET,
        Verb::Post => Method::POST,
    };
    let message = hyper::Request::builder()
        .method(method)
        .uri(request.path)
        .header(header::HOST, request.host)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|error| ClientError::Protocol { call: request.name(), reason: error.to_string() })?;
    let response = sender.send_request(message).await.map_err(|error| {
        if error.is_parse() {
            ClientError::Protocol { call: request.name(), reason: format!("not HTTP: {error}") }
        } else {
            closed(error)
        }
    })?;
    let status = response.status().as_u16();
    match Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await {
        Ok(collected) => Ok(Answer { status, body: collected.to_bytes().into() }),
        Err(error) if error.is::<LengthLimitError>() => Err(ClientError::Protocol {
            call: request.name(),
            reason: format!("it is longer than {MAX_ANSWER_BYTES} bytes"),
        }),
        Err(error) => Err(ClientError::Closed { call: request.name(), reason: error.to_string() }),
    }
}
