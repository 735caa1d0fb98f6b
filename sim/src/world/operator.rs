//! What people do: start, stop, join, leave and remove, in the way that the command line allows.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use gossip::PeerId;
use ipam::Removal;

use super::World;
use crate::dice::Dice;
use crate::host::{Host, Role};
use crate::model::{Failure, Fate};
use crate::network::Nat;

/// How often somebody tries again what was refused for the moment.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often in all.
const TRIES: u32 = 12;
/// Longest wait of `reset` for the heir, as in the shell.
const HANDOVER: Duration = Duration::from_secs(3);
/// Time for goodbyes, as in the shell.
const GOODBYE: Duration = Duration::from_millis(300);

/// What somebody does, now or again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// `up` on the first host, `join` on any other.
    Join(u16),
    /// `rmpeer`, repeated while the peer seems to be alive.
    Remove { at: u16, gone: u16, tries: u32 },
    /// The second half of `reset`: say goodbye.
    Goodbye { host: u16, life: u32 },
    /// The last of it: forget everything.
    Forget { host: u16, life: u32 },
}

impl World {
    pub(super) fn order(&mut self, order: Order) -> Result<(), Failure> {
        match order {
            Order::Join(host) => self.join(host),
            Order::Remove { at, gone, tries } => self.remove(at, gone, tries),
            Order::Goodbye { host, life } => self.goodbye(host, life),
            Order::Forget { host, life } => self.leave_for_good(host, life),
        }
    }

    /// Brings a host into the fabric; the first one creates it, or the seeds do.
    pub(super) fn join(&mut self, host: u16) -> Result<(), Failure> {
        let seeds = self.fabric.seeds.as_ref().map_or(1, |seeds| seeds.names().len() as u16);
        let (role, targets) = match host {
            founder if founder < seeds => {
                let others = (0..seeds).filter(|other| *other != founder);
                (Role::Founder, others.map(|other| self.network.address(other)).collect())
            }
            _ => (Role::Joiner, self.some_addresses(host)),
        };
        if role == Role::Joiner && targets.is_empty() {
            // Nobody is there who could make a token.
            self.queue.push(self.now + PATIENCE, super::What::Order(Order::Join(host)));
            return Ok(());
        }
        self.hosts[usize::from(host)].fabric = self.fabric.clone();
        match self.hosts[usize::from(host)].enter(role, targets) {
            Ok(()) => self.start(host),
            Err(_) => {
                self.queue.push(self.now + PATIENCE, super::What::Order(Order::Join(host)));
                Ok(())
            }
        }
    }

    /// What a token names: the address of the router that gave it, and of some of its peers.
    fn some_addresses(&mut self, but: u16) -> Vec<SocketAddr> {
        let mut running: Vec<u16> = (0..self.hosts.len() as u16)
            .filter(|host| *host != but && self.hosts[usize::from(*host)].is_member())
            .collect();
        let mut addresses = Vec::new();
        while addresses.len() < 3 && !running.is_empty() {
            let chosen = running.swap_remove(self.dice.index(running.len()));
            addresses.push(self.network.address(chosen));
        }
        if addresses.is_empty() && self.now < PATIENCE {
            // At the very start all are told of the first one.
            addresses.push(self.network.address(0));
        }
        addresses
    }

    /// Starts a router, unless it runs.
    pub(super) fn start(&mut self, host: u16) -> Result<(), Failure> {
        let index = usize::from(host);
        if self.hosts[index].router.is_some() || self.model.fate(host) == Fate::Gone {
            return Ok(());
        }
        self.history.note(self.now, host, "starts");
        let address = self.network.own_address(host);
        self.hosts[index].start(address, self.now);
        self.turn(host)?;
        self.model.check(&self.hosts[index], &self.hosts)
    }

    /// Kills the process.
    pub(super) fn stop(&mut self, host: u16) {
        if self.hosts[usize::from(host)].router.is_some() {
            self.history.note(self.now, host, "stops");
        }
        self.hosts[usize::from(host)].stop();
        self.model.stopped(host);
    }

    /// Kills the machine.
    pub(super) fn lose_power(&mut self, host: u16) {
        self.stop(host);
        let here = &mut self.hosts[usize::from(host)];
        here.disk.lose_power(&mut self.dice);
        here.kernel.clear();
        self.model.forget(host);
    }

    pub(super) fn die_writing(&mut self, host: u16) -> Result<(), Failure> {
        self.history.note(self.now, host, "dies while it writes");
        self.lose_power(host);
        Ok(())
    }

    /// `weavectl rmpeer`: refused while the peer seems to be alive, and while nobody knows what it owns.
    fn remove(&mut self, at: u16, gone: u16, tries: u32) -> Result<(), Failure> {
        let Some(at) = self.next_member(at, gone) else { return Ok(()) };
        let peer = self.hosts[usize::from(gone)].id;
        if self.model.fate(gone) == Fate::Gone && !self.is_missed(at, peer) {
            return Ok(());
        }
        let here = &mut self.hosts[usize::from(at)];
        let now = here.clock.read(self.now);
        let Some(router) = &mut here.router else { return Ok(()) };
        if router.node.is_alive(peer) {
            return self.remove_later(at, gone, tries);
        }
        let removal = router.node.remove_peer(peer, now);
        if removal == Removal::NoOwnerKnown {
            return self.remove_later(at, gone, tries);
        }
        self.history.note(self.now, at, format!("rmpeer of host {gone}: {removal:?}"));
        self.removing = Some(gone);
        let turned = self.turn(at);
        self.removing = None;
        turned?;
        let durable =
            self.hosts[usize::from(at)].router.as_ref().is_some_and(|r| r.node.ipam().is_removed(peer));
        if durable && matches!(removal, Removal::Started { .. }) && self.model.fate(gone) != Fate::Gone {
            self.excuse_unknown(at, gone);
            self.model.set_fate(gone, Fate::Removed);
        }
        Ok(())
    }

