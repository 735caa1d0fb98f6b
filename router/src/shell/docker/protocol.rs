//! The words of Docker's plugin protocol (libnetwork's remote driver and remote IPAM), as they appear in JSON.
//!
//! Every field may be absent or null: what one version of Docker always sends, another leaves out. Fields that nobody reads here
//! are not listed.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Free-form options of a request.
pub type Options = Map<String, Value>;

/// Key of the options that a person gave by `-o`.
const GENERIC: &str = "com.docker.network.generic";

/// A wish for a pool of addresses.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RequestPool {
    /// `weave-local` or `weave-global`.
    pub address_space: String,
    /// `--subnet`, or empty.
    pub pool: String,
    /// `--ip-range`, or empty.
    pub sub_pool: String,
    /// IPv6.
    pub v6: bool,
}

/// A pool.
#[derive(Debug, Serialize)]
pub struct Pool {
    /// Its id.
    #[serde(rename = "PoolID")]
    pub pool_id: String,
    /// Its subnet.
    #[serde(rename = "Pool")]
    pub pool: String,
    /// Nothing.
    #[serde(rename = "Data")]
    pub data: Options,
}

/// A pool is given back.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ReleasePool {
    /// Which.
    #[serde(rename = "PoolID")]
    pub pool_id: String,
}

/// A wish for an address.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct RequestAddress {
    /// From where.
    #[serde(rename = "PoolID")]
    pub pool_id: String,
    /// This one, or empty.
    #[serde(rename = "Address")]
    pub address: String,
    /// What it is for.
    #[serde(rename = "Options")]
    pub options: Option<Options>,
}

/// An address.
#[derive(Debug, Serialize)]
pub struct Address {
    /// With the prefix length of its pool.
    #[serde(rename = "Address")]
    pub address: String,
    /// Nothing.
    #[serde(rename = "Data")]
    pub data: Options,
}

/// An address is given back.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ReleaseAddress {
    /// To where.
    #[serde(rename = "PoolID")]
    pub pool_id: String,
    /// Which, without a prefix length.
    #[serde(rename = "Address")]
    pub address: String,
}

/// Addresses of a network.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct IpamData {
    /// Whose.
    pub address_space: String,
    /// Its subnet.
    pub pool: String,
}

/// A network is made. Never said again.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct CreateNetwork {
    /// Its id.
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    /// Docker's and the person's.
    #[serde(rename = "Options")]
    pub options: Option<Options>,
    /// IPv4.
    #[serde(rename = "IPv4Data")]
    pub ipv4: Option<Vec<IpamData>>,
    /// IPv6.
    #[serde(rename = "IPv6Data")]
    pub ipv6: Option<Vec<IpamData>>,
}

impl CreateNetwork {
    /// What a person gave by `-o NAME=VALUE`.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.as_ref()?.get(GENERIC)?.get(name)?.as_str()
    }
}

/// Something about a network as a whole.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct OfNetwork {
    /// Which.
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    /// What the person gave by `-o`, when Swarm's manager allocates.
    #[serde(rename = "Options")]
    pub options: Option<Options>,
}

/// Something about an endpoint: `Join`, `Leave` and more.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct OfEndpoint {
    /// Of which network.
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    /// Which.
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    /// `Join`: the container's namespace, for the eye only. It is a mount of Docker's own, so it is never opened.
    #[serde(rename = "SandboxKey")]
    pub sandbox_key: String,
}

/// An endpoint is made.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct CreateEndpoint {
    /// Of which network.
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    /// Its id.
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    /// What it shall be.
    #[serde(rename = "Interface")]
    pub interface: Option<Interface>,
}

/// An interface as asked for, or, in an answer, what was left open.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Interface {
    /// IPv4 with prefix length.
    #[serde(rename = "Address", skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// IPv6 with prefix length.
    #[serde(rename = "AddressIPv6", skip_serializing_if = "String::is_empty")]
    pub address6: String,
    /// MAC address.
    #[serde(rename = "MacAddress", skip_serializing_if = "String::is_empty")]
    pub mac: String,
}

/// An endpoint was made. Docker refuses answers that repeat what it asked for.
#[derive(Debug, Serialize)]
pub struct CreatedEndpoint {
    /// What was left open.
    #[serde(rename = "Interface")]
    pub interface: Interface,
}

/// What Docker is to do with the interface that was made.
#[derive(Debug, Serialize)]
pub struct Joined {
    /// Its name now, and the first part of its name in the container.
    #[serde(rename = "InterfaceName")]
    pub interface: InterfaceName,
    /// Routes to make in the container.
    #[serde(rename = "StaticRoutes")]
    pub routes: Vec<StaticRoute>,
    /// Whether Docker shall leave out its own way to the world, through `docker_gwbridge`.
    #[serde(rename = "DisableGatewayService")]
    pub disable_gateway: bool,
}

/// See [`Joined`].
#[derive(Debug, Serialize)]
pub struct InterfaceName {
    /// On the host.
    #[serde(rename = "SrcName")]
    pub src: String,
    /// In the container, to which Docker adds a number.
    #[serde(rename = "DstPrefix")]
    pub dst: &'static str,
}

/// See [`Joined`].
#[derive(Debug, Serialize)]
pub struct StaticRoute {
    /// Where to.
    #[serde(rename = "Destination")]
    pub destination: String,
    /// 1: on the link.
    #[serde(rename = "RouteType")]
    pub kind: u8,
    /// Nothing.
    #[serde(rename = "NextHop")]
    pub next_hop: &'static str,
}
