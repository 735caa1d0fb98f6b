//! Containers' lives on the fabric, as a person at the command line has them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::{Dockerd, IMAGE, Lab, until};

use super::support::{address, dockers, explained, fabric, network, pings, reaches, start};
use crate::support::{SETTLE, attached, hosts, leases, same};

/// Longest wait for Docker to start a container again.
const RESTART: Duration = Duration::from_secs(30);

#[test]
fn containers_of_two_hosts_talk_and_leave_nothing() {
    dockers(2, |lab, dockers| {
        for docker in dockers {
            network(docker, "fabric", &[])?;
        }
        let one = start(&dockers[0], "one", "fabric", &[])?;
        let two = start(&dockers[1], "two", "fabric", &[])?;
        reaches(&dockers[0], "one", &two.to_string())?;
        reaches(&dockers[1], "two", &one.to_string())?;
        let cni = lab.host(1).attached()?;
        reaches(&dockers[1], "two", &cni.ipv4()?.to_string()).context("to a container of CNI")?;
        serve_page(&dockers[1], "two")?;
        let page =
            dockers[0].docker(&["exec", "one", "wget", "-q", "-O", "-", &format!("http://{two}/page")])?;
        same("page", &page.as_str(), &"from two")?;
        let multicast = dockers[0].docker(&["exec", "one", "ip", "route", "get", "239.1.2.3"])?;
        same("multicast goes into the fabric", &multicast.contains("ethwe0"), &true)?;
        names(&dockers[0])?;
        for (docker, name) in [(&dockers[0], "one"), (&dockers[1], "two")] {
            docker.docker(&["rm", "--force", name])?;
            docker.docker(&["network", "rm", "fabric"])?;
        }
        drop(cni);
        for host in lab.hosts() {
            nothing_of_docker(host)?;
        }
        Ok(())
    });
}

#[test]
fn wishes_for_addresses_are_granted() {
    dockers(1, |lab, dockers| {
        let docker = &dockers[0];
        network(
            docker,
            "wishes",
            &["--subnet", "10.32.5.0/24", "--ip-range", "10.32.5.64/26", "--gateway", "10.32.5.65"],
        )?;
        let by_itself = start(docker, "by-itself", "wishes", &[])?;
        same("within --ip-range", &(64..128).contains(&by_itself.octets()[3]), &true)?;
        same("not the gateway", &(by_itself.octets()[3] == 65), &false)?;
        let mac = "02:00:00:00:00:77";
        let fixed = start(docker, "fixed", "wishes", &["--ip", "10.32.5.9", "--mac-address", mac])?;
        same("--ip", &fixed.to_string().as_str(), &"10.32.5.9")?;
        let link = docker.docker(&["exec", "fixed", "ip", "link", "show", "ethwe0"])?;
        same("--mac-address", &link.contains(mac), &true)?;
        reaches(docker, "by-itself", "10.32.5.9")?;
        let again =
            docker.try_docker(&["run", "--rm", "--network", "wishes", "--ip", "10.32.5.9", IMAGE, "ls"])?;
        same("--ip of somebody else", &again.success(), &false)?;
        same("says so", &again.text().contains("10.32.5.9 is in use"), &true).context(again.text())?;
        reaches(docker, "by-itself", "10.32.5.9").context("after somebody else wanted its address")?;
        // The same address at once, for a container that takes another's place.
        docker.docker(&["rm", "--force", "fixed"])?;
        start(docker, "heir", "wishes", &["--ip", "10.32.5.9", "--mac-address", mac])?;
        reaches(docker, "by-itself", "10.32.5.9")?;
        for (wish, says) in [
            (["--subnet", "172.20.0.0/16"], "type --subnet 10.32.5.0/24"),
            (["--subnet", "10.32.5.0/31"], "no room for containers"),
        ] {
            let refused = network(docker, "refused", &wish).expect_err("must be refused").to_string();
            same(says, &refused.contains(says), &true).context(refused)?;
        }
        let lazy = docker.try_docker(&["network", "create", "--driver", "weave", "lazy"])?.text();
        same("without --ipam-driver", &lazy.contains("type --ipam-driver weave"), &true).context(lazy)?;
        docker.docker(&["rm", "--force", "heir", "by-itself"])?;
        docker.docker(&["network", "rm", "wishes"])?;
        nothing_of_docker(lab.host(1))
    });
}

