//! A blocking client of the control socket: one method for each call, a deadline on every one.
//!
//! It makes a connection for each call: a caller makes few, and `weaved` may restart between two of them.

use std::borrow::Cow;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::api::{
    AttachContainerRequest, AttachRequest, Attachment, CheckRequest, Connections, DetachAnswer,
    DetachContainerRequest, DetachRequest, ErrorBody, Exposure, FabricInfo, GcAnswer, GcRequest, Ipam,
    JoinRequest, PREFIX, Peer, PingAnswer, PingRequest, Report, ResetAnswer, ResetRequest, RmpeerAnswer,
    RmpeerRequest, Status, Target, TargetsRequest, UndoRequest, UpRequest, Version,
};
use crate::audit::{IpamAudit, IpamHistory};
use crate::dns::{Dns, DnsAddRequest, DnsAdded, DnsLookup, DnsRemoveRequest};
use crate::error::ClientError;
use crate::http::{Answer, Http, Request, Verb};
use crate::lease::{LeaseAnswer, LeaseRequest, ReleaseAnswer, ReleaseRequest};

/// How long an answer may take that is put together from memory.
const LOOK: Duration = Duration::from_secs(5);

/// How long a change may take that asks no other router.
const CHANGE: Duration = Duration::from_secs(10);

/// How long an attachment may take: `weaved` waits up to 5 s for an address from other routers, and does kernel work around it.
const ATTACH: Duration = Duration::from_secs(15);

/// How long it may take to enter or leave a fabric: passwords are stretched on purpose, and containers are detached one by one.
const FABRIC: Duration = Duration::from_secs(30);

/// Longest piece of an answer that is quoted in an error.
const MAX_QUOTE_CHARS: usize = 200;

/// A client of one `weaved`.
pub struct Client {
    http: Http,
}

/// One call of the API.
struct Call {
    verb: Verb,
    path: Cow<'static, str>,
    deadline: Duration,
}

impl Client {
    /// A client of the `weaved` that listens on `socket`. Connects with each call only.
    pub fn new(socket: impl Into<PathBuf>) -> Result<Client, ClientError> {
        Ok(Client { http: Http::new(socket)? })
    }

    /// The same, with no deadline longer than `cap`.
    pub fn capped(self, cap: Duration) -> Client {
        Client { http: self.http.capped(cap) }
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        self.http.socket()
    }

    /// `GET /status`
    pub fn status(&self) -> Result<Status, ClientError> {
        self.get("/status")
    }

    /// `GET /connections`
    pub fn connections(&self) -> Result<Connections, ClientError> {
        self.get("/connections")
    }

    /// `GET /peers`
    pub fn peers(&self) -> Result<Vec<Peer>, ClientError> {
        self.get("/peers")
    }

    /// `GET /ipam`
    pub fn ipam(&self) -> Result<Ipam, ClientError> {
        self.get("/ipam")
    }

    /// `GET /ipam/audit`
    pub fn ipam_audit(&self) -> Result<IpamAudit, ClientError> {
        let call = Call { verb: Verb::Get, path: "/ipam/audit".into(), deadline: CHANGE };
        decode(&call, self.exchange(&call, Vec::new())?)
    }

    /// `GET /ipam/history/ADDRESS`
    pub fn ipam_history(&self, address: Ipv4Addr) -> Result<IpamHistory, ClientError> {
        let path = format!("/ipam/history/{address}").into();
        let call = Call { verb: Verb::Get, path, deadline: CHANGE };
        decode(&call, self.exchange(&call, Vec::new())?)
    }

    /// `GET /dns`
    pub fn dns(&self) -> Result<Dns, ClientError> {
        self.get("/dns")
    }

    /// `GET /dns/lookup/NAME`. The name goes into a path: whoever asks has made sure that it has no other letters than names have.
    pub fn dns_lookup(&self, name: &str) -> Result<DnsLookup, ClientError> {
        let call = Call { verb: Verb::Get, path: format!("/dns/lookup/{name}").into(), deadline: LOOK };
        decode(&call, self.exchange(&call, Vec::new())?)
    }

    /// `POST /dns/add`
    pub fn dns_add(&self, request: &DnsAddRequest) -> Result<DnsAdded, ClientError> {
        self.post("/dns/add", CHANGE, request)
    }

    /// `POST /dns/remove`
    pub fn dns_remove(&self, request: &DnsRemoveRequest) -> Result<DnsAdded, ClientError> {
        self.post("/dns/remove", CHANGE, request)
    }

    /// `GET /targets`
    pub fn targets(&self) -> Result<Vec<Target>, ClientError> {
        self.get("/targets")
    }

    /// `GET /attachments`
    pub fn attachments(&self) -> Result<Vec<Attachment>, ClientError> {
        self.get("/attachments")
    }

    /// `GET /report`
    pub fn report(&self) -> Result<Report, ClientError> {
        self.get("/report")
    }

    /// `GET /version`
    pub fn version(&self) -> Result<Version, ClientError> {
        self.get("/version")
    }

    /// `GET /token`
    pub fn token(&self) -> Result<FabricInfo, ClientError> {
        self.get("/token")
    }

    /// `POST /up`
    pub fn up(&self, request: &UpRequest) -> Result<FabricInfo, ClientError> {
        self.post("/up", FABRIC, request)
    }

    /// `POST /join`
    pub fn join(&self, request: &JoinRequest) -> Result<FabricInfo, ClientError> {
        self.post("/join", FABRIC, request)
    }

    /// `POST /connect`
    pub fn connect(&self, request: &TargetsRequest) -> Result<Vec<Target>, ClientError> {
        self.post("/connect", CHANGE, request)
    }

