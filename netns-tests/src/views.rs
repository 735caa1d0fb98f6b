//! What the routers of a fabric say about it, compared: the invariants that the simulator's model checks, seen through the control
//! socket.
//!
//! Knows the answers of `weavectl --json report` and nothing of how routers come to them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use crate::host::Host;

/// A part of the range with its owner, as one router sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Block {
    first: u32,
    last: u32,
    owner: String,
    epoch: u64,
}

/// What one router says.
#[derive(Debug, Clone)]
pub struct View {
    nickname: String,
    id: String,
    /// Ids of the peers that it holds for alive, its own among them.
    alive: BTreeSet<String>,
    /// In ascending order.
    blocks: Vec<Block>,
    range: (u32, u32),
    /// Addresses by state: owned, used, resting, unreachable, unknown.
    counts: BTreeMap<&'static str, u64>,
    /// Container interfaces here.
    attached: Vec<(String, Ipv4Addr)>,
    leased: BTreeSet<Ipv4Addr>,
    /// Container interfaces on each peer.
    endpoints: BTreeMap<String, u64>,
    problems: Vec<String>,
    /// Sessions that are up.
    sessions: usize,
    /// Those of them that gossip needs.
    neighbours: usize,
}

/// The counters of a summary that are compared.
const COUNTS: [&str; 5] = ["owned", "used", "resting", "unreachable", "unknown"];

impl View {
    /// Asks one router.
    ///
    /// # Errors
    /// When it does not answer, or not what is expected.
    pub fn of(host: &Host) -> Result<Self> {
        let report = host.json(&["report"])?;
        parse(&host.nickname(), &report).with_context(|| format!("report of {}", host.nickname()))
    }

    /// Sessions that are up.
    pub fn sessions(&self) -> usize {
        self.sessions
    }

    /// Those of them that gossip needs.
    pub fn neighbours(&self) -> usize {
        self.neighbours
    }

    /// Whoever owns an address, and by which step.
    fn owner_of(&self, address: u32) -> Option<(&str, u64)> {
        let at = self.blocks.partition_point(|block| block.last < address);
        self.blocks.get(at).filter(|block| block.first <= address).map(|b| (b.owner.as_str(), b.epoch))
    }

    fn own_blocks(&self) -> impl Iterator<Item = &Block> {
        self.blocks.iter().filter(|block| block.owner == self.id)
    }
}

/// What several routers say at about the same time.
#[derive(Debug, Clone)]
pub struct Views {
    all: Vec<View>,
}

