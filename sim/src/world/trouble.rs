//! Doing faults, and putting them right.

use std::time::Duration;

use gossip::{PeerId, RecordKey};
use ipam::Want;

use super::operator::Order;
use super::{What, World};
use crate::clock::LocalClock;
use crate::disk::{Disk, File};
use crate::fault::{Fault, Kind};
use crate::host::Host;
use crate::model::{Failure, Fate};
use crate::network::{Nat, SMALLEST_MTU, Voice, Way, Weather};
use crate::plan::Act;

/// After so long without a word a dead peer is known to be dead by all that hear each other.
const KNOWN_DEAD: Duration = Duration::from_secs(25);
/// Before it the fabric is not founded for all.
const HEARD_OF: Duration = Duration::from_secs(15);
/// Longest lag of a slow peer.
const MAX_LAG: u64 = 120;
/// Datagrams of a flood in one go, and how often.
const FLOOD: (usize, u32) = (300, 10);

/// How a fault ends.
pub(crate) enum Undo {
    Start(u16),
    DiskFull(u16),
    DiskSlow(u16),
    Restore(u16, Box<Disk>),
    StopClone(u16),
    Lag(u16),
    Voice(u16),
    Way(u16, u16),
    Ways(u16),
    Side(Vec<u16>),
    Clock(u16),
    Weather(Kind),
    Newcomer,
    Secret,
    Flood { host: u16, how: u64, left: u32 },
    Replay { left: u32 },
    Accuse { host: u16, how: u64, until: Duration },
    Agree { origin: PeerId, key: RecordKey },
    Future { host: u16, how: u64, left: u32 },
    Unstick(u16),
}

impl World {
    pub(super) fn fault(&mut self, fault: Fault) -> Result<(), Failure> {
        let count = self.hosts.len() as u16;
        let Fault { kind, host, other, lasts, how } = fault;
        if host >= count || other >= count {
            return Ok(());
        }
        let end = self.now + lasts;
        match kind {
            Kind::Crash | Kind::PowerLoss | Kind::TornWrite | Kind::Rollback | Kind::DiskDamage => {
                self.fault_of_life(fault, end)
            }
            Kind::DiskLost | Kind::Clone => self.fault_of_identity(fault, end),
            Kind::DiskFull => {
                self.hosts[usize::from(host)].disk.full = true;
                self.later(end, Undo::DiskFull(host))
            }
            Kind::DiskSlow => {
                self.hosts[usize::from(host)].disk.delay = Duration::from_millis(20 + how % 2000);
                self.later(end, Undo::DiskSlow(host))
            }
            Kind::SlowPeer => {
                self.held[usize::from(host)].lag = Duration::from_secs(1 + how % MAX_LAG);
                self.later(end, Undo::Lag(host))
            }
            Kind::Frozen => {
                self.held[usize::from(host)].until = end;
                self.held[usize::from(host)].waiting = 0;
                Ok(())
            }
            Kind::Mute => {
                self.network.set_mute(host, Voice::Mute);
                self.later(end, Undo::Voice(host))
            }
            Kind::ClockLeap => {
                let by = Duration::from_secs(1 + how % 120);
                self.hosts[usize::from(host)].clock.leap(by);
                self.model.leapt(host, by);
                self.schedule(host);
                Ok(())
            }
            Kind::ClockStop => {
                self.hosts[usize::from(host)].clock.stop(self.now);
                self.later(end, Undo::Clock(host))
            }
            Kind::FlappingLink
            | Kind::Partition
            | Kind::OneWayPartition
            | Kind::PartialPartition
            | Kind::DeafAsker => self.fault_of_ways(fault, end),
            Kind::Loss | Kind::Duplication | Kind::Corruption | Kind::Reordering | Kind::SmallMtu => {
                self.fault_of_weather(kind, how, end)
            }
            Kind::Flood => self.undo(Undo::Flood { host, how, left: FLOOD.1 }),
            Kind::Replay => self.undo(Undo::Replay { left: 20 + (how % 100) as u32 }),
            Kind::RemovalInPartition | Kind::RemovalTwice | Kind::RemovedReturns => {
                self.fault_of_removal(fault, end)
            }
            Kind::MassRestart | Kind::MassJoin | Kind::Join | Kind::Leave | Kind::SecretSplit => {
                self.fault_of_many(fault, end)
            }
            Kind::FixedConflict | Kind::Exhaustion => self.fault_of_wishes(fault),
            Kind::VersionSkew => self.undo(Undo::Future { host, how, left: (how % 8) as u32 }),
            Kind::Stuck => {
                self.hosts[usize::from(host)].stuck = true;
                self.later(end, Undo::Unstick(host))
            }
            Kind::LyingGift | Kind::LyingEndpoint | Kind::LyingDeath | Kind::LyingTwice => {
                if self.lie(fault)? {
                    let order = Order::Remove { at: other, gone: host, tries: 0 };
                    self.queue.push(end + KNOWN_DEAD, What::Order(order));
                    self.later(end, Undo::StopClone(host))?;
                }
                Ok(())
            }
            Kind::AddressChange => {
                self.network.move_host(host);
                Ok(())
            }
        }
    }

