//! The start after a restart: what of an earlier run still exists is taken over, what was not finished is rolled back.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use control::api::{self, ApiError, Attachment};
use ipnet::Ipv4Net;

use super::Engine;
use super::fabric::attached_entry;
use crate::core::mac::Mac;
use crate::shell::attach::{EXPOSE_HOLDER, held_by, holder, host_ifname};
use crate::shell::kernel::{Exposure, KernelError};
use crate::shell::state::dir::{Contents, FabricFile, Kept};

/// How long an address that is in use without a lease is claimed from whoever owns it now.
const READOPT_DEADLINE: Duration = Duration::from_secs(30);

/// What the state directory knew of the attachments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Records {
    /// All of them.
    Complete,
    /// Some of them: the journal was damaged.
    MayBeMissing,
}

impl Engine {
    /// Starts in the fabric that the state directory tells of, with what it remembers; idles if it tells of none.
    pub async fn resume(&mut self, contents: Contents) -> Result<(), ApiError> {
        let Some(mut file) = contents.fabric else {
            tracing::info!("in no fabric yet: `weavectl up` creates one, `weavectl join TOKEN` joins one");
            return Ok(());
        };
        let me = self.identity.peer_id().to_string();
        let mut ipam = contents.ipam;
        if file.peer != me {
            self.identity_lost(&file.peer);
            // What the old identity owned stays its own until it is taken over.
            ipam = Vec::new();
            self.forget_journal();
            file = FabricFile { peer: me, founder: false, boot: 0, ..file };
        }
        self.unsure = contents.ipam_damaged;
        self.start(file, &ipam).await?;
        let records = if contents.attachments_damaged { Records::MayBeMissing } else { Records::Complete };
        self.adopt(contents.attachments, records).await;
        self.keep_house().await;
        Ok(())
    }

    /// The journal of an identity that was lost: the next start must not take it for this one's.
    fn forget_journal(&mut self) {
        if let Some(dir) = &mut self.dir
            && let Err(error) = dir.ipam.compact(std::iter::empty())
        {
            tracing::error!(%error, "cannot empty the allocation journal of the lost identity");
        }
    }

    fn identity_lost(&mut self, old: &str) {
        tracing::error!(old, "the identity file was lost: this router has a new identity");
        self.problems.push(api::Problem {
            code: "identity-lost".to_owned(),
            severity: "error".to_owned(),
            message: format!("the identity file was lost; this router was {old} and is a new peer now"),
            hint: Some(format!("weavectl rmpeer {old} on any host, to take over its address space")),
        });
    }

    /// Takes over attachments of an earlier run that still exist and rolls back what was not finished.
    ///
    /// Where records are missing, what has none is not rolled back: a container uses it, and its runtime will still delete it by name.
    async fn adopt(&mut self, attachments: Vec<Kept>, records: Records) {
        let now = Instant::now();
        let ports = match self.kernel.list_ports().await {
            Ok(ports) => Some(ports.into_iter().map(|port| port.ifname).collect::<BTreeSet<String>>()),
            Err(error) => {
                tracing::error!(%error, "cannot list bridge ports; attachments are taken as recorded");
                None
            }
        };
        for kept in attachments {
            let attachment = &kept.attachment;
            if ports.as_ref().is_none_or(|ports| ports.contains(&attachment.host_ifname)) {
                self.remember(kept, now);
            } else {
                tracing::info!(container = %attachment.container, address = %attachment.address, "interface is gone");
                self.write_detached(attachment);
            }
        }
        let known: BTreeSet<String> =
            self.attachments.values().map(|kept| kept.attachment.host_ifname.clone()).collect();
        for port in ports.unwrap_or_default().difference(&known) {
            self.adopt_stray(port, records, now).await;
        }
        self.roll_back_leases(now, records);
        self.adopt_exposure(now).await;
    }