impl Views {
    /// Asks all of these at once.
    ///
    /// # Errors
    /// When one does not answer.
    pub fn of(hosts: &[&Host]) -> Result<Self> {
        let all = thread::scope(|scope| {
            let threads: Vec<_> = hosts.iter().map(|host| scope.spawn(|| View::of(host))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
                .collect::<Result<Vec<_>>>()
        })?;
        Ok(Self { all })
    }

    /// One by one.
    pub fn iter(&self) -> impl Iterator<Item = &View> {
        self.all.iter()
    }

    /// Safety, which holds at all times, also between sides of a partition: no address is handed out by two routers, none is attached
    /// twice. The routers are asked one after the other, so what moves meanwhile can be seen in two places: who asks again sees it in one.
    ///
    /// # Errors
    /// With the first thing that is in two places.
    pub fn check_safe(&self) -> Result<()> {
        let mut own: Vec<(u32, u32, &str)> =
            self.all.iter().flat_map(|v| v.own_blocks().map(|b| (b.first, b.last, &*v.nickname))).collect();
        own.sort_unstable();
        for pair in own.windows(2) {
            let [(_, last, one), (first, _, other)] = pair else { continue };
            if first <= last {
                bail!("both {one} and {other} hand out {}", Ipv4Addr::from_bits(*first));
            }
        }
        let mut places: BTreeMap<Ipv4Addr, String> = BTreeMap::new();
        for (view, (container, address)) in
            self.all.iter().flat_map(|v| v.attached.iter().map(move |a| (v, a)))
        {
            let place = format!("{container} on {}", view.nickname);
            if let Some(other) = places.insert(*address, place.clone()) {
                bail!("{address} is attached to {other} and to {place}");
            }
            if !view.leased.contains(address) {
                bail!("{address} is attached to {place} and not leased");
            }
        }
        Ok(())
    }

    /// That all see the same and nothing is missing: every router that was asked is alive to every other and nobody else is, every
    /// address of the range has one owner and it is one of them, all name the same owners, all know every container.
    ///
    /// # Errors
    /// With the first difference.
    pub fn check_agreed(&self) -> Result<()> {
        self.check_safe()?;
        let ids: BTreeSet<String> = self.all.iter().map(|view| view.id.clone()).collect();
        let first = self.all.first().context("nobody was asked")?;
        let containers: BTreeMap<&str, u64> =
            self.all.iter().map(|view| (&*view.id, view.attached.len() as u64)).collect();
        for view in &self.all {
            if view.alive != ids {
                let missing = self.all.iter().filter(|other| !view.alive.contains(&other.id));
                let missing: Vec<&str> = missing.map(|other| &*other.nickname).collect();
                bail!(
                    "{} holds {} for alive, want {}; missing {missing:?}",
                    view.nickname,
                    view.alive.len(),
                    ids.len()
                );
            }
            check_space(view, &ids)?;
            check_same_owners(view, first)?;
            for (id, count) in &containers {
                let seen = view.endpoints.get(*id).copied().unwrap_or(0);
                if seen != *count {
                    bail!("{} knows {seen} containers of {}, want {count}", view.nickname, self.name_of(id));
                }
            }
            if let Some(problem) = view.problems.first() {
                bail!("{} complains: {problem}", view.nickname);
            }
        }
        Ok(())
    }

    fn name_of(&self, id: &str) -> &str {
        self.all.iter().find(|view| view.id == id).map_or("?", |view| &view.nickname)
    }
}

/// All space has an owner who can use it, and the router's own counts add up.
fn check_space(view: &View, ids: &BTreeSet<String>) -> Result<()> {
    let name = &view.nickname;
    let mut next = u64::from(view.range.0);
    for block in &view.blocks {
        if u64::from(block.first) != next {
            bail!("{name} names no owner, or two, of {}", Ipv4Addr::from_bits(block.first));
        }
        if !ids.contains(&block.owner) {
            bail!(
                "{name} says that {} belongs to {}, who is gone",
                Ipv4Addr::from_bits(block.first),
                block.owner
            );
        }
        next = u64::from(block.last) + 1;
    }
    if next != u64::from(view.range.1) + 1 {
        bail!("{name} names no owner of the range from {}", Ipv4Addr::from_bits(next as u32));
    }
    let own: u64 = view.own_blocks().map(|b| u64::from(b.last - b.first) + 1).sum();
    let counts = &view.counts;
    let right = counts["owned"] == own
        && counts["used"] == view.leased.len() as u64
        && counts["used"] + counts["resting"] <= own
        && counts["unreachable"] == 0
        && counts["unknown"] == 0;
    if !right {
        bail!("{name} counts {counts:?}, owns {own} and has {} leases", view.leased.len());
    }
    Ok(())
}

/// Compared at all borders of both: blocks that lie together may be told apart or not.
fn check_same_owners(view: &View, first: &View) -> Result<()> {
    for address in view.blocks.iter().chain(&first.blocks).flat_map(|block| [block.first, block.last]) {
        let (here, there) = (view.owner_of(address), first.owner_of(address));
        if here != there {
            let address = Ipv4Addr::from_bits(address);
            bail!("{} sees {here:?} own {address}, {} sees {there:?}", view.nickname, first.nickname);
        }
    }
    Ok(())
}

fn parse(nickname: &str, report: &Value) -> Result<View> {
    let (status, ipam) = (&report["status"], &report["ipam"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut blocks = Vec::new();
    for owner in list(&ipam["owners"]) {
        let all = list(&owner["blocks"]);
        let mut listed = 0;
        for block in all {
            let (first, last) = span(&block["prefix"])?;
            listed += u64::from(last - first) + 1;
            let epoch = block["epoch"].as_u64().context("a block without epoch")?;
            blocks.push(Block { first, last, owner: text(&owner["peer"]), epoch });
        }
        if owner["addresses"].as_u64() != Some(listed) {
            bail!("not all blocks are listed: {owner}");
        }
    }
    blocks.sort_by_key(|block| block.first);
    let address = |value: &Value| -> Result<Ipv4Addr> {
        let text = value.as_str().and_then(|text| text.split('/').next()).context("no address")?;
        text.parse().with_context(|| format!("not an address: `{text}`"))
    };
    let attached = list(&report["attachments"]);
    let attached = attached.iter().map(|a| Ok((text(&a["container"]), address(&a["address"])?)));
    let peers = list(&report["peers"]);
    let alive = peers.iter().filter(|peer| peer["state"] == "self" || peer["state"] == "alive");
    let sessions = list(&report["connections"]["connections"]);
    let up = sessions.iter().filter(|one| one["state"] == "established");
    let for_gossip =
        |one: &&Value| one["uses"].as_array().is_some_and(|uses| uses.iter().any(|u| u == "gossip"));
    let count = |name: &'static str| ipam["summary"][name].as_u64().map(|count| (name, count));
    Ok(View {
        nickname: nickname.to_owned(),
        id: text(&status["peer"]),
        alive: alive.map(|peer| text(&peer["id"])).collect(),
        blocks,
        range: span(&ipam["summary"]["range"])?,
        counts: COUNTS.into_iter().map(count).collect::<Option<_>>().context("counts are missing")?,
        attached: attached.collect::<Result<_>>()?,
        leased: list(&ipam["leases"]).iter().map(|l| address(&l["address"])).collect::<Result<_>>()?,
        endpoints: peers.iter().map(|p| (text(&p["id"]), p["endpoints"].as_u64().unwrap_or(0))).collect(),
        problems: list(&status["problems"]).iter().map(|problem| text(&problem["message"])).collect(),
        sessions: up.clone().count(),
        neighbours: up.filter(for_gossip).count(),
    })
}

/// First and last address of a CIDR.
fn span(cidr: &Value) -> Result<(u32, u32)> {
    let parse = || {
        let (address, bits) = cidr.as_str()?.split_once('/')?;
        let (address, bits): (Ipv4Addr, u32) = (address.parse().ok()?, bits.parse().ok()?);
        let hosts = u32::MAX.checked_shr(bits).unwrap_or(0);
        Some((address.to_bits(), address.to_bits() | hosts))
    };
    parse().with_context(|| format!("not a prefix: {cidr}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Two routers `a` and `b`; each hands out what the lists say.
    fn report(me: &str, a: &[&str], b: &[&str]) -> Value {
        let size = |block: &str| 1u64 << (32 - block.split('/').nth(1).unwrap().parse::<u32>().unwrap());
        let owner = |peer: &str, blocks: &[&str]| {
            let listed: Vec<Value> =
                blocks.iter().map(|prefix| json!({ "prefix": prefix, "epoch": 2 })).collect();
            json!({ "peer": peer, "addresses": blocks.iter().map(|b| size(b)).sum::<u64>(), "blocks": listed })
        };
        let own: u64 = if me == "a" { a } else { b }.iter().map(|block| size(block)).sum();
        json!({
            "status": { "peer": me, "problems": [] },
            "connections": { "connections": [{ "state": "established" }] },
            "peers": [{ "id": "a", "state": "alive", "endpoints": 0 }, { "id": "b", "state": "alive", "endpoints": 0 }],
            "ipam": { "owners": [owner("a", a), owner("b", b)], "leases": [],
                "summary": { "range": "10.0.0.0/24", "owned": own, "used": 0, "resting": 0, "unreachable": 0, "unknown": 0 } },
            "attachments": [],
        })
    }

    fn views(reports: &[(&str, Value)]) -> Views {
        Views { all: reports.iter().map(|(name, report)| parse(name, report).expect("understood")).collect() }
    }

    fn said(result: Result<()>) -> String {
        result.expect_err("something is wrong").to_string()
    }

    #[test]
    fn views_that_agree_pass_however_blocks_are_cut() {
        let whole = report("a", &["10.0.0.0/25"], &["10.0.0.128/25"]);
        let cut = report("b", &["10.0.0.0/26", "10.0.0.64/26"], &["10.0.0.128/25"]);
        views(&[("h1", whole), ("h2", cut)]).check_agreed().expect("they agree");
    }

    #[test]
    fn address_with_two_owners_is_found() {
        let one = report("a", &["10.0.0.0/24"], &[]);
        let two = report("b", &["10.0.0.0/25"], &["10.0.0.128/25"]);
        let all = views(&[("h1", one), ("h2", two)]);
        assert_eq!(said(all.check_safe()), "both h1 and h2 hand out 10.0.0.128");
    }

    #[test]
    fn lost_space_and_strangers_are_found() {
        let hole = report("a", &["10.0.0.0/25"], &["10.0.0.192/26"]);
        let all = views(&[("h1", hole), ("h2", report("b", &["10.0.0.0/25"], &["10.0.0.192/26"]))]);
        assert_eq!(said(all.check_agreed()), "h1 names no owner, or two, of 10.0.0.192");
        let alone = views(&[("h1", report("a", &["10.0.0.0/25"], &["10.0.0.128/25"]))]);
        assert!(said(alone.check_agreed()).starts_with("h1 holds 2 for alive, want 1"));
    }

    #[test]
    fn address_attached_twice_is_found() {
        let attach = |mut report: Value| {
            report["attachments"] = json!([{ "container": "c", "address": "10.0.0.7/24" }]);
            report["ipam"]["leases"] = json!([{ "address": "10.0.0.7" }]);
            report
        };
        let of = |me| attach(report(me, &["10.0.0.0/25"], &["10.0.0.128/25"]));
        let all = views(&[("h1", of("a")), ("h2", of("b"))]);
        assert_eq!(said(all.check_safe()), "10.0.0.7 is attached to c on h1 and to c on h2");
    }
}
