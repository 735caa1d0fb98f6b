//! Attaching and detaching: the order of lease, kernel and record that leaves nothing behind, whatever fails in between.
//!
//! Attach: lease (durable), kernel, record (durable), answer. A crash after the lease or the kernel step leaves a lease without a
//! record, which the next start rolls back. Detach: kernel, record, lease; each step may run again. A flow runs to its end on a
//! task of its own even if the caller hangs up, and one (container, interface) is worked on by one flow at a time.

mod plug;

pub use plug::IFNAME as DOCKERS_IFNAME;

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use control::api::{
    ApiError, AttachRequest, Attachment, Caller, CheckRequest, DetachAnswer, DetachRequest, ErrorCode,
    Exposure, GcAnswer, GcRequest, Pair, ResetAnswer, ResetRequest, Route, UndoRequest,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::engine::call::{Call, Ground, Hub, Lease, LeaseRequest, Rest, refusal, refusal_with};
use super::kernel::{
    AttachSpec, Attached, BridgeSpec, Exposure as KernelExposure, FirewallSpec, Kernel, KernelError, Netns,
    Outcome, PORT_PREFIX,
};
use super::locks::Locks;
use super::state::dir::Kept;
use crate::core::mac::Mac;
use crate::core::names::DnsName;

/// Who holds the host's own address.
pub const EXPOSE_HOLDER: &str = "weave:expose";
/// Longest container id, the same as in the journal of detachments.
const MAX_CONTAINER: usize = control::pending::MAX_CONTAINER_ID;

/// Name of the holder of a container's address.
pub fn holder(container: &str, ifname: &str) -> String {
    format!("container:{container}/{ifname}")
}

/// Name of the host's end of a holder's interface: found again from the holder alone, also without a record.
pub fn host_ifname(holder: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, holder.as_bytes());
    let hex = data_encoding::HEXLOWER.encode(digest.as_ref());
    format!("{PORT_PREFIX}{}", &hex[..11])
}

/// Container and interface of a holder, if it is a container's.
pub fn held_by(holder: &str) -> Option<(&str, &str)> {
    holder.strip_prefix("container:")?.rsplit_once('/')
}

/// Runs attach and detach flows.
pub struct Attacher {
    hub: Hub,
    kernel: Kernel,
    bridge: String,
    /// One for each holder.
    locks: Locks,
}

impl Attacher {
    /// For an engine and a kernel.
    pub fn new(hub: Hub, kernel: Kernel, bridge: String) -> Arc<Attacher> {
        Arc::new(Attacher { hub, kernel, bridge, locks: Locks::default() })
    }

    /// `POST /attach`.
    pub async fn attach(self: &Arc<Self>, request: AttachRequest) -> Result<Attachment, ApiError> {
        let this = Arc::clone(self);
        to_the_end(async move { this.attach_flow(request).await }).await
    }

    /// `POST /detach`.
    pub async fn detach(self: &Arc<Self>, request: DetachRequest) -> Result<DetachAnswer, ApiError> {
        let this = Arc::clone(self);
        to_the_end(async move { this.detach_flow(request).await }).await
    }

    /// `POST /expose`.
    pub async fn expose(self: &Arc<Self>) -> Result<Exposure, ApiError> {
        let this = Arc::clone(self);
        to_the_end(async move { this.expose_flow().await.map(|(_, exposure)| exposure) }).await
    }

    /// `POST /hide`.
    pub async fn hide(self: &Arc<Self>) -> Result<Exposure, ApiError> {
        let this = Arc::clone(self);
        to_the_end(async move { this.hide_flow().await }).await
    }

    /// `POST /detach` with an attempt.
    pub async fn undo(self: &Arc<Self>, request: UndoRequest) -> Result<DetachAnswer, ApiError> {
        let this = Arc::clone(self);
        to_the_end(async move { this.undo_flow(request).await }).await
    }

    /// `POST /gc`.
    pub async fn gc(self: &Arc<Self>, request: GcRequest) -> Result<GcAnswer, ApiError> {
        let this = Arc::clone(self);
        to_the_end(async move { this.gc_flow(request).await }).await
    }

