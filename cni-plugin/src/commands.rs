//! The commands of the specification, one function each.

use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use control::api::{
    AttachRequest, Attachment, Caller, CheckRequest, DetachRequest, ErrorCode, GcRequest, IpamSummary,
    UndoRequest,
};
use control::netns::Netns;
use control::pending::{self, PendingDetach};
use control::{Client, ClientError};
use serde_json::{Value, json};

use crate::config::{Config, invalid};
use crate::daemon::{bad_netns, client, refused};
use crate::delegate::{Choice, Delegate};
use crate::environment::{Environment, OwnNetns};
use crate::error::{CniError, Code};
use crate::result::CniResult;
use crate::version::SpecVersion;
use crate::wish::Wish;

/// ADD: attach the container. What fails leaves nothing behind.
pub(crate) fn add(
    environment: &Environment,
    config: &Config,
    log: &mut dyn Write,
) -> Result<String, CniError> {
    let mut wish = Wish::of(environment, config)?;
    // Read before anything is made, so that a bad one costs nothing.
    let mut result = match &config.previous {
        None => CniResult::default(),
        Some(previous) => CniResult::parse(previous)?,
    };
    let netns = open_netns(environment)?;
    let client = client(config)?;
    settle(&client, environment, config)?;
    let delegate = Delegate::of(environment, config)?;
    if let Some(delegate) = &delegate {
        let choice = choose(delegate, log)?;
        wish = Wish { address: Some(choice.address), address6: None, routes: choice.routes, ..wish };
    }
    let attempt = attempt();
    let request = AttachRequest {
        container: environment.container.clone(),
        ifname: environment.ifname.clone(),
        netns: netns.path_for_others(),
        address: wish.address,
        address6: wish.address6,
        subnet: config.ipam.subnet,
        mtu: wish.mtu,
        mac: wish.mac,
        routes: wish.routes,
        name: wish.name,
        names: wish.names,
        caller: Caller::Cni,
        sandbox: Some(environment.netns.clone()),
        network: Some(config.name.clone()),
        attempt: Some(attempt.clone()),
    };
    let attachment: Attachment = client.attach(&request).map_err(|error| {
        if error.outcome_unknown() {
            undo(&client, environment, config, &attempt, log);
        }
        give_back(delegate.as_ref(), log);
        refused("attach the container", error)
    })?;
    result.add(&attachment, &environment.netns, &config.dns);
    Ok(result.to_json(config.version))
}

/// DEL: detach it. Success when there is nothing to do, and also when `weaved` is down: the wish is then on disk.
pub(crate) fn del(
    environment: &Environment,
    config: &Config,
    log: &mut dyn Write,
) -> Result<String, CniError> {
    detach_or_write_down(environment, config, log)?;
    // Last, so that nobody gets the address while it is in use. Its failure is ours: the runtime has to ask again.
    if let Some(delegate) = Delegate::of(environment, config)? {
        delegate.tell("DEL")?;
    }
    Ok(String::new())
}

fn detach_or_write_down(
    environment: &Environment,
    config: &Config,
    log: &mut dyn Write,
) -> Result<(), CniError> {
    let client = client(config)?;
    let pending = PendingDetach::new(&environment.container, &environment.ifname);
    let mut answer = detach(&client, &pending);
    if let Err(error) = &answer
        && (error.never_asked() || error.outcome_unknown())
    {
        write_down(config, &pending)?;
        // `weaved` may have started, and have read the journal, just before the line above. It binds its socket before it reads
        // the journal, so whoever is still refused now is read later.
        let worth_it = match error {
            ClientError::Timeout { .. } | ClientError::ConnectTimeout { .. } => false,
            ClientError::SocketMissing { .. }
            | ClientError::NotRunning { .. }
            | ClientError::PermissionDenied { .. }
            | ClientError::Closed { .. }
            | ClientError::Api(_)
            | ClientError::Protocol { .. }
            | ClientError::Io { .. } => true,
        };
        if worth_it {
            answer = detach(&client, &pending);
        }
    }
    match answer {
        Ok(()) => {
            forget_pending(config, &pending, log);
            Ok(())
        }
        Err(error) if error.never_asked() => {
            remark(log, &format!("{error}; the detachment of `{}` waits on disk", environment.container));
            Ok(())
        }
        Err(error) => Err(refused("detach the container", error)),
    }
}