#[test]
fn ports_are_published_and_networks_joined_and_left() {
    dockers(2, |lab, dockers| {
        for docker in dockers {
            network(docker, "fabric", &["--subnet", "10.32.0.0/12"])?;
        }
        let docker = &dockers[0];
        start(docker, "shop", "fabric", &["--publish", "8081:80"])?;
        serve_page(docker, "shop")?;
        // From another host of the underlay, which knows nothing of the fabric's addresses.
        let shop = SocketAddr::from((lab.host(1).address(), 8081));
        let page =
            until(SETTLE, "the published port answers", || lab.host(2).ns().enter(|| page(shop)).ok()?.ok())?;
        same("published page", &page.0.ends_with("from shop\n"), &true).context(page.0)?;
        docker.docker(&["network", "create", "plain"])?;
        start(docker, "guest", "plain", &[])?;
        let peer = start(&dockers[1], "peer", "fabric", &[])?.to_string();
        docker.docker(&["network", "connect", "fabric", "guest"])?;
        reaches(docker, "guest", &peer)?;
        docker.docker(&["network", "disconnect", "fabric", "guest"])?;
        same("answers after disconnect", &pings(docker, "guest", &peer)?, &false)?;
        docker.docker(&["network", "connect", "--ip", "10.32.7.7", "fabric", "guest"])?;
        reaches(&dockers[1], "peer", "10.32.7.7")?;
        docker.docker(&["restart", "--time", "0", "guest"])?;
        reaches(&dockers[1], "peer", "10.32.7.7").context("after docker restart")
    });
}

#[test]
fn subnets_ipv6_and_internal_networks() {
    dockers(2, |_, dockers| {
        let mut seen = Vec::new();
        for docker in dockers {
            network(docker, "red", &["--subnet", "10.32.5.0/24", "--ipv6"])?;
            network(docker, "blue", &["--subnet", "10.32.6.0/24", "--internal"])?;
            let host = docker.host().nickname();
            seen.push((
                start(docker, &format!("red-{host}"), "red", &[])?,
                start(docker, &format!("blue-{host}"), "blue", &[])?,
            ));
        }
        let (near, far) = (&dockers[0], &seen[1]);
        reaches(near, "red-h1", &far.0.to_string())?;
        reaches(near, "blue-h1", &far.1.to_string())?;
        let six = dockers[1].docker(&[
            "inspect",
            "--format",
            "{{.NetworkSettings.Networks.red.GlobalIPv6Address}}",
            "red-h2",
        ])?;
        same(
            "IPv6 embeds IPv4",
            &six.ends_with(&format!("::{:x}:{:x}", 0x0a20, u16::from_be_bytes([5, far.0.octets()[3]]))),
            &true,
        )?;
        reaches(near, "red-h1", &six)?;
        for (from, to) in
            [("red-h1", far.1), ("red-h1", seen[0].1), ("blue-h1", far.0), ("blue-h1", seen[0].0)]
        {
            same(
                &format!("{from} reaches {to} of another subnet"),
                &pings(near, from, &to.to_string())?,
                &false,
            )?;
        }
        // Out of the fabric: by Docker's own gateway, but not from an internal network.
        reaches(near, "red-h1", "10.77.0.254")?;
        same("internal network reaches outside", &pings(near, "blue-h1", "10.77.0.254")?, &false)
    });
}

#[test]
fn setup_makes_the_network_once() {
    dockers(2, |lab, dockers| {
        for (host, docker) in lab.hosts().iter().zip(dockers) {
            let socket = docker.socket().display().to_string();
            let setup = |more: &[&str]| {
                host.weavectl(&[&["setup", "docker", "--docker-socket", &socket], more].concat())
            };
            let made = setup(&[])?;
            same("says", &made.stdout.starts_with("made network `weave` of 10.32.0.0/12"), &true)
                .context(made.text())?;
            let again = setup(&[])?;
            same("again", &again.stdout.starts_with("is there: network"), &true).context(again.text())?;
            let other = setup(&["--subnet", "10.32.5.0/24"])?;
            same("another subnet under the same name", &other.code, &Some(8)).context(other.text())?;
            let outside = setup(&["--network", "outside", "--subnet", "192.168.5.0/24"])?;
            same("a subnet outside", &outside.code, &Some(2)).context(outside.text())?;
            let driver = setup(&["--network", "other", "--driver", "no-such-driver"])?;
            same("no such driver", &driver.code, &Some(7)).context(driver.text())?;
            let both = setup(&["--network", "both", "--ipv6", "--internal", "--subnet", "10.32.6.0/24"])?;
            same("with IPv6", &both.success(), &true).context(both.text())?;
            start(docker, "one", "weave", &[])?;
        }
        reaches(&dockers[0], "one", &address(&dockers[1], "one", "weave")?.to_string())?;
        dockers[1].stop()?;
        let socket = dockers[1].socket().display().to_string();
        let away = lab.host(2).weavectl(&["setup", "docker", "--docker-socket", &socket])?;
        same("without Docker", &away.code, &Some(3)).context(away.text())
    });
}