    /// `POST /reset`.
    pub async fn reset(self: &Arc<Self>, request: ResetRequest) -> Result<ResetAnswer, ApiError> {
        let this = Arc::clone(self);
        to_the_end(async move { this.reset_flow(request).await }).await
    }

    /// `POST /check`: is everything as `attach` made it?
    pub async fn check(&self, request: CheckRequest) -> Result<(), ApiError> {
        let kept = self.find(&request.container, &request.ifname).await?;
        let attachment = kept.map(|kept| kept.attachment).ok_or_else(|| {
            refusal_with(
                ErrorCode::UnknownContainer,
                format!("container `{}` has no interface `{}` here", request.container, request.ifname),
                "weavectl ps",
            )
        })?;
        for address in &request.addresses {
            let ours = [IpNet::V4(attachment.address), IpNet::V6(attachment.address6)];
            if !ours.contains(address) {
                return Err(refusal(
                    ErrorCode::Conflict,
                    format!("address is {}, the caller believes {address}", attachment.address),
                ));
            }
        }
        let netns = Netns::Path(request.netns.clone().into());
        let ground = self.hub.ask(Call::Ground).await?;
        let spec = spec_of(&attachment, netns, &ground)?;
        let mismatches = self.kernel.check(spec).await.map_err(kernel_refusal)?;
        if mismatches.is_empty() {
            return Ok(());
        }
        let listed: Vec<String> =
            mismatches.iter().map(|m| format!("{} is {}, want {}", m.what, m.got, m.want)).collect();
        Err(refusal(ErrorCode::Conflict, listed.join("; ")))
    }

    async fn attach_flow(&self, request: AttachRequest) -> Result<Attachment, ApiError> {
        check_names(&request.container, &request.ifname)?;
        let holder = holder(&request.container, &request.ifname);
        let _held = self.locks.hold(&holder).await;
        if let Some(Kept { attachment: existing, .. }) =
            self.find(&request.container, &request.ifname).await?
        {
            if self.is_there(&existing).await.map_err(kernel_refusal)? {
                return self.attached_before(request, existing);
            }
            self.let_go(&existing).await?;
        }
        let netns = Netns::Path(request.netns.clone().into());
        let ground = self.hub.ask(Call::Ground).await?;
        let through_bridge =
            request.routes.as_ref().is_none_or(|routes| routes.iter().any(|route| route.gw.is_none()));
        let gateway = if through_bridge { Some(self.expose_flow().await?.0) } else { None };
        let address = wanted_address(&request, &ground)?;
        let wish = LeaseRequest { holder: holder.clone(), address, subnet: request.subnet };
        let lease = self.hub.ask(|reply| Call::Lease(wish, reply)).await?;
        let planned = plan(&request, &lease, gateway.as_ref(), &ground, &self.bridge);
        let made = match planned {
            Ok(attachment) => {
                let (network, attempt) = (request.network, request.attempt);
                let kept = Kept { attachment, network, attempt, named: Vec::new() };
                self.wire(kept, netns, &ground).await
            }
            Err(error) => Err(error),
        };
        match made {
            Ok(attachment) => Ok(attachment),
            Err(error) => {
                self.hub.ask(|reply| Call::Release(holder, Rest::Unused, reply)).await?;
                Err(error)
            }
        }
    }

    async fn wire(&self, mut kept: Kept, netns: Netns, ground: &Ground) -> Result<Attachment, ApiError> {
        let spec = spec_of(&kept.attachment, netns, ground)?;
        let attached = self.attach_interface(spec).await.map_err(kernel_refusal)?;
        for warning in &attached.warnings {
            tracing::warn!(container = %kept.attachment.container, warning = warning.0, "attached with a setting missing");
        }
        kept.attachment.host_mac = Mac(attached.host_mac).to_string();
        kept.attachment.routes.retain(|route| !attached.routes_left.contains(&route.dst));
        let attachment = kept.attachment.clone();
        let recorded = self.hub.ask(|reply| Call::Attached(Box::new(kept), reply)).await;
        if let Err(error) = recorded {
            self.kernel.detach(&attachment.host_ifname).await.map_err(kernel_refusal)?;
            self.hub.ask(|reply| Call::Detached(Box::new(attachment), reply)).await?;
            return Err(error);
        }
        Ok(attachment)
    }

