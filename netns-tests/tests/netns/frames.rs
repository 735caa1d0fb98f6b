//! One Ethernet segment across hosts: frames that are not plain unicast packets of the usual size.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::{Container, Host, LabConfig, PacketSocket, Ping, payload, transfer, until};

use crate::support::{SETTLE, fabric, fabric_on, one_each, reaches, same};

/// EtherType of IEEE 802.1Q.
const VLAN: [u8; 2] = [0x81, 0x00];

/// An EtherType for experiments (IEEE 802).
const EXPERIMENT: [u8; 2] = [0x88, 0xb5];

#[test]
fn tagged_frames_keep_their_tags() {
    fabric(2, |lab| {
        let containers = one_each(lab)?;
        reaches(&containers[0], &containers[1])?;
        containers[1].ns().nft(
            "table netdev lab {\ncounter tagged { }\nchain in {\ntype filter hook ingress device \"eth0\" priority 0;\n\
             vlan id 5 counter name tagged\n}\n}\n",
        )?;
        let sender = PacketSocket::open(containers[0].ns(), Some("eth0"))?;
        let receiver = PacketSocket::open(containers[1].ns(), Some("eth0"))?;
        // Short ones are padded, long ones fill the MTU: the tag is on top of it.
        for len in [46, 500, 1390] {
            let content = payload(len as u64, len);
            let tag = [&VLAN[..], &[0x00, 0x05], &EXPERIMENT].concat();
            let frame = [&mac(&containers[1])?[..], &mac(&containers[0])?, &tag, &content].concat();
            let before = containers[1].ns().counter("tagged")?;
            sender.send(&frame).context("cannot send a tagged frame")?;
            arrives(&receiver, &content).with_context(|| format!("{len} bytes behind the tag"))?;
            same("counted with its tag", &containers[1].ns().counter("tagged")?, &(before + 1))?;
        }
        Ok(())
    });
}

#[test]
fn protocols_other_than_ip_pass() {
    fabric(2, |lab| {
        let containers = one_each(lab)?;
        reaches(&containers[0], &containers[1])?;
        let sender = PacketSocket::open(containers[0].ns(), Some("eth0"))?;
        let receiver = PacketSocket::open(containers[1].ns(), Some("eth0"))?;
        let content = payload(5, 700);
        let unicast = [&mac(&containers[1])?[..], &mac(&containers[0])?, &EXPERIMENT, &content].concat();
        sender.send(&unicast)?;
        arrives(&receiver, &content).context("unicast")?;
        let content = payload(6, 700);
        let broadcast = [&[0xff; 6][..], &mac(&containers[0])?, &EXPERIMENT, &content].concat();
        sender.send(&broadcast)?;
        arrives(&receiver, &content).context("broadcast")
    });
}

#[test]
fn broadcast_and_multicast_reach_every_container_once() {
    fabric(3, |lab| {
        let mut containers = one_each(lab)?;
        containers.push(lab.host(1).attached()?);
        for to in &containers[1..] {
            reaches(&containers[0], to)?;
        }
        let group4 = Ipv4Addr::new(239, 77, 1, 2);
        let group6 = Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0x77, 0x12);
        for to in [IpAddr::V4(Ipv4Addr::BROADCAST), IpAddr::V4(group4), IpAddr::V6(group6)] {
            delivered_once(&containers, to).with_context(|| format!("sent to {to}"))?;
        }
        Ok(())
    });
}

/// Every container but the first listens, the first sends ten datagrams, each listener hears each of them exactly once.
fn delivered_once(containers: &[Container], to: IpAddr) -> Result<()> {
    let port = 5077;
    let listeners: Vec<UdpSocket> =
        containers[1..].iter().map(|container| listen(container, to, port)).collect::<Result<_>>()?;
    let sender =
        containers[0].ns().enter(|| UdpSocket::bind(SocketAddr::new(any(to), 0)))?.context("cannot bind")?;
    sender.set_broadcast(true).context("cannot allow broadcast")?;
    for number in 0..10u8 {
        sender.send_to(&[number; 100], SocketAddr::new(to, port)).context("cannot send")?;
    }
    for (listener, container) in listeners.iter().zip(&containers[1..]) {
        let mut heard = Vec::new();
        let mut buffer = [0; 200];
        loop {
            match listener.recv(&mut buffer) {
                Ok(100) => heard.push(buffer[0]),
                Ok(len) => bail!("{} heard {len} bytes", container.id()),
                // Silence: whatever comes twice has come by now.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("cannot receive"),
            }
        }
        same(&format!("heard by {}", container.id()), &heard, &(0..10).collect())?;
    }
    Ok(())
}

fn listen(container: &Container, to: IpAddr, port: u16) -> Result<UdpSocket> {
    let index = interface_index(container)?;
    let made = container.ns().enter(|| {
        let socket = UdpSocket::bind(SocketAddr::new(any(to), port))?;
        match to {
            IpAddr::V4(group) if group.is_multicast() => {
                socket.join_multicast_v4(&group, &container.ipv4().unwrap_or(Ipv4Addr::UNSPECIFIED))?;
            }
            IpAddr::V6(group) => socket.join_multicast_v6(&group, index)?,
            IpAddr::V4(_) => {}
        }
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        Ok::<_, std::io::Error>(socket)
    })?;
    made.with_context(|| format!("{} cannot listen for {to}", container.id()))
}

