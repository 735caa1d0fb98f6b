//! Calls of the control socket, one by one.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use control::api::{ApiError, Attachment, ErrorCode, PingAnswer, RmpeerAnswer, Target};
use gossip::PeerId;
use ipam::{Owner, Want};
use ipnet::{Ipv4Net, Ipv6Net};

use super::call::{Call, Ground, Lease, LeaseRequest, Reply, Rest, refusal, refusal_with};
use super::{Engine, fabric, view};
use crate::core::mac::Mac;
use crate::core::names::NameOwner;
use crate::shell::state::dir::Kept;

/// Longest wait for an address: shorter than any caller's own patience, so that it gets our reason instead of a time-out.
const LEASE_DEADLINE: Duration = Duration::from_secs(5);

impl Engine {
    pub(super) async fn serve(&mut self, call: Call) {
        match call {
            Call::Up(request, reply) => {
                let result = self.up(request).await;
                // The founder's claim to the range is part of what is promised.
                self.after_ipam.push(Box::new(move |durable| drop(reply.send(durable.and(result)))));
            }
            Call::Join(request, reply) => drop(reply.send(self.join(request).await)),
            Call::Token(reply) => drop(reply.send(self.info(false))),
            Call::Connect(addresses, reply) => drop(reply.send(self.connect(&addresses))),
            Call::Forget(addresses, reply) => drop(reply.send(self.forget(&addresses))),
            Call::Lease(request, reply) => self.lease(request, reply),
            Call::Release(holder, rest, reply) => self.release(holder, rest, reply),
            Call::Leases(prefix, reply) => drop(reply.send(self.leases_of(prefix))),
            Call::Attached(kept, reply) => self.attached(*kept, reply),
            Call::Called(name, reply) => self.called(name, reply),
            Call::Detached(attachment, reply) => self.detached(&attachment, reply),
            Call::Exposed(address, reply) => {
                self.exposed(address, Instant::now());
                self.remember_hidden(address.is_none());
                drop(reply.send(Ok(())));
            }
            Call::Obstacles(obstacles, reply) => {
                self.obstacles = obstacles;
                drop(reply.send(Ok(())));
            }
            Call::Foreign(reply) => {
                let all = self.running.as_ref().map(|running| running.node.foreign_macs().collect());
                drop(reply.send(Ok(all.unwrap_or_default())));
            }
            Call::Silent(macs, reply) => {
                if let Some(running) = &mut self.running {
                    let now = Instant::now();
                    macs.into_iter().for_each(|mac| running.node.forget_foreign_mac(mac, now));
                }
                drop(reply.send(Ok(())));
            }
            Call::Attachments(reply) => drop(reply.send(Ok(self.attachment_list()))),
            Call::Find(container, ifname, reply) => {
                drop(reply.send(Ok(self.find(&container, ifname.as_ref()))))
            }
            Call::OfNetwork(network, reply) => {
                let of = |kept: &&Kept| kept.network.as_ref() == Some(&network);
                drop(reply.send(Ok(self.attachments.values().filter(of).cloned().collect())));
            }
            Call::Ground(reply) => drop(reply.send(self.ground())),
            Call::Status(reply) => drop(reply.send(Ok(self.status()))),
            Call::Connections(reply) => drop(reply.send(Ok(self.connections()))),
            Call::Peers(reply) => drop(reply.send(Ok(self.peers()))),
            Call::Ipam(reply) => drop(reply.send(self.ipam())),
            Call::Audit(reply) => self.audit(reply).await,
            Call::History(address, reply) => self.history(address, reply).await,
            Call::Dns(reply) => drop(reply.send(self.dns())),
            Call::DnsAdd(request, reply) => drop(reply.send(self.dns_add(&request))),
            Call::DnsRemove(request, reply) => drop(reply.send(self.dns_remove(&request))),
            Call::DnsLookup(text, reply) => drop(reply.send(self.dns_lookup(&text))),
            Call::Targets(reply) => drop(reply.send(Ok(self.targets()))),
            Call::Report(reply) => drop(reply.send(Ok(self.report()))),
            Call::Rmpeer(peer, reply) => self.rmpeer(&peer, reply),
            Call::Reset(reply) => drop(reply.send(self.reset().await)),
            Call::Ping(target, reply) => self.ping(&target, reply),
        }
    }

