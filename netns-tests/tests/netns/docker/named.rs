//! Containers without the plugin: attached by name, and kept attached.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::{Dockerd, Host, IMAGE, until};

use super::support::{dockers, reaches};
use crate::support::{SETTLE, attached, leases, ports, same};

/// Longest wait until what happened to a container is seen, and acted on.
const NOTICE: Duration = Duration::from_secs(10);
/// A released address is leased to nobody else for this long.
const REST: Duration = Duration::from_secs(30);

/// Starts a container without a network.
fn lone(docker: &Dockerd, name: &str) -> Result<String> {
    docker.docker(&[
        "run",
        "--detach",
        "--init=false",
        "--name",
        name,
        "--network",
        "none",
        IMAGE,
        "sleep",
        "1000000",
    ])
}

fn attach(host: &Host, args: &[&str]) -> Result<Ipv4Addr> {
    let answer = host.json(&[&["attach"], args].concat())?;
    let address = answer["address"].as_str().unwrap_or_default();
    let bare = address.split('/').next().unwrap_or_default();
    bare.parse().with_context(|| format!("`attach` answers {answer}"))
}

/// Waits until exactly this is attached.
fn becomes(host: &Host, want: &[(&str, Ipv4Addr)]) -> Result<()> {
    let want: BTreeSet<_> = want.iter().map(|(id, address)| ((*id).to_owned(), *address)).collect();
    let mut seen = BTreeSet::new();
    let reached = until(NOTICE, "attachments are as they should be", || {
        seen = attached(host).unwrap_or_default();
        (seen == want).then_some(())
    });
    reached.map(drop).with_context(|| format!("{seen:?} instead of {want:?}"))
}

#[test]
fn named_containers_talk_and_come_back_with_their_address() {
    dockers(2, |lab, dockers| {
        let (near, far) = (lab.host(1), lab.host(2));
        let web = lone(&dockers[0], "web")?;
        let db = lone(&dockers[1], "db")?;
        let here = attach(near, &["web"])?;
        let there = attach(far, &[&db[..12], "--ip", "10.32.0.77"])?;
        same("--ip", &there, &Ipv4Addr::new(10, 32, 0, 77))?;
        reaches(&dockers[0], "web", &there.to_string())?;
        reaches(&dockers[1], "db", &here.to_string())?;
        same("again shows what is there", &attach(near, &["web"])?, &here)?;
        same("its name", &near.json(&["ps"])?[0]["name"].as_str(), &Some("web"))?;

        // Started again by a person, at once, and by Docker after a crash of its own.
        dockers[0].docker(&["restart", "--time", "0", "web"])?;
        reaches(&dockers[1], "db", &here.to_string()).context("after docker restart")?;
        dockers[0].docker(&["kill", "web"])?;
        becomes(near, &[])?;
        dockers[0].docker(&["start", "web"])?;
        becomes(near, &[(&web, here)])?;
        reaches(&dockers[1], "db", &here.to_string()).context("after docker start")?;

        // Renamed, and taken off by the new name; then it stays off.
        dockers[0].docker(&["rename", "web", "shop"])?;
        until(NOTICE, "the new name is known", || {
            near.weavectl(&["detach", "shop"]).ok()?.success().then_some(())
        })?;
        dockers[0].docker(&["restart", "--time", "0", "shop"])?;
        std::thread::sleep(Duration::from_secs(2));
        becomes(near, &[])?;
        same("interfaces left", &ports(near)?, &0)
    });
}

#[test]
fn ends_restarts_and_removals_are_not_missed() {
    dockers(1, |lab, dockers| {
        let (host, docker) = (lab.host(1), &dockers[0]);
        let (one, two) = (lone(docker, "one")?, lone(docker, "two")?);
        let first = attach(host, &["one"])?;
        let second = attach(host, &["two"])?;

        // The router is away while one is started again and the other removed.
        host.kill9()?;
        docker.docker(&["restart", "--time", "0", "one"])?;
        docker.docker(&["rm", "--force", "two"])?;
        host.start_again()?;
        becomes(host, &[(&one, first)])?;
        docker
            .docker(&["exec", "one", "ip", "link", "show", "ethwe"])
            .context("attached where it runs now")?;

        // Docker is away: the container goes on, and is still known afterwards.
        docker.kill9()?;
        std::thread::sleep(Duration::from_secs(1));
        becomes(host, &[(&one, first)])?;
        docker.start()?;
        docker.docker(&["restart", "--time", "0", "one"])?;
        becomes(host, &[(&one, first)])?;

        // Somebody else took the address meanwhile: another one, rather than none.
        docker.docker(&["stop", "--time", "0", "one"])?;
        becomes(host, &[])?;
        lone(docker, "thief")?;
        attach(host, &["thief", "--ip", &first.to_string()])?;
        docker.docker(&["start", "one"])?;
        let other = until(NOTICE, "attached again", || {
            attached(host).ok()?.into_iter().find(|(id, _)| *id == one).map(|(_, address)| address)
        })?;
        same("another address", &(other.0 == first), &false)?;

        docker.docker(&["rm", "--force", "one", "thief"])?;
        becomes(host, &[])?;
        until(REST + SETTLE, "their addresses are free", || {
            let left = leases(host).ok()?;
            [first, second, other.0].iter().all(|address| !left.contains(address)).then_some(())
        })?;
        same("two is unknown", &(two.len() == 64), &true)?;
        same("interfaces left", &ports(host)?, &0)
    });
}

#[test]
fn what_cannot_be_attached_is_explained() {
    dockers(1, |lab, dockers| {
        let (host, docker) = (lab.host(1), &dockers[0]);
        let refused = |args: &[&str], code: i32, says: &str| -> Result<()> {
            let output = host.weavectl(&[&["attach"], args].concat())?;
            same(&format!("exit code of attach {args:?}"), &output.code, &Some(code))
                .context(output.text())?;
            same(says, &output.text().contains(says), &true).context(output.text())
        };
        refused(&["nobody"], 7, "docker ps")?;
        refused(&["no/body"], 2, "no name or id of a container")?;
        lone(docker, "stopped")?;
        docker.docker(&["stop", "--time", "0", "stopped"])?;
        refused(&["stopped"], 8, "docker start stopped")?;
        docker.docker(&[
            "run",
            "--detach",
            "--name",
            "hostly",
            "--network",
            "host",
            IMAGE,
            "sleep",
            "1000000",
        ])?;
        refused(&["hostly"], 7, "weavectl expose")?;
        refused(&["stopped", "--pid", "1"], 2, "cannot be used with")?;
        lone(docker, "plain")?;
        refused(&["plain", "--ip", "192.168.7.7"], 2, "192.168.7.7")?;
        docker.docker(&["restart", "--time", "0", "plain"])?;
        std::thread::sleep(Duration::from_secs(2));
        becomes(host, &[]).context("a refused attach leaves no wish")?;
        docker.stop()?;
        refused(&["plain"], 9, "docker")
    });
}
