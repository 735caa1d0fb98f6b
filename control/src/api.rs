//! Requests and answers of the control socket, as they appear in JSON.
//!
//! Every path is below [`PREFIX`]. Fields are added, never renamed; readers ignore fields that they do not know.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// All paths start with this; a breaking change gets a new one.
pub const PREFIX: &str = "/v1";

/// Where `weaved` listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/weave/weaved.sock";

/// Where `weaved` keeps its state unless told otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/weave";

/// Body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ApiError,
}

/// A refusal that a person can act on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// Stable word for programs.
    pub code: ErrorCode,
    /// What failed and why, lower case, without a full stop.
    pub message: String,
    /// The command to type next, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Stable words for what went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The request does not parse or contradicts itself.
    BadRequest,
    /// The caller's user may not do this.
    Forbidden,
    /// No such path, peer, address or attachment.
    NotFound,
    /// It exists already, or belongs to somebody else.
    Conflict,
    /// The router belongs to no fabric yet.
    NoFabric,
    /// The address range has no free address left.
    Exhausted,
    /// Did not succeed within the deadline; may succeed later.
    Timeout,
    /// The peer or owner that is needed cannot be reached.
    Unreachable,
    /// The network namespace does not exist or is not one.
    BadNetns,
    /// The container exists no longer; nothing to undo.
    UnknownContainer,
    /// The state directory cannot be written, so nothing may be promised.
    StateNotDurable,
    /// The kernel refused.
    Kernel,
    /// Our bug.
    Internal,
    /// A code of a newer version.
    #[serde(other)]
    Unknown,
}

/// `GET /version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Version of the binary.
    pub version: String,
    /// Version of the control protocol.
    pub api: u32,
    /// Version of the protocol between routers.
    pub wire: u32,
}

/// `POST /up`: create a fabric on this router. The same request again is a no-op. No `Debug`: it may hold a password.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpRequest {
    /// Range to allocate from, 10.32.0.0/12 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<Ipv4Net>,
    /// Password to stretch into the fabric's secret; a random secret unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Hosts that create the fabric together, this one among them: nicknames, each with `=ADDRESS` where the name cannot be looked up.
    /// Needs a password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seeds: Option<Vec<String>>,
}

/// `POST /join`. No `Debug`: it holds the fabric's secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// `weave1.…`
    pub token: String,
    /// Password of the fabric when the token carries no secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

/// Answer of `up`, `join` and `GET /token`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FabricInfo {
    /// Id of the fabric.
    pub fabric: String,
    /// This router's id.
    pub peer: String,
    /// This router's nickname.
    pub nickname: String,
    /// IPv4 range that is allocated from.
    pub range: Ipv4Net,
    /// IPv6 prefix that embeds it.
    pub range6: Ipv6Net,
    /// The token that lets another router join through this one.
    pub token: String,
    /// Whether the request changed anything.
    pub changed: bool,
}

/// `POST /connect`, `POST /forget`: `host`, `host:port`, `ip`, `ip:port`, `[ip6]:port`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetsRequest {
    /// Addresses to add or drop.
    pub addresses: Vec<String>,
}

/// One address that this router was told to dial; `GET /targets` answers a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// As given.
    pub address: String,
    /// What it resolved to at the last try.
    pub resolved: Vec<SocketAddr>,
    /// `connected`, `dialling`, `failed`.
    pub state: String,
    /// Why it is not connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `POST /attach`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachRequest {
    /// Container id; one attachment for each (id, ifname).
    pub container: String,
    /// Name of the interface inside the container.
    pub ifname: String,
    /// Path of the network namespace as `weaved` can open it.
    pub netns: String,
    /// The wanted address; any unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// The wanted IPv6 address. It embeds the IPv4 address, so it asks for that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<Ipv6Addr>,
    /// Take the address from this part of the range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<Ipv4Net>,
    /// MTU of the interface; the fabric's unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Wanted MAC address; derived from the IPv4 address unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Routes to install; a default route through the bridge (with masquerade) when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<Vec<Route>>,
    /// A name for people, such as the pod's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Names below the fabric's domain by which others find it, such as `web.default`. What cannot be a name is an error for `cli` and
    /// left out for `cni`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Who asks; a second request of the same (container, ifname) is `Conflict` for `cni` and answers what is there for `cli`.
    #[serde(default)]
    pub caller: Caller,
    /// Path of the namespace to remember and show, when `netns` is only valid during the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
    /// Name of the network in the runtime's configuration; garbage collection is by network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Unique word of this request, so that its author can undo it and nothing else when the answer is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<String>,
}

