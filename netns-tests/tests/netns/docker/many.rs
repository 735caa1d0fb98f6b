//! Many containers, and what Docker's way costs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lab::{Dockerd, IMAGE, until};

use super::support::{address, dockers, network, reaches, start};
use crate::support::{SETTLE, figure, percentile, same};

/// Containers of one host.
const MANY: usize = 100;
/// How many clients start them.
const CLIENTS: usize = 4;
/// A third of the containers that are started while the router dies again and again.
const DEATHS: usize = 3;
/// Times that a start is measured.
const STARTS: usize = 5;

#[test]
fn hundred_containers_on_a_host() {
    dockers(2, |lab, dockers| {
        for docker in dockers {
            network(docker, "fabric", &[])?;
        }
        let begun = Instant::now();
        let docker = &dockers[0];
        let started = std::thread::scope(|scope| {
            let clients: Vec<_> =
                (0..CLIENTS).map(|client| scope.spawn(move || some(docker, client))).collect();
            clients.into_iter().map(|client| client.join().expect("no panic")).collect::<Result<Vec<_>>>()
        });
        let mut all: Vec<_> = started?.into_iter().flatten().collect();
        figure(
            "docker, 100 containers started by 4 clients",
            &format!("{:.1} s", begun.elapsed().as_secs_f64()),
        );
        all.sort();
        all.dedup();
        same("different addresses", &all.len(), &MANY)?;
        start(&dockers[1], "far", "fabric", &[])?;
        for wanted in [0, MANY / 2, MANY - 1] {
            reaches(&dockers[1], "far", &all[wanted].to_string())?;
        }
        let attached = crate::support::attached(lab.host(1))?;
        same("attached", &attached.len(), &MANY)?;
        let ids = docker.docker(&["ps", "--quiet"])?;
        let mut remove = vec!["rm", "--force"];
        remove.extend(ids.lines());
        docker.docker(&remove)?;
        // The network itself stays: Docker 20.10 miscounts endpoints that came or went at once, also those of its own bridges.
        let empty = || super::life::nothing_of_docker(lab.host(1)).ok();
        until(SETTLE, "nothing is left", empty)?;
        super::life::nothing_of_docker(lab.host(1))
    });
}

/// One client's share of the containers.
fn some(docker: &Dockerd, client: usize) -> Result<Vec<std::net::Ipv4Addr>> {
    (0..MANY / CLIENTS).map(|number| start(docker, &format!("c{client}-{number}"), "fabric", &[])).collect()
}

/// Whatever step a container's start is at when the router dies, Docker asks again, or says that it failed, and nothing is left.
#[test]
fn router_dies_at_any_step() {
    dockers(1, |lab, dockers| {
        let (docker, host) = (&dockers[0], lab.host(1));
        network(docker, "fabric", &["--subnet", "10.32.5.0/24"])?;
        let ended = AtomicBool::new(false);
        let succeeded = std::thread::scope(|scope| {
            let client = scope.spawn(|| {
                let run = || docker.try_docker(&["run", "--rm", "--network", "fabric", IMAGE, "ls"]);
                let results: Result<Vec<_>> = (0..DEATHS * 3).map(|_| run()).collect();
                ended.store(true, Ordering::Relaxed);
                results.map(|all| all.iter().filter(|output| output.success()).count())
            });
            let mut pause = 40;
            while !ended.load(Ordering::Relaxed) {
                // A little later each time, so that every step is met.
                std::thread::sleep(Duration::from_millis(pause));
                pause = (pause + 170) % 1000;
                host.kill9()?;
                host.start_again()?;
                std::thread::sleep(Duration::from_millis(900));
            }
            client.join().expect("no panic")
        })?;
        same("some containers lived", &(succeeded > 0), &true)?;
        let cannot = || docker.docker(&["network", "rm", "fabric"]).ok();
        until(SETTLE, "the network is empty", cannot)?;
        let attached = crate::support::attached(host)?;
        same("attachments", &attached.len(), &0)?;
        let links = host.ns().ip("-o link")?.stdout;
        same("interfaces", &links.contains(" vw"), &false).with_context(|| links.clone())?;
        same("interfaces that nobody fetched", &links.contains(" vd"), &false).context(links)
    });
}

/// From `docker run` to the first answer of a container of another host, beside Docker's own bridge, whose first answer is the gateway's. That
/// each container is answered is the test, how soon is a figure.
#[test]
fn every_container_is_answered_at_its_start() {
    crate::support::alone(2, |lab| {
        let dockers: Vec<Dockerd> = lab.hosts().iter().map(Dockerd::new).collect::<Result<_>>()?;
        super::support::fabric(lab)?;
        for docker in &dockers {
            network(docker, "fabric", &[])?;
        }
        start(&dockers[1], "far", "fabric", &[])?;
        let far = address(&dockers[1], "far", "fabric")?.to_string();
        let (mut ours, mut bridge) = (Vec::new(), Vec::new());
        dockers[0].docker(&["network", "create", "--subnet", "192.168.77.0/24", "plain"])?;
        for _ in 0..STARTS {
            ours.push(first_answer(&dockers[0], "fabric", &far)?);
            bridge.push(first_answer(&dockers[0], "plain", "192.168.77.1")?);
        }
        ours.sort();
        bridge.sort();
        let ms = |times: &[Duration]| percentile(times, 50).as_secs_f64() * 1000.0;
        figure(
            "docker run to first answer across hosts, p50",
            &format!("{:.0} ms, Docker's own bridge {:.0} ms", ms(&ours), ms(&bridge)),
        );
        Ok(())
    });
}

/// Runs a container that ends with its first answer.
fn first_answer(docker: &Dockerd, network: &str, to: &str) -> Result<Duration> {
    let begun = Instant::now();
    let line = format!("until ping -c 1 -W 1 {to} >/dev/null; do :; done");
    docker.docker(&["run", "--rm", "--network", network, IMAGE, "sh", "-c", &line])?;
    Ok(begun.elapsed())
}
