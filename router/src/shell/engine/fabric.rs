//! Creating, joining, resuming and leaving a fabric.

use std::collections::BTreeMap;
use std::time::Instant;

use control::api::{self, ApiError, Attachment, ErrorCode, FabricInfo, ResetAnswer};
use data_encoding::BASE64;
use ipnet::Ipv4Net;

use super::call::{refusal, refusal_with};
use super::{Engine, Running, names, seeds};
use crate::core::advert::EndpointAdvert;
use crate::core::fabric::{FabricId, FabricKeys, Secret};
use crate::core::hello::Capabilities;
use crate::core::identity::Identity;
use crate::core::mac::Mac;
use crate::core::node::{Node, NodeConfig, range6};
use crate::core::token::{Token, TokenKey};
use crate::datapath::{self, Datapath, DatapathConfig, Queues, TapDevice};
use crate::shell::config::CipherOffer;
use crate::shell::kernel::{BridgeSpec, Exposure, KernelError};
use crate::shell::state::dir::{AttachmentEntry, FabricFile, IdentityFile, Kept};
use crate::shell::{random, targets};

/// The range unless told otherwise, as Weave Net's users know it.
const DEFAULT_RANGE: &str = "10.32.0.0/12";
/// Frames that wait between the bridge and this router. The queue counts frames of up to 64 KiB, so a long one is a standing queue of
/// milliseconds; a short one loses bursts of small frames (with 128, a window of 256 small frames lost a quarter).
pub const TAP_QUEUE_LENGTH: u32 = 512;
/// Queues of the TAP device. A flow that waits for none of the others has its queue for itself with this chance less one; each costs a
/// descriptor and some nanoseconds a turn.
const TAP_QUEUES: u8 = 8;
/// Longest wait for the heir of a router that leaves to confirm its new space.
const HANDOVER_DEADLINE: std::time::Duration = std::time::Duration::from_secs(3);
/// Time for goodbyes to leave before the sockets close.
const GOODBYE: std::time::Duration = std::time::Duration::from_millis(300);
/// Smallest range: four addresses, of which two can be handed out.
const LONGEST_PREFIX: u8 = 30;
/// Largest range.
const SHORTEST_PREFIX: u8 = 8;

/// The data path with the sizes that it was started with.
struct Started {
    mtu: u32,
    gso_max_size: u32,
    underlay_mtu: u32,
    datapath: Datapath,
}

impl Engine {
    pub(super) async fn up(&mut self, request: api::UpRequest) -> Result<FabricInfo, ApiError> {
        let range = request.range.unwrap_or_else(|| DEFAULT_RANGE.parse().unwrap_or_default());
        let seeds = request.seeds.as_deref().map(seeds::parse).transpose()?;
        if let Some(running) = &self.running {
            if request.range.is_some_and(|range| range != running.file.range) {
                return Err(refusal_with(
                    ErrorCode::Conflict,
                    format!("this router is in a fabric with range {}, not {range}", running.file.range),
                    "weavectl reset, then weavectl up again",
                ));
            }
            if let Some((seeds, _)) = &seeds {
                seeds::check_same(seeds, &running.file.seeds)?;
            }
            return self.found_again();
        }
        check_range(range)?;
        let mut file = FabricFile {
            fabric: String::new(),
            peer: self.identity.peer_id().to_string(),
            range,
            secret: String::new(),
            from_password: request.password.is_some(),
            founder: true,
            seeds: Vec::new(),
            boot: 0,
            targets: Vec::new(),
            hidden: false,
            names: Vec::new(),
            known: Vec::new(),
        };
        let fabric = match seeds {
            None => FabricId(random::bytes()),
            Some((seeds, targets)) => {
                let fabric =
                    seeds::fabric(&seeds, &self.config.nickname, range, request.password.as_deref())?;
                file.targets = targets
                    .into_iter()
                    .filter(|(name, _)| *name != self.config.nickname)
                    .map(|(_, at)| at)
                    .collect();
                file.seeds = seeds.names().to_vec();
                fabric
            }
        };
        let secret = match &request.password {
            Some(password) => stretch(password, fabric)?,
            None => Secret::from_bytes(random::bytes()),
        };
        file.fabric = fabric.to_string();
        file.secret = BASE64.encode(secret.expose());
        self.enter(file).await?;
        self.info(true)
    }

    /// `up` once more: a founder whose claim could not be made durable makes it again.
    fn found_again(&mut self) -> Result<FabricInfo, ApiError> {
        if let Some(running) = &mut self.running
            && running.file.founder
            && running.file.seeds.is_empty()
            && running.node.ipam_summary().peers.is_empty()
        {
            running.node.found(Instant::now());
        }
        self.info(false)
    }

