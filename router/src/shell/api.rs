//! The control socket: HTTP on a unix socket, peer credentials checked, every answer within a deadline.
//!
//! Reading is for whoever may open the socket (root and the group `weave`), changing is for root. This file turns requests into
//! calls of the engine and the attach flow and knows nothing of what they do.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path as UrlPath, Request, State};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use control::api::{self, ApiError, ErrorBody, ErrorCode};
use control::audit::{IpamAudit, IpamHistory};
use control::dns::{Dns, DnsAddRequest, DnsAdded, DnsLookup, DnsRemoveRequest};
use control::lease::{LeaseAnswer, LeaseRequest, ReleaseAnswer, ReleaseRequest};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;

use super::attach::Attacher;
use super::containers::Containers;
use super::doorkeeper::Doorkeeper;
use super::engine::call::{self, Call, Hub, refusal, refusal_with};
use super::lease;

/// Longest request body; an attach request is below 2 KiB.
const MAX_BODY: usize = 64 * 1024;
/// Version of the control protocol.
const API_VERSION: u32 = 1;

/// What the handlers need.
#[derive(Clone)]
pub struct Control {
    /// The engine.
    pub hub: Hub,
    /// The attach flow.
    pub attacher: Arc<Attacher>,
    /// Containers by name.
    pub containers: Arc<Containers>,
}

/// Who opened the connection.
#[derive(Debug, Clone, Copy)]
struct Caller {
    uid: Option<u32>,
}

impl axum::extract::connect_info::Connected<axum::serve::IncomingStream<'_, Doorkeeper>> for Caller {
    fn connect_info(stream: axum::serve::IncomingStream<'_, Doorkeeper>) -> Caller {
        Caller { uid: stream.io().uid() }
    }
}

/// Why the socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another router answers on it.
    #[error("another weaved is already listening on `{0}`")]
    InUse(String),
    /// The kernel refused.
    #[error("cannot listen on `{path}`")]
    Listen {
        /// The socket's path.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// Binds the socket, taking the place of a dead router's.
pub fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    let shown = path.display().to_string();
    let fail = |source| SocketError::Listen { path: shown.clone(), source };
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(SocketError::InUse(shown));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
        _ => {}
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(fail)?;
    }
    let listener = UnixListener::bind(path).map_err(fail)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(fail)?;
    if let Some(gid) = group_id("weave") {
        // Without the group only root reads; that is the safe side.
        let _ = std::os::unix::fs::chown(path, None, Some(gid));
    }
    Ok(listener)
}

/// Serves until the task is dropped.
pub async fn serve(listener: UnixListener, control: Control) -> io::Result<()> {
    let app = routes(control);
    axum::serve(Doorkeeper::new(listener), app.into_make_service_with_connect_info::<Caller>()).await
}

fn routes(control: Control) -> Router {
    let paths = Router::new()
        .route("/version", get(version))
        .route("/status", get(status))
        .route("/connections", get(connections))
        .route("/peers", get(peers))
        .route("/ipam", get(ipam))
        .route("/ipam/audit", get(ipam_audit))
        .route("/ipam/history/{address}", get(ipam_history))
        .route("/dns", get(dns))
        .route("/dns/lookup/{name}", get(dns_lookup))
        .route("/dns/add", post(dns_add))
        .route("/dns/remove", post(dns_remove))
        .route("/targets", get(targets))
        .route("/attachments", get(attachments))
        .route("/report", get(report))
        .route("/token", get(token))
        .route("/up", post(up))
        .route("/join", post(join))
        .route("/connect", post(connect))
        .route("/forget", post(forget))
        .route("/lease", post(lease_address))
        .route("/release", post(release_address))
        .route("/attach", post(attach))
        .route("/detach", post(detach))
        .route("/containers/attach", post(attach_container))
        .route("/containers/detach", post(detach_container))
        .route("/gc", post(gc))
        .route("/check", post(check))
        .route("/expose", post(expose))
        .route("/hide", post(hide))
        .route("/rmpeer", post(rmpeer))
        .route("/reset", post(reset))
        .route("/ping", post(ping));
    Router::new()
        .nest(api::PREFIX, paths)
        .fallback(no_such_path)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn(check_caller))
        .with_state(control)
}

/// Reading is open to everybody the socket's mode lets in; anything else needs root. The token is a secret, so it counts as a change.
async fn check_caller(ConnectInfo(caller): ConnectInfo<Caller>, request: Request, next: Next) -> Response {
    let reads = request.method() == Method::GET && !request.uri().path().ends_with("/token");
    if reads || caller.uid == Some(0) {
        return next.run(request).await;
    }
    let who = caller.uid.map_or("a process without credentials".to_owned(), |uid| format!("uid {uid}"));
    Failure(refusal_with(
        ErrorCode::Forbidden,
        format!("{who} may read but not change anything, only root may"),
        "run the same command with `sudo`",
    ))
    .into_response()
}