    /// An interface without a record: of an attach that was not finished, or of one whose record is damaged.
    async fn adopt_stray(&mut self, port: &str, records: Records, now: Instant) {
        match (records, self.rebuilt(port)) {
            (Records::MayBeMissing, Some(kept)) => {
                let container = kept.attachment.container.clone();
                tracing::warn!(port, container, "interface without a record is known by its lease");
                let tell = Box::new(|_: Result<(), ApiError>| ());
                self.attachment_writes.push((attached_entry(&kept), tell));
                self.remember(kept, now);
            }
            (Records::MayBeMissing, None) => {
                tracing::warn!(port, "interface without a record is left as it is")
            }
            (Records::Complete, _) => {
                tracing::info!(port, "interface without a record is removed");
                if let Err(error) = self.kernel.detach(port).await {
                    tracing::warn!(%error, "cannot remove it");
                }
            }
        }
    }

    /// What is known of an attachment by its lease alone: the holder's name gives the interface's.
    fn rebuilt(&self, port: &str) -> Option<Kept> {
        let running = self.running.as_ref()?;
        let node = &running.node;
        let (owner, v4) = node.leases().find(|(owner, _)| host_ifname(&owner.0) == port)?;
        let (container, ifname) = held_by(&owner.0)?;
        let attachment = Attachment {
            container: container.to_owned(),
            ifname: ifname.to_owned(),
            host_ifname: port.to_owned(),
            mac: Mac::of_container(v4).to_string(),
            host_mac: String::new(),
            bridge: self.config.bridge.clone(),
            bridge_mac: Mac::of_host(node.me()).to_string(),
            address: Ipv4Net::new_assert(v4, running.file.range.prefix_len()),
            address6: ipnet::Ipv6Net::new_assert(node.embed(v4), node.range6().prefix_len()),
            gateway: None,
            gateway6: None,
            routes: Vec::new(),
            mtu: running.mtu,
            netns: String::new(),
            name: None,
            names: Vec::new(),
            nameserver: None,
        };
        Some(Kept { attachment, network: None, attempt: None, named: Vec::new() })
    }

    fn roll_back_leases(&mut self, now: Instant, records: Records) {
        let Some(running) = &mut self.running else { return };
        let held: Vec<_> = self.attachments.keys().cloned().collect();
        let leases: Vec<_> = running.node.leases().collect();
        for (owner, address) in &leases {
            let Some((container, ifname)) = held_by(&owner.0) else { continue };
            if records == Records::Complete && !held.contains(&(container.to_owned(), ifname.to_owned())) {
                tracing::info!(holder = %owner.0, %address, "lease without an attachment is released");
                running.node.release(owner, ipam::Rest::Used, now);
            }
        }
        for Kept { attachment, .. } in self.attachments.values() {
            let address = attachment.address.addr();
            if !leases.iter().any(|(_, leased)| *leased == address) {
                let holder = holder(&attachment.container, &attachment.ifname);
                tracing::warn!(holder, %address, "address in use without a lease is leased again");
                // Nobody waits for this ticket; what comes of it shows in the status.
                let (owner, want) = (ipam::Owner(holder), ipam::Want::Fixed(address));
                running.node.allocate(ipam::Ticket(0), owner, want, now + READOPT_DEADLINE, now);
            }
        }
    }

    async fn adopt_exposure(&mut self, now: Instant) {
        let Some(running) = &mut self.running else { return };
        let hidden = running.file.hidden;
        let lease = running.node.leases().find(|(owner, _)| owner.0 == EXPOSE_HOLDER && !hidden);
        let Some((_, address)) = lease else {
            if let Err(error) = self.close_firewall().await {
                tracing::error!(error = error.message, "cannot set the firewall");
            }
            return;
        };
        let range = running.file.range;
        let v6 = running.node.embed(address);
        let (range6, prefix) = (running.node.range6(), range.prefix_len());
        let nets =
            (Ipv4Net::new_assert(address, prefix), ipnet::Ipv6Net::new_assert(v6, range6.prefix_len()));
        let spec = self.firewall(Some((range, range6)));
        let done = async {
            self.kernel.set_host_address(Some(nets)).await?;
            self.kernel.ensure_firewall(spec).await?;
            self.kernel.ensure_forward_accept(Exposure::Exposed).await
        };
        let done: Result<_, KernelError> = done.await;
        if let Err(error) = done {
            tracing::error!(%error, "cannot give the host its address back");
        }
        self.exposed(Some(address), now);
    }
}