#[test]
fn jumbo_underlay_is_used() {
    fabric_on(LabConfig { mtu: 9000, ..LabConfig::hosts(2) }, |lab| {
        let containers = one_each(lab)?;
        reaches(&containers[0], &containers[1])?;
        let mtu = lab.host(1).json(&["status"])?["mtu"].as_u64().context("no MTU in the status")?;
        same("MTU of containers", &mtu, &8890)?;
        // A packet of exactly the MTU: 28 bytes of it are headers.
        let ping = Ping { size: 8890 - 28, ..Ping::default() };
        ping.expect_all(containers[0].ns(), IpAddr::V4(containers[1].ipv4()?))?;
        let bytes = payload(9, 8 << 20);
        for address in containers[1].addresses()? {
            transfer(containers[0].ns(), containers[1].ns(), address, &bytes)?;
        }
        Ok(())
    });
}

#[test]
fn fragmented_packets_pass_in_both_families() {
    fabric(2, |lab| {
        let containers = one_each(lab)?;
        reaches(&containers[0], &containers[1])?;
        for address in containers[1].addresses()? {
            for size in [1400, 3000, 60_000] {
                let ping = Ping { size, count: 5, ..Ping::default() };
                ping.expect_all(containers[0].ns(), address).with_context(|| format!("{size} bytes"))?;
            }
        }
        Ok(())
    });
}

#[test]
fn interface_hung_on_the_bridge_by_hand_is_found() {
    fabric(2, |lab| {
        // A MAC address and IP addresses that no allocator knows: a virtual machine, say.
        let far = lab.host(2).attached()?;
        far.ns().ip("addr add 192.0.2.2/24 dev eth0")?;
        let stranger = hung_by_hand(lab.host(1), "192.0.2.1/24")?;
        for (from, to) in [(stranger.ns(), [192, 0, 2, 2]), (far.ns(), [192, 0, 2, 1])] {
            lab::ping_until_answered(from, IpAddr::from(to), SETTLE)?;
            Ping::default().expect_all(from, IpAddr::from(to))?;
        }
        Ok(())
    });
}

#[test]
fn interface_taken_off_the_bridge_is_forgotten_everywhere() {
    fabric(2, |lab| {
        let (host, far) = (lab.host(1), lab.host(2).attached()?);
        far.ns().ip("addr add 192.0.2.2/24 dev eth0")?;
        let stranger = hung_by_hand(host, "192.0.2.1/24")?;
        lab::ping_until_answered(far.ns(), IpAddr::from([192, 0, 2, 1]), SETTLE)?;
        let seen = || -> Result<u64> {
            let peers = lab.host(2).json(&["status", "peers"])?;
            let all = peers.as_array().context("no list")?.iter();
            let one = all.into_iter().find(|peer| peer["nickname"] == host.nickname().as_str());
            one.and_then(|peer| peer["endpoints"].as_u64()).context("no such peer")
        };
        same("endpoints while it is there", &seen()?, &1)?;
        host.ns().ip("link del stranger")?;
        drop(stranger);
        // Deleting a device is an event; without one the bridge is looked at every ten seconds.
        let gone = until(2 * SETTLE, "it is forgotten", || (seen().ok()? == 0).then_some(()))?;
        crate::support::figure("forgotten elsewhere after", &format!("{:.1} s", gone.1.as_secs_f64()));
        Ok(())
    });
}

#[test]
fn interface_hung_on_the_bridge_by_hand_may_use_a_free_address_of_the_range() {
    fabric(2, |lab| {
        let far = lab.host(2).attached()?;
        let stranger = hung_by_hand(lab.host(1), "10.47.255.200/12")?;
        let address = IpAddr::V4(far.ipv4()?);
        lab::ping_until_answered(stranger.ns(), address, SETTLE)?;
        Ping::default().expect_all(stranger.ns(), address).map(drop)
    });
}

/// A namespace behind a device that somebody hung on the bridge: its MAC address is no allocator's.
fn hung_by_hand(host: &Host, address: &str) -> Result<Container> {
    let stranger = host.container()?;
    let bridge = host.json(&["status"])?["bridge"].as_str().context("no bridge")?.to_owned();
    let name = stranger.ns().name();
    host.ns().ip(&format!("link add stranger type veth peer name eth0 netns {name}"))?;
    host.ns().ip(&format!("link set stranger mtu 1390 master {bridge} up"))?;
    stranger.ns().ip(&format!("addr add {address} dev eth0"))?;
    stranger.ns().ip("link set eth0 mtu 1390 up")?;
    Ok(stranger)
}

/// Waits for a frame that ends in this content.
fn arrives(receiver: &PacketSocket, content: &[u8]) -> Result<()> {
    let mut frame = vec![0; 1 << 16];
    until(SETTLE, "the frame arrives", || {
        let len = receiver.receive(&mut frame, Duration::from_millis(200)).ok()??;
        frame[..len].windows(content.len()).any(|window| window == content).then_some(())
    })
    .map(drop)
}

fn mac(container: &Container) -> Result<[u8; 6]> {
    let link = link(container)?;
    let text = link["address"].as_str().context("no MAC address")?;
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes.and_then(|bytes| bytes.try_into().ok()).with_context(|| format!("not a MAC address: {text}"))
}

fn interface_index(container: &Container) -> Result<u32> {
    Ok(u32::try_from(link(container)?["ifindex"].as_u64().context("no index")?)?)
}

fn link(container: &Container) -> Result<serde_json::Value> {
    let mut listed: serde_json::Value =
        serde_json::from_str(&container.ns().ip("-j link show eth0")?.stdout)?;
    Ok(listed[0].take())
}

fn any(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}
