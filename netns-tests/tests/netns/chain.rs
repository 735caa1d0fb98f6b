//! The plugin among the reference plugins of Debian: before and after it, below it and above it.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use lab::{Chain, Container, Host, Ping};
use serde_json::{Value, json};

use crate::support::{SETTLE, attached, fabric, leases, ports, same};

/// The newest version that Debian's plugins speak.
const VERSION: &str = "1.0.0";

#[test]
fn host_local_chooses_and_the_fabric_confirms() {
    fabric(2, |lab| {
        let (host, other) = (lab.host(1), lab.host(2).attached()?);
        let container = host.container()?;
        let chain = Chain::new(VERSION, &[host_local(host, "10.40.77.0/24")?]);
        let result = chain.add(&container)?;
        let address = ipv4_of(&result)?;
        same("of the subnet of host-local", &&address.octets()[..3], &&[10, 40, 77][..])?;
        same("leased from the fabric", &leases(host)?.contains(&address), &true)?;
        reaches_both_ways(&container, address, &other)?;
        // Its gateway is nobody's address here, so the way out leads over the bridge.
        Ping::default().expect_all(container.ns(), IpAddr::from([10, 77, 0, 254]))?;
        chain.check(&container, &result)?;
        let again = chain.add(&container);
        same("a second ADD fails", &again.is_err(), &true)?;
        chain.del(&container, &result)?;
        chain.del(&container, &Value::Null)?;
        same("attached", &attached(host)?.len(), &0)?;
        same("reserved by host-local", &reserved(host)?, &Vec::new())
    });
}

/// Two hosts with the same subnet choose the same addresses; one of them has to learn that before a packet is sent.
#[test]
fn address_that_host_local_chose_twice_is_refused_and_given_back() {
    fabric(2, |lab| {
        let (one, two) = (lab.host(1), lab.host(2));
        let (first, second) = (one.container()?, two.container()?);
        let taken = ipv4_of(&Chain::new(VERSION, &[host_local(one, "10.40.77.0/24")?]).add(&first)?)?;
        let chain = Chain::new(VERSION, &[host_local(two, "10.40.77.0/24")?]);
        let error = chain.add(&second).err().context("the same address was had twice")?.to_string();
        same("the address is named", &error.contains(&taken.to_string()), &true).context(error)?;
        same("attached", &attached(two)?.len(), &0)?;
        same("reserved by host-local", &reserved(two)?, &Vec::new())
    });
}

#[test]
fn subnet_beyond_the_range_is_refused_with_the_range() {
    fabric(1, |lab| {
        let (host, container) = (lab.host(1), lab.host(1).container()?);
        let chain = Chain::new(VERSION, &[host_local(host, "192.168.50.0/24")?]);
        let error = chain.add(&container).err().context("an address beyond the range was had")?.to_string();
        same("the range is named", &error.contains("10.32.0.0/12"), &true).context(error)?;
        same("reserved by host-local", &reserved(host)?, &Vec::new())
    });
}

#[test]
fn our_addresses_for_the_reference_bridge() {
    fabric(2, |lab| {
        let host = lab.host(2);
        let bridge = json!({ "type": "bridge", "bridge": "other0", "isGateway": true,
            "ipam": { "type": "weave-ipam", "subnet": "10.44.0.0/24", "gateway": "10.44.0.254", "routes": [{ "dst": "0.0.0.0/0" }] } });
        let chain = Chain::new(VERSION, &[bridge]);
        let (one, two) = (host.container()?, host.container()?);
        let (first, second) = (chain.add(&one)?, chain.add(&two)?);
        let address = ipv4_of(&second)?;
        same("of the subnet", &&address.octets()[..3], &&[10, 44, 0][..])?;
        Ping::default().expect_all(one.ns(), address.into())?;
        let held = |host: &Host| {
            Ok::<_, anyhow::Error>(leases(host)?.iter().filter(|ip| ip.octets()[1] == 44).count())
        };
        same("leased", &held(host)?, &2)?;
        chain.check(&one, &first)?;
        chain.del(&one, &first)?;
        chain.del(&one, &Value::Null)?;
        same("leased", &held(host)?, &1)?;
        host.kill9()?;
        chain.del(&two, &second)?;
        host.start_again()?;
        lab::until(SETTLE, "the address is released", || (held(host).ok()? == 0).then_some(()))?;
        Ok(())
    });
}