    pub(super) async fn join(&mut self, request: api::JoinRequest) -> Result<FabricInfo, ApiError> {
        let token: Token =
            request.token.trim().parse().map_err(|error: crate::core::token::TokenError| {
                refusal_with(
                    ErrorCode::BadRequest,
                    format!("the token is not usable: {error}"),
                    "weavectl token on a host of the fabric prints the whole line",
                )
            })?;
        if let Some(running) = &self.running {
            let present = running.file.fabric.clone();
            if present == token.fabric.to_string() {
                return self.info(false);
            }
            return Err(refusal_with(
                ErrorCode::Conflict,
                format!("this router is in fabric {present}, the token is for fabric {}", token.fabric),
                "weavectl reset, then weavectl join again",
            ));
        }
        let (secret, from_password) = match (token.key, &request.password) {
            (TokenKey::Secret(secret), _) => (secret, false),
            (TokenKey::Password, Some(password)) => (stretch(password, token.fabric)?, true),
            (TokenKey::Password, None) => {
                return Err(refusal_with(
                    ErrorCode::BadRequest,
                    "the fabric is guarded by a password, which the token does not carry",
                    "weavectl join TOKEN --password-file FILE",
                ));
            }
        };
        let file = FabricFile {
            fabric: token.fabric.to_string(),
            peer: self.identity.peer_id().to_string(),
            range: token.range,
            secret: BASE64.encode(secret.expose()),
            from_password,
            founder: false,
            seeds: Vec::new(),
            boot: 0,
            targets: token.addresses.iter().map(ToString::to_string).collect(),
            hidden: false,
            names: Vec::new(),
            known: Vec::new(),
        };
        self.enter(file).await?;
        self.info(true)
    }

    async fn enter(&mut self, file: FabricFile) -> Result<(), ApiError> {
        let overlaps = self.kernel.routes_overlap(file.range.into()).await.unwrap_or_default();
        if !overlaps.is_empty() {
            return Err(refusal_with(
                ErrorCode::Conflict,
                format!("the range {} overlaps routes of this host: {}", file.range, overlaps.join(", ")),
                "weavectl up --ipalloc-range CIDR for a new fabric; one that exists keeps its range, so free it of other routes",
            ));
        }
        self.start(file, &[]).await?;
        self.close_firewall().await?;
        if !self.store_fabric() {
            if let Some(running) = self.running.take() {
                running.datapath.stop();
            }
            let why = self.not_durable.clone().unwrap_or_default();
            return Err(super::persist::not_durable(&why));
        }
        self.keep_house().await;
        Ok(())
    }

    pub(super) async fn start(&mut self, mut file: FabricFile, ipam: &[Vec<u8>]) -> Result<(), ApiError> {
        file.boot += 1;
        let now = Instant::now();
        let (fabric, secret) = read_secret(&file)?;
        let keys = FabricKeys::derive(fabric, file.range, &secret);
        let Started { mtu, gso_max_size, underlay_mtu, datapath } = self.start_datapath(&file).await?;
        let config = NodeConfig {
            identity: std::sync::Arc::clone(&self.identity),
            fabric,
            range: file.range,
            keys,
            boot: file.boot,
            nickname: self.config.nickname.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mtu: mtu as u16,
            capabilities: offered(self.config.cipher, processor()),
        };
        let mut node = Node::new(config, random::seed(), Box::new(random::fill), now);
        if self.unsure {
            node.distrust_journal();
        }
        node.set_reclaim_after(self.config.reclaim_after.0);
        for wrong in node.restore(ipam, now) {
            tracing::error!(wrong, "entry of the allocation journal does not fit");
        }
        self.unsure = node.distrusts_journal();
        // At every start, as a founder that died before its claim was durable has to claim again; where an owner is known nothing comes
        // of it. One whose journal was damaged may have given space away, and learns from its peers what is left.
        let founds = file.founder && (!self.unsure || file.known.is_empty());
        match seeds::of_file(&file) {
            None if founds => node.found(now),
            None => {}
            Some(list) => {
                node.set_seeds(&list);
                let part = list.part(&self.config.nickname, file.range);
                match part.map_err(|error| error.to_string()) {
                    Ok(part) if file.founder => node.found_part(part, now),
                    Ok(_) => {}
                    Err(error) if ipam.is_empty() => {
                        tracing::error!(error, "this seed takes no part of the range")
                    }
                    // Renamed since: its part was taken long ago.
                    Err(_) => {}
                }
            }
        }
        node.announce(Mac::of_host(node.me()), EndpointAdvert::default(), now);
        for target in &file.targets {
            if let Err(error) = self.targets.add(std::slice::from_ref(target)) {
                tracing::warn!(%error, "target ignored");
            }
        }
        for known in &file.known {
            known.addresses.iter().for_each(|address| node.try_address(*address, now));
        }
        tracing::info!(fabric = %file.fabric, peer = %node.me(), range = %file.range, mtu, "in the fabric");
        let dns = self.start_dns(&node, &file).await?;
        let last_bytes = BTreeMap::new();
        self.running =
            Some(Running { node, datapath, dns, file, mtu, gso_max_size, underlay_mtu, last_bytes });
        self.announce_added_names(now);
        if !self.store_fabric() {
            tracing::error!("the boot counter is not durable: a restart may need longer to be believed");
        }
        Ok(())
    }