    /// An attach that was cut short may have left the host's end, whose name is the container's: nobody records it, so it goes.
    async fn attach_interface(&self, spec: AttachSpec) -> Result<Attached, KernelError> {
        match self.kernel.attach(spec.clone()).await {
            Err(KernelError::NameTaken { name, .. }) if name == spec.host_ifname => {
                self.kernel.detach(&name).await?;
                self.kernel.attach(spec).await
            }
            other => other,
        }
    }

    fn attached_before(&self, request: AttachRequest, existing: Attachment) -> Result<Attachment, ApiError> {
        let same_wish = request.address.is_none_or(|address| address == existing.address.addr());
        match request.caller {
            Caller::Cli if same_wish => Ok(existing),
            Caller::Cli | Caller::Cni => Err(refusal_with(
                ErrorCode::Conflict,
                format!(
                    "container `{}` is attached already as `{}` with {}",
                    request.container, request.ifname, existing.address
                ),
                format!("weavectl detach --id {} --ifname {}", request.container, request.ifname),
            )),
        }
    }

    async fn detach_flow(&self, request: DetachRequest) -> Result<DetachAnswer, ApiError> {
        let (container, ifname) = (request.container.clone(), request.ifname.clone());
        let found = self.hub.ask(|reply| Call::Find(container, ifname, reply)).await?;
        let mut released = Vec::new();
        for kept in &found {
            released.extend(self.detach_one(&kept.attachment).await?);
        }
        if let (true, Some(ifname)) = (found.is_empty(), &request.ifname) {
            released.extend(self.sweep(&request.container, ifname).await?);
        }
        Ok(DetachAnswer { released })
    }

    async fn detach_one(&self, attachment: &Attachment) -> Result<Vec<Ipv4Addr>, ApiError> {
        let holder = holder(&attachment.container, &attachment.ifname);
        let _held = self.locks.hold(&holder).await;
        self.kernel.detach(&attachment.host_ifname).await.map_err(kernel_refusal)?;
        self.let_go(attachment).await
    }

    /// Forgets an attachment and gives its address back. The caller holds the lock.
    async fn let_go(&self, attachment: &Attachment) -> Result<Vec<Ipv4Addr>, ApiError> {
        let holder = holder(&attachment.container, &attachment.ifname);
        self.hub.ask(|reply| Call::Detached(Box::new(attachment.clone()), reply)).await?;
        self.hub.ask(|reply| Call::Release(holder, Rest::Used, reply)).await
    }

    /// An attachment without its interface is of a container that ended. The next one can have its name: namespaces are named by their
    /// inode, which the kernel uses again.
    async fn is_there(&self, attachment: &Attachment) -> Result<bool, KernelError> {
        let ports = self.kernel.list_ports().await?;
        Ok(ports.iter().any(|port| port.ifname == attachment.host_ifname))
    }

    /// An attach that was cut short may have left a device or a lease without a record.
    async fn sweep(&self, container: &str, ifname: &str) -> Result<Vec<Ipv4Addr>, ApiError> {
        let holder = holder(container, ifname);
        let _held = self.locks.hold(&holder).await;
        if self.find(container, ifname).await?.is_some() {
            return Ok(Vec::new());
        }
        self.kernel.detach(&host_ifname(&holder)).await.map_err(kernel_refusal)?;
        self.hub.ask(|reply| Call::Release(holder, Rest::Used, reply)).await
    }

    async fn undo_flow(&self, request: UndoRequest) -> Result<DetachAnswer, ApiError> {
        match self.find(&request.container, &request.ifname).await? {
            Some(kept) if kept.attempt.as_ref() != Some(&request.attempt) => {
                Ok(DetachAnswer { released: Vec::new() })
            }
            Some(kept) => Ok(DetachAnswer { released: self.detach_one(&kept.attachment).await? }),
            None => Ok(DetachAnswer { released: self.sweep(&request.container, &request.ifname).await? }),
        }
    }

