//! The one rule that we put into somebody else's chain (ADR 0006).
//!
//! Docker sets the policy of `ip filter FORWARD` to drop, and with bridge netfilter frames between two ports of our bridge pass that
//! chain. A drop anywhere is final: an accept in our own table cannot override it. So a chain of that name gets our accepts at its top,
//! marked by a comment by which they are found, kept single, and removed.

use netlink_packet_netfilter::NetfilterProtoFamily as Proto;
use rustix::io::Errno;

use super::{
    error::{KernelError, Result},
    nft::{self, FoundRule, Is, Place, Rule, Step, Tracked, Way},
    spec::Outcome,
    wire::Wire,
};

/// Table and chain that iptables (and so Docker, ufw, kube-proxy) uses.
const TABLE: &str = "filter";
/// See [`TABLE`].
const CHAIN: &str = "FORWARD";

/// Every comment of ours starts so.
const MARK: &str = "weave-fabric:";

/// How often we try again when somebody changes the ruleset between our look and our change. Docker writes some dozens of rules one by
/// one when it starts; after this the next notification brings us back anyway.
const ATTEMPTS: u32 = 8;

/// Whether the host takes part in the fabric, and so forwards for the containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposure {
    /// Only frames between ports of the bridge.
    Hidden,
    /// Also to the host's other networks, and answers back.
    Exposed,
}

/// Makes sure of our rules wherever such a chain exists.
pub(super) fn ensure(wire: &mut Wire, bridge: &str, exposure: Exposure) -> Result<Outcome> {
    reconcile(wire, &wanted(bridge, exposure))
}

/// Removes our rules.
pub(super) fn remove(wire: &mut Wire) -> Result<Outcome> {
    reconcile(wire, &[])
}

fn wanted(bridge: &str, exposure: Exposure) -> Vec<Rule> {
    let from = || nft::interface(Way::In, Is::Equal, bridge);
    let to = || nft::interface(Way::Out, Is::Equal, bridge);
    let rule = |what: &str, parts: Vec<Vec<nft::Expression>>| Rule {
        chain: CHAIN,
        comment: format!("{MARK} {what} {bridge}"),
        expressions: [parts.concat(), vec![nft::counter(), nft::accept()]].concat(),
    };
    let within = rule("within", vec![from(), to()]);
    match exposure {
        Exposure::Hidden => vec![within],
        Exposure::Exposed => {
            vec![
                within,
                rule("from", vec![from()]),
                rule("answers to", vec![to(), nft::tracked(Tracked::Answer)]),
            ]
        }
    }
}

fn reconcile(wire: &mut Wire, wanted: &[Rule]) -> Result<Outcome> {
    for _ in 0..ATTEMPTS {
        let generation = nft::generation(wire)?;
        let mut steps = Vec::new();
        for family in [Proto::IPv4, Proto::IPv6] {
            let there = nft::chains(wire, family, TABLE)?
                .is_some_and(|chains| chains.iter().any(|name| name == CHAIN));
            if there {
                steps.extend(difference(family, &nft::rules(wire, family, TABLE, Some(CHAIN))?, wanted));
            }
        }
        if steps.is_empty() {
            return Ok(Outcome::AsWanted);
        }
        match nft::commit(wire, steps, Some(generation)) {
            Ok(()) => return Ok(Outcome::Adjusted),
            // The ruleset is not any more what we looked at.
            Err(refusal) if is_conflict(&refusal) => {}
            Err(refusal) => {
                return Err(refusal.during("write rules to nftables chain", format!("{TABLE} {CHAIN}")));
            }
        }
    }
    Err(KernelError::NftablesBusy { attempts: ATTEMPTS })
}

fn is_conflict(refusal: &super::wire::Refusal) -> bool {
    /// `ERESTART`, which is not for user space and has no name there.
    const RESTART: i32 = 85;
    refusal.errno.raw_os_error() == Some(RESTART) || refusal.is(Errno::NOENT)
}

/// Ours, each once, in any place: where somebody put a rule above ours, that was meant, and fighting for the first place with another
/// program would never end.
fn difference(family: Proto, found: &[FoundRule], wanted: &[Rule]) -> Vec<Step> {
    let ours =
        || found.iter().filter(|rule| rule.comment.as_ref().is_some_and(|comment| comment.starts_with(MARK)));
    let is = |found: &FoundRule, rule: &Rule| {
        found.comment.as_deref() == Some(&rule.comment) && found.expressions == rule.expressions.len()
    };
    let mut steps = Vec::new();
    let mut kept = Vec::new();
    for rule in ours() {
        let keep = wanted.iter().position(|want| is(rule, want)).filter(|index| !kept.contains(index));
        match keep {
            Some(index) => kept.push(index),
            None => steps.push(nft::delete_rule(family, TABLE, CHAIN, rule.handle)),
        }
    }
    // Each goes to the top, so the last one first.
    for (index, rule) in wanted.iter().enumerate().rev() {
        if !kept.contains(&index) {
            steps.push(nft::add_rule(family, TABLE, rule, Place::First));
        }
    }
    steps
}