/// An error as an HTTP answer.
struct Failure(ApiError);

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Failure {
        Failure(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match self.0.code {
            ErrorCode::BadRequest | ErrorCode::BadNetns => StatusCode::BAD_REQUEST,
            ErrorCode::Forbidden => StatusCode::FORBIDDEN,
            ErrorCode::NotFound | ErrorCode::UnknownContainer => StatusCode::NOT_FOUND,
            ErrorCode::Conflict | ErrorCode::NoFabric => StatusCode::CONFLICT,
            ErrorCode::Exhausted | ErrorCode::Unreachable | ErrorCode::StateNotDurable => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            ErrorCode::Timeout => StatusCode::GATEWAY_TIMEOUT,
            ErrorCode::Kernel | ErrorCode::Internal | ErrorCode::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(ErrorBody { error: self.0 })).into_response()
    }
}

type Answer<T> = Result<Json<T>, Failure>;
/// A body that may fail to parse: the error becomes one of ours instead of axum's plain text.
type Body<T> = Result<Json<T>, JsonRejection>;

fn answer<T: Serialize>(result: Result<T, ApiError>) -> Answer<T> {
    result.map(Json).map_err(Failure)
}

fn parsed<T>(body: Body<T>) -> Result<T, Failure> {
    body.map(|Json(value)| value).map_err(|rejection| {
        Failure(refusal(
            ErrorCode::BadRequest,
            format!("the request does not parse: {}", rejection.body_text()),
        ))
    })
}

async fn no_such_path(uri: Uri) -> Failure {
    Failure(refusal(ErrorCode::NotFound, format!("no such path `{}`; all paths start with /v1", uri.path())))
}

async fn version() -> Json<api::Version> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Json(api::Version { version, api: API_VERSION, wire: u32::from(gossip::codec::VERSION) })
}

async fn status(State(control): State<Control>) -> Answer<api::Status> {
    answer(control.hub.ask(Call::Status).await)
}

async fn connections(State(control): State<Control>) -> Answer<api::Connections> {
    answer(control.hub.ask(Call::Connections).await)
}

async fn peers(State(control): State<Control>) -> Answer<Vec<api::Peer>> {
    answer(control.hub.ask(Call::Peers).await)
}

async fn ipam(State(control): State<Control>) -> Answer<api::Ipam> {
    answer(control.hub.ask(Call::Ipam).await)
}

async fn ipam_audit(State(control): State<Control>) -> Answer<IpamAudit> {
    answer(control.hub.ask(Call::Audit).await)
}

async fn ipam_history(
    State(control): State<Control>,
    UrlPath(address): UrlPath<String>,
) -> Answer<IpamHistory> {
    let address = address.parse().map_err(|_| {
        let text = format!("`{address}` is not an IPv4 address");
        Failure(refusal_with(ErrorCode::BadRequest, text, "weavectl ipam history 10.32.0.1"))
    })?;
    answer(control.hub.ask(|reply| Call::History(address, reply)).await)
}

async fn dns(State(control): State<Control>) -> Answer<Dns> {
    answer(control.hub.ask(Call::Dns).await)
}

async fn dns_lookup(State(control): State<Control>, UrlPath(name): UrlPath<String>) -> Answer<DnsLookup> {
    answer(control.hub.ask(|reply| Call::DnsLookup(name, reply)).await)
}

async fn dns_add(State(control): State<Control>, body: Body<DnsAddRequest>) -> Answer<DnsAdded> {
    let request = parsed(body)?;
    answer(control.hub.ask(|reply| Call::DnsAdd(request, reply)).await)
}

async fn dns_remove(State(control): State<Control>, body: Body<DnsRemoveRequest>) -> Answer<DnsAdded> {
    let request = parsed(body)?;
    answer(control.hub.ask(|reply| Call::DnsRemove(request, reply)).await)
}

async fn targets(State(control): State<Control>) -> Answer<Vec<api::Target>> {
    answer(control.hub.ask(Call::Targets).await)
}

async fn attachments(State(control): State<Control>) -> Answer<Vec<api::Attachment>> {
    answer(control.hub.ask(Call::Attachments).await)
}

async fn report(State(control): State<Control>) -> Answer<api::Report> {
    answer(control.hub.ask(Call::Report).await)
}

async fn token(State(control): State<Control>) -> Answer<api::FabricInfo> {
    answer(control.hub.ask(Call::Token).await)
}

