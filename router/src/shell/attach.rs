//! Attaching and detaching: the order of lease, kernel and record that leaves nothing behind, whatever fails in between.
//!
//! Attach: lease (durable), kernel, record (durable), answer. A crash after the lease or the kernel step leaves a lease without a
//! record, which the next start rolls back. Detach: kernel, record, lease; each step may run again. A flow runs to its end on a
//! task of its own even if the caller hangs up, and one (container, interface) is worked on by one flow at a time.

use std::collections::HashMap;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, Weak};

use control::api::{
    ApiError, AttachRequest, Attachment, Caller, CheckRequest, DetachAnswer, DetachRequest, ErrorCode, Exposure,
    ResetAnswer, Route,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::engine::call::{Call, Ground, Hub, Lease, LeaseRequest, Rest, refusal, refusal_with};
use super::kernel::{AttachSpec, FirewallSpec, Kernel, KernelError, host_ifname};
use crate::core::mac::Mac;

/// Who holds the host's own address.
pub const EXPOSE_HOLDER: &str = "weave:expose";
/// Longest container id, so that a holder fits an allocation record.
const MAX_CONTAINER: usize = 256;

/// Name of the holder of a container's address.
pub fn holder(container: &str, ifname: &str) -> String {
    format!("container:{container}/{ifname}")
}

/// Container and interface of a holder, if it is a container's.
pub fn held_by(holder: &str) -> Option<(&str, &str)> {
    holder.strip_prefix("container:")?.rsplit_once('/')
}

/// Runs attach and detach flows.
pub struct Attacher {
    hub: Hub,
    kernel: Arc<Kernel>,
    bridge: String,
    /// One lock for each name that is being worked on; dead entries are swept when the map grows.
    locks: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Attacher {
    /// For an engine and a kernel.
    pub fn new(hub: Hub, kernel: Arc<Kernel>, bridge: String) -> Arc<Attacher> {
        Arc::new(Attacher { hub, kernel, bridge, locks: Mutex::new(HashMap::new()) })
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

    /// `POST /reset`.
    pub async fn reset(self: &Arc<Self>) -> Result<ResetAnswer, ApiError> {
        let this = Arc::clone(self);
        to_the_end(async move { this.reset_flow().await }).await
    }

    /// `POST /check`: is everything as `attach` made it?
    pub async fn check(&self, request: CheckRequest) -> Result<(), ApiError> {
        let attachment = self.find(&request.container, &request.ifname).await?.ok_or_else(|| {
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
        let netns = open_netns(&request.netns)?;
        let ground = self.hub.ask(Call::Ground).await?;
        let spec = spec_of(&attachment, netns, &ground)?;
        let mismatches = self.kernel.check(&spec).await.map_err(kernel_refusal)?;
        if mismatches.is_empty() {
            return Ok(());
        }
        let listed: Vec<String> = mismatches.iter().map(ToString::to_string).collect();
        Err(refusal(ErrorCode::Conflict, listed.join("; ")))
    }

    async fn attach_flow(&self, request: AttachRequest) -> Result<Attachment, ApiError> {
        check_names(&request.container, &request.ifname)?;
        let holder = holder(&request.container, &request.ifname);
        let lock = self.lock(&holder);
        let _held = lock.lock().await;
        if let Some(existing) = self.find(&request.container, &request.ifname).await? {
            return self.attached_before(request, existing);
        }
        let netns = open_netns(&request.netns)?;
        let ground = self.hub.ask(Call::Ground).await?;
        let gateway = match &request.routes {
            None => Some(self.expose_flow().await?.0),
            Some(_) => None,
        };
        let wish =
            LeaseRequest { holder: holder.clone(), address: request.address, subnet: request.subnet };
        let lease = self.hub.ask(|reply| Call::Lease(wish, reply)).await?;
        let attachment = plan(&request, &lease, gateway.as_ref(), &ground, &self.bridge);
        let made = match attachment {
            Ok(attachment) => self.wire(attachment, netns, &ground).await,
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

    async fn wire(
        &self,
        mut attachment: Attachment,
        netns: OwnedFd,
        ground: &Ground,
    ) -> Result<Attachment, ApiError> {
        let spec = spec_of(&attachment, netns, ground)?;
        let attached = self.kernel.attach(&spec).await.map_err(kernel_refusal)?;
        attachment.host_mac = Mac(attached.host_mac).to_string();
        let recorded =
            self.hub.ask(|reply| Call::Attached(Box::new(attachment.clone()), reply)).await;
        if let Err(error) = recorded {
            self.kernel.detach(&attachment.host_ifname).await.map_err(kernel_refusal)?;
            return Err(error);
        }
        Ok(attachment)
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
        let all = self.hub.ask(Call::Attachments).await?;
        let wanted = |attachment: &&Attachment| {
            attachment.container == request.container
                && request.ifname.as_ref().is_none_or(|ifname| *ifname == attachment.ifname)
        };
        let mut released = Vec::new();
        for attachment in all.iter().filter(wanted) {
            let holder = holder(&attachment.container, &attachment.ifname);
            let lock = self.lock(&holder);
            let _held = lock.lock().await;
            self.kernel.detach(&attachment.host_ifname).await.map_err(kernel_refusal)?;
            self.hub.ask(|reply| Call::Detached(Box::new(attachment.clone()), reply)).await?;
            released.extend(self.hub.ask(|reply| Call::Release(holder, Rest::Used, reply)).await?);
        }
        if let (true, Some(ifname)) = (released.is_empty(), &request.ifname) {
            // An attach that was cut short may have left a device or a lease without a record.
            let holder = holder(&request.container, ifname);
            let lock = self.lock(&holder);
            let _held = lock.lock().await;
            if self.find(&request.container, ifname).await?.is_none() {
                self.kernel.detach(&host_ifname(&holder)).await.map_err(kernel_refusal)?;
                released.extend(self.hub.ask(|reply| Call::Release(holder, Rest::Used, reply)).await?);
            }
        }
        Ok(DetachAnswer { released })
    }

    async fn expose_flow(&self) -> Result<((Ipv4Net, Ipv6Net), Exposure), ApiError> {
        let lock = self.lock(EXPOSE_HOLDER);
        let _held = lock.lock().await;
        let wish = LeaseRequest { holder: EXPOSE_HOLDER.to_owned(), address: None, subnet: None };
        let lease = self.hub.ask(|reply| Call::Lease(wish, reply)).await?;
        if lease.fresh {
            let ground = self.hub.ask(Call::Ground).await?;
            self.kernel.set_host_address(Some((lease.v4, lease.v6))).await.map_err(kernel_refusal)?;
            let spec = FirewallSpec {
                bridge: self.bridge.clone(),
                masquerade: Some((ground.range, ground.range6)),
            };
            self.kernel.ensure_firewall(&spec).await.map_err(kernel_refusal)?;
            self.kernel.ensure_forward_accept().await.map_err(kernel_refusal)?;
            self.hub.ask(|reply| Call::Exposed(Some(lease.v4.addr()), reply)).await?;
        }
        let exposure =
            Exposure { address: Some(lease.v4), address6: Some(lease.v6), changed: lease.fresh };
        Ok(((lease.v4, lease.v6), exposure))
    }

    async fn hide_flow(&self) -> Result<Exposure, ApiError> {
        let lock = self.lock(EXPOSE_HOLDER);
        let _held = lock.lock().await;
        self.kernel.set_host_address(None).await.map_err(kernel_refusal)?;
        let spec = FirewallSpec { bridge: self.bridge.clone(), masquerade: None };
        self.kernel.ensure_firewall(&spec).await.map_err(kernel_refusal)?;
        self.hub.ask(|reply| Call::Exposed(None, reply)).await?;
        let released =
            self.hub.ask(|reply| Call::Release(EXPOSE_HOLDER.to_owned(), Rest::Used, reply)).await?;
        Ok(Exposure { address: None, address6: None, changed: !released.is_empty() })
    }

    async fn reset_flow(&self) -> Result<ResetAnswer, ApiError> {
        let all = self.hub.ask(Call::Attachments).await?;
        for attachment in &all {
            let request =
                DetachRequest { container: attachment.container.clone(), ifname: Some(attachment.ifname.clone()) };
            self.detach_flow(request).await?;
        }
        self.hide_flow().await?;
        let answer = self.hub.ask(Call::Reset).await?;
        self.kernel.reset().await.map_err(kernel_refusal)?;
        Ok(ResetAnswer { detached: all.len(), ..answer })
    }

    async fn find(&self, container: &str, ifname: &str) -> Result<Option<Attachment>, ApiError> {
        let all = self.hub.ask(Call::Attachments).await?;
        Ok(all.into_iter().find(|a| a.container == container && a.ifname == ifname))
    }

    fn lock(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if locks.len() > 1024 {
            locks.retain(|_, lock| lock.strong_count() > 0);
        }
        if let Some(lock) = locks.get(name).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        locks.insert(name.to_owned(), Arc::downgrade(&lock));
        lock
    }
}

/// Runs a flow to its end even if whoever waits for it goes away.
async fn to_the_end<T: Send + 'static>(
    flow: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::spawn(flow).await {
        Ok(result) => result,
        Err(error) => Err(refusal(ErrorCode::Internal, format!("the flow ended early: {error}"))),
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
            format!("container id `{container}` is not 1 to {MAX_CONTAINER} of letters, digits, `_`, `.`, `-`"),
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

fn open_netns(path: &str) -> Result<OwnedFd, ApiError> {
    std::fs::File::open(path).map(OwnedFd::from).map_err(|error| {
        refusal(ErrorCode::BadNetns, format!("cannot open the network namespace `{path}`: {error}"))
    })
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
        Some(text) => text.parse().map_err(|error: crate::core::mac::NotAMac| {
            refusal(ErrorCode::BadRequest, error.to_string())
        })?,
    };
    let mtu = request.mtu.unwrap_or(ground.mtu);
    if !(1280..=ground.mtu).contains(&mtu) {
        return Err(refusal(
            ErrorCode::BadRequest,
            format!("mtu {mtu} is outside 1280 to {}, the fabric's own", ground.mtu),
        ));
    }
    let routes = match (&request.routes, gateway) {
        (Some(routes), _) => routes.clone(),
        (None, Some((v4, v6))) => vec![
            Route { dst: IpNet::V4(Ipv4Net::default()), gw: Some(v4.addr().into()) },
            Route { dst: IpNet::V6(Ipv6Net::default()), gw: Some(v6.addr().into()) },
        ],
        (None, None) => Vec::new(),
    };
    Ok(Attachment {
        container: request.container.clone(),
        ifname: request.ifname.clone(),
        host_ifname: host_ifname(&holder(&request.container, &request.ifname)),
        mac: mac.to_string(),
        host_mac: String::new(),
        bridge: bridge.to_owned(),
        bridge_mac: ground.bridge_mac.clone(),
        address: lease.v4,
        address6: lease.v6,
        gateway: gateway.map(|(v4, _)| v4.addr()),
        gateway6: gateway.map(|(_, v6)| v6.addr()),
        routes,
        mtu,
        netns: request.netns.clone(),
        name: request.name.clone(),
    })
}

fn spec_of(attachment: &Attachment, netns: OwnedFd, ground: &Ground) -> Result<AttachSpec, ApiError> {
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
        _ => ErrorCode::Kernel,
    };
    refusal(code, error.to_string())
}