#[test]
fn docker_may_come_last_and_go_first() {
    hosts(2, |lab| {
        let dockers: Vec<Dockerd> = lab.hosts().iter().map(Dockerd::prepare).collect::<Result<_>>()?;
        fabric(lab)?;
        let cni = (lab.host(1).attached()?, lab.host(1).attached()?);
        explained(&dockers, come_and_go(lab, &dockers))?;
        crate::support::reaches(&cni.0, &cni.1).context("containers of CNI beside Docker")
    });
}

fn come_and_go(lab: &Lab, dockers: &[Dockerd]) -> Result<()> {
    for docker in dockers {
        docker.start()?;
        docker.import()?;
        // Without --subnet Docker refuses the range of a host that takes part in it: it has a route there.
        if docker.host().index() == 1 {
            let refused = network(docker, "fabric", &[]).expect_err("must be refused").to_string();
            same("says what to type", &refused.contains("type --subnet 10.32.0.0/12"), &true)
                .context(refused)?;
        }
        network(docker, "fabric", &["--subnet", "10.32.0.0/12"])?;
        start(docker, "always", "fabric", &["--restart", "always"])?;
        start(docker, "beside", "fabric", &[])?;
    }
    let far = address(&dockers[1], "always", "fabric")?.to_string();
    let docker = &dockers[0];
    reaches(docker, "always", &far)?;
    let beside = address(docker, "beside", "fabric")?.to_string();
    reaches(docker, "always", &beside).context("on one host, after Docker dropped what is forwarded")?;
    // The router dies and comes back: nobody notices on the host, and across hosts it goes on.
    lab.host(1).kill9()?;
    reaches(docker, "always", &beside).context("without a router")?;
    lab.host(1).start_again()?;
    reaches(docker, "always", &far).context("after the router's restart")?;
    start(docker, "later", "fabric", &[])?;
    reaches(docker, "later", &far)?;
    // Docker dies and comes back: it takes down what it finds and starts what is always there.
    docker.kill9()?;
    docker.start()?;
    running(docker, "always")?;
    reaches(docker, "always", &far).context("after Docker's crash")?;
    // Both, the router while Docker is away.
    docker.stop()?;
    lab.host(1).kill9()?;
    lab.host(1).start_again()?;
    docker.start()?;
    running(docker, "always")?;
    reaches(docker, "always", &far).context("after both were away")?;
    // Docker while the router is away: it waits for the plugin and goes on.
    docker.kill9()?;
    lab.host(1).kill9()?;
    lab.host(1).spawn_weaved()?;
    docker.start()?;
    running(docker, "always")?;
    let now = address(docker, "always", "fabric")?.to_string();
    reaches(&dockers[1], "always", &now).context("after both crashed")?;
    for name in ["always", "beside", "later"] {
        docker.docker(&["rm", "--force", name])?;
    }
    docker.docker(&["network", "rm", "fabric"])?;
    same(
        "what is attached for Docker",
        &attached(lab.host(1))?.iter().filter(|(id, _)| id.len() == 64).count(),
        &0,
    )
}

/// A page that says whose it is.
fn serve_page(docker: &Dockerd, name: &str) -> Result<()> {
    let line = format!("mkdir -p /tmp/www && echo from {name} > /tmp/www/page && httpd -p 80 -h /tmp/www");
    docker.docker(&["exec", name, "sh", "-c", &line.replace("mkdir -p", "/bin/busybox mkdir -p")]).map(drop)
}

/// Fetches the page as a browser would.
fn page(at: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"GET /page HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Docker's own names work beside the fabric, and so does its way out.
fn names(docker: &Dockerd) -> Result<()> {
    start(docker, "named", "fabric", &["--network-alias", "alias"])?;
    for name in ["named", "alias"] {
        reaches(docker, "one", name)?;
    }
    reaches(docker, "one", "10.77.0.254")?;
    docker.docker(&["rm", "--force", "named"]).map(drop)
}

/// Waits until a container runs, with an address.
fn running(docker: &Dockerd, name: &str) -> Result<()> {
    let runs = || {
        let state = docker.docker(&["inspect", "--format", "{{.State.Running}}", name]).ok()?;
        (state == "true" && address(docker, name, "fabric").is_ok()).then_some(())
    };
    until(RESTART, "Docker started the container again", runs).map(drop)
}

/// Neither addresses nor interfaces nor records are left of Docker's.
pub(crate) fn nothing_of_docker(host: &lab::Host) -> Result<()> {
    let ipam = host.json(&["status", "ipam"])?;
    let left = ipam["leases"].as_array().context("no leases")?;
    if let Some(lease) = left.iter().find(|lease| lease.to_string().contains("docker:")) {
        bail!("{} has {lease} left of {} leases", host.nickname(), leases(host)?.len());
    }
    let attached = attached(host)?;
    same("attachments of Docker's", &attached.iter().filter(|(id, _)| id.len() == 64).count(), &0)?;
    let links = host.ns().ip("-o link")?.stdout;
    same("interfaces that nobody fetched", &links.contains(" vd"), &false).context(links)
}