async fn up(State(control): State<Control>, body: Body<api::UpRequest>) -> Answer<api::FabricInfo> {
    let request = parsed(body)?;
    answer(control.hub.ask(|reply| Call::Up(request, reply)).await)
}

async fn join(State(control): State<Control>, body: Body<api::JoinRequest>) -> Answer<api::FabricInfo> {
    let request = parsed(body)?;
    answer(control.hub.ask(|reply| Call::Join(request, reply)).await)
}

async fn connect(
    State(control): State<Control>,
    body: Body<api::TargetsRequest>,
) -> Answer<Vec<api::Target>> {
    let request = parsed(body)?;
    answer(control.hub.ask(|reply| Call::Connect(request.addresses, reply)).await)
}

async fn forget(State(control): State<Control>, body: Body<api::TargetsRequest>) -> Answer<Vec<api::Target>> {
    let request = parsed(body)?;
    answer(control.hub.ask(|reply| Call::Forget(request.addresses, reply)).await)
}

async fn lease_address(State(control): State<Control>, body: Body<LeaseRequest>) -> Answer<LeaseAnswer> {
    let request = parsed(body)?;
    let holder = lease::holder(&request.name)?;
    let wish = call::LeaseRequest { holder, address: request.address, subnet: request.subnet };
    let lease = control.hub.ask(|reply| Call::Lease(wish, reply)).await;
    answer(lease.map(|lease| LeaseAnswer { address: lease.v4, address6: lease.v6, changed: lease.fresh }))
}

async fn release_address(
    State(control): State<Control>,
    body: Body<ReleaseRequest>,
) -> Answer<ReleaseAnswer> {
    let holder = lease::holder(&parsed(body)?.name)?;
    let released = control.hub.ask(|reply| Call::Release(holder, call::Rest::Used, reply)).await;
    answer(released.map(|released| ReleaseAnswer { released }))
}

async fn attach(State(control): State<Control>, body: Body<api::AttachRequest>) -> Answer<api::Attachment> {
    let request = parsed(body)?;
    answer(control.attacher.attach(request).await)
}

/// A detach, or the undoing of one attempt when the body names it.
async fn detach(State(control): State<Control>, body: Body<DetachBody>) -> Answer<api::DetachAnswer> {
    match parsed(body)? {
        DetachBody::Undo(request) => answer(control.attacher.undo(request).await),
        DetachBody::Detach(request) => answer(control.containers.detach_any(request).await),
    }
}

async fn attach_container(
    State(control): State<Control>,
    body: Body<api::AttachContainerRequest>,
) -> Answer<api::Attachment> {
    let request = parsed(body)?;
    answer(control.containers.attach(request).await)
}

async fn detach_container(
    State(control): State<Control>,
    body: Body<api::DetachContainerRequest>,
) -> Answer<api::DetachAnswer> {
    let request = parsed(body)?;
    answer(control.containers.detach(request).await)
}

#[derive(Deserialize)]
#[serde(untagged)]
enum DetachBody {
    Undo(api::UndoRequest),
    Detach(api::DetachRequest),
}

async fn gc(State(control): State<Control>, body: Body<api::GcRequest>) -> Answer<api::GcAnswer> {
    let request = parsed(body)?;
    answer(control.attacher.gc(request).await)
}

async fn check(State(control): State<Control>, body: Body<api::CheckRequest>) -> Answer<()> {
    let request = parsed(body)?;
    answer(control.attacher.check(request).await)
}

async fn expose(State(control): State<Control>) -> Answer<api::Exposure> {
    answer(control.attacher.expose().await)
}

async fn hide(State(control): State<Control>) -> Answer<api::Exposure> {
    answer(control.attacher.hide().await)
}

async fn rmpeer(State(control): State<Control>, body: Body<api::RmpeerRequest>) -> Answer<api::RmpeerAnswer> {
    let request = parsed(body)?;
    answer(control.hub.ask(|reply| Call::Rmpeer(request.peer, reply)).await)
}

async fn reset(State(control): State<Control>, body: Body<api::ResetRequest>) -> Answer<api::ResetAnswer> {
    let request = parsed(body)?;
    let left = control.attacher.reset(request).await?;
    control.containers.forget_all().await?;
    Ok(Json(left))
}

async fn ping(State(control): State<Control>, body: Body<api::PingRequest>) -> Answer<api::PingAnswer> {
    let request = parsed(body)?;
    answer(control.hub.ask(|reply| Call::Ping(request.target, reply)).await)
}

/// Id of a group in /etc/group, read directly: the daemon is to run without name services.
fn group_id(name: &str) -> Option<u32> {
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}
