//! Interfaces for Docker, which puts them into its containers itself and leases their addresses by itself: only the pair, its record
//! and its announcement are ours.

use std::sync::Arc;

use control::api::{ApiError, Attachment};

use super::{Attacher, holder, host_ifname, kernel_refusal, to_the_end};
use crate::core::mac::Mac;
use crate::shell::docker::fabric::{Place, Plug, Plugged};
use crate::shell::engine::call::Call;
use crate::shell::kernel::{PairSpec, PeerEnd};
use crate::shell::state::dir::Kept;

/// What an interface of Docker's is called in our records. In its container it has a number behind it.
pub const IFNAME: &str = "ethwe";
/// First letters of the name of an interface that Docker has not fetched yet.
const FAR_PREFIX: &str = "vd";

impl Attacher {
    /// Makes an endpoint's interface and announces it; answers the name of the end that Docker is to fetch.
    pub async fn plug(self: &Arc<Self>, plug: Plug) -> Result<String, ApiError> {
        let this = Arc::clone(self);
        to_the_end(async move { this.plug_flow(plug).await }).await
    }

    /// Takes an endpoint's interface away.
    pub async fn unplug(self: &Arc<Self>, endpoint: String) -> Result<(), ApiError> {
        let this = Arc::clone(self);
        to_the_end(async move { this.unplug_flow(&endpoint).await }).await
    }

    /// All interfaces of Docker's endpoints that are there.
    pub async fn plugged(&self) -> Result<Vec<Plugged>, ApiError> {
        let attachments = self.hub.ask(Call::Attachments).await?;
        let ports = self.kernel.list_ports().await.map_err(kernel_refusal)?;
        let plugged = attachments.into_iter().filter(|attachment| attachment.ifname == IFNAME);
        let there = plugged.filter_map(|attachment| {
            let port = ports.iter().find(|port| port.ifname == attachment.host_ifname)?;
            let place = match port.peer {
                PeerEnd::OnHost => Place::Host,
                PeerEnd::Up | PeerEnd::Down => Place::Container,
            };
            let (address, address6) = (attachment.address.addr(), attachment.address6.addr());
            Some(Plugged { endpoint: attachment.container, address, address6, place })
        });
        Ok(there.collect())
    }

    async fn plug_flow(&self, plug: Plug) -> Result<String, ApiError> {
        let holder = holder(&plug.endpoint, IFNAME);
        let _held = self.locks.hold(&holder).await;
        let ground = self.hub.ask(Call::Ground).await?;
        let host_ifname = host_ifname(&holder);
        let far_ifname = host_ifname.replacen(super::PORT_PREFIX, FAR_PREFIX, 1);
        let spec = PairSpec {
            host_ifname: host_ifname.clone(),
            far_ifname: far_ifname.clone(),
            mac: plug.mac.0,
            mtu: ground.mtu,
            gso_max_size: ground.gso_max_size,
        };
        let made = self.kernel.make_pair(spec).await.map_err(kernel_refusal)?;
        for warning in &made.warnings {
            tracing::warn!(endpoint = plug.endpoint, warning = warning.0, "attached with a setting missing");
        }
        let attachment = Attachment {
            container: plug.endpoint,
            ifname: IFNAME.to_owned(),
            host_ifname,
            mac: plug.mac.to_string(),
            host_mac: Mac(made.host_mac).to_string(),
            bridge: self.bridge.clone(),
            bridge_mac: ground.bridge_mac.to_string(),
            address: plug.address,
            address6: plug.address6,
            gateway: None,
            gateway6: None,
            routes: Vec::new(),
            mtu: ground.mtu,
            netns: plug.sandbox,
            name: None,
            names: Vec::new(),
            nameserver: ground.nameserver,
        };
        let kept = Kept {
            attachment,
            network: Some(format!("docker:{}", plug.network)),
            attempt: None,
            named: plug.named,
        };
        self.keep_plugged(kept).await?;
        Ok(far_ifname)
    }

    async fn keep_plugged(&self, kept: Kept) -> Result<(), ApiError> {
        let attachment = kept.attachment.clone();
        let Err(error) = self.hub.ask(|reply| Call::Attached(Box::new(kept), reply)).await else {
            return Ok(());
        };
        self.kernel.detach(&attachment.host_ifname).await.map_err(kernel_refusal)?;
        self.hub.ask(|reply| Call::Detached(Box::new(attachment), reply)).await?;
        Err(error)
    }

    async fn unplug_flow(&self, endpoint: &str) -> Result<(), ApiError> {
        let holder = holder(endpoint, IFNAME);
        let _held = self.locks.hold(&holder).await;
        self.kernel.detach(&host_ifname(&holder)).await.map_err(kernel_refusal)?;
        match self.find(endpoint, IFNAME).await? {
            Some(kept) => self.let_go(&kept.attachment).await.map(drop),
            None => Ok(()),
        }
    }
}