/// `POST /containers/attach`: a container of Docker or Podman, which is attached again whenever it is started. Answers an [`Attachment`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachContainerRequest {
    /// Its name, id or the beginning of its id.
    pub container: String,
    /// Name of the interface inside the container.
    pub ifname: String,
    /// The wanted address; any unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// Take the address from this part of the range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<Ipv4Net>,
    /// A name for people; the container's unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// `POST /containers/detach`: idempotent for a container that exists. Answers a [`DetachAnswer`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetachContainerRequest {
    /// Its name, id or the beginning of its id.
    pub container: String,
    /// One interface, or all of the container's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifname: Option<String>,
}

/// Who asks for an attachment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Caller {
    /// `weavectl attach`.
    #[default]
    Cli,
    /// A container runtime through `weave-cni`.
    Cni,
}

/// A route of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination.
    pub dst: IpNet,
    /// Next hop; the bridge's address unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
}

/// An attached container interface; answer of `attach`, and `GET /attachments` answers a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Container id.
    pub container: String,
    /// Interface inside the container.
    pub ifname: String,
    /// Interface on the host, a port of the bridge.
    pub host_ifname: String,
    /// MAC address inside.
    pub mac: String,
    /// MAC address of the host's end.
    pub host_mac: String,
    /// The bridge.
    pub bridge: String,
    /// MAC address of the bridge.
    pub bridge_mac: String,
    /// IPv4 address with the prefix length of the range.
    pub address: Ipv4Net,
    /// IPv6 address with prefix length.
    pub address6: Ipv6Net,
    /// IPv4 gateway, when routes lead through the bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
    /// IPv6 gateway, when routes lead through the bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway6: Option<Ipv6Addr>,
    /// Routes that were installed.
    pub routes: Vec<Route>,
    /// MTU of the interface.
    pub mtu: u32,
    /// Path of the namespace as it was given.
    pub netns: String,
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Names below the fabric's domain by which others find it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Where it can ask for names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nameserver: Option<Nameserver>,
}

/// Where containers of a host ask for names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nameserver {
    /// Address, on the link.
    pub address: Ipv4Addr,
    /// Domain to search.
    pub domain: String,
}

/// `POST /detach`: idempotent, success when nothing is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetachRequest {
    /// Container id.
    pub container: String,
    /// One interface, or all of the container's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifname: Option<String>,
}

/// `POST /detach` by the author of an attachment whose answer was lost. A `weaved` that knows no attempts detaches the pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndoRequest {
    /// Container id.
    pub container: String,
    /// Interface inside the container.
    pub ifname: String,
    /// Only what [`AttachRequest::attempt`] of this value made.
    pub attempt: String,
}

/// `POST /gc`: detach everything of `network` that is not listed. What other networks or `weavectl` hold stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcRequest {
    /// As [`AttachRequest::network`] said it.
    pub network: String,
    /// What the runtime still knows.
    pub keep: Vec<Pair>,
}

/// Name of an attachment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Pair {
    /// Container id.
    pub container: String,
    /// Interface inside the container.
    pub ifname: String,
}

/// Answer of `gc`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcAnswer {
    /// What was detached.
    pub detached: Vec<Pair>,
}

/// Answer of `detach`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetachAnswer {
    /// Addresses that were given back; empty when there was nothing to do.
    pub released: Vec<Ipv4Addr>,
}

/// `POST /check`: is the attachment as it was made? Errors name what is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckRequest {
    /// Container id.
    pub container: String,
    /// Interface inside the container.
    pub ifname: String,
    /// Path of the network namespace as `weaved` can open it.
    pub netns: String,
    /// Addresses that the caller believes to be there.
    #[serde(default)]
    pub addresses: Vec<IpNet>,
}

