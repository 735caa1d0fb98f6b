//! What the control socket and the attach flow ask of the engine, and the handle through which they ask.
//!
//! Every call is answered exactly once, after everything that the answer promises is durable.

use std::net::Ipv4Addr;
use std::time::Duration;

use control::api::{
    self, ApiError, Attachment, Connections, ErrorCode, FabricInfo, Ipam, Peer, PingAnswer, Report,
    ResetAnswer, RmpeerAnswer, Status, Target,
};
use control::audit::{IpamAudit, IpamHistory};
use control::dns::{Dns, DnsAddRequest, DnsAdded, DnsLookup, DnsRemoveRequest};
use ipnet::{Ipv4Net, Ipv6Net};
use tokio::sync::{mpsc, oneshot};

use crate::core::mac::Mac;
use crate::core::names::DnsName;
use crate::shell::kernel::NameserverSpec;
use crate::shell::state::dir::Kept;

/// Calls that wait for the engine; more are refused at once, since a queue would only hide the overload.
pub const MAX_WAITING_CALLS: usize = 1024;
/// Longest that any call may take before its caller gets an answer.
pub const CALL_DEADLINE: Duration = Duration::from_secs(12);

/// Where an answer goes.
pub type Reply<T> = oneshot::Sender<Result<T, ApiError>>;

/// One request to the engine.
pub enum Call {
    /// Create a fabric.
    Up(api::UpRequest, Reply<FabricInfo>),
    /// Join a fabric.
    Join(api::JoinRequest, Reply<FabricInfo>),
    /// The token of the present fabric.
    Token(Reply<FabricInfo>),
    /// Add addresses to dial.
    Connect(Vec<String>, Reply<Vec<Target>>),
    /// Drop addresses to dial.
    Forget(Vec<String>, Reply<Vec<Target>>),
    /// Lease an address; durable when answered.
    Lease(LeaseRequest, Reply<Lease>),
    /// Give back all addresses of a holder.
    Release(String, Rest, Reply<Vec<Ipv4Addr>>),
    /// Leases whose holders' names begin so.
    Leases(&'static str, Reply<Vec<(String, Ipv4Addr)>>),
    /// Remember a finished attachment and announce it.
    Attached(Box<Kept>, Reply<()>),
    /// An attached container is called so from now on.
    Called(Name, Reply<()>),
    /// Forget an attachment.
    Detached(Box<Attachment>, Reply<()>),
    /// The host has an address on the fabric now, or none.
    Exposed(Option<Ipv4Addr>, Reply<()>),
    /// Firewalls of others that are in the way of containers.
    Obstacles(Vec<String>, Reply<()>),
    /// Addresses on the bridge that nobody attached.
    Foreign(Reply<Vec<Mac>>),
    /// Of these, some that the bridge hears no more.
    Silent(Vec<Mac>, Reply<()>),
    /// Everything attached.
    Attachments(Reply<Vec<Attachment>>),
    /// One attachment, or all of a container.
    Find(String, Option<String>, Reply<Vec<Kept>>),
    /// Everything that was attached for a network.
    OfNetwork(String, Reply<Vec<Kept>>),
    /// What the attach flow must know.
    Ground(Reply<Ground>),
    /// `status`.
    Status(Reply<Status>),
    /// `status connections`.
    Connections(Reply<Connections>),
    /// `status peers`.
    Peers(Reply<Vec<Peer>>),
    /// `status ipam`.
    Ipam(Reply<Ipam>),
    /// `ipam audit`.
    Audit(Reply<IpamAudit>),
    /// `ipam history`.
    History(Ipv4Addr, Reply<IpamHistory>),
    /// `status dns`.
    Dns(Reply<Dns>),
    /// `dns add`.
    DnsAdd(DnsAddRequest, Reply<DnsAdded>),
    /// `dns remove`.
    DnsRemove(DnsRemoveRequest, Reply<DnsAdded>),
    /// `dns lookup`.
    DnsLookup(String, Reply<DnsLookup>),
    /// `status targets`.
    Targets(Reply<Vec<Target>>),
    /// All of them.
    Report(Reply<Report>),
    /// Take over a dead peer's space.
    Rmpeer(String, Reply<RmpeerAnswer>),
    /// Leave the fabric and forget everything about it.
    Reset(Reply<ResetAnswer>),
    /// Measure the way to a peer.
    Ping(String, Reply<PingAnswer>),
}

/// What an attached container is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// Container and interface of the attachment.
    pub container: String,
    /// See above.
    pub ifname: String,
    /// For people.
    pub name: Option<String>,
    /// By what others find it.
    pub names: Vec<DnsName>,
}