    fn later(&mut self, at: Duration, undo: Undo) -> Result<(), Failure> {
        self.queue.push(at, What::Undo(undo));
        Ok(())
    }

    fn fault_of_life(&mut self, fault: Fault, end: Duration) -> Result<(), Failure> {
        let Fault { kind, host, how, .. } = fault;
        let index = usize::from(host);
        match kind {
            // Before it joined there is nothing to go back to.
            Kind::Rollback if self.hosts[index].disk.membership().is_none() => return Ok(()),
            Kind::Rollback => {
                let old = Box::new(self.hosts[index].disk.clone());
                return self.later(end, Undo::Restore(host, old));
            }
            Kind::TornWrite => {
                self.hosts[index].disk.trap = Some((how % 1001) as u32);
                return self.later(end, Undo::Start(host));
            }
            Kind::PowerLoss => self.lose_power(host),
            Kind::DiskDamage => {
                self.taint_journal(host, &self.hosts[index].disk.clone());
                self.stop(host);
                let mut dice = self.dice_of(how);
                self.hosts[index].disk.damage(&mut dice);
            }
            _ => self.stop(host),
        }
        self.later(end, Undo::Start(host))
    }

    fn fault_of_identity(&mut self, fault: Fault, end: Duration) -> Result<(), Failure> {
        let host = fault.host;
        if self.model.fate(host) != Fate::Member {
            return Ok(());
        }
        if fault.kind == Kind::DiskLost {
            // What nobody has heard of is lost with the disk.
            let running = self.members().into_iter().filter(|host| self.runs(*host)).count();
            if running < 3 || self.now < HEARD_OF {
                return Ok(());
            }
            self.lose_power(host);
            self.hosts[usize::from(host)].disk.wipe();
            self.model.set_fate(host, Fate::Gone);
            let order = Order::Remove { at: fault.other, gone: host, tries: 0 };
            self.queue.push(self.now + KNOWN_DEAD, What::Order(order));
            return self.later(end, Undo::Newcomer);
        }
        self.taint_belief(host);
        let copy = self.add_host(Nat::None);
        self.model.set_fate(copy, Fate::Gone);
        let original = &self.hosts[usize::from(host)];
        let (identity, id, disk) = (original.identity.clone(), original.id, original.disk.clone());
        let here = &mut self.hosts[usize::from(copy)];
        (here.identity, here.id, here.disk, here.doubled) = (identity, id, disk, true);
        self.hosts[usize::from(host)].doubled = true;
        self.history.note(self.now, copy, format!("is a copy of host {host}"));
        let address = self.network.own_address(copy);
        self.hosts[usize::from(copy)].start(address, self.now);
        self.turn(copy)?;
        self.later(end, Undo::StopClone(copy))
    }

