//! The network driver and the IPAM driver for Docker, as a plugin on a unix socket.
//!
//! `socket` says where and when, `plugin` speaks HTTP, `protocol` has the words, and the driver does what they say: `address` and `pool` for
//! IPAM, `network` and `endpoint` for networks. What Docker was promised is in the `book`; `sweep` finds what it lost. The driver knows the
//! router only through the trait `fabric::Fabric`, and nothing here touches the kernel.
//!
//! Docker waits 30 s for an answer and its whole daemon with it, so every call has an answer before that, and goes on to its end by itself.

mod address;
pub mod book;
mod endpoint;
pub mod fabric;
pub mod names;
mod network;
mod plugin;
pub mod pool;
pub mod protocol;
pub mod socket;
mod sweep;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use control::api::ApiError;
use serde::Deserialize;
use serde_json::{Value, json};

use self::book::{Book, Waits};
use self::fabric::Fabric;
use self::sweep::Suspect;
use super::locks::Locks;

/// Longest that a call of Docker's waits for its answer: below its own 30 s, above the longest of ours (an address 12 s, twice a journal).
const DEADLINE: Duration = Duration::from_secs(20);

/// What Docker thinks a network of this driver is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Each host's own, made on each by `docker network create`
    #[default]
    Local,
    /// A Swarm's, made once
    Global,
}

/// Why a call failed, as Docker shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure(String);

impl Failure {
    fn new(error: impl ToString) -> Failure {
        Failure(error.to_string())
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Failure {
        match error.hint {
            Some(hint) => Failure(format!("{}; {hint}", error.message)),
            None => Failure(error.message),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure(format!(
            "the state directory cannot be written ({error}), so nothing new is promised; free space in it, then try again"
        ))
    }
}

/// What became of a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Done.
    Done(Value),
    /// Refused or failed.
    Failed(Value),
    /// The request does not parse.
    Unreadable(String),
    /// No such method.
    Unknown,
}

/// See the module's text.
pub struct Driver<F> {
    fabric: F,
    scope: Scope,
    /// As Docker calls it.
    name: String,
    book: tokio::sync::Mutex<Book>,
    /// One endpoint is worked on by one call at a time.
    locks: Locks,
    /// Leases that have no IPv6 address and no endpoint yet, the last one last.
    fresh: Mutex<Vec<Ipv4Addr>>,
    /// Since when something looks like an orphan.
    since: Mutex<BTreeMap<Suspect, Instant>>,
    /// Pools of our choice that Docker asked for and has not used.
    untaken: AtomicU32,
}

impl<F: Fabric> Driver<F> {
    /// With the book in the state directory.
    pub fn open(
        fabric: F,
        scope: Scope,
        name: String,
        state_dir: &Path,
        waits: Waits,
    ) -> io::Result<Arc<Driver<F>>> {
        Ok(Arc::new(Driver {
            fabric,
            scope,
            name,
            book: tokio::sync::Mutex::new(Book::open(state_dir, waits)?),
            locks: Locks::default(),
            fresh: Mutex::default(),
            since: Mutex::default(),
            untaken: AtomicU32::new(0),
        }))
    }

    /// Answers a call before Docker loses its patience; the work goes on to its end also when the answer comes too late.
    pub async fn call(self: &Arc<Self>, method: &str, body: &[u8]) -> Outcome {
        let (this, name, body) = (Arc::clone(self), method.to_owned(), body.to_owned());
        let work = tokio::spawn(async move { this.run(&name, &body).await });
        match tokio::time::timeout(DEADLINE, work).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => failed(method, &Failure::new(format!("the call ended early: {error}"))),
            Err(_) => {
                failed(method, &Failure::new("weaved did not answer in time; weavectl status shows why"))
            }
        }
    }