/// Debian's plugins do not know GC, so ours is asked alone.
#[test]
fn collection_gives_back_addresses_of_its_own_network_alone() {
    fabric(1, |lab| {
        let host = lab.host(1);
        let ipam = |name: &str| {
            let plugin = json!({ "type": "weave-ipam", "ipam": { "type": "weave-ipam" } });
            Chain { name: name.to_owned(), ..Chain::new("1.1.0", &[plugin]) }
        };
        let (one, two, three) = (host.container()?, host.container()?, host.container()?);
        let kept = ipv4_of(&ipam("blue").add(&one)?)?;
        let goes = ipv4_of(&ipam("blue").add(&two)?)?;
        let foreign = ipv4_of(&ipam("blue-green").add(&three)?)?;
        same("the same again", &ipv4_of(&ipam("blue").add(&one)?)?, &kept)?;
        ipam("blue").gc(host, &[&one])?;
        let left = leases(host)?;
        let found = [kept, goes, foreign].map(|address| left.contains(&address));
        same("kept, collected, of another network", &found, &[true, false, true])
    });
}

#[test]
fn reference_plugins_before_and_after() {
    fabric(2, |lab| {
        let (host, other) = (lab.host(1), lab.host(2).attached()?);
        let container = host.container()?;
        let mut chain = Chain::new(
            VERSION,
            &[
                json!({ "type": "loopback" }),
                json!({ "type": "weave-cni", "capabilities": { "mac": true } }),
                json!({ "type": "tuning", "sysctl": { "net.core.somaxconn": "500" } }),
                json!({ "type": "bandwidth", "capabilities": { "bandwidth": true } }),
                json!({ "type": "firewall", "backend": "iptables" }),
                json!({ "type": "portmap", "capabilities": { "portMappings": true }, "snat": true }),
            ],
        );
        chain.runtime.insert("mac".into(), json!("02:00:00:00:77:01"));
        chain.runtime.insert(
            "portMappings".into(),
            json!([{ "hostPort": 18080, "containerPort": 80, "protocol": "tcp" }]),
        );
        chain.runtime.insert(
            "bandwidth".into(),
            json!({ "ingressRate": 800_000_000, "ingressBurst": 80_000_000, "egressRate": 800_000_000, "egressBurst": 80_000_000 }),
        );
        let result = chain.add(&container)?;
        let address = ipv4_of(&result)?;
        let link = container.ns().ip("link show eth0")?.stdout;
        same("the MAC address", &link.contains("02:00:00:00:77:01"), &true).context(link)?;
        reaches_both_ways(&container, address, &other)?;
        // Not of all: Debian's portmap looks for rules that iptables has written in another form, with any plugin before it.
        Chain::new(VERSION, &[json!({ "type": "weave-cni" })]).check(&container, &result)?;
        published(lab.host(2), host, &container)?;
        chain.del(&container, &result)?;
        same("attached", &attached(host)?.len(), &0)?;
        same("ports", &ports(host)?, &0)
    });
}

/// A server on port 80 of the container is reached on port 18080 of its host, from another host.
fn published(client: &Host, host: &Host, container: &Container) -> Result<()> {
    let server =
        container.ns().enter(|| std::net::TcpListener::bind("0.0.0.0:80"))?.context("cannot listen")?;
    let target = (host.address(), 18080);
    let asked = client.ns().enter(|| {
        std::net::TcpStream::connect_timeout(&target.into(), SETTLE).and_then(|stream| stream.peer_addr())
    })?;
    asked.context("the published port is not reached")?;
    server.accept().context("nobody came through")?;
    Ok(())
}

fn host_local(host: &Host, subnet: &str) -> Result<Value> {
    let data = host.dir().join("host-local");
    let data = data.to_str().context("a path that is not UTF-8")?;
    Ok(json!({ "type": "weave-cni",
        "ipam": { "type": "host-local", "subnet": subnet, "routes": [{ "dst": "0.0.0.0/0" }], "dataDir": data } }))
}

/// The addresses that host-local keeps, which are names of files.
fn reserved(host: &Host) -> Result<Vec<String>> {
    let folder = host.dir().join("host-local/chain");
    let entries = std::fs::read_dir(&folder).with_context(|| format!("no `{}`", folder.display()))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter(|name| name.parse::<Ipv4Addr>().is_ok()).collect())
}

fn ipv4_of(result: &Value) -> Result<Ipv4Addr> {
    let ips = result["ips"].as_array().into_iter().flatten();
    let mut found = ips.filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok());
    found
        .find(|address: &Ipv4Addr| !address.is_loopback())
        .with_context(|| format!("no IPv4 address in {result}"))
}

fn reaches_both_ways(one: &Container, address: Ipv4Addr, other: &Container) -> Result<()> {
    lab::ping_until_answered(one.ns(), other.ipv4()?.into(), SETTLE)?;
    Ping::default().expect_all(one.ns(), other.ipv4()?.into())?;
    Ping::default().expect_all(other.ns(), address.into()).map(drop)
}