    fn fault_of_ways(&mut self, fault: Fault, end: Duration) -> Result<(), Failure> {
        let Fault { kind, host, other, how, .. } = fault;
        let count = self.hosts.len() as u16;
        let in_half = |n: u16| how.rotate_right(u32::from(n)) & 1 == 1;
        match kind {
            Kind::FlappingLink => {
                let way = Way::Flapping(Duration::from_millis(100 + how % 8000));
                self.network.set_way(host, other, Some(way));
                self.network.set_way(other, host, Some(way));
                self.later(end, Undo::Way(host, other))
            }
            Kind::PartialPartition => {
                self.network.set_way(host, other, Some(Way::Cut));
                self.network.set_way(other, host, Some(Way::Cut));
                self.later(end, Undo::Way(host, other))
            }
            Kind::OneWayPartition => {
                for from in (0..count).filter(|n| in_half(*n)) {
                    for to in (0..count).filter(|n| !in_half(*n)) {
                        self.network.set_way(from, to, Some(Way::Cut));
                    }
                    self.later(end, Undo::Ways(from))?;
                }
                Ok(())
            }
            Kind::DeafAsker => {
                for from in (0..count).filter(|from| *from != host) {
                    self.network.set_way(from, host, Some(Way::Cut));
                    self.later(end, Undo::Way(from, host))?;
                }
                self.containers(host, 4 + how % 12, Duration::from_millis(50))
            }
            _ => {
                let half: Vec<u16> = (0..count).filter(|n| in_half(*n)).collect();
                self.parted = self.now;
                half.iter().for_each(|n| self.network.set_side(*n, 1));
                self.later(end, Undo::Side(half))
            }
        }
    }

    fn fault_of_weather(&mut self, kind: Kind, how: u64, end: Duration) -> Result<(), Failure> {
        let weather = &mut self.network.weather;
        let up_to = |most: u64| (1 + how % most) as u32;
        match kind {
            Kind::Loss => weather.loss = up_to(400),
            Kind::Duplication => weather.duplication = up_to(500),
            Kind::Corruption => weather.corruption = up_to(100),
            Kind::Reordering => {
                weather.reordering = up_to(500);
                weather.late = Duration::from_millis(1 + how / 512 % 2000);
            }
            _ => weather.mtu = SMALLEST_MTU,
        }
        self.later(end, Undo::Weather(kind))
    }

    fn fault_of_removal(&mut self, fault: Fault, end: Duration) -> Result<(), Failure> {
        let Fault { kind, host, other, .. } = fault;
        if self.members().len() < 3 || self.model.fate(host) != Fate::Member {
            return Ok(());
        }
        let remove = |at| What::Order(Order::Remove { at, gone: host, tries: 0 });
        self.queue.push(self.now + KNOWN_DEAD, remove(other));
        match kind {
            Kind::RemovalInPartition => {
                self.parted = self.now;
                self.network.set_side(host, 2);
                self.later(end.max(self.now + 2 * KNOWN_DEAD), Undo::Side(vec![host]))
            }
            Kind::RemovalTwice => {
                self.queue.push(self.now + KNOWN_DEAD, remove(other + 1));
                self.stop(host);
                Ok(())
            }
            _ => {
                self.stop(host);
                self.later(end.max(self.now + 2 * KNOWN_DEAD), Undo::Start(host))
            }
        }
    }

    fn fault_of_many(&mut self, fault: Fault, end: Duration) -> Result<(), Failure> {
        let Fault { kind, host, how, .. } = fault;
        match kind {
            Kind::MassRestart => {
                for host in 0..self.hosts.len() as u16 {
                    self.stop(host);
                    let pause = Duration::from_millis(10 + how.rotate_right(u32::from(host)) % 1000);
                    self.later(self.now + pause, Undo::Start(host))?;
                }
                Ok(())
            }
            Kind::MassJoin => {
                for n in 0..2 + how % 5 {
                    self.later(self.now + Duration::from_millis(n * (how % 97)), Undo::Newcomer)?;
                }
                Ok(())
            }
            Kind::Join => self.newcomer(),
            Kind::Leave if self.members().len() >= 3 => self.leave(host),
            Kind::SecretSplit => {
                self.fabric.secret += 1;
                for host in 0..self.hosts.len() as u16 {
                    if how.rotate_right(u32::from(host)) & 1 == 1 {
                        self.replace_secret(host)?;
                    }
                }
                self.later(end, Undo::Secret)
            }
            _ => Ok(()),
        }
    }

