//! `weave-ipam`: the fabric's addresses for interfaces that another plugin makes (`"ipam": {"type": "weave-ipam"}`).
//!
//! The same program under another name. An address is a lease whose name says network, container and interface, so that any
//! command finds it again without state of our own.

use std::io::Write;

use control::lease::{LeaseAnswer, LeaseRequest, OWNER_PREFIX, ReleaseRequest};
use control::pending::{self, PendingDetach};
use control::{Client, ClientError};
use serde_json::{Value, json};

use crate::commands::{ready, remark};
use crate::config::{Config, Provider, invalid};
use crate::daemon::{client, refused};
use crate::environment::Environment;
use crate::error::{CniError, Code};
use crate::result::CniResult;
use crate::wish::Wish;

/// ADD: an address; the same one when it is asked for again.
pub(crate) fn add(
    environment: &Environment,
    config: &Config,
    log: &mut dyn Write,
) -> Result<String, CniError> {
    if let Provider::Plugin(other) = &config.ipam.provider {
        return Err(invalid(format!("`ipam.type` is `{other}`, and this is `weave-ipam`")));
    }
    let wish = Wish::of(environment, config)?;
    if let Some(six) = wish.address6 {
        let message = format!("`{six}` is wanted, and `weave-ipam` gives IPv4 addresses");
        return Err(CniError::new(Code::UnsupportedField, message));
    }
    let client = client(config)?;
    settle(&client, environment, config)?;
    let request = LeaseRequest {
        name: name_of(environment, config),
        address: wish.address,
        subnet: config.ipam.subnet,
    };
    let lease: LeaseAnswer = client.lease(&request).map_err(|error| {
        if error.outcome_unknown()
            && let Err(second) = release_or_write_down(&client, environment, config)
        {
            remark(log, &second.to_string());
        }
        refused("lease an address", error)
    })?;
    let mut ip = json!({ "address": lease.address });
    if let Some(gateway) = config.ipam.gateway {
        ip["gateway"] = json!(gateway);
    }
    let routes: Vec<Value> = config.ipam.routes.iter().flatten().map(|route| json!(route)).collect();
    let result = json!({ "ips": [ip], "routes": routes, "dns": config.dns });
    Ok(CniResult::parse(&result)?.to_json(config.version))
}

/// DEL: give it back. Success when there is none, and also when `weaved` is down: the wish is then on disk.
pub(crate) fn del(environment: &Environment, config: &Config) -> Result<String, CniError> {
    release_or_write_down(&client(config)?, environment, config)?;
    Ok(String::new())
}

/// CHECK: is the address that the earlier result names still leased?
pub(crate) fn check(environment: &Environment, config: &Config) -> Result<String, CniError> {
    let Some(previous) = &config.previous else {
        return Err(invalid("CHECK needs `prevResult`"));
    };
    let previous = CniResult::parse(previous)?;
    let owner = format!("{OWNER_PREFIX}{}", name_of(environment, config));
    let ipam = client(config)?.ipam().map_err(|error| refused("confirm the address", error))?;
    let Some(lease) = ipam.leases.iter().find(|lease| lease.owner == owner) else {
        return Err(CniError::new(Code::Different, format!("no address is leased to `{owner}`")));
    };
    if previous.every_address().any(|address| address.addr() == lease.address) {
        return Ok(String::new());
    }
    let message = format!("`{owner}` has {}, and `prevResult` does not name it", lease.address);
    Err(CniError::new(Code::Different, message))
}

/// GC: give back what this network holds and the runtime does not list.
pub(crate) fn gc(config: &Config, log: &mut dyn Write) -> Result<String, CniError> {
    let Some(keep) = &config.valid else {
        return Err(invalid("GC needs `cni.dev/valid-attachments`"));
    };
    let keep: Vec<String> =
        keep.iter().map(|pair| lease_name(&config.name, &pair.container, &pair.ifname)).collect();
    let client = client(config)?;
    let ipam = client.ipam().map_err(|error| refused("list addresses", error))?;
    let network = lease_name(&config.name, "", "");
    let network = network.trim_end_matches('/');
    let held = ipam.leases.iter().filter_map(|lease| lease.owner.strip_prefix(OWNER_PREFIX));
    let mut first = Ok(String::new());
    for name in held.filter(|name| name.starts_with(network) && !keep.iter().any(|kept| kept == name)) {
        match client.release(&ReleaseRequest { name: name.to_owned() }) {
            Ok(answer) => remark(log, &format!("released {:?} of `{name}`", answer.released)),
            // The others are released all the same, as the specification wants.
            Err(error) => first = first.and(Err(refused("release an address", error))),
        }
    }
    first
}

/// STATUS: could an address be had now?
pub(crate) fn status(config: &Config) -> Result<String, CniError> {
    ready(config)?;
    Ok(String::new())
}

fn name_of(environment: &Environment, config: &Config) -> String {
    lease_name(&config.name, &environment.container, &environment.ifname)
}

/// Neither `:` nor `/` occurs in a network's name or a container's id, so no two triples share a name.
fn lease_name(network: &str, container: &str, ifname: &str) -> String {
    format!("cni:{network}:{container}/{ifname}")
}

fn release_or_write_down(
    client: &Client,
    environment: &Environment,
    config: &Config,
) -> Result<(), CniError> {
    let name = name_of(environment, config);
    let pending = PendingDetach::of_lease(&environment.container, &environment.ifname, &name);
    let failed = |error: std::io::Error| {
        let place = pending::directory(&config.state_dir);
        CniError::new(Code::Io, format!("cannot write `{}`: {error}", place.display()))
    };
    match release(client, &name) {
        Ok(()) => pending::remove(&config.state_dir, &pending).map_err(failed),
        Err(error) if error.never_asked() || error.outcome_unknown() => {
            pending::write(&config.state_dir, &pending).map_err(failed)?;
            // As with detachments: `weaved` may have read its journal just before the line above.
            match release(client, &name) {
                Ok(()) => pending::remove(&config.state_dir, &pending).map_err(failed),
                Err(_) => Ok(()),
            }
        }
        Err(error) => Err(refused("release the address", error)),
    }
}

/// A release of the same lease that still waits would hit the new one later.
fn settle(client: &Client, environment: &Environment, config: &Config) -> Result<(), CniError> {
    let name = name_of(environment, config);
    let pending = PendingDetach::of_lease(&environment.container, &environment.ifname, &name);
    if !pending::waits(&config.state_dir, &pending) {
        return Ok(());
    }
    release(client, &name).map_err(|error| refused("finish the release that waits on disk", error))?;
    pending::remove(&config.state_dir, &pending).map_err(|error| {
        let place = pending::directory(&config.state_dir);
        CniError::new(Code::Io, format!("cannot clear `{}`: {error}", place.display()))
    })
}

fn release(client: &Client, name: &str) -> Result<(), ClientError> {
    match client.release(&ReleaseRequest { name: name.to_owned() }) {
        Err(ClientError::Api(error)) if error.code == control::api::ErrorCode::NoFabric => Ok(()),
        other => other.map(drop),
    }
}
