//! Names: of attached containers, and those that somebody added by hand; and the service that answers for all of them.

use std::net::IpAddr;
use std::sync::PoisonError;
use std::time::Instant;

use control::api::{self, ApiError, ErrorCode, Nameserver};
use control::dns::{Dns, DnsAddRequest, DnsAdded, DnsEntry, DnsLookup, DnsRemoveRequest};
use gossip::PeerId;
use ipnet::{Ipv4Net, Ipv6Net};

use super::call::{Name, Reply, refusal, refusal_with};
use super::{Engine, Running, fabric, persist};
use crate::core::mac::Mac;
use crate::core::names::{DnsName, Found, NameOwner, NamesError, Said};
use crate::core::node::Node;
use crate::shell::dns::{Service, Serving, Setup, View, Zone};
use crate::shell::kernel::{FirewallSpec, NameserverSpec};
use crate::shell::state::dir::{AddedName, FabricFile, Kept};

/// Entries that `status dns` lists, and look-ups answer; more is counted.
const MAX_ENTRIES: usize = 2000;
/// Names that may be added by hand on one host. Containers bring theirs along, so these are what is outside of the fabric.
const MAX_ADDED: usize = 1000;

impl Engine {
    /// Gives the host the address where names are served, and serves them. Sockets that are not to be had are shown in the status; the
    /// router goes on without.
    pub(super) async fn start_dns(
        &mut self,
        node: &Node,
        file: &FabricFile,
    ) -> Result<Option<Service>, ApiError> {
        let address = self.config.dns.address.ip();
        let spec = address.map(|address| NameserverSpec { address, range: file.range });
        self.kernel.ensure_nameserver(spec).await.map_err(|error| {
            refusal_with(
                ErrorCode::Kernel,
                error.to_string(),
                "weaved --no-dns serves no names and needs no such address",
            )
        })?;
        let Some(address) = address else { return Ok(None) };
        let options = self.config.dns.clone();
        let zone = Zone::new(&options.domain, options.ttl, address, file.range, node.range6());
        let setup = Setup { options, address, zone, names: node.names() };
        Service::start(setup)
            .map(Some)
            .map_err(|error| refusal(ErrorCode::Kernel, format!("no thread to serve names on: {error}")))
    }

    /// What a start finds in the state directory.
    pub(super) fn announce_added_names(&mut self, now: Instant) {
        let Some(running) = &mut self.running else { return };
        for added in running.file.names.clone() {
            if let Err(error) = announce_added(&mut running.node, &added, now) {
                tracing::warn!(name = %added.name, %error, "name that was added by hand is left out");
            }
        }
    }

    /// Where containers of this host ask.
    pub(super) fn nameserver(&self) -> Option<Nameserver> {
        let address = self.config.dns.address.ip()?;
        Some(Nameserver { address, domain: self.config.dns.domain.name().to_string() })
    }

    /// The firewall with what names need.
    pub(super) fn firewall(&self, masquerade: Option<(Ipv4Net, Ipv6Net)>) -> FirewallSpec {
        let nameserver = self.config.dns.address.ip();
        FirewallSpec { bridge: self.config.bridge.clone(), masquerade, nameserver }
    }

    /// Containers can be told later what they are called: Docker says nothing of names when it attaches one.
    pub(super) fn called(&mut self, name: Name, reply: Reply<()>) {
        let key = (name.container, name.ifname);
        let Some(kept) = self.attachments.get(&key) else {
            let text = format!("nothing is attached as `{}` of `{}`", key.1, key.0);
            return drop(reply.send(Err(refusal(ErrorCode::UnknownContainer, text))));
        };
        let mut kept = kept.clone();
        let names: Vec<String> = name.names.into_iter().map(String::from).collect();
        if kept.attachment.names == names && kept.attachment.name == name.name {
            return drop(reply.send(Ok(())));
        }
        kept.attachment.names = names;
        kept.attachment.name = name.name;
        let entry = fabric::attached_entry(&kept);
        self.remember(kept, Instant::now());
        self.attachment_writes.push((entry, Box::new(move |durable| drop(reply.send(durable)))));
    }

    pub(super) fn dns_add(&mut self, request: &DnsAddRequest) -> Result<DnsAdded, ApiError> {
        let name = self.own_name(&request.name)?;
        let full = self.full(&name);
        let Some(running) = &mut self.running else { return Err(fabric::no_fabric()) };
        let before = running.file.names.clone();
        let at = match before.iter().position(|added| added.name == name) {
            Some(at) => at,
            None if before.len() >= MAX_ADDED => {
                let text = format!("{MAX_ADDED} names were added on this host, which is all that it keeps");
                return Err(refusal_with(ErrorCode::Exhausted, text, "weavectl dns remove NAME"));
            }
            None => {
                running.file.names.push(AddedName { name: name.clone(), addresses: Vec::new() });
                before.len()
            }
        };
        let added = &mut running.file.names[at];
        let fresh = request
            .addresses
            .iter()
            .filter(|address| !before.get(at).is_some_and(|a| a.addresses.contains(address)));
        added.addresses.extend(fresh);
        let added = added.clone();
        if let Err(error) = announce_added(&mut running.node, &added, Instant::now()) {
            running.file.names = before;
            return Err(refusal_with(
                ErrorCode::BadRequest,
                error.to_string(),
                "weavectl dns add db 192.0.2.7",
            ));
        }
        let changed = before.get(at) != Some(&added);
        self.keep_added(changed, before)?;
        Ok(DnsAdded { name: full, addresses: added.addresses, changed })
    }

