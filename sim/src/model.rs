//! What must hold, whatever goes wrong: a reference beside the routers that knows who was promised what.
//!
//! Some faults break what no protocol can keep: a disk that went back in time, a copy of a machine, a member that lies. What such a
//! host believed to own at that time is *tainted*: there, and only there, double use and loss are no failures.

mod versions;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use gossip::PeerId;
use ipam::{JournalEntry, Standing};
use ipnet::Ipv4Net;

use crate::history::Subject;
use crate::host::{Host, News, holder};
use versions::Versions;

/// Answers come at most this long after their deadline: a wake-up is exact, an fsync or the kernel is not.
const SLACK: Duration = Duration::from_millis(200);

/// How long a released address rests, as `ipam` has it.
const REST: Duration = Duration::from_secs(30);

/// Longest time from the lease to the end of an attach, fsyncs not counted.
const KERNEL: Duration = Duration::from_millis(100);

/// A check that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Which.
    pub check: Check,
    /// What was found.
    pub text: String,
    /// What it is about.
    pub subject: Subject,
}

/// What is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// No address is attached in two places.
    OnePlace,
    /// No address has two live owners who would both hand it out.
    OneOwner,
    /// Nothing that was acknowledged is lost.
    NothingLost,
    /// Every wait ends with an answer.
    Answered,
    /// No message, queue or burst is longer than its limit.
    Limits,
    /// A released address is not leased again at once.
    Rested,
    /// Bytes and messages stay within their budget.
    Budget,
    /// After faults stop, all views become the same within a bound.
    Converged,
    /// No space is lost for good.
    SpaceKept,
    /// The code's own assertions hold.
    NoPanic,
    /// A wake-up does something.
    NoSpinning,
    /// No host goes back to an older version of a record.
    NeverBack,
    /// Nobody is called a copy of whom there is only one.
    NoFalseClone,
    /// Nobody who runs and is heard by all is taken for dead.
    NoFalseDeath,
    /// What is not understood is carried on unharmed, to everybody.
    CarriedOn,
    /// Without an operator only the majority removes anybody.
    Majority,
}

impl Check {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Check::OnePlace => "one place",
            Check::OneOwner => "one owner",
            Check::NothingLost => "nothing lost",
            Check::Answered => "answered",
            Check::Limits => "limits",
            Check::Rested => "rested",
            Check::Budget => "budget",
            Check::Converged => "converged",
            Check::SpaceKept => "space kept",
            Check::NoPanic => "no panic",
            Check::NoSpinning => "no spinning",
            Check::NeverBack => "never back",
            Check::NoFalseClone => "no false clone",
            Check::NoFalseDeath => "no false death",
            Check::CarriedOn => "carried on",
            Check::Majority => "majority",
        }
    }
}

/// What a host is to the operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It belongs to the fabric.
    Member,
    /// Somebody ran `rmpeer` for it.
    Removed,
    /// It left, or was only a copy of another.
    Gone,
}

/// A run of addresses.
type Run = (u32, u32);

/// See the top of the file.
#[derive(Debug, Default)]
pub struct Model {
    /// What was acknowledged and not asked to go.
    placed: BTreeMap<(u16, u32), Ipv4Addr>,
    /// Which interface has an address, as far as was last seen.
    wired: BTreeMap<Ipv4Addr, (u16, u32)>,
    /// Callers that wait, with their deadlines by the host's clock.
    asked: BTreeMap<(u16, u64), Instant>,
    /// Addresses that somebody released, and when, by the host's clock.
    resting: BTreeMap<(u16, Ipv4Addr), Instant>,
    /// Containers that want one address and get it also when it rests.
    insist: BTreeSet<u32>,
    owned: Vec<Vec<Run>>,
    fates: Vec<Fate>,
    tainted: Vec<Run>,
    versions: Versions,
    /// Answers that were an address.
    pub attached: u64,
    /// Answers that were a reason.
    pub refused: u64,
}

/// Larger fabrics are not watched so closely: the space of a host is a walk over all blocks.
const MAX_HOSTS: usize = 64;

/// Tickets of pings and numbers of containers share a table.
const PINGS: u64 = 1 << 32;

impl Model {
    /// Another host exists.
    pub fn add(&mut self) {
        self.owned.push(Vec::new());
        self.fates.push(Fate::Member);
    }

    /// What a host is.
    pub fn fate(&self, host: u16) -> Fate {
        self.fates[usize::from(host)]
    }

    /// The operators think otherwise of a host. One that is not a member has no rights.
    pub fn set_fate(&mut self, host: u16, fate: Fate) {
        self.fates[usize::from(host)] = fate;
        if fate != Fate::Member {
            self.forget(host);
            self.owned[usize::from(host)].clear();
        }
    }

    /// What these blocks are used for is nobody's failure from now on.
    pub fn taint(&mut self, blocks: impl IntoIterator<Item = Ipv4Net>) {
        self.tainted.extend(blocks.into_iter().map(run));
    }

    /// Whether double use of an address is no failure.
    pub fn is_tainted(&self, address: Ipv4Addr) -> bool {
        self.tainted.iter().any(|(first, last)| (*first..=*last).contains(&address.to_bits()))
    }