/// A wish for an address.
#[derive(Debug, Clone)]
pub struct LeaseRequest {
    /// Who will hold it.
    pub holder: String,
    /// This very address.
    pub address: Option<Ipv4Addr>,
    /// Or any of this subnet.
    pub subnet: Option<Ipv4Net>,
}

/// A leased address with everything that follows from it.
#[derive(Debug, Clone, Copy)]
pub struct Lease {
    /// With the prefix length of the range.
    pub v4: Ipv4Net,
    /// The IPv6 address that embeds it.
    pub v6: Ipv6Net,
    /// Whether the holder had it before.
    pub fresh: bool,
}

/// Whether a given-back address may have been seen by others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// It was in use: it rests before it is handed out again.
    Used,
    /// Nobody has seen it.
    Unused,
}

/// What the attach flow must know of the fabric.
#[derive(Debug, Clone)]
pub struct Ground {
    /// Range of the fabric.
    pub range: Ipv4Net,
    /// IPv6 prefix of the fabric.
    pub range6: Ipv6Net,
    /// MTU of containers.
    pub mtu: u32,
    /// Largest super-frame that fits one underlay send.
    pub gso_max_size: u32,
    /// The bridge's MAC address.
    pub bridge_mac: Mac,
    /// The host's own addresses, while it has them.
    pub exposed: Option<(Ipv4Net, Ipv6Net)>,
    /// The TAP device.
    pub tap: String,
    /// Where containers ask for names.
    pub nameserver: Option<api::Nameserver>,
}

impl Ground {
    /// What the kernel has to do so that they can.
    pub fn nameserver_spec(&self) -> Option<NameserverSpec> {
        let server = self.nameserver.as_ref()?;
        Some(NameserverSpec { address: server.address, range: self.range })
    }
}

/// Handle of the engine.
#[derive(Debug, Clone)]
pub struct Hub {
    calls: mpsc::Sender<Call>,
}

impl Hub {
    /// A handle and the engine's end of it.
    pub fn new() -> (Hub, mpsc::Receiver<Call>) {
        let (calls, receiver) = mpsc::channel(MAX_WAITING_CALLS);
        (Hub { calls }, receiver)
    }

    /// Asks, and waits for the answer until the deadline.
    pub async fn ask<T>(&self, call: impl FnOnce(Reply<T>) -> Call) -> Result<T, ApiError> {
        let (reply, answer) = oneshot::channel();
        self.calls.try_send(call(reply)).map_err(|_| {
            refusal(ErrorCode::Timeout, "the router is busy with more requests than it can queue")
        })?;
        match tokio::time::timeout(CALL_DEADLINE, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(refusal(ErrorCode::Internal, "the router is shutting down")),
            Err(_) => Err(refusal(ErrorCode::Timeout, "the router did not answer in time")),
        }
    }
}

/// An error without a hint.
pub fn refusal(code: ErrorCode, message: impl Into<String>) -> ApiError {
    ApiError { code, message: message.into(), hint: None }
}

/// An error with the command to type.
pub fn refusal_with(code: ErrorCode, message: impl Into<String>, hint: impl Into<String>) -> ApiError {
    ApiError { code, message: message.into(), hint: Some(hint.into()) }
}
