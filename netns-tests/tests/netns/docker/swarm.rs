//! Two nodes of a Swarm, with the plugin that Docker manages in front of each node's router.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::{Dockerd, Host, IMAGE, until};

use super::support::{explained, reaches};
use crate::support::{hosts, same};

/// The plugin, and so the driver.
const PLUGIN: &str = "weave-fabric:1";
/// Swarm starts tasks at its leisure.
const TASKS_LIMIT: Duration = Duration::from_secs(60);
/// Tasks of the service.
const REPLICAS: usize = 4;

#[test]
fn service_of_two_nodes_is_on_the_fabric() {
    hosts(2, |lab| {
        let dockers: Vec<Dockerd> = lab.hosts().iter().map(Dockerd::new).collect::<Result<_>>()?;
        for host in lab.hosts() {
            std::fs::create_dir_all(router_folder(host)).context("cannot make the folder of the socket")?;
            host.serve_docker_on(&router_folder(host).join("docker.sock"));
        }
        lab.start_all(&["--docker-scope", "global"])?;
        let token = lab.host(1).up(&[])?;
        lab.host(2).join(&token)?;
        lab.wait_complete()?;
        explained(&dockers, services(&dockers))
    });
}

fn services(dockers: &[Dockerd]) -> Result<()> {
    let folder = std::env::var("WEAVE_DOCKER_PLUGIN").map(PathBuf::from);
    let folder =
        folder.context("WEAVE_DOCKER_PLUGIN names no folder; type `cargo xtask netns`, which builds it")?;
    let (one, two) = (&dockers[0], &dockers[1]);
    for docker in dockers {
        docker.docker(&["plugin", "create", PLUGIN, &folder.display().to_string()])?;
        let source = format!("router.source={}", router_folder(docker.host()).display());
        docker.docker(&["plugin", "set", PLUGIN, &source])?;
        docker.docker(&["plugin", "enable", PLUGIN])?;
    }
    one.docker(&["swarm", "init", "--advertise-addr", &one.host().address().to_string()])?;
    let token = one.docker(&["swarm", "join-token", "--quiet", "worker"])?;
    two.docker(&["swarm", "join", "--token", &token, &format!("{}:2377", one.host().address())])?;
    one.docker(&[
        "network",
        "create",
        "--driver",
        PLUGIN,
        "--ipam-driver",
        PLUGIN,
        "--attachable",
        "--subnet",
        "10.32.8.0/24",
        "mesh",
    ])?;
    one.docker(&[
        "service",
        "create",
        "--detach",
        "--no-resolve-image",
        "--name",
        "shop",
        "--network",
        "mesh",
        "--endpoint-mode",
        "dnsrr",
        "--replicas",
        &REPLICAS.to_string(),
        IMAGE,
        "sleep",
        "1000000",
    ])?;
    let mut seen = Vec::new();
    let all_run = until(TASKS_LIMIT, "all tasks run", || {
        seen = dockers.iter().map(|docker| tasks(docker).unwrap_or_default()).collect();
        (seen.iter().map(Vec::len).sum::<usize>() == REPLICAS).then_some(())
    });
    all_run.with_context(|| format!("{:?}", one.docker(&["service", "ps", "--no-trunc", "shop"])))?;
    same("tasks of each node", &seen.iter().all(|tasks| !tasks.is_empty()), &true)?;
    let addresses: Vec<&str> = seen.iter().flatten().map(|(_, address)| address.as_str()).collect();
    for (docker, tasks) in dockers.iter().zip(&seen) {
        for to in &addresses {
            reaches(docker, &tasks[0].0, to)?;
        }
    }
    reaches(two, &seen[1][0].0, "tasks.shop").context("by Swarm's name")?;
    // A container that no service knows: its node asks the manager for the address.
    two.docker(&["run", "--detach", "--name", "guest", "--network", "mesh", IMAGE, "sleep", "1000000"])?;
    reaches(two, "guest", addresses[0])?;
    one.docker(&["service", "rm", "shop"])?;
    two.docker(&["rm", "--force", "guest"])?;
    let gone = || one.docker(&["network", "rm", "mesh"]).ok();
    until(TASKS_LIMIT, "the network is removed", gone)?;
    let mut left = String::new();
    let nothing = until(TASKS_LIMIT, "no address is left", || {
        let all = dockers.iter().map(|docker| {
            docker.host().json(&["status", "ipam"]).ok().map(|ipam| ipam["leases"].to_string())
        });
        left = all.collect::<Option<Vec<_>>>()?.join("\n");
        (!left.contains("docker:")).then_some(())
    });
    nothing.map(drop).with_context(|| left.clone())
}

/// The containers of a node, and their addresses.
fn tasks(docker: &Dockerd) -> Result<Vec<(String, String)>> {
    let ids = docker.docker(&["ps", "--quiet", "--filter", "label=com.docker.swarm.service.name=shop"])?;
    let format = "{{(index .NetworkSettings.Networks \"mesh\").IPAddress}}";
    let address = |id: &str| Ok((id.to_owned(), docker.docker(&["inspect", "--format", format, id])?));
    ids.lines().map(address).collect()
}

/// Where the router's socket is, for the plugin to see it.
fn router_folder(host: &Host) -> PathBuf {
    host.dir().join("router")
}