    /// All that is tainted.
    pub fn tainted_runs(&self) -> impl Iterator<Item = (u32, u32)> {
        self.tainted.iter().copied()
    }

    /// Whether nothing is tainted.
    pub fn is_pure(&self) -> bool {
        self.tainted.is_empty()
    }

    /// Containers that were acknowledged on a host.
    pub fn placed_on(&self, host: u16) -> Vec<(u32, Ipv4Addr)> {
        self.placed
            .range((host, 0)..=(host, u32::MAX))
            .map(|((_, container), address)| (*container, *address))
            .collect()
    }

    /// Somebody waits for an address until a time of the host's clock.
    pub fn ask(&mut self, host: u16, container: u32, until: Instant) {
        self.asked.insert((host, u64::from(container)), until);
    }

    /// Somebody waits for an answer to a ping.
    pub fn ask_ping(&mut self, host: u16, ticket: u64, until: Instant) {
        self.asked.insert((host, PINGS + ticket), until);
    }

    /// Whether somebody waits for a container to be attached.
    pub fn waits(&self, host: u16, container: u32) -> bool {
        self.asked.contains_key(&(host, u64::from(container)))
    }

    /// A container shall go: its address is promised no longer.
    pub fn let_go(&mut self, host: u16, container: u32, now: Instant) {
        if let Some(address) = self.placed.remove(&(host, container)) {
            self.resting.insert((host, address), now);
        }
    }

    /// A container wants one address and no other.
    pub fn insists(&mut self, container: u32) {
        self.insist.insert(container);
    }

    fn check_rested(
        &self,
        host: u16,
        container: u32,
        address: Ipv4Addr,
        now: Instant,
    ) -> Result<(), Failure> {
        let Some(since) = self.resting.get(&(host, address)) else { return Ok(()) };
        let rested = now.saturating_duration_since(*since);
        if rested >= REST || self.insist.contains(&container) || self.is_tainted(address) {
            return Ok(());
        }
        let text =
            format!("{address} was released {rested:?} ago and is leased to {container} of host {host}");
        Err(Failure { check: Check::Rested, text, subject: Subject::Address(address) })
    }

    /// A disk answers again: whoever waited for it has been told.
    pub fn unstuck(&mut self, host: u16, now: Instant) {
        self.asked.range_mut((host, 0)..=(host, u64::MAX)).for_each(|(_, until)| *until = (*until).max(now));
    }

    /// A host's clock leaps: everybody who waits there waits so much longer.
    pub fn leapt(&mut self, host: u16, by: Duration) {
        self.asked.range_mut((host, 0)..=(host, u64::MAX)).for_each(|(_, until)| *until += by);
    }

    /// The process ended: nobody waits for it any more.
    pub fn stopped(&mut self, host: u16) {
        self.asked.retain(|(at, _), _| *at != host);
        self.owned[usize::from(host)].clear();
    }

    /// The machine ended, and its containers with it; or they have no rights any more.
    pub fn forget(&mut self, host: u16) {
        self.placed.retain(|(at, _), _| *at != host);
    }

    /// A host told something.
    pub fn hear(&mut self, host: u16, news: &News, hosts: &[Host], at: Duration) -> Result<(), Failure> {
        let now = hosts[usize::from(host)].clock.read(at);
        match news {
            News::Wired(container, address) => self.wire(host, *container, *address, hosts)?,
            News::Attached(container, address) => {
                self.attached += 1;
                self.asked.remove(&(host, u64::from(*container)));
                if self.fate(host) == Fate::Member {
                    self.placed.insert((host, *container), *address);
                }
            }
            News::Refused(container, _) => {
                self.refused += 1;
                self.asked.remove(&(host, u64::from(*container)));
            }
            News::Ponged(ticket) => drop(self.asked.remove(&(host, PINGS + ticket.0))),
            News::Leased(container, address) => {
                self.check_rested(host, *container, *address, now)?;
                // The rest is the kernel's and the disk's.
                if let Some(until) = self.asked.get_mut(&(host, u64::from(*container))) {
                    *until = (*until).max(now) + KERNEL;
                }
            }
            News::Clone(text) => self.check_clone(&hosts[usize::from(host)], text)?,
            News::Wrote(_) | News::Detached(_) => {}
            News::Removed(_) | News::Notice(_) => {}
        }
        Ok(())
    }

    fn check_clone(&self, host: &Host, text: &str) -> Result<(), Failure> {
        if host.doubled || !self.counts(host.number) {
            return Ok(());
        }
        let text = format!("host {} is not copied and hears: {text}", host.number);
        Err(Failure { check: Check::NoFalseClone, text, subject: Subject::All })
    }

    fn wire(&mut self, host: u16, container: u32, address: Ipv4Addr, hosts: &[Host]) -> Result<(), Failure> {
        let before = self.wired.insert(address, (host, container));
        let Some((other, holder)) = before.filter(|before| *before != (host, container)) else {
            return Ok(());
        };
        let still = hosts[usize::from(other)].kernel.get(&holder) == Some(&address);
        if !still || !self.counts(host) || !self.counts(other) || self.is_tainted(address) {
            return Ok(());
        }
        let text = format!(
            "{address} is attached to container {holder} of host {other} and to {container} of host {host}"
        );
        Err(Failure { check: Check::OnePlace, text, subject: Subject::Address(address) })
    }