    async fn start_datapath(&mut self, file: &FabricFile) -> Result<Started, ApiError> {
        let listen = self.config.listen;
        let underlay_mtu = self.kernel.underlay_mtu(listen.ip()).await.map_err(kernel_error)?;
        let underlay = datapath::mtu::Underlay::of(listen);
        let widest = datapath::mtu::container_mtu(underlay_mtu as usize, underlay) as u32;
        let mtu = self.config.mtu.unwrap_or(widest);
        let gso_max_size = datapath::mtu::gso_max_size(underlay_mtu as usize, underlay) as u32;
        let mac = Mac::of_host(self.identity.peer_id()).0;
        self.kernel.ensure_bridge(BridgeSpec { mtu, mac, gso_max_size }).await.map_err(kernel_error)?;
        let start = |error: &dyn std::error::Error| {
            let why = error.source().map(|source| format!(": {source}")).unwrap_or_default();
            refusal_with(
                ErrorCode::Kernel,
                format!("cannot start the data path: {error}{why}"),
                "weaved needs root (CAP_NET_ADMIN), /dev/net/tun and a free UDP port (--listen)",
            )
        };
        let queues = Queues::Several { count: TAP_QUEUES, seed: u32::from_ne_bytes(random::bytes()) };
        let tap = TapDevice::open(&self.config.tap_name(), queues).map_err(|error| start(&error))?;
        let socket = datapath::socket::bind(listen).map_err(|error| start(&error))?;
        let path_mtu = self.path_mtu(underlay_mtu);
        let config = DatapathConfig {
            tap,
            socket,
            underlay_mtu: path_mtu as usize,
            look: self.config.busy_poll.look(),
        };
        let sender = self.input_sender.clone();
        // A full queue drops, as a full socket buffer would; whoever sent repeats.
        let input = move |input| drop(sender.try_send(input));
        let datapath = Datapath::start(config, input).map_err(|error| start(&error))?;
        datapath.set_ranges(vec![file.range.into(), range6(read_secret(file)?.0).into()]);
        datapath.set_own_addresses(self.config.dns.address.ip().map(Into::into).into_iter().collect());
        self.kernel
            .ensure_tap_port(&self.config.tap_name(), mtu, TAP_QUEUE_LENGTH)
            .await
            .map_err(kernel_error)?;
        Ok(Started { mtu, gso_max_size, underlay_mtu, datapath })
    }

    /// The MTU of the paths to others, for a device of the underlay with this MTU. Whoever sets the containers' MTU lower than the device
    /// allows says that a path is narrower: small frames that share a datagram must not make one that is longer than theirs.
    pub(super) fn path_mtu(&self, device: u32) -> u32 {
        let underlay = datapath::mtu::Underlay::of(self.config.listen);
        let overhead = device.saturating_sub(datapath::mtu::container_mtu(device as usize, underlay) as u32);
        self.config.mtu.map_or(device, |mtu| device.min(mtu.saturating_add(overhead)))
    }

    /// The firewall of a host without an address of the fabric.
    pub(super) async fn close_firewall(&self) -> Result<(), ApiError> {
        self.kernel.ensure_firewall(self.firewall(None)).await.map_err(kernel_error)?;
        self.kernel.ensure_forward_accept(Exposure::Hidden).await.map_err(kernel_error)?;
        Ok(())
    }

    pub(super) fn exposed(&mut self, address: Option<std::net::Ipv4Addr>, now: Instant) {
        self.exposed = address;
        let Some(running) = &mut self.running else { return };
        let mac = Mac::of_host(running.node.me());
        match address {
            Some(v4) => {
                let v6 = Some(running.node.embed(v4));
                let name = Some(self.config.nickname.clone());
                running.node.announce(mac, EndpointAdvert { v4: Some(v4), v6, name }, now);
            }
            // The bridge speaks for itself also without an address of the fabric.
            None => running.node.announce(mac, EndpointAdvert::default(), now),
        }
    }