    fn replace_secret(&mut self, host: u16) -> Result<(), Failure> {
        let secret = self.fabric.secret;
        let here = &mut self.hosts[usize::from(host)];
        if std::mem::replace(&mut here.fabric.secret, secret) == secret || here.router.is_none() {
            return Ok(());
        }
        self.stop(host);
        self.start(host)
    }

    fn fault_of_wishes(&mut self, fault: Fault) -> Result<(), Failure> {
        let Fault { kind, host, other, how, .. } = fault;
        let range = self.fabric.range;
        let size = range.hosts().count() as u64;
        if kind == Kind::FixedConflict {
            let address = range.hosts().nth((how % size) as usize).unwrap_or(range.addr());
            for host in [host, other] {
                let container = self.fresh_container();
                self.act(Act::Attach { host, container, want: Want::Fixed(address) })?;
            }
            return Ok(());
        }
        let many = size.min(300);
        self.containers(host, many / 2, fault.lasts / (many as u32).max(1))?;
        self.containers(other, many, fault.lasts / (many as u32).max(1))
    }

    /// Containers one after the other on a host; every second one goes again.
    fn containers(&mut self, host: u16, count: u64, pause: Duration) -> Result<(), Failure> {
        for n in 0..count as u32 {
            let container = self.fresh_container();
            let attach = Act::Attach { host, container, want: Want::Any };
            self.queue.push(self.now + pause * n, What::Act(attach));
            if n % 2 == 0 {
                let at = self.now + pause * (n + count as u32) + Duration::from_secs(6);
                self.queue.push(at, What::Act(Act::Detach { host, container }));
            }
        }
        Ok(())
    }

    fn fresh_container(&mut self) -> u32 {
        self.next_container += 1;
        self.next_container
    }

    pub(super) fn undo(&mut self, undo: Undo) -> Result<(), Failure> {
        match undo {
            Undo::Start(host) => return self.start(host),
            Undo::DiskFull(host) => self.hosts[usize::from(host)].disk.full = false,
            Undo::DiskSlow(host) => self.hosts[usize::from(host)].disk.delay = Duration::ZERO,
            Undo::Restore(host, old) => return self.roll_back(host, *old),
            Undo::StopClone(copy) => self.stop(copy),
            Undo::Lag(host) => self.held[usize::from(host)].lag = Duration::ZERO,
            Undo::Voice(host) => self.network.set_mute(host, Voice::Heard),
            Undo::Way(one, other) => {
                self.network.set_way(one, other, None);
                self.network.set_way(other, one, None);
            }
            Undo::Ways(from) => {
                (0..self.hosts.len() as u16).for_each(|to| self.network.set_way(from, to, None));
            }
            Undo::Side(hosts) => {
                self.parted = self.now;
                hosts.into_iter().for_each(|host| self.network.set_side(host, 0));
            }
            Undo::Clock(host) => {
                self.hosts[usize::from(host)].clock.go(self.now);
                self.schedule(host);
            }
            Undo::Weather(kind) => self.clear_weather(kind),
            Undo::Newcomer => return self.newcomer(),
            Undo::Secret => {
                for host in 0..self.hosts.len() as u16 {
                    self.replace_secret(host)?;
                }
            }
            Undo::Flood { host, how, left } => return self.flood(host, how, left),
            Undo::Replay { left } => return self.replay(left),
            Undo::Accuse { host, how, until } => return self.accuse_all(host, how, until),
            Undo::Agree { origin, key } => return self.check_agreed(origin, &key),
            Undo::Future { host, how, left } => return self.speak_of_future(host, how, left),
            Undo::Unstick(host) => return self.unstick(host),
        }
        Ok(())
    }