    fn counts(&self, host: u16) -> bool {
        self.fate(host) == Fate::Member
    }

    /// Checks what a host believes to own and to have leased, after it changed.
    pub fn check(&mut self, host: &Host, hosts: &[Host]) -> Result<(), Failure> {
        self.check_owners(host, hosts)?;
        self.check_kept(host)
    }

    /// The same after a host told these. In a large fabric not after what it only learnt of others: all learn of all.
    pub fn check_after(&mut self, news: &[News], host: &Host, hosts: &[Host]) -> Result<(), Failure> {
        let all = hosts.len() <= MAX_HOSTS;
        if news.iter().any(|news| all || may_change_space(news, host.id)) {
            self.check(host, hosts)?;
        }
        Ok(())
    }

    /// Checks that no record that a host holds is older than it was.
    pub fn check_versions(&mut self, host: &Host, hosts: &[Host]) -> Result<(), Failure> {
        self.versions.check(host, hosts.len())
    }

    fn check_owners(&mut self, host: &Host, hosts: &[Host]) -> Result<(), Failure> {
        let number = usize::from(host.number);
        self.owned[number].clear();
        let Some(router) = host.router.as_ref().filter(|_| self.fates[number] == Fate::Member) else {
            return Ok(());
        };
        self.owned[number] = router.node.ipam().own_blocks().into_iter().map(run).collect();
        for &(first, last) in &self.owned[number] {
            for (other, runs) in self.owned.iter().enumerate().filter(|(other, _)| *other != number) {
                let shared = runs.iter().find(|run| run.0 <= last && first <= run.1);
                let Some(shared) = shared.map(|run| (run.0.max(first), run.1.min(last))) else { continue };
                if hosts[other].id == host.id
                    || self.tainted.iter().any(|t| t.0 <= shared.0 && shared.1 <= t.1)
                {
                    continue;
                }
                let address = Ipv4Addr::from_bits(shared.0);
                let text = format!(
                    "hosts {number} and {other} both hand out {address} to {}",
                    Ipv4Addr::from_bits(shared.1)
                );
                return Err(Failure { check: Check::OneOwner, text, subject: Subject::Address(address) });
            }
        }
        Ok(())
    }

    fn check_kept(&self, host: &Host) -> Result<(), Failure> {
        let Some(router) = &host.router else { return Ok(()) };
        if !self.counts(host.number) || router.node.ipam().is_removed(host.id) {
            return Ok(());
        }
        for (container, address) in self.placed_on(host.number) {
            if self.is_tainted(address) {
                continue;
            }
            let recorded = router.attachments.get(&container) == Some(&address);
            let wired = host.kernel.get(&container) == Some(&address);
            let leased = router.node.ipam().owner_of(address) == Some(holder(container));
            if recorded && wired && leased {
                continue;
            }
            let text = format!(
                "container {container} of host {} was told that it has {address}: recorded {recorded}, wired {wired}, leased {leased}",
                host.number
            );
            return Err(Failure { check: Check::NothingLost, text, subject: Subject::Address(address) });
        }
        Ok(())
    }

    /// Checks that nobody waits longer than promised.
    pub fn check_waits(&self, host: &Host, at: Duration) -> Result<(), Failure> {
        let now = host.clock.read(at);
        // Nobody promised that a disk answers.
        if host.stuck {
            return Ok(());
        }
        for ((_, what), until) in self.asked.range((host.number, 0)..=(host.number, u64::MAX)) {
            if now > *until + SLACK + 2 * host.disk.delay {
                let text = format!("host {} did not answer request {what:x} in time", host.number);
                return Err(Failure { check: Check::Answered, text, subject: Subject::All });
            }
        }
        Ok(())
    }
}

/// Whether a host may own other addresses, or have leased others, after this.
fn may_change_space(news: &News, me: PeerId) -> bool {
    let News::Wrote(bytes) = news else { return true };
    match JournalEntry::decode(bytes) {
        Ok(JournalEntry::Block { signer, record, standing }) => {
            signer == me || record.owner == me || standing == Standing::Contested
        }
        Ok(JournalEntry::Member(_)) => false,
        Ok(
            JournalEntry::Lease { .. }
            | JournalEntry::Resting { .. }
            | JournalEntry::Free { .. }
            | JournalEntry::Lost { .. }
            | JournalEntry::LostGone { .. }
            | JournalEntry::Removal(_)
            | JournalEntry::HandedOver(_)
            | JournalEntry::TakenOver(_)
            | JournalEntry::Distrusted
            | JournalEntry::Trusted,
        )
        | Err(_) => true,
    }
}

/// First and last address of a block.
pub(crate) fn run(block: Ipv4Net) -> Run {
    (block.network().to_bits(), block.broadcast().to_bits())
}