    /// A hidden host keeps its lease while containers have it as their gateway; the next start must not expose it for that.
    pub(super) fn remember_hidden(&mut self, hidden: bool) {
        if let Some(running) = &mut self.running
            && running.file.hidden != hidden
        {
            running.file.hidden = hidden;
            self.store_fabric();
        }
    }

    /// Keeps an attachment in mind and announces it.
    pub(super) fn remember(&mut self, kept: Kept, now: Instant) {
        let attachment = &kept.attachment;
        if let (Some(running), Ok(mac)) = (&mut self.running, attachment.mac.parse::<Mac>()) {
            let advert = EndpointAdvert {
                v4: Some(attachment.address.addr()),
                v6: Some(attachment.address6.addr()),
                name: attachment.name.clone().filter(|name| name.len() <= crate::core::advert::MAX_NAME),
            };
            running.node.announce(mac, advert, now);
            names::announce(&mut running.node, mac, &kept, now);
        }
        self.attachments.insert((attachment.container.clone(), attachment.ifname.clone()), kept);
    }

    /// Queues the record that an attachment is no more.
    pub(super) fn write_detached(&mut self, attachment: &Attachment) {
        let entry = AttachmentEntry::Detached {
            container: attachment.container.clone(),
            ifname: attachment.ifname.clone(),
        };
        let tell = Box::new(|_: Result<(), ApiError>| ());
        self.attachment_writes.push((to_line(&entry), tell));
    }

    pub(super) fn info(&self, changed: bool) -> Result<FabricInfo, ApiError> {
        let Some(running) = &self.running else { return Err(no_fabric()) };
        let file = &running.file;
        let (fabric, secret) = read_secret(file)?;
        let key = if file.from_password { TokenKey::Password } else { TokenKey::Secret(secret) };
        let addresses = running.node.bootstrap_addresses();
        let token = Token { fabric, range: file.range, addresses, key };
        Ok(FabricInfo {
            fabric: file.fabric.clone(),
            peer: running.node.me().to_string(),
            nickname: self.config.nickname.clone(),
            range: file.range,
            range6: running.node.range6(),
            token: token.to_string(),
            changed,
        })
    }

    /// Leaves the fabric: space goes to an heir, state is forgotten, a new identity is made for the next fabric.
    pub(super) async fn reset(&mut self) -> Result<ResetAnswer, ApiError> {
        let now = Instant::now();
        let Some(running) = &mut self.running else { return Ok(ResetAnswer { heir: None, detached: 0 }) };
        if !self.attachments.is_empty() {
            return Err(refusal_with(
                ErrorCode::Conflict,
                format!("{} container interfaces were attached in the meantime", self.attachments.len()),
                "weavectl reset --force",
            ));
        }
        let heir = running.node.leave(now);
        self.settle().await;
        // The grants are datagrams until the heir has taken them up.
        self.linger(HANDOVER_DEADLINE, |node| node.is_handed_over()).await;
        if let Some(running) = &mut self.running {
            if !running.node.is_handed_over() {
                tracing::warn!("the heir has not confirmed yet; it learns of its new space from the others");
            }
            running.node.say_goodbye(Instant::now());
        }
        self.settle().await;
        self.linger(GOODBYE, |_| false).await;
        if let Some(running) = self.running.take() {
            running.datapath.stop();
        }
        self.forget_everything()?;
        Ok(ResetAnswer { heir: heir.map(|peer| peer.to_string()), detached: 0 })
    }

    /// Goes on talking until `done` or the time is over.
    async fn linger(&mut self, time: std::time::Duration, done: impl Fn(&Node) -> bool) {
        let end = tokio::time::Instant::now() + time;
        while tokio::time::Instant::now() < end && !self.running.as_ref().is_none_or(|r| done(&r.node)) {
            let step = tokio::time::Duration::from_millis(50);
            if let Ok(Some(input)) = tokio::time::timeout(step, self.inputs.recv()).await {
                self.take(input);
            }
            self.wake();
            self.settle().await;
        }
    }