    fn connect(&mut self, addresses: &[String]) -> Result<Vec<Target>, ApiError> {
        if self.running.is_none() {
            return Err(fabric::no_fabric());
        }
        self.targets.add(addresses).map_err(|error| refusal(ErrorCode::BadRequest, error.to_string()))?;
        let now = Instant::now();
        let resolved = self.resolve_targets(now);
        if let Some(running) = &mut self.running {
            resolved.into_iter().for_each(|address| running.node.connect(address, now));
        }
        self.store_targets()?;
        Ok(self.targets())
    }

    fn forget(&mut self, addresses: &[String]) -> Result<Vec<Target>, ApiError> {
        let now = Instant::now();
        let Some(running) = &mut self.running else { return Err(fabric::no_fabric()) };
        for address in addresses {
            for gone in self.targets.remove(address) {
                running.node.forget(gone, now);
            }
        }
        self.store_targets()?;
        Ok(self.targets())
    }

    fn store_targets(&mut self) -> Result<(), ApiError> {
        let names = self.targets.names();
        if let Some(running) = &mut self.running {
            running.file.targets = names;
        }
        if self.store_fabric() {
            return Ok(());
        }
        Err(super::persist::not_durable(&self.not_durable.clone().unwrap_or_default()))
    }

    fn lease(&mut self, request: LeaseRequest, reply: Reply<Lease>) {
        let now = Instant::now();
        let ticket = self.ticket();
        let Some(running) = &mut self.running else {
            drop(reply.send(Err(fabric::no_fabric())));
            return;
        };
        if self.unsure {
            let error = refusal_with(
                ErrorCode::Unreachable,
                "the allocation journal was damaged, and no peer has yet told what it had recorded",
                "weavectl status connections; a few seconds after the first connection addresses are leased again",
            );
            drop(reply.send(Err(error)));
            return;
        }
        let owner = Owner(request.holder);
        let had = running.node.holds_any(&owner);
        let want = match (request.address, request.subnet) {
            (Some(address), _) => Want::Fixed(address),
            (None, Some(subnet)) => Want::In(subnet),
            (None, None) => Want::Any,
        };
        self.leases.insert(ticket, (reply, had));
        running.node.allocate(ticket, owner, want, now + LEASE_DEADLINE, now);
    }

    fn release(&mut self, holder: String, rest: Rest, reply: Reply<Vec<Ipv4Addr>>) {
        let Some(running) = &mut self.running else {
            drop(reply.send(Ok(Vec::new())));
            return;
        };
        let rest = match rest {
            Rest::Used => ipam::Rest::Used,
            Rest::Unused => ipam::Rest::NeverUsed,
        };
        let released = running.node.release(&Owner(holder), rest, Instant::now());
        self.after_ipam.push(Box::new(move |durable| drop(reply.send(durable.map(|()| released)))));
    }

    fn leases_of(&self, prefix: &str) -> Result<Vec<(String, Ipv4Addr)>, ApiError> {
        let Some(running) = &self.running else { return Err(fabric::no_fabric()) };
        let leases = running.node.leases().filter(|(owner, _)| owner.0.starts_with(prefix));
        Ok(leases.map(|(owner, address)| (owner.0.clone(), address)).collect())
    }

    fn find(&self, container: &str, ifname: Option<&String>) -> Vec<Kept> {
        let key = |ifname: &str| (container.to_owned(), ifname.to_owned());
        match ifname {
            Some(ifname) => self.attachments.get(&key(ifname)).cloned().into_iter().collect(),
            None => {
                let rest = self.attachments.range(key("")..);
                rest.take_while(|((id, _), _)| id == container).map(|(_, kept)| kept.clone()).collect()
            }
        }
    }

    fn attached(&mut self, kept: Kept, reply: Reply<()>) {
        if let Err(error) = self.still_leased(&kept.attachment) {
            return drop(reply.send(Err(error)));
        }
        let entry = fabric::attached_entry(&kept);
        self.remember(kept, Instant::now());
        self.attachment_writes.push((entry, Box::new(move |durable| drop(reply.send(durable)))));
    }

    /// Between the lease and the record the space can be given away: this router leaves, or was removed. Nobody may be told then that a
    /// container has the address.
    fn still_leased(&self, attachment: &Attachment) -> Result<(), ApiError> {
        let Some(running) = &self.running else { return Err(fabric::no_fabric()) };
        let (addr, ipam) = (attachment.address.addr(), running.node.ipam());
        let keeps_nothing = ipam.summary().leaving_to.is_some() || ipam.is_removed(running.node.me());
        if keeps_nothing && ipam.owner_of(addr).is_none() {
            return Err(refusal_with(
                ErrorCode::Conflict,
                format!(
                    "{addr} was given away while it was attached: this router leaves the fabric, or was removed"
                ),
                "weavectl status",
            ));
        }
        Ok(())
    }

