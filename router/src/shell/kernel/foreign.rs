//! The one rule that we put into somebody else's chain (ADR 0006).
//!
//! Docker sets the policy of `ip filter FORWARD` to drop, and with bridge netfilter frames between two ports of our bridge pass that
//! chain. A drop anywhere is final: an accept in our own table cannot override it. So a chain of that name gets our accepts at its top,
//! marked by a comment by which they are found, kept single, and removed.

use netlink_packet_netfilter::NetfilterProtoFamily as Proto;
use rustix::io::Errno;

use super::{
    error::{KernelError, Result},
    expressions::{self, Is, Way},
    nft::{self, Dropping, FoundRule, Place, Rule, Step},
    spec::Outcome,
    wire::Wire,
};

/// Table and chain that iptables (and so Docker, ufw, kube-proxy) uses.
const TABLE: &str = "filter";
/// See [`TABLE`].
const CHAIN: &str = "FORWARD";

/// Where the kernel lists tables of the old kind, which are not part of nftables, and the program that writes them.
const LEGACY_TABLES: [(&str, &str); 2] = [
    ("/proc/thread-self/net/ip_tables_names", "iptables-legacy"),
    ("/proc/thread-self/net/ip6_tables_names", "ip6tables-legacy"),
];

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
    /// Also to and from the host's other networks, as far as our own table lets through.
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

/// What may drop our frames and is out of our reach, in words that name the command which opens it.
pub(super) fn obstacles(wire: &mut Wire, bridge: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (list, program) in LEGACY_TABLES {
        let tables = std::fs::read_to_string(list).unwrap_or_default();
        if tables.lines().any(|table| table == TABLE) {
            found.push(format!(
                "{program} has a filter table, which nftables cannot reach: if containers of this host cannot talk, run \
                 `{program} -I FORWARD -i {bridge} -o {bridge} -j ACCEPT`"
            ));
        }
    }
    for Dropping { family, table, chain } in nft::dropping_forward_chains(wire)? {
        let family = match family {
            // Ours to open.
            Proto::IPv4 | Proto::IPv6 if table == TABLE && chain == CHAIN => continue,
            Proto::IPv4 => "ip",
            Proto::IPv6 => "ip6",
            Proto::Inet => "inet",
            // Not passed by frames of a bridge.
            Proto::Unspec | Proto::ARP | Proto::NetDev | Proto::Bridge | Proto::DECNet | Proto::Other(_) => {
                continue;
            }
            // A family that is newer than we are.
            _ => continue,
        };
        found.push(format!(
            "chain `{chain}` of nftables table `{family} {table}` drops what is forwarded: if containers of this host cannot \
             talk, run `nft insert rule {family} {table} {chain} iifname {bridge} oifname {bridge} accept`"
        ));
    }
    Ok(found)
}

fn wanted(bridge: &str, exposure: Exposure) -> Vec<Rule> {
    let from = || expressions::interface(Way::In, Is::Equal, bridge);
    let to = || expressions::interface(Way::Out, Is::Equal, bridge);
    let rule = |what: &str, parts: Vec<Vec<expressions::Expression>>| Rule {
        chain: CHAIN,
        comment: format!("{MARK} {what} {bridge}"),
        expressions: [parts.concat(), vec![expressions::counter(), expressions::accept()]].concat(),
    };
    let within = rule("within", vec![from(), to()]);
    match exposure {
        Exposure::Hidden => vec![within],
        // What may enter is for our own table to say: a drop there is as final as one here. Asking connection tracking in this chain
        // would also need an expression that `iptables` cannot read: it then refuses the whole table, and Docker with it.
        Exposure::Exposed => vec![within, rule("from", vec![from()]), rule("to", vec![to()])],
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

#[cfg(test)]
mod tests {
    use super::*;

    fn found(handle: u64, comment: &str, expressions: usize) -> FoundRule {
        FoundRule { chain: CHAIN.to_owned(), handle, comment: Some(comment.to_owned()), expressions }
    }

    /// How many steps lead from what is there to what is wanted.
    fn steps(there: &[FoundRule], exposure: Exposure) -> usize {
        difference(Proto::IPv4, there, &wanted("weave0", exposure)).len()
    }

    #[test]
    fn present_rules_stay_wherever_they_are() {
        let foreign = FoundRule { chain: CHAIN.to_owned(), handle: 1, comment: None, expressions: 3 };
        let other = found(2, "somebody else's weave-fabric: within weave0", 6);
        assert_eq!(steps(&[foreign.clone(), other.clone()], Exposure::Hidden), 1);
        assert_eq!(steps(&[foreign, other, found(3, "weave-fabric: within weave0", 6)], Exposure::Hidden), 0);
    }

    #[test]
    fn doubled_outdated_and_mutilated_rules_go() {
        let within = found(3, "weave-fabric: within weave0", 6);
        assert_eq!(steps(&[within.clone(), within.clone()], Exposure::Hidden), 1);
        assert_eq!(steps(&[within.clone(), found(4, "weave-fabric: within weave1", 6)], Exposure::Hidden), 1);
        assert_eq!(steps(&[within.clone(), found(4, "weave-fabric: from weave0", 4)], Exposure::Hidden), 1);
        assert_eq!(steps(&[found(3, "weave-fabric: within weave0", 5)], Exposure::Hidden), 2);
        assert_eq!(steps(&[within], Exposure::Exposed), 2);
    }

    #[test]
    fn removal_takes_ours_only() {
        let there = [
            found(1, "weave-fabric: within weave0", 6),
            found(2, "docker", 6),
            found(3, "weave-fabric: x", 1),
        ];
        assert_eq!(difference(Proto::IPv4, &there, &[]).len(), 2);
    }
}