    async fn gc_flow(&self, request: GcRequest) -> Result<GcAnswer, ApiError> {
        let network = request.network.clone();
        let all = self.hub.ask(|reply| Call::OfNetwork(network, reply)).await?;
        let mut detached = Vec::new();
        for Kept { attachment, .. } in all {
            let pair = Pair { container: attachment.container.clone(), ifname: attachment.ifname.clone() };
            if !request.keep.contains(&pair) {
                self.detach_one(&attachment).await?;
                detached.push(pair);
            }
        }
        Ok(GcAnswer { detached })
    }

    async fn expose_flow(&self) -> Result<((Ipv4Net, Ipv6Net), Exposure), ApiError> {
        let _held = self.locks.hold(EXPOSE_HOLDER).await;
        let wish = LeaseRequest { holder: EXPOSE_HOLDER.to_owned(), address: None, subnet: None };
        let lease = self.hub.ask(|reply| Call::Lease(wish, reply)).await?;
        let changed = self.hub.ask(Call::Ground).await?.exposed.is_none();
        if changed && let Err(error) = self.give_host_address(&lease).await {
            if lease.fresh {
                let holder = EXPOSE_HOLDER.to_owned();
                self.hub.ask(|reply| Call::Release(holder, Rest::Unused, reply)).await?;
            }
            return Err(error);
        }
        let exposure = Exposure { address: Some(lease.v4), address6: Some(lease.v6), changed };
        Ok(((lease.v4, lease.v6), exposure))
    }

    /// Puts right what others changed in the kernel. Under the same lock as expose and hide, so that it never undoes either.
    pub async fn reconcile(&self) -> Result<(), KernelError> {
        let _held = self.locks.hold(EXPOSE_HOLDER).await;
        let Ok(ground) = self.hub.ask(Call::Ground).await else { return Ok(()) };
        let Ok(attachments) = self.hub.ask(Call::Attachments).await else { return Ok(()) };
        let kernel = &self.kernel;
        let (mtu, gso_max_size) = (ground.mtu, ground.gso_max_size);
        let bridge = BridgeSpec { mtu, mac: ground.bridge_mac.0, gso_max_size };
        note("bridge", kernel.ensure_bridge(bridge).await?.outcome);
        note("TAP port", kernel.ensure_tap_port(&ground.tap, mtu, super::engine::TAP_QUEUE_LENGTH).await?);
        let ports = attachments.iter().map(|attachment| attachment.host_ifname.clone()).collect();
        let ports = kernel.ensure_ports(ports).await?;
        for port in &ports.restored {
            tracing::info!(port, "port was off the bridge and is back");
        }
        for gone in attachments.iter().filter(|attachment| ports.missing.contains(&attachment.host_ifname)) {
            self.forget_gone(gone).await?;
        }
        if ground.exposed.is_some() {
            note("host address", kernel.set_host_address(ground.exposed).await?.0);
        }
        let masquerade = ground.exposed.map(|_| (ground.range, ground.range6));
        let exposure = if masquerade.is_some() { KernelExposure::Exposed } else { KernelExposure::Hidden };
        note("address for names", kernel.ensure_nameserver(ground.nameserver_spec()).await?);
        let spec = self.firewall(&ground, masquerade);
        note("own nftables table", kernel.ensure_firewall(spec).await?);
        note("rules that let the bridge forward", kernel.ensure_forward_accept(exposure).await?);
        let obstacles = kernel.forward_obstacles().await?;
        // The engine is shutting down if it does not take them.
        let _ = self.hub.ask(|reply| Call::Obstacles(obstacles, reply)).await;
        self.forget_silent(ground.tap).await
    }

