//! Podman with its CNI backend.

use std::net::{IpAddr, Ipv4Addr, TcpStream};

use anyhow::{Context, Result};
use lab::{PODMAN_IMAGE, Podman};

use crate::support::{SETTLE, attached, fabric, ports, same};

#[test]
fn containers_of_two_hosts_meet_and_leave_nothing() {
    fabric(2, |lab| {
        let (one, two) = (Podman::new(lab.host(1))?, Podman::new(lab.host(2))?);
        start(&one, "server", &["--ip", "10.40.3.7", "--mac-address", "02:00:00:00:03:07"])?;
        start(&two, "client", &[])?;
        same("the wanted address", &address_of(&one, "server")?, &Ipv4Addr::new(10, 40, 3, 7))?;
        let link = one.run(&["exec", "server", "ip", "link", "show", "eth0"])?;
        same("the wanted MAC address", &link.contains("02:00:00:00:03:07"), &true).context(link)?;
        pings(&two, "client", "10.40.3.7")?;
        pings(&one, "server", &address_of(&two, "client")?.to_string())?;
        // Reload is a DEL and an ADD of the same container, which asks for its address twice.
        one.run(&["network", "reload", "server"])?;
        pings(&two, "client", "10.40.3.7")?;
        one.run(&["rm", "--force", "--time", "0", "server"])?;
        two.run(&["rm", "--force", "--time", "0", "client"])?;
        for host in lab.hosts() {
            same("attached", &attached(host)?.len(), &0)?;
            same("ports", &ports(host)?, &0)?;
        }
        Ok(())
    });
}

#[test]
fn named_container_keeps_its_place_through_restarts() {
    fabric(2, |lab| {
        let (host, podman) = (lab.host(1), Podman::new(lab.host(1))?);
        podman.serve()?;
        podman.run(&[
            "run",
            "--detach",
            "--name",
            "lone",
            "--network",
            "none",
            PODMAN_IMAGE,
            "sleep",
            "1000000",
        ])?;
        let attach = || host.json(&["attach", "lone"]).map(|answer| answer["address"].to_string());
        let address = attach()?;
        let bare = address.trim_matches('"').split('/').next().unwrap_or_default().to_owned();
        let far = lab.host(2).attached()?;
        lab::ping_until_answered(far.ns(), bare.parse()?, SETTLE)?;
        podman.run(&["stop", "--time", "0", "lone"])?;
        let ended = || attached(host).ok()?.is_empty().then_some(());
        lab::until(SETTLE, "a container that ended is not attached", ended)?;
        podman.run(&["start", "lone"])?;
        lab::ping_until_answered(far.ns(), bare.parse()?, SETTLE).context("after podman start")?;
        podman.run(&["rm", "--force", "--time", "0", "lone"])?;
        lab::until(SETTLE, "a removed container is forgotten", ended)?;
        same("ports", &ports(host)?, &0)
    });
}

#[test]
fn published_port_is_reached_from_another_host() {
    fabric(2, |lab| {
        let podman = Podman::new(lab.host(1))?;
        let serve = ["httpd", "-f", "-p", "80", "-h", "/etc"];
        let mut words = vec!["run", "--detach", "--name", "web", "--publish", "18080:80", PODMAN_IMAGE];
        words.extend(serve);
        podman.run(&words)?;
        let target = (IpAddr::V4(lab.host(1).address()), 18080);
        lab::until(SETTLE, "the published port answers", || {
            let asked = lab.host(2).ns().enter(|| TcpStream::connect_timeout(&target.into(), SETTLE).is_ok());
            asked.unwrap_or(false).then_some(())
        })?;
        Ok(())
    });
}

#[test]
fn container_that_ends_while_weaved_is_down_gives_its_address_back() {
    fabric(1, |lab| {
        let (host, podman) = (lab.host(1), Podman::new(lab.host(1))?);
        start(&podman, "goes", &[])?;
        host.kill9()?;
        let failed = podman.attempt(&["run", "--rm", PODMAN_IMAGE, "true"])?;
        same("no container without a router", &failed.success(), &false)?;
        podman.run(&["rm", "--force", "--time", "0", "goes"])?;
        host.start_again()?;
        lab::until(SETTLE, "the container is detached", || {
            (attached(host).ok()?.is_empty() && ports(host).ok()? == 0).then_some(())
        })?;
        start(&podman, "comes", &[])?;
        same("attached", &attached(host)?.len(), &1)
    });
}

fn start(podman: &Podman, name: &str, more: &[&str]) -> Result<()> {
    let mut words = vec!["run", "--detach", "--name", name];
    words.extend_from_slice(more);
    words.extend([PODMAN_IMAGE, "sleep", "600"]);
    podman.run(&words).map(drop)
}

fn address_of(podman: &Podman, name: &str) -> Result<Ipv4Addr> {
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    let address = podman.run(&["inspect", "--format", format, name])?;
    address.parse().with_context(|| format!("not an address: `{address}`"))
}

fn pings(podman: &Podman, name: &str, address: &str) -> Result<()> {
    lab::until(SETTLE, "the other container answers", || {
        let output = podman.attempt(&["exec", name, "ping", "-c", "1", "-W", "1", address]);
        output.is_ok_and(|output| output.success()).then_some(())
    })
    .map(drop)
}
