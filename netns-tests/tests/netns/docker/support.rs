//! What the tests with Docker have in common.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, anyhow};
use lab::{Dockerd, IMAGE, Lab, until};

use crate::support::{SETTLE, hosts};

/// Runs a test on a fabric with a Docker on every host, which was started before the routers.
pub(crate) fn dockers(count: usize, body: impl FnOnce(&Lab, &[Dockerd]) -> Result<()>) {
    hosts(count, |lab| {
        let dockers: Vec<Dockerd> = lab.hosts().iter().map(Dockerd::new).collect::<Result<_>>()?;
        fabric(lab)?;
        explained(&dockers, body(lab, &dockers))
    });
}

/// A failure with the ends of the daemons' logs.
pub(crate) fn explained(dockers: &[Dockerd], result: Result<()>) -> Result<()> {
    let logs = || dockers.iter().map(Dockerd::log_tail).collect::<Vec<_>>().join("\n");
    result.map_err(|error| anyhow!("{error:#}\n{}", logs()))
}

/// Starts the routers and makes a fabric of them.
pub(crate) fn fabric(lab: &Lab) -> Result<()> {
    fabric_with(lab, lab.hosts())
}

/// The same where these hosts alone have a Docker.
pub(crate) fn fabric_with(lab: &Lab, dockers: &[lab::Host]) -> Result<()> {
    lab.start_all(&[])?;
    let token = lab.host(1).up(&[])?;
    for host in &lab.hosts()[1..] {
        host.join(&token)?;
    }
    lab.wait_complete()?;
    for host in dockers {
        served(host)?;
    }
    Ok(())
}

/// Waits until the router of a host serves Docker.
pub(crate) fn served(host: &lab::Host) -> Result<()> {
    let socket = host.dir().join("docker/run/plugins/weave.sock");
    let answers = || std::os::unix::net::UnixStream::connect(&socket).is_ok().then_some(());
    until(SETTLE, "the plugin's socket is served", answers).map(drop)
}

/// Makes a network of this driver.
pub(crate) fn network(docker: &Dockerd, name: &str, more: &[&str]) -> Result<String> {
    let mut args = vec!["network", "create", "--driver", "weave", "--ipam-driver", "weave"];
    args.extend(more);
    args.push(name);
    docker.docker(&args)
}

/// Starts a container that does nothing but be there.
pub(crate) fn start(docker: &Dockerd, name: &str, network: &str, more: &[&str]) -> Result<Ipv4Addr> {
    let mut args = vec!["run", "--detach", "--init=false", "--name", name, "--network", network];
    args.extend(more);
    args.extend([IMAGE, "sleep", "1000000"]);
    docker.docker(&args)?;
    address(docker, name, network)
}

/// The address that Docker says a container has on a network.
pub(crate) fn address(docker: &Dockerd, name: &str, network: &str) -> Result<Ipv4Addr> {
    let format = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
    let text = docker.docker(&["inspect", "--format", &format, name])?;
    text.parse().with_context(|| format!("`{name}` has address `{text}` on `{network}`"))
}

/// Waits until one container reaches an address.
pub(crate) fn reaches(docker: &Dockerd, from: &str, to: &str) -> Result<()> {
    let mut said = String::new();
    let answered = until(SETTLE, "a ping is answered", || {
        let output = docker.try_docker(&["exec", from, "ping", "-c", "1", "-W", "1", to]);
        said = output.as_ref().map_or_else(|error| format!("{error:#}"), lab::Output::text);
        output.is_ok_and(|output| output.success()).then_some(())
    });
    answered.map(drop).with_context(|| format!("`{from}` to {to}: {said}"))
}

/// Whether one container reaches an address at once.
pub(crate) fn pings(docker: &Dockerd, from: &str, to: &str) -> Result<bool> {
    Ok(docker.try_docker(&["exec", from, "ping", "-c", "2", "-i", "0.2", "-W", "1", to])?.success())
}