    fn forget_everything(&mut self) -> Result<(), ApiError> {
        self.attachments.clear();
        self.targets = targets::Targets::default();
        self.exposed = None;
        self.removed_by = None;
        self.clone = None;
        self.evidence.clear();
        let fail = |error: std::io::Error| super::persist::not_durable(&error.to_string());
        let Some(dir) = &mut self.dir else { return Ok(()) };
        dir.fabric.remove().map_err(fail)?;
        dir.ipam.compact(std::iter::empty()).map_err(fail)?;
        dir.attachments.compact(std::iter::empty()).map_err(fail)?;
        dir.history.clear().map_err(fail)?;
        let identity = Identity::from_seed(random::bytes());
        dir.identity.store(&identity_file(&identity)).map_err(fail)?;
        self.identity = std::sync::Arc::new(identity);
        Ok(())
    }
}

fn kernel_error(error: KernelError) -> ApiError {
    refusal_with(ErrorCode::Kernel, error.to_string(), "weavectl report shows what the kernel said")
}

pub(super) fn no_fabric() -> ApiError {
    refusal_with(
        ErrorCode::NoFabric,
        "this router belongs to no fabric yet",
        "weavectl up to create one, or weavectl join TOKEN",
    )
}

/// A line of the attachment journal.
pub(super) fn attached_entry(kept: &Kept) -> Vec<u8> {
    to_line(&AttachmentEntry::Attached(Box::new(kept.clone())))
}

fn to_line(entry: &AttachmentEntry) -> Vec<u8> {
    // Plain structs of strings and numbers always serialize.
    serde_json::to_vec(entry).unwrap_or_else(|error| panic!("attachment entry: {error}"))
}

/// The identity as it is stored.
pub fn identity_file(identity: &Identity) -> IdentityFile {
    IdentityFile { keys: BASE64.encode(&identity.to_bytes()[..]) }
}

/// Reads a stored identity.
pub fn read_identity(file: &IdentityFile) -> Option<Identity> {
    let bytes = BASE64.decode(file.keys.as_bytes()).ok()?;
    Some(Identity::from_seed(bytes.try_into().ok()?))
}

fn read_secret(file: &FabricFile) -> Result<(FabricId, Secret), ApiError> {
    let damaged = || refusal(ErrorCode::Internal, "the fabric file holds no usable id and secret");
    let fabric = file.fabric.parse().map_err(|_| damaged())?;
    let bytes = BASE64.decode(file.secret.as_bytes()).map_err(|_| damaged())?;
    Ok((fabric, Secret::from_bytes(bytes.try_into().map_err(|_| damaged())?)))
}

fn stretch(password: &str, fabric: FabricId) -> Result<Secret, ApiError> {
    Secret::from_password(password.as_bytes(), fabric)
        .map_err(|error| refusal(ErrorCode::BadRequest, error.to_string()))
}

fn check_range(range: Ipv4Net) -> Result<(), ApiError> {
    let wrong = |why: &str| {
        Err(refusal_with(
            ErrorCode::BadRequest,
            format!("range {range} {why}"),
            "weavectl up --ipalloc-range 10.32.0.0/12",
        ))
    };
    let ip = range.addr();
    if range.trunc() != range {
        return wrong("has bits set behind its prefix length");
    }
    if !(SHORTEST_PREFIX..=LONGEST_PREFIX).contains(&range.prefix_len()) {
        return wrong("is not of prefix length 8 to 30");
    }
    if ip.is_loopback() || ip.is_multicast() || ip.is_link_local() || ip.is_unspecified() {
        return wrong("is loopback, multicast, link-local or unspecified");
    }
    Ok(())
}

/// What the other side is told that we offer, on a processor that can do this.
fn offered(offer: CipherOffer, processor: Capabilities) -> Capabilities {
    match offer {
        CipherOffer::Auto => processor,
        CipherOffer::Aes256Gcm => Capabilities::AES,
        CipherOffer::ChaCha20Poly1305 => Capabilities::default(),
    }
}

/// What the processor is fast at.
fn processor() -> Capabilities {
    if has_aes() { Capabilities::AES } else { Capabilities::default() }
}

/// AES-GCM is the faster cipher only with instructions for AES and for carry-less multiplication.
fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::is_x86_feature_detected!("aes") && std::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    false
}

#[cfg(test)]
mod tests {
    use super::{Capabilities, CipherOffer, offered};

    #[test]
    fn offer_follows_the_processor_only_when_it_is_not_fixed() {
        for processor in [Capabilities::AES, Capabilities::default()] {
            assert_eq!(offered(CipherOffer::Auto, processor), processor);
            assert_eq!(offered(CipherOffer::Aes256Gcm, processor), Capabilities::AES);
            assert_eq!(offered(CipherOffer::ChaCha20Poly1305, processor), Capabilities::default());
        }
    }
}