/// `POST /expose` (empty body object) and `POST /hide`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exposure {
    /// The host's own address on the fabric, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Net>,
    /// The same for IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<Ipv6Net>,
    /// Whether the request changed anything.
    pub changed: bool,
}

/// `POST /rmpeer`: take over the address space of a peer that will not come back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RmpeerRequest {
    /// Peer id, its unique beginning, or nickname.
    pub peer: String,
}

/// Answer of `rmpeer`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RmpeerAnswer {
    /// Full id of the removed peer.
    pub peer: String,
    /// Addresses taken over; 0 when a removal was recorded before.
    pub taken_over: u64,
    /// Whether the request changed anything.
    pub changed: bool,
}

/// `POST /reset`: leave the fabric and forget everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetRequest {
    /// Go on although containers are attached or no peer can inherit the address space.
    #[serde(default)]
    pub force: bool,
}

/// Answer of `reset`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetAnswer {
    /// Peer that inherits this router's address space, if one could be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heir: Option<String>,
    /// Containers that were detached.
    pub detached: usize,
}

/// `POST /ping`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingRequest {
    /// Peer id, nickname, or a container's address.
    pub target: String,
}

/// Answer of one ping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PingAnswer {
    /// Peer that answered.
    pub peer: String,
    /// Its nickname.
    pub nickname: String,
    /// `direct`, `local`; later also relays.
    pub path: String,
    /// Underlay address that carries the path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<SocketAddr>,
    /// Cipher of the data lanes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cipher: Option<String>,
    /// Round trip in microseconds.
    pub rtt_us: u64,
}

/// `GET /status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of `weaved`.
    pub version: String,
    /// This router.
    pub peer: String,
    /// Nickname.
    pub nickname: String,
    /// Fabric, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fabric: Option<String>,
    /// Underlay address that is listened on.
    pub listen: SocketAddr,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// Name of the bridge.
    pub bridge: String,
    /// MTU of containers.
    pub mtu: u32,
    /// Connections by state.
    pub connections: ConnectionCounts,
    /// Known peers by state.
    pub peers: PeerCounts,
    /// Address allocation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipam: Option<IpamSummary>,
    /// Attached interfaces.
    pub attachments: usize,
    /// Host address on the fabric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exposed: Option<Ipv4Net>,
    /// Frames and bytes since the start, and drops by reason.
    pub traffic: Traffic,
    /// Names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsSummary>,
    /// Each thing that is not well, with what to type.
    pub problems: Vec<Problem>,
}

/// Names in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsSummary {
    /// `serving`, `starting`, `failed` or `off`.
    pub state: String,
    /// Where containers ask, unless it is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// The fabric's domain.
    pub domain: String,
    /// Different names of the fabric.
    pub names: usize,
    /// Answers of upstreams that are kept.
    pub cached: usize,
    /// What became of questions.
    pub questions: Vec<Count>,
}

/// Something that is not well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Stable word.
    pub code: String,
    /// `error` when traffic or allocation suffers, `warning` otherwise.
    pub severity: String,
    /// What and why.
    pub message: String,
    /// What to type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Connections by state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionCounts {
    /// With a session.
    pub established: usize,
    /// Being made.
    pub connecting: usize,
    /// Not to be had at present.
    pub failed: usize,
}

/// Peers by state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerCounts {
    /// Alive, this router included.
    pub alive: usize,
    /// Perhaps dead.
    pub suspect: usize,
    /// Dead or departed and still remembered.
    pub dead: usize,
}

/// Frames, bytes and drops.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Frames sent to peers (a super-frame counts as one).
    pub tx_frames: u64,
    /// Bytes of these.
    pub tx_bytes: u64,
    /// Frames received from peers.
    pub rx_frames: u64,
    /// Bytes of these.
    pub rx_bytes: u64,
    /// Drops by reason, those that happened only.
    pub drops: Vec<Count>,
}

/// A named counter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Stable word.
    pub reason: String,
    /// How often.
    pub count: u64,
}

