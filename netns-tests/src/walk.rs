//! A careless runtime: calls of the CNI plugin in any order, some cut short, while the router comes and goes.
//!
//! What the runtime believes is the model. After each round everything it does not know of must be gone, from the router's records, its leases, the
//! kernel and the other hosts' view.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::container::{CniCall, Container};
use crate::host::Host;
use crate::netns::NetNs;
use crate::wait::until;

/// Containers at once: enough that they meet, few enough that each is met often.
const CONTAINERS: usize = 6;
/// Steps of a round.
const STEPS: usize = 6;
/// Longest time until a call or the router is cut off: an ADD takes some 10 ms, a start of the router some 30.
const CUT_WITHIN_MS: u64 = 25;
/// Longest wait until what must go is gone, also elsewhere. A router that died before it could withdraw a record is shown it when the next
/// comparison of all records is due, and waits then whether it is published again.
const SETTLE: Duration = Duration::from_secs(30);

/// See the module's text.
#[derive(Debug)]
pub struct Walk {
    host: Host,
    /// Sees the records only.
    witness: Host,
    dice: fastrand::Rng,
    slots: Vec<Slot>,
    /// Rules of the host once it is exposed.
    rules: Option<String>,
    steps: BTreeMap<&'static str, u64>,
    longest: Duration,
}

#[derive(Debug)]
struct Slot {
    container: Container,
    belief: Belief,
}

/// What the runtime believes of a container.
#[derive(Debug, Clone, PartialEq)]
enum Belief {
    /// It has no interface.
    Absent,
    /// It has these addresses.
    Added(Vec<IpAddr>),
    /// A call did not end, or the namespace went without a call.
    Unknown,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Add,
    Delete,
    CutAdd,
    CutDelete,
    RouterDiesInAdd,
    RouterDies,
    RouterStarts,
    NamespaceGoes,
    Collect,
}

const STEPS_DRAWN: [Step; 13] = [
    Step::Add,
    Step::Add,
    Step::Add,
    Step::Delete,
    Step::Delete,
    Step::CutAdd,
    Step::CutAdd,
    Step::CutDelete,
    Step::RouterDiesInAdd,
    Step::RouterDies,
    Step::RouterStarts,
    Step::NamespaceGoes,
    Step::Collect,
];

impl Walk {
    /// On a host of a complete fabric, with another one as witness. The same seed draws the same steps; what is cut where is up to the machine.
    ///
    /// # Errors
    /// When containers cannot be made.
    pub fn new(host: &Host, witness: &Host, seed: u64) -> Result<Self> {
        let slot = |_| Ok(Slot { container: host.container()?, belief: Belief::Absent });
        let slots = (0..CONTAINERS).map(slot).collect::<Result<_>>()?;
        let (host, witness) = (host.clone(), witness.clone());
        let dice = fastrand::Rng::with_seed(seed);
        Ok(Self { host, witness, dice, slots, rules: None, steps: BTreeMap::new(), longest: Duration::ZERO })
    }

    /// Some steps, then the check.
    ///
    /// # Errors
    /// What is wrong, with the steps that led to it.
    pub fn round(&mut self) -> Result<()> {
        let mut told = Vec::new();
        let done = self.steps(&mut told).and_then(|()| self.settle(&mut told));
        done.with_context(|| format!("after {}", told.join(", ")))
    }

