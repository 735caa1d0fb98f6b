//! Our own nftables table, `inet weave`: what may pass between the fabric and the host's other networks, and masquerading.
//!
//! | host is | fabric to host | fabric to outside | outside to fabric |
//! |---|---|---|---|
//! | hidden | dropped, but for questions for names | dropped | dropped |
//! | exposed | accepted | accepted, masqueraded | answers and published ports accepted, the rest dropped |
//!
//! Names are for containers and the host: the address where they are served takes questions from nowhere else. It is link-local, so only
//! a neighbour of this host could try.
//!
//! Frames between two ports of the bridge are accepted always; with bridge netfilter they come by here too. Dropping from outside keeps
//! the promise that containers are reached over sealed paths only: an exposed host forwards, and any machine beside it could otherwise
//! route into the range in clear. The table is replaced as a whole in one transaction, so there is no moment without it.

use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_netfilter::{NetfilterProtoFamily as Proto, nftables::InetHookNumber};
use rustix::io::Errno;

use super::{
    error::Result,
    expressions::{self, End, Is, Protocol, Tracked, Way},
    nft::{self, Chain, Place, Rule},
    spec::Outcome,
    wire::Wire,
};

/// Name of our table, in the family `inet`.
pub const TABLE: &str = "weave";

/// Chain for what the fabric sends to the host itself.
const INPUT: Chain = Chain { name: "input", kind: "filter", hook: InetHookNumber::LocalIn, priority: 0 };
/// Chain for what passes through the host.
const FORWARD: Chain = Chain { name: "forward", kind: "filter", hook: InetHookNumber::Forward, priority: 0 };
/// Chain for masquerading, at the usual place for source translation (`NF_IP_PRI_NAT_SRC`).
const POSTROUTING: Chain =
    Chain { name: "postrouting", kind: "nat", hook: InetHookNumber::PostRouting, priority: 100 };

/// The port of questions for names.
const DNS: u16 = 53;
/// The host's way to itself.
const LOOPBACK: &str = "lo";

/// What the table should say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirewallSpec {
    /// Name of the bridge.
    pub bridge: String,
    /// Ranges of the fabric, when the host is exposed: containers then reach outside, masqueraded. `None` while it is hidden.
    pub masquerade: Option<(Ipv4Net, Ipv6Net)>,
    /// Where names are served, if they are.
    pub nameserver: Option<Ipv4Addr>,
}

/// Makes the table what it should be, in one transaction.
pub(super) fn ensure(wire: &mut Wire, spec: &FirewallSpec) -> Result<Outcome> {
    let (chains, rules) = wanted(spec);
    let present = nft::chains(wire, Proto::Inet, TABLE)?;
    let outcome = if present.is_some() { Outcome::Adjusted } else { Outcome::Created };
    if present.is_some_and(|names| same_chains(&names, &chains)) && same_rules(wire, &rules)? {
        return Ok(Outcome::AsWanted);
    }
    // Adding first makes the deletion valid whether the table is there or not.
    let mut steps = vec![nft::add_table(Proto::Inet, TABLE), nft::delete_table(Proto::Inet, TABLE)];
    steps.push(nft::add_table(Proto::Inet, TABLE));
    steps.extend(chains.iter().map(|chain| nft::add_chain(Proto::Inet, TABLE, chain)));
    steps.extend(rules.iter().map(|rule| nft::add_rule(Proto::Inet, TABLE, rule, Place::Last)));
    nft::commit(wire, steps, None).map_err(|refusal| refusal.during("write nftables table", TABLE))?;
    Ok(outcome)
}

/// Removes the table.
pub(super) fn remove(wire: &mut Wire) -> Result<Outcome> {
    match nft::commit(wire, vec![nft::delete_table(Proto::Inet, TABLE)], None) {
        Ok(()) => Ok(Outcome::Adjusted),
        Err(refusal) if refusal.is(Errno::NOENT) => Ok(Outcome::AsWanted),
        Err(refusal) => Err(refusal.during("delete nftables table", TABLE)),
    }
}