    fn detached(&mut self, attachment: &Attachment, reply: Reply<()>) {
        let key = (attachment.container.clone(), attachment.ifname.clone());
        if self.attachments.remove(&key).is_some()
            && let (Some(running), Ok(mac)) = (&mut self.running, attachment.mac.parse::<Mac>())
        {
            running.node.retract(mac, Instant::now());
            running.node.unname(&NameOwner::Endpoint(mac), Instant::now());
        }
        self.write_detached(attachment);
        // A detach must not fail for want of disk: the next start finds the interface gone and comes to the same end.
        drop(reply.send(Ok(())));
    }

    fn ground(&self) -> Result<Ground, ApiError> {
        let Some(running) = &self.running else { return Err(fabric::no_fabric()) };
        Ok(Ground {
            range: running.file.range,
            range6: running.node.range6(),
            mtu: running.mtu,
            gso_max_size: running.gso_max_size,
            bridge_mac: Mac::of_host(running.node.me()),
            exposed: self.exposed.map(|v4| {
                let range6 = running.node.range6();
                let v6 = running.node.embed(v4);
                (
                    Ipv4Net::new_assert(v4, running.file.range.prefix_len()),
                    Ipv6Net::new_assert(v6, range6.prefix_len()),
                )
            }),
            tap: self.config.tap_name(),
            nameserver: self.nameserver(),
        })
    }

    fn rmpeer(&mut self, text: &str, reply: Reply<RmpeerAnswer>) {
        let peer = match self.find_peer(text) {
            Ok(peer) => peer,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let Some(running) = &mut self.running else { return drop(reply.send(Err(fabric::no_fabric()))) };
        if peer == running.node.me() {
            let error = refusal_with(
                ErrorCode::BadRequest,
                "this router cannot remove itself",
                "weavectl reset, which gives its space to a live peer",
            );
            return drop(reply.send(Err(error)));
        }
        if running.node.is_alive(peer) {
            let error = refusal_with(
                ErrorCode::Conflict,
                format!(
                    "peer {} is alive, or was some seconds ago; its containers would lose their addresses",
                    running.node.nickname(peer)
                ),
                "weavectl reset on that host; or stop its weaved and wait until weavectl status peers says dead",
            );
            return drop(reply.send(Err(error)));
        }
        let answer = match running.node.remove_peer(peer, Instant::now()) {
            ipam::Removal::Started { addresses, .. } => {
                Ok(RmpeerAnswer { peer: peer.to_string(), taken_over: addresses, changed: true })
            }
            ipam::Removal::AlreadyRemoved { .. } => {
                Ok(RmpeerAnswer { peer: peer.to_string(), taken_over: 0, changed: false })
            }
            ipam::Removal::RemovedMyself { by } => Err(refusal_with(
                ErrorCode::Conflict,
                format!("this router was itself removed by {}", running.node.nickname(by)),
                "weavectl reset, then weavectl join TOKEN",
            )),
            ipam::Removal::NoOwnerKnown => Err(refusal_with(
                ErrorCode::Conflict,
                format!(
                    "nobody has told this router yet who owns the addresses; if it is {}, all of them would be lost with it",
                    running.node.nickname(peer)
                ),
                "start weaved on that host; if it is gone for good, weavectl reset on all hosts, weavectl up on one and weavectl join on the others",
            )),
            ipam::Removal::Myself | ipam::Removal::UnknownPeer => {
                Err(refusal(ErrorCode::NotFound, format!("no peer `{text}` to remove")))
            }
        };
        self.after_ipam.push(Box::new(move |durable| drop(reply.send(durable.and(answer)))));
    }

    fn ping(&mut self, target: &str, reply: Reply<PingAnswer>) {
        let peer = match self.find_peer(target) {
            Ok(peer) => peer,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let ticket = self.ticket();
        if let Some(running) = &mut self.running {
            self.pings.insert(ticket, reply);
            running.node.ping(ticket, peer, Instant::now());
        }
    }

    /// A peer by id, unique beginning, nickname, or a container's address.
    fn find_peer(&self, text: &str) -> Result<PeerId, ApiError> {
        let Some(running) = &self.running else { return Err(fabric::no_fabric()) };
        if let Ok(address) = text.parse() {
            return running.node.locate(address).ok_or_else(|| {
                refusal_with(
                    ErrorCode::NotFound,
                    format!("no peer holds {address}"),
                    "weavectl status ipam shows who owns which addresses",
                )
            });
        }
        view::peer_named(&running.node, text)
    }
}