    /// How often each step was taken.
    pub fn taken(&self) -> &BTreeMap<&'static str, u64> {
        &self.steps
    }

    /// How long it took at most until all agreed after a round.
    pub fn longest(&self) -> Duration {
        self.longest
    }

    fn steps(&mut self, told: &mut Vec<String>) -> Result<()> {
        for _ in 0..STEPS {
            let step = STEPS_DRAWN[self.dice.usize(..STEPS_DRAWN.len())];
            let slot = self.dice.usize(..CONTAINERS);
            told.push(format!("{} of {slot}", step.name()));
            *self.steps.entry(step.name()).or_default() += 1;
            self.step(step, slot)?;
        }
        Ok(())
    }

    fn step(&mut self, step: Step, slot: usize) -> Result<()> {
        let cut = Duration::from_micros(self.dice.u64(..CUT_WITHIN_MS * 1000));
        let up = self.host.pid().is_some();
        match step {
            Step::Add => self.add(slot, up),
            Step::Delete => self.delete(slot),
            Step::CutAdd | Step::CutDelete => {
                let command = if matches!(step, Step::CutAdd) { "ADD" } else { "DEL" };
                self.slots[slot].container.call(command).cut(&self.host, cut)?;
                self.slots[slot].belief = Belief::Unknown;
                Ok(())
            }
            Step::RouterDiesInAdd if up => self.router_dies_in_add(slot, cut),
            Step::RouterDies if up => self.host.kill9(),
            Step::RouterStarts if !up => self.host.start_again(),
            Step::RouterDiesInAdd | Step::RouterDies | Step::RouterStarts => Ok(()),
            Step::NamespaceGoes => self.namespace_goes(slot),
            Step::Collect if up => self.collect(),
            Step::Collect => Ok(()),
        }
    }

    fn add(&mut self, slot: usize, up: bool) -> Result<()> {
        let outcome = self.slots[slot].container.call("ADD").run(&self.host)?;
        let added = outcome.code == Some(0);
        let slot = &mut self.slots[slot];
        match (&slot.belief, up) {
            (Belief::Absent, true) => {
                ensure!(added, "ADD of what is absent failed: {outcome:?}");
                slot.belief = Belief::Added(outcome.addresses());
            }
            (Belief::Added(_), true) => ensure!(!added, "a second ADD succeeded: {outcome:?}"),
            // It may be there or not; both answers are right.
            (Belief::Unknown, true) if added => slot.belief = Belief::Added(outcome.addresses()),
            (Belief::Unknown, true) => {}
            (_, false) => ensure!(!added, "ADD without a router succeeded: {outcome:?}"),
        }
        Ok(())
    }

    fn delete(&mut self, slot: usize) -> Result<()> {
        let slot = &mut self.slots[slot];
        slot.container.call("DEL").run(&self.host)?.success("DEL")?;
        slot.belief = Belief::Absent;
        Ok(())
    }

    fn router_dies_in_add(&mut self, slot: usize, after: Duration) -> Result<()> {
        let (host, call) = (self.host.clone(), self.slots[slot].container.call("ADD"));
        let outcome = thread::scope(|scope| {
            let adding = scope.spawn(|| call.run(&host));
            thread::sleep(after);
            host.kill9()?;
            adding.join().map_err(|_| anyhow::anyhow!("the caller panicked"))?
        })?;
        let slot = &mut self.slots[slot];
        match (&slot.belief, outcome.code) {
            (Belief::Added(_), Some(0)) => bail!("a second ADD succeeded: {outcome:?}"),
            (Belief::Added(_), _) => {}
            (_, Some(0)) => slot.belief = Belief::Added(outcome.addresses()),
            (_, _) => slot.belief = Belief::Unknown,
        }
        Ok(())
    }

    /// The container dies, and its successor has another namespace and, as with a static pod, another id.
    fn namespace_goes(&mut self, slot: usize) -> Result<()> {
        let fresh = Slot { container: self.host.container()?, belief: Belief::Absent };
        let gone = std::mem::replace(&mut self.slots[slot], fresh);
        let call = gone.container.call("DEL");
        gone.container.remove()?;
        // Half of the runtimes say so; the others leave it to garbage collection, or to us.
        if self.dice.bool() {
            call.run(&self.host)?.success("DEL of what is gone")?;
        }
        Ok(())
    }

    /// GC, with everything that the runtime believes in.
    fn collect(&mut self) -> Result<()> {
        let known = self.slots.iter().filter(|slot| slot.belief != Belief::Absent);
        let known: Vec<Value> =
            known.map(|slot| json!({ "containerID": slot.container.id(), "ifname": "eth0" })).collect();
        let mut config = self.slots[0].container.config();
        config["cni.dev/valid-attachments"] = known.into();
        let call = self.slots[0].container.call("GC");
        let call = CniCall { container: None, netns: None, ifname: None, config: config.to_string(), ..call };
        call.run(&self.host)?.success("GC").map(drop)
    }

    /// Ends what is unknown, and compares.
    fn settle(&mut self, told: &mut Vec<String>) -> Result<()> {
        if self.host.pid().is_none() {
            self.host.start_again()?;
        }
        for slot in 0..CONTAINERS {
            if self.slots[slot].belief == Belief::Unknown {
                told.push(format!("at last a delete of {slot}"));
                self.delete(slot)?;
            }
        }
        self.collect()?;
        let mut last = String::new();
        let same = until(SETTLE, "what is there is what the runtime knows", || match self.compare() {
            Ok(()) => Some(()),
            Err(error) => {
                last = format!("{error:#}");
                None
            }
        });
        let ((), took) = same.with_context(|| last)?;
        self.longest = self.longest.max(took);
        Ok(())
    }

    fn compare(&mut self) -> Result<()> {
        let mut expected: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for slot in &self.slots {
            if let Belief::Added(addresses) = &slot.belief {
                let addresses = addresses.iter().map(ToString::to_string).collect();
                ensure!(
                    expected.insert(slot.container.id().to_owned(), addresses).is_none(),
                    "twice the same id"
                );
            }
        }
        let shown = self.host.json(&["ps"])?;
        let text = |value: &Value| {
            value.as_str().unwrap_or_default().split('/').next().unwrap_or_default().to_owned()
        };
        let attached: BTreeMap<String, Vec<String>> = list(&shown)?
            .iter()
            .map(|one| (text(&one["container"]), vec![text(&one["address"]), text(&one["address6"])]))
            .collect();
        ensure!(attached == expected, "attached: {attached:?}, the runtime knows {expected:?}");
        let different: std::collections::BTreeSet<_> = expected.values().flatten().collect();
        ensure!(different.len() == 2 * expected.len(), "an address is there twice: {expected:?}");

        let ipam = self.host.json(&["status", "ipam"])?;
        let mut leased: Vec<String> =
            list(&ipam["leases"])?.iter().map(|lease| text(&lease["address"])).collect();
        let exposed = text(&self.host.json(&["status"])?["exposed"]);
        leased.retain(|address| *address != exposed);
        leased.sort();
        let mut wanted: Vec<String> = expected.values().filter_map(|both| both.first().cloned()).collect();
        wanted.sort();
        ensure!(leased == wanted, "leased: {leased:?}, the runtime knows {wanted:?}, exposed is `{exposed}`");

        let links = self.host.ns().ip("-o link show type veth")?.stdout;
        let ports = links.lines().filter(|line| line.contains(": vw")).count();
        ensure!(ports == expected.len(), "{ports} interfaces for {} containers: {links}", expected.len());
        for slot in self.slots.iter().filter(|slot| slot.belief == Belief::Absent) {
            let inside = slot.container.ns().ip("-o link")?.stdout;
            ensure!(!inside.contains("eth0"), "an interface stayed in a container: {inside}");
        }
        let peers = self.witness.json(&["status", "peers"])?;
        let me = self.host.nickname();
        let seen = list(&peers)?.iter().find(|peer| peer["nickname"] == me.as_str());
        let seen =
            seen.and_then(|peer| peer["endpoints"].as_u64()).context("the witness does not know us")?;
        ensure!(seen == expected.len() as u64, "the witness sees {seen} containers of {}", expected.len());
        self.compare_rules(&exposed)
    }

    fn compare_rules(&mut self, exposed: &str) -> Result<()> {
        if exposed.is_empty() {
            return Ok(());
        }
        let rules = self.host.ns().tool("nft", "--stateless list ruleset")?.stdout;
        match &self.rules {
            Some(first) => ensure!(*first == rules, "the rules changed from {first} to {rules}"),
            None => self.rules = Some(rules),
        }
        Ok(())
    }
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Delete => "delete",
            Self::CutAdd => "add cut off",
            Self::CutDelete => "delete cut off",
            Self::RouterDiesInAdd => "router dies in add",
            Self::RouterDies => "router dies",
            Self::RouterStarts => "router starts",
            Self::NamespaceGoes => "container dies",
            Self::Collect => "garbage collection",
        }
    }
}

fn list(value: &Value) -> Result<&Vec<Value>> {
    value.as_array().with_context(|| format!("no list: {value}"))
}

/// Removes the containers that are left, as the lab does with all namespaces at its end anyway.
impl Drop for Walk {
    fn drop(&mut self) {
        for slot in self.slots.drain(..) {
            let name = slot.container.ns().name().to_owned();
            drop(slot);
            // The lab removes what this cannot.
            let _left = NetNs::remove(&name);
        }
    }
}