fn same_chains(names: &[String], chains: &[Chain]) -> bool {
    let mut wanted: Vec<&str> = chains.iter().map(|chain| chain.name).collect();
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    wanted.sort_unstable();
    names.sort_unstable();
    wanted == names
}

/// Comments carry all that a rule depends on, so comparing them and the number of expressions finds every honest change.
fn same_rules(wire: &mut Wire, rules: &[Rule]) -> Result<bool> {
    let found = nft::rules(wire, Proto::Inet, TABLE, None)?;
    let of = |chain: &Chain| {
        let found = found.iter().filter(|rule| rule.chain == chain.name);
        let wanted = rules.iter().filter(|rule| rule.chain == chain.name);
        found
            .map(|rule| (rule.comment.as_deref(), rule.expressions))
            .eq(wanted.map(|rule| (Some(rule.comment.as_str()), rule.expressions.len())))
    };
    Ok(of(&INPUT) && of(&FORWARD) && of(&POSTROUTING))
}

fn wanted(spec: &FirewallSpec) -> (Vec<Chain>, Vec<Rule>) {
    let bridge = &spec.bridge;
    let rule = |chain: &Chain, comment: String, parts: Vec<Vec<expressions::Expression>>| Rule {
        chain: chain.name,
        comment,
        expressions: parts.concat(),
    };
    let from = || expressions::interface(Way::In, Is::Equal, bridge);
    let to = || expressions::interface(Way::Out, Is::Equal, bridge);
    let refuse = || vec![expressions::counter(), expressions::drop()];
    let accept = || vec![expressions::accept()];
    let mut rules = vec![rule(&FORWARD, format!("within {bridge}"), vec![from(), to(), accept()])];
    let nameserver = spec.nameserver.map(|address| IpNet::V4(Ipv4Net::from(address)));
    if let Some(net) = nameserver {
        let there = || expressions::address(End::Destination, Is::Equal, net);
        let not = |name: &str| expressions::interface(Way::In, Is::Different, name);
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            let ask = expressions::port(protocol, DNS);
            let comment = format!("{protocol} questions for names from {bridge} to {net}");
            rules.push(rule(&INPUT, comment, vec![from(), there(), ask, accept()]));
        }
        let comment = format!("nobody else reaches {net} but {bridge} and the host");
        rules.push(rule(&INPUT, comment, vec![there(), not(bridge), not(LOOPBACK), refuse()]));
    }
    let Some((v4, v6)) = &spec.masquerade else {
        rules.extend([
            rule(&FORWARD, format!("hidden host: nothing leaves {bridge}"), vec![from(), refuse()]),
            rule(&FORWARD, format!("hidden host: nothing enters {bridge}"), vec![to(), refuse()]),
            rule(&INPUT, format!("hidden host: not reached from {bridge}"), vec![from(), refuse()]),
        ]);
        return (vec![INPUT, FORWARD], rules);
    };
    rules.extend([
        rule(&FORWARD, format!("containers of {bridge} reach outside"), vec![from(), accept()]),
        rule(
            &FORWARD,
            format!("answers to {bridge}"),
            vec![to(), expressions::tracked(Tracked::Answer), accept()],
        ),
        rule(
            &FORWARD,
            format!("published ports on {bridge}"),
            vec![to(), expressions::tracked(Tracked::Published), accept()],
        ),
        rule(&FORWARD, format!("nothing else enters {bridge} in clear"), vec![to(), refuse()]),
    ]);
    for range in [IpNet::V4(*v4), IpNet::V6(*v6)].map(|range| range.trunc()) {
        rules.push(rule(
            &POSTROUTING,
            format!("masquerade {range} leaving {bridge}"),
            vec![
                expressions::address(End::Source, Is::Equal, range),
                expressions::address(End::Destination, Is::Different, range),
                expressions::interface(Way::Out, Is::Different, bridge),
                vec![expressions::masquerade()],
            ],
        ));
    }
    match nameserver {
        Some(_) => (vec![INPUT, FORWARD, POSTROUTING], rules),
        None => (vec![FORWARD, POSTROUTING], rules),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(masquerade: Option<(Ipv4Net, Ipv6Net)>, nameserver: Option<Ipv4Addr>, expected: &Expect) {
        let (chains, rules) = wanted(&FirewallSpec { bridge: "weave0".to_owned(), masquerade, nameserver });
        let mut text = String::new();
        for chain in chains {
            text.push_str(&format!("{} ({} at {})\n", chain.name, chain.kind, chain.priority));
            for rule in rules.iter().filter(|rule| rule.chain == chain.name) {
                text.push_str(&format!("    {}, {} expressions\n", rule.comment, rule.expressions.len()));
            }
        }
        expected.assert_eq(&text);
    }

    #[test]
    fn hidden_host_lets_nothing_in_or_out() {
        check(
            None,
            None,
            &expect![[r#"
            input (filter at 0)
                hidden host: not reached from weave0, 4 expressions
            forward (filter at 0)
                within weave0, 5 expressions
                hidden host: nothing leaves weave0, 4 expressions
                hidden host: nothing enters weave0, 4 expressions
        "#]],
        );
    }

    #[test]
    fn exposed_host_masquerades_and_lets_answers_in() {
        let ranges = ("10.32.0.1/12".parse().expect("v4"), "fd00:1:2::/64".parse().expect("v6"));
        check(
            Some(ranges),
            None,
            &expect![[r#"
            forward (filter at 0)
                within weave0, 5 expressions
                containers of weave0 reach outside, 3 expressions
                answers to weave0, 6 expressions
                published ports on weave0, 6 expressions
                nothing else enters weave0 in clear, 4 expressions
            postrouting (nat at 100)
                masquerade 10.32.0.0/12 leaving weave0, 13 expressions
                masquerade fd00:1:2::/64 leaving weave0, 13 expressions
        "#]],
        );
    }

    #[test]
    fn questions_for_names_come_in_from_the_bridge_alone() {
        let ranges = ("10.32.0.1/12".parse().expect("v4"), "fd00:1:2::/64".parse().expect("v6"));
        let nameserver = Some(Ipv4Addr::new(169, 254, 67, 83));
        check(
            None,
            nameserver,
            &expect![[r#"
            input (filter at 0)
                UDP questions for names from weave0 to 169.254.67.83/32, 12 expressions
                TCP questions for names from weave0 to 169.254.67.83/32, 12 expressions
                nobody else reaches 169.254.67.83/32 but weave0 and the host, 11 expressions
                hidden host: not reached from weave0, 4 expressions
            forward (filter at 0)
                within weave0, 5 expressions
                hidden host: nothing leaves weave0, 4 expressions
                hidden host: nothing enters weave0, 4 expressions
        "#]],
        );
        check(
            Some(ranges),
            nameserver,
            &expect![[r#"
            input (filter at 0)
                UDP questions for names from weave0 to 169.254.67.83/32, 12 expressions
                TCP questions for names from weave0 to 169.254.67.83/32, 12 expressions
                nobody else reaches 169.254.67.83/32 but weave0 and the host, 11 expressions
            forward (filter at 0)
                within weave0, 5 expressions
                containers of weave0 reach outside, 3 expressions
                answers to weave0, 6 expressions
                published ports on weave0, 6 expressions
                nothing else enters weave0 in clear, 4 expressions
            postrouting (nat at 100)
                masquerade 10.32.0.0/12 leaving weave0, 13 expressions
                masquerade fd00:1:2::/64 leaving weave0, 13 expressions
        "#]],
        );
    }
}