    /// The command line says that it should be tried again.
    fn remove_later(&mut self, at: u16, gone: u16, tries: u32) -> Result<(), Failure> {
        if tries < TRIES {
            let order = Order::Remove { at, gone, tries: tries + 1 };
            self.queue.push(self.now + PATIENCE, super::What::Order(order));
        }
        Ok(())
    }

    /// ADR 0004: somebody who joined through the removed one, and of whom the heir has not heard, is not asked.
    pub(super) fn excuse_unknown(&mut self, at: u16, gone: u16) {
        let Some(heir) = &self.hosts[usize::from(at)].router else { return };
        let known: Vec<PeerId> =
            heir.node.members().map(|member| member.id).chain([heir.node.me()]).collect();
        let unknown = |host: &Host| host.router.is_some() && !known.contains(&host.id);
        if self.hosts.iter().any(unknown) {
            let blocks = heir.node.ipam().blocks();
            let theirs = self.hosts[usize::from(gone)].id;
            let blocks: Vec<_> = blocks.filter(|block| block.owner == theirs).map(|b| b.prefix).collect();
            self.model.taint(blocks);
        }
    }

    /// Whether the status shows that a peer should be removed: it owns space, is to inherit some, or somebody waits for its word.
    fn is_missed(&self, at: u16, peer: PeerId) -> bool {
        let owns = |host: &Host| {
            let router = host.router.as_ref().filter(|_| host.number == at);
            router.is_some_and(|router| {
                let ipam = router.node.ipam();
                let heirs: BTreeMap<PeerId, PeerId> = ipam.removed().collect();
                ipam.blocks().any(|block| block.owner == peer || heirs.get(&block.owner) == Some(&peer))
            })
        };
        let waits = |host: &Host| {
            let takeovers = host.router.iter().flat_map(|router| router.node.ipam_summary().takeovers);
            takeovers.into_iter().any(|takeover| takeover.waiting_for.contains(&peer))
        };
        self.hosts.iter().any(|host| owns(host) || waits(host))
    }

    /// The first running member from `at` on, other than `but`.
    pub(super) fn next_member(&self, at: u16, but: u16) -> Option<u16> {
        let count = self.hosts.len() as u16;
        let fits = |host: &u16| {
            *host != but
                && self.model.fate(*host) == Fate::Member
                && self.runs(*host)
                && self.hosts[usize::from(*host)].is_member()
        };
        (0..count).map(|n| (at + n) % count).find(fits)
    }

    /// `weavectl reset`: containers go first, then the space goes to an heir.
    pub(super) fn leave(&mut self, host: u16) -> Result<(), Failure> {
        if !self.runs(host) || self.model.fate(host) != Fate::Member {
            return Ok(());
        }
        let index = usize::from(host);
        let containers: Vec<u32> = self.hosts[index].kernel.keys().copied().collect();
        for container in containers {
            let now = self.hosts[index].clock.read(self.now);
            self.model.let_go(host, container, now);
            self.hosts[index].detach(container, self.now);
        }
        self.turn(host)?;
        let now = self.hosts[index].clock.read(self.now);
        let heir = self.hosts[index].with(now, |node, now| node.leave(now)).flatten();
        self.history.note(self.now, host, format!("leaves, heir {heir:?}"));
        let life = self.hosts[index].lives;
        self.queue.push(self.now + HANDOVER, super::What::Order(Order::Goodbye { host, life }));
        self.turn(host)
    }

    fn goodbye(&mut self, host: u16, life: u32) -> Result<(), Failure> {
        if self.life(host) != Some(life) {
            return Ok(());
        }
        let here = &mut self.hosts[usize::from(host)];
        let now = here.clock.read(self.now);
        here.with(now, |node, now| node.say_goodbye(now));
        self.queue.push(self.now + GOODBYE, super::What::Order(Order::Forget { host, life }));
        self.turn(host)
    }

    fn leave_for_good(&mut self, host: u16, life: u32) -> Result<(), Failure> {
        if self.life(host) == Some(life) {
            self.stop(host);
            self.hosts[usize::from(host)].disk.wipe();
            self.model.set_fate(host, Fate::Gone);
        }
        Ok(())
    }

    /// A new machine, which joins now.
    pub(super) fn newcomer(&mut self) -> Result<(), Failure> {
        let nat = if self.dice.happens(100) { Nat::Box } else { Nat::None };
        let host = self.add_host(nat);
        self.join(host)
    }

    /// The journal as it would be read now tells what a host believes to own.
    pub(super) fn taint_belief(&mut self, host: u16) {
        if let Some(router) = &self.hosts[usize::from(host)].router {
            let blocks = router.node.ipam().own_blocks();
            self.model.taint(blocks);
        }
    }

    /// Whether another router with the same identity runs.
    pub(super) fn has_twin(&self, host: u16) -> bool {
        let id = self.hosts[usize::from(host)].id;
        self.hosts.iter().any(|other| other.number != host && other.id == id && other.router.is_some())
    }

    pub(super) fn dice_of(&self, how: u64) -> Dice {
        Dice::new(how, 4)
    }
}
