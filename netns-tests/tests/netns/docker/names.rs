//! Names of Docker's containers, on their own host and on others, beside Docker's own resolver.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lab::{Dockerd, Kind, NAMESERVER, Transport, ask_name, until};

use super::support::{dockers, network, reaches, start};
use crate::support::{SETTLE, figure, same};

/// What a container needs to find others: `--dns` and `--dns-search`.
const WITH_NAMES: [&str; 4] = ["--dns", "169.254.67.83", "--dns-search", "weave.local"];

#[test]
fn containers_of_two_hosts_find_each_other() {
    dockers(2, |lab, dockers| {
        for docker in dockers {
            network(docker, "fabric", &[])?;
        }
        let (one, two) = (&dockers[0], &dockers[1]);
        let web = start(
            one,
            "web",
            "fabric",
            &[&WITH_NAMES[..], &["--hostname", "chosen", "--network-alias", "shop"]].concat(),
        )?;
        start(two, "client", "fabric", &WITH_NAMES)?;
        // Through Docker's embedded resolver, which asks ours.
        for name in ["web", "web.weave.local", "chosen.weave.local", "shop.weave.local"] {
            reaches(two, "client", name)?;
        }
        let from = lab.host(2).ns();
        let code = |name: &str, kind| {
            ask_name(from, NAMESERVER, name, kind, Transport::Udp).map(|answer| answer.code)
        };
        let without = ask_name(from, NAMESERVER, "web.weave.local", Kind::Aaaa, Transport::Udp)?;
        same("no IPv6 address that Docker did not give", &(without.code, without.addresses.len()), &(0, 0))?;
        // Docker's own names, of its own host, stay Docker's.
        start(two, "neighbour", "fabric", &["--network-alias", "beside"])?;
        for name in ["neighbour", "beside"] {
            reaches(two, "client", name)?;
        }
        one.docker(&["rename", "web", "renamed"])?;
        let renamed = || {
            (code("web.weave.local", Kind::A).ok()? == 3 && code("renamed.weave.local", Kind::A).ok()? == 0)
                .then_some(())
        };
        until(SETTLE, "the new name is known", renamed)?;
        lab.host(1).kill9()?;
        lab.host(1).start_again()?;
        lab.wait_complete()?;
        reaches(two, "client", "renamed.weave.local").context("after weaved was killed")?;
        let shown = lab.host(1).json(&["ps"])?.to_string();
        same("`ps` says what it is called", &shown.contains("renamed"), &true).context(shown)?;
        one.docker(&["rm", "--force", "renamed"])?;
        until(Duration::from_secs(2), "the name is gone", || {
            (code("renamed.weave.local", Kind::A).ok()? == 3).then_some(())
        })?;
        same(
            "its address too",
            &lab.host(2).weavectl(&["dns", "lookup", &web.to_string()])?.success(),
            &false,
        )
    });
}

#[test]
fn name_is_known_on_another_host_a_second_after_its_container_started() {
    dockers(2, |lab, dockers| {
        for docker in dockers {
            network(docker, "fabric", &[])?;
        }
        let mut worst = Duration::ZERO;
        for round in 0..5 {
            let name = format!("round{round}");
            start(&dockers[0], &name, "fabric", &[])?;
            worst = worst.max(known(lab.host(2), &name)?);
            remove(&dockers[0], &name)?;
        }
        figure(
            "name of a Docker container known on another host, from the end of docker run, worst of 5",
            &format!("{worst:?}"),
        );
        same("in time", &(worst <= Duration::from_secs(1)), &true)
    });
}

fn known(host: &lab::Host, name: &str) -> Result<Duration> {
    let began = Instant::now();
    let full = format!("{name}.weave.local");
    until(SETTLE, "the name is known", || {
        let answer = ask_name(host.ns(), NAMESERVER, &full, Kind::A, Transport::Udp).ok()?;
        (answer.addresses.len() == 1).then_some(())
    })?;
    Ok(began.elapsed())
}

fn remove(docker: &Dockerd, name: &str) -> Result<()> {
    docker.docker(&["rm", "--force", name]).map(drop)
}