    /// `POST /forget`
    pub fn forget(&self, request: &TargetsRequest) -> Result<Vec<Target>, ClientError> {
        self.post("/forget", CHANGE, request)
    }

    /// `POST /attach`
    pub fn attach(&self, request: &AttachRequest) -> Result<Attachment, ClientError> {
        self.post("/attach", ATTACH, request)
    }

    /// `POST /containers/attach`
    pub fn attach_container(&self, request: &AttachContainerRequest) -> Result<Attachment, ClientError> {
        self.post("/containers/attach", ATTACH, request)
    }

    /// `POST /containers/detach`
    pub fn detach_container(&self, request: &DetachContainerRequest) -> Result<DetachAnswer, ClientError> {
        self.post("/containers/detach", ATTACH, request)
    }

    /// `POST /lease`
    pub fn lease(&self, request: &LeaseRequest) -> Result<LeaseAnswer, ClientError> {
        self.post("/lease", CHANGE, request)
    }

    /// `POST /release`
    pub fn release(&self, request: &ReleaseRequest) -> Result<ReleaseAnswer, ClientError> {
        self.post("/release", CHANGE, request)
    }

    /// `POST /detach`
    pub fn detach(&self, request: &DetachRequest) -> Result<DetachAnswer, ClientError> {
        self.post("/detach", CHANGE, request)
    }

    /// `POST /detach` of what one attempt made.
    pub fn undo(&self, request: &UndoRequest) -> Result<DetachAnswer, ClientError> {
        self.post("/detach", CHANGE, request)
    }

    /// `POST /gc`
    pub fn gc(&self, request: &GcRequest) -> Result<GcAnswer, ClientError> {
        self.post("/gc", FABRIC, request)
    }

    /// `POST /check`
    pub fn check(&self, request: &CheckRequest) -> Result<(), ClientError> {
        self.post_unit("/check", CHANGE, request)
    }

    /// `POST /expose`
    pub fn expose(&self) -> Result<Exposure, ClientError> {
        self.post("/expose", ATTACH, &Empty {})
    }

    /// `POST /hide`
    pub fn hide(&self) -> Result<Exposure, ClientError> {
        self.post("/hide", CHANGE, &Empty {})
    }

    /// `POST /rmpeer`
    pub fn rmpeer(&self, request: &RmpeerRequest) -> Result<RmpeerAnswer, ClientError> {
        self.post("/rmpeer", CHANGE, request)
    }

    /// `POST /reset`
    pub fn reset(&self, request: &ResetRequest) -> Result<ResetAnswer, ClientError> {
        self.post("/reset", FABRIC, request)
    }

    /// `POST /ping`
    pub fn ping(&self, request: &PingRequest) -> Result<PingAnswer, ClientError> {
        self.post("/ping", CHANGE, request)
    }

    fn get<A: DeserializeOwned>(&self, path: &'static str) -> Result<A, ClientError> {
        let call = Call { verb: Verb::Get, path: path.into(), deadline: LOOK };
        decode(&call, self.exchange(&call, Vec::new())?)
    }

    fn post<R: Serialize, A: DeserializeOwned>(
        &self,
        path: &'static str,
        deadline: Duration,
        request: &R,
    ) -> Result<A, ClientError> {
        let call = Call { verb: Verb::Post, path: path.into(), deadline };
        let body = call.body(request)?;
        decode(&call, self.exchange(&call, body)?)
    }

    /// A call whose answer says nothing beyond its success.
    fn post_unit<R: Serialize>(
        &self,
        path: &'static str,
        deadline: Duration,
        request: &R,
    ) -> Result<(), ClientError> {
        let call = Call { verb: Verb::Post, path: path.into(), deadline };
        let body = call.body(request)?;
        let answer = self.exchange(&call, body)?;
        if answer.is_success() {
            return Ok(());
        }
        decode::<IgnoredAny>(&call, answer).map(|_| ())
    }

    fn exchange(&self, call: &Call, body: Vec<u8>) -> Result<Answer, ClientError> {
        self.http.exchange(
            &Request { verb: call.verb, host: "weaved", path: &call.whole_path(), deadline: call.deadline },
            body,
        )
    }
}

/// Body of a request that has nothing to say.
#[derive(Serialize)]
struct Empty {}

impl Call {
    /// As errors name it.
    fn name(&self) -> String {
        format!("{} {PREFIX}{}", self.verb, self.path)
    }

    fn whole_path(&self) -> String {
        format!("{PREFIX}{}", self.path)
    }

    fn body<R: Serialize>(&self, request: &R) -> Result<Vec<u8>, ClientError> {
        match serde_json::to_vec(request) {
            Ok(bytes) => Ok(bytes),
            Err(error) => Err(ClientError::Protocol {
                call: self.name(),
                reason: format!("the request cannot be written: {error}"),
            }),
        }
    }
}

fn decode<A: DeserializeOwned>(call: &Call, answer: Answer) -> Result<A, ClientError> {
    let body = &answer.body;
    if answer.is_success() {
        return serde_json::from_slice(body).map_err(|error| ClientError::Protocol {
            call: call.name(),
            reason: format!("{error} in `{}`", quote(body)),
        });
    }
    match serde_json::from_slice::<ErrorBody>(body) {
        Ok(body) => Err(ClientError::Api(body.error)),
        Err(_) => Err(ClientError::Protocol {
            call: call.name(),
            reason: format!("status {} with `{}`", answer.status, quote(body)),
        }),
    }
}

/// The beginning of an answer, printable.
fn quote(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let mut quoted: String = text.chars().take(MAX_QUOTE_CHARS).flat_map(char::escape_debug).collect();
    if text.chars().nth(MAX_QUOTE_CHARS).is_some() {
        quoted.push('…');
    }
    quoted
}