/// CHECK: is the container attached as the earlier result says?
pub(crate) fn check(environment: &Environment, config: &Config) -> Result<String, CniError> {
    let Some(previous) = &config.previous else {
        return Err(invalid("CHECK needs `prevResult`"));
    };
    let previous = CniResult::parse(previous)?;
    let Some(addresses) = previous.addresses(&environment.ifname, &environment.netns) else {
        let Environment { ifname, netns, .. } = environment;
        return Err(invalid(format!("`prevResult` has no interface `{ifname}` in `{netns}`")));
    };
    let netns = open_netns(environment)?;
    let request = CheckRequest {
        container: environment.container.clone(),
        ifname: environment.ifname.clone(),
        netns: netns.path_for_others(),
        addresses,
    };
    client(config)?.check(&request).map_err(|error| {
        let mut answer = refused("confirm the attachment", error);
        if answer.code == Code::Taken {
            answer.code = Code::Different;
        }
        answer
    })?;
    if let Some(delegate) = Delegate::of(environment, config)? {
        delegate.tell("CHECK")?;
    }
    Ok(String::new())
}

/// GC: detach what the runtime does not know any more. What other networks and people have attached stays.
pub(crate) fn gc(
    environment: &Environment,
    config: &Config,
    log: &mut dyn Write,
) -> Result<String, CniError> {
    let Some(keep) = &config.valid else {
        return Err(invalid("GC needs `cni.dev/valid-attachments`"));
    };
    let request = GcRequest { network: config.name.clone(), keep: keep.clone() };
    let answer = client(config)?.gc(&request).map_err(|error| {
        let mut answer = refused("collect garbage", error);
        if answer.code == Code::UnknownContainer {
            answer.code = Code::NotImplemented;
        }
        answer
    })?;
    for pair in answer.detached {
        remark(log, &format!("detached `{}` from `{}`", pair.ifname, pair.container));
    }
    if let Some(delegate) = Delegate::of(environment, config)? {
        delegate.tell("GC")?;
    }
    Ok(String::new())
}

/// STATUS: could a container be attached now?
pub(crate) fn status(environment: &Environment, config: &Config) -> Result<String, CniError> {
    ready(config)?;
    if let Some(delegate) = Delegate::of(environment, config)? {
        delegate.tell("STATUS")?;
    }
    Ok(String::new())
}

/// Whether `weaved` can hand out addresses.
pub(crate) fn ready(config: &Config) -> Result<(), CniError> {
    let status = client(config)?.status().map_err(|error| {
        // Frames between hosts pass through `weaved`, so containers are cut off from other hosts while it is down.
        let code = match error {
            ClientError::Api(_) | ClientError::PermissionDenied { .. } => Code::Unavailable,
            ClientError::SocketMissing { .. }
            | ClientError::NotRunning { .. }
            | ClientError::ConnectTimeout { .. }
            | ClientError::Timeout { .. }
            | ClientError::Closed { .. }
            | ClientError::Protocol { .. }
            | ClientError::Io { .. } => Code::UnavailableLimited,
        };
        CniError { code, ..refused("reach `weaved`", error) }
    })?;
    match status.ipam {
        None => Err(CniError::new(Code::Unavailable, "this router belongs to no fabric")
            .hint("create one with `weavectl up`, or enter one with `weavectl join TOKEN`")),
        Some(IpamSummary { state, range, .. }) if state != "ready" => {
            Err(CniError::new(Code::Unavailable, format!("no address of {range} can be had: {state}"))
                .hint("see `weavectl status ipam`"))
        }
        Some(_) => Ok(()),
    }
}

/// VERSION: needs no configuration that makes sense.
pub(crate) fn version(input: &[u8]) -> String {
    let stated = serde_json::from_slice::<Value>(input).ok();
    let stated = stated.as_ref().and_then(crate::config::stated_version);
    let supported: Vec<&str> = SpecVersion::ALL.iter().map(|version| version.as_str()).collect();
    json!({
        "cniVersion": stated.unwrap_or(SpecVersion::LATEST.as_str()),
        "supportedVersions": supported,
    })
    .to_string()
}

fn choose(delegate: &Delegate<'_>, log: &mut dyn Write) -> Result<Choice, CniError> {
    delegate.choose().inspect_err(|_| give_back(Some(delegate), log))
}