    pub(super) fn dns_remove(&mut self, request: &DnsRemoveRequest) -> Result<DnsAdded, ApiError> {
        let name = self.own_name(&request.name)?;
        let full = self.full(&name);
        let Some(running) = &mut self.running else { return Err(fabric::no_fabric()) };
        let before = running.file.names.clone();
        let Some(at) = before.iter().position(|added| added.name == name) else {
            return Err(self.not_added(&name, &full));
        };
        let added = &mut running.file.names[at];
        let gone = |address: &IpAddr| request.addresses.is_empty() || request.addresses.contains(address);
        added.addresses.retain(|address| !gone(address));
        let added = added.clone();
        if added.addresses.is_empty() {
            running.file.names.remove(at);
        }
        // What is left of a record that fitted fits.
        let _ = announce_added(&mut running.node, &added, Instant::now());
        let changed = added.addresses != before[at].addresses;
        self.keep_added(changed, before)?;
        Ok(DnsAdded { name: full, addresses: added.addresses, changed })
    }

    pub(super) fn dns_lookup(&self, text: &str) -> Result<DnsLookup, ApiError> {
        let Some(running) = &self.running else { return Err(fabric::no_fabric()) };
        let names = running.node.names();
        let names = names.read().unwrap_or_else(PoisonError::into_inner);
        let (found, addresses) = match text.parse::<IpAddr>() {
            Ok(address) => (names.names_of(address), vec![address]),
            Err(_) => {
                let name = self.own_name(text)?;
                match names.find(&name) {
                    Found::Addresses(addresses) => (vec![name], addresses),
                    Found::NamesBelow | Found::Nothing => (Vec::new(), Vec::new()),
                }
            }
        };
        if found.is_empty() {
            let text = format!("the fabric has no name for `{text}`");
            return Err(refusal_with(
                ErrorCode::NotFound,
                text,
                "weavectl status dns lists the names that there are",
            ));
        }
        let about = |name: &DnsName| found.contains(name);
        let entries = names.entries().filter(|(name, ..)| about(name)).take(MAX_ENTRIES);
        Ok(DnsLookup {
            names: found.iter().map(|name| self.full(name)).collect(),
            addresses,
            entries: entries.map(|entry| self.entry(running, entry)).collect(),
        })
    }

    pub(super) fn dns(&self) -> Result<Dns, ApiError> {
        let Some(running) = &self.running else { return Err(fabric::no_fabric()) };
        let view = running.dns.as_ref().map(Service::view);
        let names = running.node.names();
        let names = names.read().unwrap_or_else(PoisonError::into_inner);
        let mut entries: Vec<DnsEntry> =
            names.entries().take(MAX_ENTRIES).map(|entry| self.entry(running, entry)).collect();
        entries.sort_by(|a, b| (&a.name, &a.nickname).cmp(&(&b.name, &b.nickname)));
        Ok(Dns {
            summary: self.dns_summary(running, view.as_ref()),
            reason: view.as_ref().and_then(|view| match &view.serving {
                Serving::No(why) => Some(why.clone()),
                Serving::Yes | Serving::Starting => None,
            }),
            ttl_s: self.config.dns.ttl,
            upstreams: view.map(|view| view.upstreams).unwrap_or_default(),
            more: names.entries().skip(MAX_ENTRIES).count(),
            entries,
        })
    }

    /// For the status.
    pub(super) fn dns_in_short(&self, running: &Running) -> api::DnsSummary {
        self.dns_summary(running, running.dns.as_ref().map(Service::view).as_ref())
    }

    /// Why names are not served although they should be.
    pub(super) fn dns_trouble(&self) -> Option<String> {
        match self.running.as_ref()?.dns.as_ref()?.view().serving {
            Serving::No(why) => Some(why),
            Serving::Yes | Serving::Starting => None,
        }
    }

