//! Our packets among other people's packet filters, and the way out of the fabric.

use std::net::IpAddr;

use anyhow::{Context, Result};
use lab::{Host, Ping, ping_until_answered};

use crate::support::{SETTLE, answers, fabric, hosts, one_each, reaches, same};

/// What dockerd does to a host: forwarding is refused unless allowed, and bridged frames count as forwarded.
const DOCKER: &str = "table ip filter {\nchain FORWARD {\ntype filter hook forward priority 0; policy drop;\n}\n}\n\
    table ip6 filter {\nchain FORWARD {\ntype filter hook forward priority 0; policy drop;\n}\n}\n";

#[test]
fn containers_talk_where_docker_came_first() {
    hosts(2, |lab| {
        lab.hosts().iter().try_for_each(docker)?;
        lab.start_all(&[])?;
        let token = lab.host(1).up(&[])?;
        lab.host(2).join(&token)?;
        talk(lab)
    });
}

#[test]
fn containers_talk_where_docker_comes_later() {
    fabric(2, |lab| {
        let before = lab.host(1).attached()?;
        lab.hosts().iter().try_for_each(docker)?;
        talk(lab)?;
        let after = lab.host(1).attached()?;
        reaches(&before, &after)
    });
}

#[test]
fn containers_go_on_talking_after_rules_were_flushed() {
    fabric(1, |lab| {
        let (one, two) = (lab.host(1).attached()?, lab.host(1).attached()?);
        docker(lab.host(1))?;
        reaches(&one, &two)?;
        lab.host(1).ns().nft("flush ruleset")?;
        docker(lab.host(1))?;
        reaches(&one, &two)
    });
}

/// Two containers on one host, two across, and out of the fabric by masquerade.
fn talk(lab: &lab::Lab) -> Result<()> {
    let (mut containers, second) = (one_each(lab)?, lab.host(1).attached()?);
    containers.push(second);
    reaches(&containers[0], &containers[2]).context("two containers of one host")?;
    reaches(&containers[0], &containers[1]).context("two containers of two hosts")?;
    ping_until_answered(containers[0].ns(), IpAddr::from([10, 77, 0, 254]), SETTLE)
        .context("out of the fabric")?;
    Ok(())
}

fn docker(host: &Host) -> Result<()> {
    for family in ["iptables", "ip6tables"] {
        host.ns().sysctl(&format!("bridge/bridge-nf-call-{family}"), "1")?;
    }
    host.ns().nft(DOCKER)
}

#[test]
fn exposed_host_talks_to_containers_until_it_is_hidden() {
    fabric(2, |lab| {
        let far = lab.host(2).attached()?;
        let exposed = lab.host(1).json(&["expose"])?;
        let address =
            exposed["address"].as_str().and_then(|cidr| cidr.split('/').next()).context("no address")?;
        let address: IpAddr = address.parse()?;
        for to in far.addresses()? {
            ping_until_answered(lab.host(1).ns(), to, SETTLE)?;
        }
        ping_until_answered(far.ns(), address, SETTLE)?;
        same("exposed twice", &lab.host(1).json(&["expose"])?["changed"], &false.into())?;
        lab.host(1).json(&["hide"])?;
        same("answers when hidden", &answers(&far, address), &false)?;
        same("the host still routes to containers", &Ping::once().send(far.ns(), address)?.answered, &0)
    });
}

#[test]
fn everything_of_ours_is_gone_after_reset() {
    fabric(1, |lab| {
        let host = lab.host(1);
        let _container = host.attached()?;
        let reset = host.weavectl(&["reset", "--force"])?;
        same("reset", &reset.success(), &true).with_context(|| reset.text())?;
        same("links of ours", &host.ns().ip("-o link")?.stdout.contains("weave"), &false)?;
        let rules = host.ns().tool("nft", "list ruleset")?.stdout;
        same("rules of ours", &rules.contains("weave"), &false).with_context(|| rules.clone())
    });
}