/// After a failed ADD: plugins take DEL also for what they never handed out.
fn give_back(delegate: Option<&Delegate<'_>>, log: &mut dyn Write) {
    if let Some(Err(error)) = delegate.map(|delegate| delegate.tell("DEL")) {
        remark(log, &error.to_string());
    }
}

fn open_netns(environment: &Environment) -> Result<Netns, CniError> {
    let netns = Netns::open(Path::new(&environment.netns)).map_err(bad_netns)?;
    if environment.own_netns == OwnNetns::Refused && netns.is_own().map_err(bad_netns)? {
        let message = format!("CNI_NETNS `{}` is the host's own network namespace", environment.netns);
        return Err(CniError::new(Code::InvalidNetns, message));
    }
    Ok(netns)
}

/// Carry out a detachment of the same pair that still waits, or it would hit the new attachment later.
fn settle(client: &Client, environment: &Environment, config: &Config) -> Result<(), CniError> {
    let pending = PendingDetach::new(&environment.container, &environment.ifname);
    if !pending::waits(&config.state_dir, &pending) {
        return Ok(());
    }
    detach(client, &pending).map_err(|error| refused("finish the detachment that waits on disk", error))?;
    pending::remove(&config.state_dir, &pending).map_err(|error| {
        let place = pending::directory(&config.state_dir);
        CniError::new(Code::Io, format!("cannot clear `{}`: {error}", place.display()))
    })
}

fn detach(client: &Client, pending: &PendingDetach) -> Result<(), ClientError> {
    let request: DetachRequest = pending.request();
    match client.detach(&request) {
        Ok(_) => Ok(()),
        Err(ClientError::Api(error)) => match error.code {
            // Nothing is there: the specification wants success.
            ErrorCode::NotFound | ErrorCode::UnknownContainer | ErrorCode::NoFabric => Ok(()),
            ErrorCode::BadRequest
            | ErrorCode::Forbidden
            | ErrorCode::Conflict
            | ErrorCode::Exhausted
            | ErrorCode::Timeout
            | ErrorCode::Unreachable
            | ErrorCode::BadNetns
            | ErrorCode::StateNotDurable
            | ErrorCode::Kernel
            | ErrorCode::Internal
            | ErrorCode::Unknown => Err(ClientError::Api(error)),
        },
        Err(error) => Err(error),
    }
}

/// The answer to an attachment was lost: take back what may have been made, now or when `weaved` starts again. The error of the
/// attachment is the one to report, so this one only remarks.
fn undo(client: &Client, environment: &Environment, config: &Config, attempt: &str, log: &mut dyn Write) {
    let Environment { container, ifname, .. } = environment;
    let request =
        UndoRequest { container: container.clone(), ifname: ifname.clone(), attempt: attempt.to_owned() };
    if let Err(error) = client.undo(&request) {
        let pending = PendingDetach::of_attempt(container, ifname, attempt);
        match write_down(config, &pending) {
            Ok(()) => remark(log, &format!("{error}; what was begun for `{container}` is undone later")),
            Err(second) => remark(log, &format!("{error}; {second}")),
        }
    }
}

fn write_down(config: &Config, pending: &PendingDetach) -> Result<(), CniError> {
    pending::write(&config.state_dir, pending).map(|_| ()).map_err(|error| {
        let place = pending::directory(&config.state_dir);
        CniError::new(
            Code::Io,
            format!("`weaved` does not answer, and `{}` cannot be written: {error}", place.display()),
        )
        .hint("start it with `systemctl start weaved` or `weavectl up`, then delete the container again")
    })
}

/// A leftover is carried out by the next ADD of the same pair or the next start of `weaved`, and finds nothing.
fn forget_pending(config: &Config, pending: &PendingDetach, log: &mut dyn Write) {
    if let Err(error) = pending::remove(&config.state_dir, pending) {
        let place = pending::directory(&config.state_dir);
        remark(log, &format!("cannot clear `{}`: {error}", place.display()));
    }
}

/// A word that no other invocation on this host uses.
fn attempt() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}-{}", std::process::id(), now.as_nanos())
}

/// Standard error is the runtime's log; when it is closed there is nobody to tell.
pub(crate) fn remark(log: &mut dyn Write, text: &str) {
    let _ = log.write_all(format!("weave-cni: {text}\n").as_bytes());
}