    fn unstick(&mut self, host: u16) -> Result<(), Failure> {
        self.hosts[usize::from(host)].stuck = false;
        let now = self.hosts[usize::from(host)].clock.read(self.now);
        self.model.unstuck(host, now);
        self.turn(host)
    }

    fn clear_weather(&mut self, kind: Kind) {
        let weather = &mut self.network.weather;
        match kind {
            Kind::Loss => weather.loss = Weather::FAIR.loss,
            Kind::Duplication => weather.duplication = Weather::FAIR.duplication,
            Kind::Corruption => weather.corruption = Weather::FAIR.corruption,
            Kind::Reordering => weather.reordering = Weather::FAIR.reordering,
            _ => weather.mtu = Weather::FAIR.mtu,
        }
    }

    fn roll_back(&mut self, host: u16, mut old: Disk) -> Result<(), Failure> {
        if self.model.fate(host) != Fate::Member {
            return Ok(());
        }
        self.history.note(self.now, host, "goes back to an older copy of its disk");
        self.taint_belief(host);
        self.stop(host);
        let present = &self.hosts[usize::from(host)].disk;
        (old.full, old.delay, old.trap) = (present.full, present.delay, None);
        self.taint_journal(host, &present.clone());
        self.taint_journal(host, &old);
        self.hosts[usize::from(host)].disk = old;
        self.hosts[usize::from(host)].doubled = true;
        self.start(host)
    }

    /// Everything that a journal's reader believes to own.
    pub(super) fn taint_journal(&mut self, host: u16, disk: &Disk) {
        let mut reader = Host::new(host, 0, self.fabric.clone(), LocalClock::new(self.start));
        let here = &self.hosts[usize::from(host)];
        (reader.identity, reader.id) = (here.identity.clone(), here.id);
        reader.disk = disk.clone();
        reader.disk.trap = None;
        if reader.disk.read(File::Ipam).entries.is_empty() {
            return;
        }
        reader.start(self.network.own_address(host), self.now);
        if let Some(router) = &reader.router {
            // Also what a journal that is not trusted, since its end is torn, says to be its own.
            let owned = router.node.ipam().blocks().filter(|block| block.owner == reader.id);
            self.model.taint(owned.map(|block| block.prefix));
        }
    }

    fn flood(&mut self, host: u16, how: u64, left: u32) -> Result<(), Failure> {
        let mut dice = self.dice_of(how ^ u64::from(left));
        for _ in 0..FLOOD.0 {
            if !self.runs(host) {
                break;
            }
            let mut junk = vec![0; dice.index(1500)];
            dice.fill(&mut junk);
            // Half of it looks like something at first sight.
            if let Some(first) = junk.first_mut().filter(|_| dice.happens(500)) {
                *first = [1, 2, 3, 4, 0x10, 0x11, 0x12, 0x20][dice.index(8)];
            }
            let from = std::net::SocketAddr::from(([203, 0, 113, dice.below(250) as u8], 1024));
            self.hosts[usize::from(host)].handle_datagram(from, &junk, self.now);
        }
        if self.runs(host) {
            self.turn(host)?;
        }
        match left {
            0 => Ok(()),
            _ => self.later(self.now + Duration::from_secs(1), Undo::Flood { host, how, left: left - 1 }),
        }
    }

    fn replay(&mut self, left: u32) -> Result<(), Failure> {
        if !self.kept.is_empty() {
            let (_, bytes) = self.kept[self.dice.index(self.kept.len())].clone();
            let to = self.dice.index(self.hosts.len()) as u16;
            let from = self.network.address(self.dice.index(self.hosts.len()) as u16);
            if self.runs(to) {
                self.hosts[usize::from(to)].handle_datagram(from, &bytes, self.now);
                self.turn(to)?;
            }
        }
        match left {
            0 => Ok(()),
            _ => self.later(self.now + Duration::from_millis(100), Undo::Replay { left: left - 1 }),
        }
    }
}