    /// Carries out a call.
    pub async fn run(&self, method: &str, body: &[u8]) -> Outcome {
        let outcome = match method {
            "Plugin.Activate" => Outcome::Done(json!({ "Implements": ["NetworkDriver", "IpamDriver"] })),
            "NetworkDriver.GetCapabilities" => Outcome::Done(self.capabilities()),
            "NetworkDriver.GwAllocCheck" => Outcome::Done(json!({ "SkipIPv4": true, "SkipIPv6": true })),
            "NetworkDriver.AllocateNetwork" => {
                take(method, body, async |request: protocol::OfNetwork| {
                    Ok(json!({ "Options": request.options.unwrap_or_default() }))
                })
                .await
            }
            "NetworkDriver.EndpointOperInfo" => Outcome::Done(json!({ "Value": {} })),
            // Docker says who else is in its Swarm, which ports it published where we have no gateway, and that it forgets what
            // `AllocateNetwork` answered: nothing of it changes what is done here.
            "NetworkDriver.FreeNetwork"
            | "NetworkDriver.DiscoverNew"
            | "NetworkDriver.DiscoverDelete"
            | "NetworkDriver.ProgramExternalConnectivity"
            | "NetworkDriver.RevokeExternalConnectivity" => Outcome::Done(json!({})),
            "NetworkDriver.CreateNetwork" => take(method, body, |request| self.create_network(request)).await,
            "NetworkDriver.DeleteNetwork" => take(method, body, |request| self.delete_network(request)).await,
            "NetworkDriver.CreateEndpoint" => {
                take(method, body, |request| self.create_endpoint(request)).await
            }
            "NetworkDriver.DeleteEndpoint" => {
                take(method, body, |request| self.delete_endpoint(request)).await
            }
            "NetworkDriver.Join" => take(method, body, |request| self.join(request)).await,
            "NetworkDriver.Leave" => take(method, body, |request| self.leave(request)).await,
            "IpamDriver.GetCapabilities" => {
                Outcome::Done(json!({ "RequiresMACAddress": false, "RequiresRequestReplay": false }))
            }
            "IpamDriver.GetDefaultAddressSpaces" => Outcome::Done(json!({
                "LocalDefaultAddressSpace": pool::LOCAL,
                "GlobalDefaultAddressSpace": pool::GLOBAL,
            })),
            "IpamDriver.RequestPool" => take(method, body, |request| self.request_pool(request)).await,
            "IpamDriver.ReleasePool" => take(method, body, |request| self.release_pool(request)).await,
            "IpamDriver.RequestAddress" => take(method, body, |request| self.request_address(request)).await,
            "IpamDriver.ReleaseAddress" => take(method, body, |request| self.release_address(request)).await,
            _ => Outcome::Unknown,
        };
        match &outcome {
            Outcome::Failed(why) => tracing::warn!(method, %why, "a call of Docker's failed"),
            Outcome::Unreadable(why) => tracing::warn!(method, why, "a call of Docker's does not parse"),
            Outcome::Unknown => tracing::debug!(method, "Docker called what this driver does not have"),
            Outcome::Done(answer) => tracing::debug!(method, %answer, "answered Docker"),
        }
        outcome
    }

    fn capabilities(&self) -> Value {
        let scope = match self.scope {
            Scope::Local => "local",
            Scope::Global => "global",
        };
        // Containers of all hosts reach each other, whatever Docker knows of other hosts. No gateway is chosen for them.
        json!({ "Scope": scope, "ConnectivityScope": "global", "GwAllocChecker": true })
    }

    fn fresh(&self) -> MutexGuard<'_, Vec<Ipv4Addr>> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn since(&self) -> MutexGuard<'_, BTreeMap<Suspect, Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a request, which may be without a body, and turns what became of it into Docker's words.
async fn take<T, R, W>(method: &str, body: &[u8], work: impl FnOnce(T) -> W) -> Outcome
where
    T: serde::de::DeserializeOwned + Default,
    R: Answer,
    W: Future<Output = Result<R, Failure>>,
{
    let request = match body {
        [] => Ok(T::default()),
        body => serde_json::from_slice(body),
    };
    match request {
        Err(error) => Outcome::Unreadable(error.to_string()),
        Ok(request) => match work(request).await {
            Ok(answer) => Outcome::Done(answer.json()),
            Err(failure) => failed(method, &failure),
        },
    }
}

/// Docker's two drivers have two words for an error.
fn failed(method: &str, failure: &Failure) -> Outcome {
    let word = if method.starts_with("IpamDriver.") { "Error" } else { "Err" };
    Outcome::Failed(json!({ word: failure.0 }))
}

/// What a method answers.
trait Answer {
    fn json(self) -> Value;
}

impl Answer for () {
    fn json(self) -> Value {
        json!({})
    }
}

impl Answer for Value {
    fn json(self) -> Value {
        self
    }
}

impl Answer for protocol::Pool {
    fn json(self) -> Value {
        plain(&self)
    }
}

impl Answer for protocol::Address {
    fn json(self) -> Value {
        plain(&self)
    }
}

impl Answer for protocol::CreatedEndpoint {
    fn json(self) -> Value {
        plain(&self)
    }
}

impl Answer for protocol::Joined {
    fn json(self) -> Value {
        plain(&self)
    }
}

/// Structures of strings and numbers always become JSON.
fn plain(answer: &impl serde::Serialize) -> Value {
    serde_json::to_value(answer).unwrap_or_default()
}