    /// What somebody put on the bridge and the bridge hears no more: it was taken off, or says nothing for as long as a bridge remembers.
    async fn forget_silent(&self, tap: String) -> Result<(), KernelError> {
        let Ok(mut silent) = self.hub.ask(Call::Foreign).await else { return Ok(()) };
        if silent.is_empty() {
            return Ok(());
        }
        let heard = self.kernel.heard(tap).await?;
        silent.retain(|mac| !heard.contains(&mac.0));
        for mac in &silent {
            tracing::info!(%mac, "device on the bridge is heard no more");
        }
        let _ = self.hub.ask(|reply| Call::Silent(silent, reply)).await;
        Ok(())
    }

    /// The container ended without a detach: both ends of its veth pair are gone, so nobody uses its address.
    async fn forget_gone(&self, attachment: &Attachment) -> Result<(), KernelError> {
        let holder = holder(&attachment.container, &attachment.ifname);
        let _held = self.locks.hold(&holder).await;
        // It may have been detached, or attached anew, since it was listed.
        let Ok(Some(kept)) = self.find(&attachment.container, &attachment.ifname).await else {
            return Ok(());
        };
        if kept.attachment != *attachment || self.is_there(attachment).await? {
            return Ok(());
        }
        tracing::info!(container = %attachment.container, address = %attachment.address, "container is gone, address released");
        if let Err(error) = self.let_go(attachment).await {
            tracing::warn!(error = error.message, "cannot release it; the next look tries again");
        }
        Ok(())
    }

    async fn give_host_address(&self, lease: &Lease) -> Result<(), ApiError> {
        let ground = self.hub.ask(Call::Ground).await?;
        self.kernel.set_host_address(Some((lease.v4, lease.v6))).await.map_err(kernel_refusal)?;
        let masquerade = Some((ground.range, ground.range6));
        let spec = self.firewall(&ground, masquerade);
        self.kernel.ensure_firewall(spec).await.map_err(kernel_refusal)?;
        self.kernel.ensure_forward_accept(KernelExposure::Exposed).await.map_err(kernel_refusal)?;
        self.hub.ask(|reply| Call::Exposed(Some(lease.v4.addr()), reply)).await
    }

    async fn hide_flow(&self) -> Result<Exposure, ApiError> {
        let _held = self.locks.hold(EXPOSE_HOLDER).await;
        let ground = self.hub.ask(Call::Ground).await?;
        self.kernel.set_host_address(None).await.map_err(kernel_refusal)?;
        let spec = self.firewall(&ground, None);
        self.kernel.ensure_firewall(spec).await.map_err(kernel_refusal)?;
        self.kernel.ensure_forward_accept(KernelExposure::Hidden).await.map_err(kernel_refusal)?;
        let changed = self.hub.ask(Call::Ground).await?.exposed.is_some();
        self.hub.ask(|reply| Call::Exposed(None, reply)).await?;
        let attachments = self.hub.ask(Call::Attachments).await?;
        if attachments.iter().all(|attachment| attachment.gateway.is_none()) {
            // Otherwise the address stays leased: a container that got it would be the others' way out.
            let holder = EXPOSE_HOLDER.to_owned();
            self.hub.ask(|reply| Call::Release(holder, Rest::Used, reply)).await?;
        }
        Ok(Exposure { address: None, address6: None, changed })
    }

    async fn reset_flow(&self, request: ResetRequest) -> Result<ResetAnswer, ApiError> {
        let all = self.hub.ask(Call::Attachments).await?;
        if !all.is_empty() && !request.force {
            return Err(refusal_with(
                ErrorCode::Conflict,
                format!("{} container interfaces are attached and would be cut off", all.len()),
                "weavectl ps shows them; weavectl reset --force cuts them off",
            ));
        }
        for attachment in &all {
            self.detach_one(attachment).await?;
        }
        match self.hide_flow().await {
            Err(error) if error.code == ErrorCode::NoFabric => {
                // What an earlier reset left in the kernel goes all the same; what stays is in the log.
                for left in self.kernel.reset().await {
                    tracing::warn!(error = %left, "cannot remove what an earlier fabric left");
                }
                return Err(error);
            }
            other => other.map(drop)?,
        }
        let answer = self.hub.ask(Call::Reset).await?;
        let errors = self.kernel.reset().await;
        if !errors.is_empty() {
            let listed: Vec<String> = errors.iter().map(ToString::to_string).collect();
            return Err(refusal(
                ErrorCode::Kernel,
                format!("the fabric is left, but: {}", listed.join("; ")),
            ));
        }
        Ok(ResetAnswer { detached: all.len(), ..answer })
    }