    fn dns_summary(&self, running: &Running, view: Option<&View>) -> api::DnsSummary {
        let state = match view.map(|view| &view.serving) {
            None => "off",
            Some(Serving::Starting) => "starting",
            Some(Serving::Yes) => "serving",
            Some(Serving::No(_)) => "failed",
        };
        let fates = view.map(|view| view.fates.as_slice()).unwrap_or_default();
        let count = |(fate, count): &(crate::shell::dns::Fate, u64)| api::Count {
            reason: fate.as_str().to_owned(),
            count: *count,
        };
        api::DnsSummary {
            state: state.to_owned(),
            address: self.config.dns.address.ip(),
            domain: self.config.dns.domain.name().to_string(),
            names: running.node.names().read().unwrap_or_else(PoisonError::into_inner).len(),
            cached: view.map_or(0, |view| view.cached),
            questions: fates.iter().map(count).collect(),
        }
    }

    /// What was changed has to be there after a restart, or it did not happen.
    fn keep_added(&mut self, changed: bool, before: Vec<AddedName>) -> Result<(), ApiError> {
        if !changed || self.store_fabric() {
            return Ok(());
        }
        let now = Instant::now();
        if let Some(running) = &mut self.running {
            let tried = std::mem::replace(&mut running.file.names, before);
            for added in tried {
                running.node.unname(&NameOwner::Operator(added.name), now);
            }
        }
        self.announce_added_names(now);
        Err(persist::not_durable(&self.not_durable.clone().unwrap_or_default()))
    }

    /// A name as a person types it: with the domain or without, with a dot at its end or without.
    fn own_name(&self, text: &str) -> Result<DnsName, ApiError> {
        let domain = self.config.dns.domain.name();
        let hint = format!("a name of the fabric, such as `db` or `db.{domain}`");
        let wrong = |message: String| refusal_with(ErrorCode::BadRequest, message, hint.clone());
        let lower = text.to_ascii_lowercase();
        let (bare, absolute) = match lower.strip_suffix('.') {
            Some(bare) => (bare, true),
            None => (lower.as_str(), false),
        };
        let relative = match bare.strip_suffix(domain.as_str()) {
            Some("") => return Err(wrong(format!("`{text}` is the fabric's domain itself"))),
            Some(rest) if rest.ends_with('.') => &rest[..rest.len() - 1],
            Some(_) | None if absolute => {
                return Err(wrong(format!("`{text}` is not below the fabric's domain {domain}")));
            }
            Some(_) | None => bare,
        };
        relative.parse().map_err(|error: crate::core::names::NotAName| wrong(error.to_string()))
    }

    fn full(&self, name: &DnsName) -> String {
        format!("{name}.{}", self.config.dns.domain.name())
    }

    fn entry(&self, running: &Running, (name, peer, addresses): (&DnsName, PeerId, &[IpAddr])) -> DnsEntry {
        DnsEntry {
            name: self.full(name),
            addresses: addresses.to_vec(),
            peer: peer.to_string(),
            nickname: running.node.nickname(peer),
        }
    }

    /// Only who added a name can remove it, and those of containers go with them.
    fn not_added(&self, name: &DnsName, full: &str) -> ApiError {
        let names = self.running.as_ref().map(|running| running.node.names());
        let says = names.and_then(|names| {
            let names = names.read().unwrap_or_else(PoisonError::into_inner);
            names.entries().find(|(other, ..)| *other == name).map(|(_, peer, _)| peer)
        });
        match (says, &self.running) {
            (Some(peer), Some(running)) if peer != running.node.me() => refusal_with(
                ErrorCode::NotFound,
                format!("{full} was not added on this host, but comes from {}", running.node.nickname(peer)),
                format!("weavectl dns remove {name} there; the name of a container goes with it"),
            ),
            (Some(_), _) => refusal_with(
                ErrorCode::NotFound,
                format!("{full} was not added by hand: it is the name of a container of this host"),
                "weavectl ps shows which; the name goes with it",
            ),
            (None, _) => refusal_with(
                ErrorCode::NotFound,
                format!("{full} was not added on this host"),
                "weavectl status dns lists the names that there are, and from which host each comes",
            ),
        }
    }
}

/// Tells others how an attached container is found.
pub(super) fn announce(node: &mut Node, mac: Mac, kept: &Kept, now: Instant) {
    let attachment = &kept.attachment;
    let owner = NameOwner::Endpoint(mac);
    let names: Vec<DnsName> = attachment.names.iter().filter_map(|text| text.parse().ok()).collect();
    let addresses = match kept.named.as_slice() {
        [] => vec![attachment.address.addr().into(), attachment.address6.addr().into()],
        named => named.to_vec(),
    };
    match Said::fitting(names, addresses) {
        Some(said) => node.name(&owner, said, now),
        None => node.unname(&owner, now),
    }
}

fn announce_added(node: &mut Node, added: &AddedName, now: Instant) -> Result<(), NamesError> {
    let owner = NameOwner::Operator(added.name.clone());
    if added.addresses.is_empty() {
        node.unname(&owner, now);
        return Ok(());
    }
    let said = Said::new([added.name.clone()], added.addresses.iter().copied())?;
    node.name(&owner, said, now);
    Ok(())
}