/// `GET /connections` answers this.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Connections {
    /// Sessions with peers and tries to get one.
    pub connections: Vec<Connection>,
    /// Senders of datagrams that were refused, newest last, bounded.
    pub refused: Vec<Refused>,
    /// Control datagrams dropped by reason.
    pub drops: Vec<Count>,
}

/// One session, or a try to get one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Connection {
    /// `->` dialled by us, `<-` by the peer.
    pub direction: String,
    /// Underlay address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
    /// `established`, `handshaking`, `connecting`, `failed`.
    pub state: String,
    /// The peer, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Its nickname.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nickname: Option<String>,
    /// Cipher of the data lanes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cipher: Option<String>,
    /// Round trip in microseconds, as last measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u64>,
    /// Why it is not established.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Seconds in this state.
    pub since_s: u64,
    /// Seconds until the next try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_s: Option<u64>,
    /// Bytes sent over the data lanes.
    pub tx_bytes: u64,
    /// Bytes received over them.
    pub rx_bytes: u64,
    /// What it is kept for: `gossip`, `traffic`, `target`.
    pub uses: Vec<String>,
}

/// A sender that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Source address.
    pub address: SocketAddr,
    /// Why.
    pub reason: String,
    /// How often.
    pub count: u64,
    /// Seconds since the last time.
    pub last_s: u64,
}

/// A known peer; `GET /peers` answers a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Full id.
    pub id: String,
    /// Nickname.
    pub nickname: String,
    /// `self`, `alive`, `suspect`, `dead`, `left`, `removed`.
    pub state: String,
    /// Underlay addresses it announces.
    pub addresses: Vec<SocketAddr>,
    /// Version of its `weaved`.
    pub version: String,
    /// Ids of the peers that it keeps gossip links with.
    pub links: Vec<String>,
    /// Container interfaces on it.
    pub endpoints: usize,
    /// Why traffic to it does not flow at present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreachable: Option<String>,
}

/// `GET /ipam`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipam {
    /// In short.
    pub summary: IpamSummary,
    /// Address space by owner.
    pub owners: Vec<IpamOwner>,
    /// Addresses handed out on this host.
    pub leases: Vec<Lease>,
    /// Block records that were refused, by reason.
    pub quarantined: Vec<Count>,
}

/// Address allocation in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpamSummary {
    /// IPv4 range.
    pub range: Ipv4Net,
    /// IPv6 prefix.
    pub range6: Ipv6Net,
    /// `ready`, `waiting`, `exhausted`, `unreachable`.
    pub state: String,
    /// Addresses this router owns.
    pub owned: u64,
    /// Of these, handed out.
    pub used: u64,
    /// Of these, resting before reuse.
    pub resting: u64,
    /// Addresses owned by peers that are not reachable.
    pub unreachable: u64,
    /// Addresses whose owner is not known.
    pub unknown: u64,
}

/// The space of one owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpamOwner {
    /// Peer id.
    pub peer: String,
    /// Nickname.
    pub nickname: String,
    /// `self`, `alive`, `unreachable`, `removed`.
    pub state: String,
    /// Seconds until this router takes over, if it is going to and nothing changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reclaim_in_s: Option<u64>,
    /// Addresses in all blocks.
    pub addresses: u64,
    /// Blocks as CIDR with their epochs, bounded.
    pub blocks: Vec<Block>,
}

/// One block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// CIDR.
    pub prefix: Ipv4Net,
    /// How often ownership was recorded along its line.
    pub epoch: u64,
}

/// An address that is handed out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Address.
    pub address: Ipv4Addr,
    /// Holder.
    pub owner: String,
}

/// `GET /report`: everything above in one, without secrets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// See [`Status`].
    pub status: Status,
    /// See [`Connections`].
    pub connections: Connections,
    /// See [`Peer`].
    pub peers: Vec<Peer>,
    /// See [`Target`].
    pub targets: Vec<Target>,
    /// See [`Ipam`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipam: Option<Ipam>,
    /// See [`Attachment`].
    pub attachments: Vec<Attachment>,
}