    fn firewall(&self, ground: &Ground, masquerade: Option<(Ipv4Net, Ipv6Net)>) -> FirewallSpec {
        let nameserver = ground.nameserver.as_ref().map(|server| server.address);
        FirewallSpec { bridge: self.bridge.clone(), masquerade, nameserver }
    }

    async fn find(&self, container: &str, ifname: &str) -> Result<Option<Kept>, ApiError> {
        let (container, ifname) = (container.to_owned(), Some(ifname.to_owned()));
        Ok(self.hub.ask(|reply| Call::Find(container, ifname, reply)).await?.pop())
    }
}

/// Runs a flow to its end even if whoever waits for it goes away.
pub async fn to_the_end<T: Send + 'static>(
    flow: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::spawn(flow).await {
        Ok(result) => result,
        Err(error) => Err(refusal(ErrorCode::Internal, format!("the flow ended early: {error}"))),
    }
}

fn note(what: &str, outcome: Outcome) {
    match outcome {
        Outcome::AsWanted => {}
        Outcome::Adjusted | Outcome::Created => tracing::info!(what, "was changed by others and put right"),
    }
}

fn check_names(container: &str, ifname: &str) -> Result<(), ApiError> {
    let id_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let id_ok = container.starts_with(|c: char| c.is_ascii_alphanumeric())
        && container.len() <= MAX_CONTAINER
        && container.chars().all(id_char);
    if !id_ok {
        return Err(refusal(
            ErrorCode::BadRequest,
            format!(
                "container id `{container}` is not 1 to {MAX_CONTAINER} of letters, digits, `_`, `.`, `-`"
            ),
        ));
    }
    let if_ok = (1..=15).contains(&ifname.len())
        && !matches!(ifname, "." | "..")
        && ifname.chars().all(|c| c.is_ascii_graphic() && c != '/' && c != ':');
    if if_ok {
        return Ok(());
    }
    Err(refusal(
        ErrorCode::BadRequest,
        format!("interface name `{ifname}` is not 1 to 15 characters without `/`, `:` and spaces"),
    ))
}

/// The IPv4 address that both wishes mean.
fn wanted_address(request: &AttachRequest, ground: &Ground) -> Result<Option<Ipv4Addr>, ApiError> {
    let Some(six) = request.address6 else { return Ok(request.address) };
    let [.., a, b, c, d] = six.octets();
    let four = Ipv4Addr::new(a, b, c, d);
    let embedded = u128::from(ground.range6.network()) | u128::from(u32::from(four));
    if u128::from(six) != embedded {
        return Err(refusal(
            ErrorCode::BadRequest,
            format!("IPv6 address {six} is none of {} with an IPv4 address at its end", ground.range6),
        ));
    }
    match request.address {
        Some(other) if other != four => Err(refusal(
            ErrorCode::BadRequest,
            format!("IPv6 address {six} belongs to {four}, and {other} is wanted beside it"),
        )),
        Some(_) | None => Ok(Some(four)),
    }
}

