//! A fabric that hands out addresses and interfaces from tables, survives the driver's crashes, and can stop in the middle of any work.

use std::collections::BTreeMap;
use std::future::pending;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use control::api::{ApiError, ErrorCode};
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::super::book::Waits;
use super::super::fabric::{Fabric, Place, Plug, Plugged, Ranges, Wish};
use super::super::{Driver, Outcome, Scope};
use crate::shell::engine::call::{Rest, refusal};

static WORLDS: AtomicU32 = AtomicU32::new(0);

/// What is there, whatever becomes of the driver.
#[derive(Default)]
pub(super) struct Things {
    pub(super) leases: BTreeMap<Ipv4Addr, String>,
    pub(super) plugs: BTreeMap<String, Plugged>,
    /// Steps until the driver's process dies.
    pub(super) fuse: Option<u32>,
}

/// See the module's text.
#[derive(Clone)]
pub(super) struct World {
    things: Arc<Mutex<Things>>,
    dead: Arc<Notify>,
    pub(super) dir: PathBuf,
}

impl World {
    pub(super) fn new() -> World {
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        // Thousands of small durable writes: in memory where that is possible.
        let memory = PathBuf::from("/dev/shm");
        let base = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let dir = base.join(format!("weaved-docker-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("dir");
        World { things: Arc::default(), dead: Arc::default(), dir }
    }

    pub(super) fn things(&self) -> MutexGuard<'_, Things> {
        self.things.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A driver, as after a start.
    pub(super) async fn driver(&self, scope: Scope) -> Arc<Driver<World>> {
        self.things().fuse = None;
        let driver =
            Driver::open(self.clone(), scope, "weave".to_owned(), &self.dir, Waits::Here).expect("a book");
        driver.recover().await.expect("recovered");
        driver
    }

    /// Fires when the fuse has burnt down.
    pub(super) async fn died(&self) {
        self.dead.notified().await;
    }

    /// One step: others go on, and it may be the last.
    async fn step(&self) {
        tokio::task::yield_now().await;
        let last = {
            let mut things = self.things();
            match &mut things.fuse {
                Some(0) => true,
                Some(left) => {
                    *left -= 1;
                    false
                }
                None => false,
            }
        };
        if last {
            self.dead.notify_one();
            pending::<()>().await;
        }
    }

    async fn around<T>(&self, work: impl FnOnce(&mut Things) -> T) -> T {
        self.step().await;
        let result = work(&mut self.things());
        self.step().await;
        result
    }
}

impl Fabric for World {
    async fn ranges(&self) -> Result<Ranges, ApiError> {
        Ok(Ranges {
            v4: "10.40.0.0/16".parse().expect("v4"),
            v6: "fd01:2:3::/64".parse().expect("v6"),
            nameserver: Some(Ipv4Addr::new(169, 254, 67, 83)),
        })
    }

    async fn lease(&self, holder: &str, wish: Wish) -> Result<Ipv4Addr, ApiError> {
        self.around(|things| {
            let free = |at: &Ipv4Addr| !things.leases.contains_key(at);
            let found = match wish {
                Wish::Fixed(address) => Some(address).filter(free),
                // As the allocator: it knows only the ends of the whole range.
                Wish::In(subnet) => {
                    let first = u32::from(subnet.network());
                    let mut all = (first..=u32::from(subnet.broadcast())).map(Ipv4Addr::from);
                    all.find(|at| free(at) && *at != Ipv4Addr::new(10, 40, 0, 0))
                }
            };
            let address = found.ok_or_else(|| refusal(ErrorCode::Conflict, "no address: taken"))?;
            things.leases.insert(address, holder.to_owned());
            Ok(address)
        })
        .await
    }

    async fn release(&self, holder: &str, _rest: Rest) -> Result<(), ApiError> {
        self.around(|things| things.leases.retain(|_, other| other != holder)).await;
        Ok(())
    }

    async fn leases(&self) -> Result<Vec<(String, Ipv4Addr)>, ApiError> {
        let things = self.things();
        let docker =
            things.leases.iter().filter(|(_, holder)| holder.starts_with(super::super::fabric::HOLDER));
        Ok(docker.map(|(at, holder)| (holder.clone(), *at)).collect())
    }

    async fn plug(&self, plug: Plug) -> Result<String, ApiError> {
        self.around(|things| {
            let name = format!("vd{}", plug.endpoint);
            let plugged = Plugged {
                endpoint: plug.endpoint.clone(),
                address: plug.address.addr(),
                address6: plug.address6.addr(),
                place: Place::Host,
            };
            things.plugs.insert(plug.endpoint, plugged);
            Ok(name)
        })
        .await
    }

    async fn unplug(&self, endpoint: &str) -> Result<(), ApiError> {
        self.around(|things| drop(things.plugs.remove(endpoint))).await;
        Ok(())
    }

    async fn plugged(&self) -> Result<Vec<Plugged>, ApiError> {
        Ok(self.things().plugs.values().cloned().collect())
    }
}

/// Calls, expects success, answers the answer.
#[track_caller]
pub(super) fn done(outcome: Outcome) -> Value {
    match outcome {
        Outcome::Done(answer) => answer,
        other => panic!("got {other:?}, want an answer"),
    }
}

/// Expects a refusal, answers its text.
#[track_caller]
pub(super) fn refused(outcome: Outcome) -> String {
    match outcome {
        Outcome::Failed(answer) => {
            let text = answer.get("Err").or(answer.get("Error")).and_then(Value::as_str);
            text.expect("a text").to_owned()
        }
        other => panic!("got {other:?}, want a refusal"),
    }
}

/// A call with a body.
pub(super) async fn call(driver: &Arc<Driver<World>>, method: &str, body: Value) -> Outcome {
    driver.run(method, body.to_string().as_bytes()).await
}

/// A pool of this subnet; answers its id.
pub(super) async fn pool(driver: &Arc<Driver<World>>, subnet: &str, v6: bool) -> String {
    let body =
        json!({ "AddressSpace": "weave-local", "Pool": subnet, "SubPool": "", "Options": {}, "V6": v6 });
    let answer = done(call(driver, "IpamDriver.RequestPool", body).await);
    answer["PoolID"].as_str().expect("an id").to_owned()
}

/// An address of a pool.
pub(super) async fn address(driver: &Arc<Driver<World>>, pool: &str, wish: &str) -> Outcome {
    let body = json!({ "PoolID": pool, "Address": wish, "Options": null });
    call(driver, "IpamDriver.RequestAddress", body).await
}

/// Gives it back.
pub(super) async fn release(driver: &Arc<Driver<World>>, pool: &str, address: &str) -> Outcome {
    let bare = address.split('/').next().unwrap_or_default();
    call(driver, "IpamDriver.ReleaseAddress", json!({ "PoolID": pool, "Address": bare })).await
}

/// An endpoint with these addresses.
pub(super) async fn endpoint(driver: &Arc<Driver<World>>, id: &str, v4: &str, v6: &str) -> Outcome {
    let interface = json!({ "Address": v4, "AddressIPv6": v6, "MacAddress": "" });
    let body = json!({ "NetworkID": "net", "EndpointID": id, "Interface": interface, "Options": {} });
    call(driver, "NetworkDriver.CreateEndpoint", body).await
}

/// Something about an endpoint.
pub(super) async fn about(driver: &Arc<Driver<World>>, method: &str, id: &str) -> Outcome {
    let body = json!({ "NetworkID": "net", "EndpointID": id, "SandboxKey": "/nowhere", "Options": {} });
    call(driver, &format!("NetworkDriver.{method}"), body).await
}