fn plan(
    request: &AttachRequest,
    lease: &Lease,
    gateway: Option<&(Ipv4Net, Ipv6Net)>,
    ground: &Ground,
    bridge: &str,
) -> Result<Attachment, ApiError> {
    let mac = match &request.mac {
        None => Mac::of_container(lease.v4.addr()),
        Some(text) => text
            .parse()
            .map_err(|error: crate::core::mac::NotAMac| refusal(ErrorCode::BadRequest, error.to_string()))?,
    };
    let mtu = request.mtu.unwrap_or(ground.mtu);
    if !(1280..=ground.mtu).contains(&mtu) {
        return Err(refusal(
            ErrorCode::BadRequest,
            format!("mtu {mtu} is outside 1280 to {}, the fabric's own", ground.mtu),
        ));
    }
    let mut routes = match (&request.routes, gateway) {
        (Some(routes), None) => routes.clone(),
        (Some(routes), Some((v4, v6))) => {
            let through = |dst: &IpNet| match dst {
                IpNet::V4(_) => IpAddr::V4(v4.addr()),
                IpNet::V6(_) => IpAddr::V6(v6.addr()),
            };
            let complete =
                |route: &Route| Route { dst: route.dst, gw: route.gw.or(Some(through(&route.dst))) };
            routes.iter().map(complete).collect()
        }
        (None, Some((v4, v6))) => vec![
            Route { dst: IpNet::V4(Ipv4Net::default()), gw: Some(v4.addr().into()) },
            Route { dst: IpNet::V6(Ipv6Net::default()), gw: Some(v6.addr().into()) },
        ],
        (None, None) => Vec::new(),
    };
    routes.extend(
        ground
            .nameserver
            .as_ref()
            .map(|server| Route { dst: IpNet::from(IpAddr::from(server.address)), gw: None }),
    );
    Ok(Attachment {
        container: request.container.clone(),
        ifname: request.ifname.clone(),
        host_ifname: host_ifname(&holder(&request.container, &request.ifname)),
        mac: mac.to_string(),
        host_mac: String::new(),
        bridge: bridge.to_owned(),
        bridge_mac: ground.bridge_mac.to_string(),
        address: lease.v4,
        address6: lease.v6,
        gateway: gateway.map(|(v4, _)| v4.addr()),
        gateway6: gateway.map(|(_, v6)| v6.addr()),
        routes,
        mtu,
        netns: request.sandbox.clone().unwrap_or_else(|| request.netns.clone()),
        name: request.name.clone(),
        names: names(request)?,
        nameserver: ground.nameserver.clone(),
    })
}

/// What others find it by. A runtime names its containers as it likes, a person wants to hear that it cannot be.
fn names(request: &AttachRequest) -> Result<Vec<String>, ApiError> {
    let mut names = Vec::new();
    for text in &request.names {
        match (text.parse::<DnsName>(), request.caller) {
            (Ok(name), _) => names.push(name.into()),
            (Err(error), Caller::Cli) => return Err(refusal(ErrorCode::BadRequest, error.to_string())),
            (Err(error), Caller::Cni) => tracing::debug!(%error, "a container is not found by this name"),
        }
    }
    Ok(names)
}

fn spec_of(attachment: &Attachment, netns: Netns, ground: &Ground) -> Result<AttachSpec, ApiError> {
    let mac: Mac = attachment
        .mac
        .parse()
        .map_err(|error: crate::core::mac::NotAMac| refusal(ErrorCode::Internal, error.to_string()))?;
    Ok(AttachSpec {
        host_ifname: attachment.host_ifname.clone(),
        container_ifname: attachment.ifname.clone(),
        netns,
        mac: mac.0,
        v4: attachment.address,
        v6: attachment.address6,
        mtu: attachment.mtu,
        gso_max_size: ground.gso_max_size,
        routes: attachment.routes.iter().map(|route| (route.dst, route.gw)).collect(),
    })
}

fn kernel_refusal(error: KernelError) -> ApiError {
    let code = match &error {
        KernelError::NetnsMissing { .. } | KernelError::NotANetns { .. } | KernelError::HostNetns { .. } => {
            ErrorCode::BadNetns
        }
        KernelError::NameTaken { .. } => ErrorCode::Conflict,
        KernelError::BadSpec { .. } => ErrorCode::BadRequest,
        _ => ErrorCode::Kernel,
    };
    let hint = match code {
        ErrorCode::BadNetns => "give a container's namespace: weavectl attach --pid PID, or --netns PATH",
        ErrorCode::Conflict => "weavectl ps shows what is attached; another --ifname does not collide",
        ErrorCode::BadRequest => "weavectl attach --help has the limits",
        _ => "weavectl report shows the state of this router; its log has the kernel's answer",
    };
    refusal_with(code, error.to_string(), hint)
}
