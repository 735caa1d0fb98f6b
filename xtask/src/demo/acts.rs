//! What is shown, in order. Each act claims something and proves it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use lab::{Capture, Container, Flow, Host, Iperf, Lab, Ping, payload, ping_until_answered, until};

use crate::demo::http::Server;
use crate::demo::story::Story;

/// Size of the document: enough for thousands of packets, quick to search for.
const DOCUMENT: usize = 4 << 20;

/// Stands in the document again and again; whoever sees it on the wire reads along.
const SECRET: &[u8] = b"THE-TREASURE-IS-UNDER-THE-OLD-OAK";

/// Said unsealed on purpose.
const LOUD: &[u8] = b"THIS-IS-SAID-ALOUD-SO-THAT-THE-EAR-IS-PROVED";

/// How long a restarted router may take until its containers are reached again.
const RECOVERY: Duration = Duration::from_secs(15);

/// Plays all acts. Errors are those after which there is nothing more to show.
pub(crate) fn play(lab: &Lab, story: &mut Story<'_>) -> Result<Vec<Container>> {
    for host in lab.hosts() {
        story.ui.say(format!("{}  {}  {}", host.nickname(), host.address(), host.address6()));
    }
    form(lab, story)?;
    let containers = attach(lab, story)?;
    story.ui.chapter("Every container reaches every other");
    reach(&containers, story);
    story.ui.chapter("A web page across hosts, with an ear on the wire");
    transfer(lab, &containers, story);
    story.ui.chapter("iperf3 across hosts, one stream");
    throughput(&containers, story);
    story.ui.chapter("What weavectl says");
    status(lab.host(1), story);
    story.ui.chapter("kill -9 of a router, and its return");
    crash(lab, &containers, story)?;
    Ok(containers)
}

/// `up` on the first host, `join` on the others.
fn form(lab: &Lab, story: &mut Story<'_>) -> Result<()> {
    story.ui.chapter("A fabric");
    lab.start_all(&[]).context("cannot start the routers")?;
    story.ui.command("weavectl up                       # on h1");
    let token = lab.host(1).up(&[])?;
    let short: String = token.chars().take(24).collect();
    let start = Instant::now();
    for host in &lab.hosts()[1..] {
        story.ui.command(format!("weavectl join {short}…   # on {}", host.nickname()));
        host.join(&token)?;
    }
    story.claim("every router knows every other", || {
        lab.wait_complete()?;
        Ok(format!("{:.2} s after the first join", start.elapsed().as_secs_f64()))
    });
    Ok(())
}

/// Two containers a host by the CNI plugin.
fn attach(lab: &Lab, story: &mut Story<'_>) -> Result<Vec<Container>> {
    story.ui.chapter("Two containers a host, attached by the CNI plugin");
    story.ui.command("CNI_COMMAND=ADD CNI_NETNS=/run/netns/… weave-cni < network.json");
    let mut containers = Vec::new();
    for host in lab.hosts() {
        for _ in 0..2 {
            let mut container = host.container()?;
            let added = container.cni_add()?;
            story.ui.say(format!(
                "{}  {:<14} {:<30} ADD took {:.1} ms",
                container.id(),
                container.ipv4()?,
                container.ipv6()?,
                added.elapsed.as_secs_f64() * 1e3
            ));
            containers.push(container);
        }
    }
    story.claim("no address was given twice", || {
        let mut seen = BTreeMap::new();
        for container in &containers {
            for address in container.addresses()? {
                if let Some(other) = seen.insert(address, container.id()) {
                    bail!("{address} belongs to {other} and to {}", container.id());
                }
            }
        }
        Ok(format!("{} addresses", seen.len()))
    });
    Ok(containers)
}

/// All pairs, both families, one thread for each sender.
fn reach(containers: &[Container], story: &mut Story<'_>) {
    for (family, pick) in [("IPv4", 0), ("IPv6", 1)] {
        story.claim(&format!("ping over {family}"), || {
            let answered: Result<usize> = thread::scope(|scope| {
                let senders: Vec<_> = containers
                    .iter()
                    .map(|from| scope.spawn(move || ping_all(from, containers, pick)))
                    .collect();
                senders
                    .into_iter()
                    .map(|sender| sender.join().map_err(|_| anyhow!("a sender panicked"))?)
                    .sum()
            });
            Ok(format!("{} of {} pairs", answered?, containers.len() * (containers.len() - 1)))
        });
    }
}

/// From one container to all others. The first packet may meet a router that has just heard of the container.
fn ping_all(from: &Container, containers: &[Container], pick: usize) -> Result<usize> {
    let others = containers.iter().filter(|to| to.id() != from.id());
    let mut answered = 0;
    for to in others {
        ping_until_answered(from.ns(), to.addresses()?[pick], Duration::from_secs(5))?;
        Ping::once().expect_all(from.ns(), to.addresses()?[pick])?;
        answered += 1;
    }
    Ok(answered)
}

/// HTTP from h1 to h2 while all ports of the switch are listened to.
fn transfer(lab: &Lab, containers: &[Container], story: &mut Story<'_>) {
    let (server, client) = (&containers[0], &containers[2]);
    let document = Arc::new(document());
    let captured = (|| {
        let served = Server::start(server.ns(), IpAddr::V4(server.ipv4()?), Arc::clone(&document))?;
        story.ui.command(format!("curl {}              # in {}", served.url(), client.id()));
        let capture = Capture::start(lab.wire()?.switch())?;
        let start = Instant::now();
        let body = served.fetch(client.ns())?;
        let elapsed = start.elapsed();
        shout(lab)?;
        let captured = capture.stop()?;
        Ok::<_, anyhow::Error>((body, elapsed, captured))
    })();
    match captured {
        Ok((body, elapsed, captured)) => {
            story.claim("the page arrived as it was sent", || match body == *document {
                true => Ok(format!("{} KiB in {:.0} ms", body.len() >> 10, elapsed.as_secs_f64() * 1e3)),
                false => bail!("other bytes arrived"),
            });
            story.claim("the wire carried it, and showed nothing of it", || {
                if captured.bytes.len() < document.len() || captured.count(LOUD) == 0 {
                    bail!("the capture is incomplete: {} bytes", captured.bytes.len());
                }
                match captured.count(SECRET) {
                    0 => {}
                    found => bail!("the plaintext was seen {found} times"),
                }
                Ok(format!("{} frames, {} KiB searched", captured.frames, captured.bytes.len() >> 10))
            });
        }
        Err(error) => story.claim("a web page is transferred", || Err(error)),
    }
}

/// The document: the secret between bytes that are not compressible.
fn document() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(DOCUMENT);
    for block in payload(1, DOCUMENT).chunks(1024 - SECRET.len()) {
        bytes.extend_from_slice(block);
        bytes.extend_from_slice(SECRET);
    }
    bytes
}

/// Sends a mark unsealed from host to host, so that the capture has something to find.
fn shout(lab: &Lab) -> Result<()> {
    let target = SocketAddr::new(IpAddr::V4(lab.host(2).address()), 9);
    let socket = lab.host(1).ns().enter(|| UdpSocket::bind("0.0.0.0:0"))?.context("cannot bind")?;
    socket.send_to(LOUD, target).map(drop).context("cannot send")
}

fn throughput(containers: &[Container], story: &mut Story<'_>) {
    let (server, client) = (&containers[2], &containers[0]);
    story.claim("TCP from h1 to h2", || {
        let address = IpAddr::V4(server.ipv4()?);
        story.ui.command(format!("iperf3 -c {address}              # in {}", client.id()));
        let measured = Iperf { seconds: 3, streams: 1 }.run(client.ns(), server.ns(), address)?;
        if measured.bits_per_second <= 0.0 {
            bail!("nothing came through");
        }
        Ok(format!(
            "{:.2} Gbit/s, {} segments sent again",
            measured.bits_per_second / 1e9,
            measured.retransmits
        ))
    });
}

fn status(host: &Host, story: &mut Story<'_>) {
    story.ui.command(format!("weavectl status                   # on {}", host.nickname()));
    story.claim("status ends in a verdict", || {
        let output = host.weavectl(&["status"])?;
        story.ui.quote(&output.stdout);
        match output.success() {
            true => Ok(String::new()),
            false => bail!("{}", output.text().trim()),
        }
    });
}

/// The router of h2 dies and returns while a container of h1 talks to one of h3.
fn crash(lab: &Lab, containers: &[Container], story: &mut Story<'_>) -> Result<()> {
    let (one, two, three) = (&containers[0], &containers[2], &containers[4]);
    let victim = lab.host(2);
    let before = addresses(victim)?;
    let flow = Flow::start(one.ns(), three.ns(), IpAddr::V4(three.ipv4()?))?;
    until(Duration::from_secs(5), "the connection is in use", || (flow.rounds() > 10).then_some(()))?;
    story
        .ui
        .command(format!("kill -9 {}                      # weaved of h2", victim.pid().unwrap_or_default()));
    victim.kill9()?;
    let at_crash = flow.rounds();
    until(Duration::from_secs(5), "the connection goes on", || {
        (flow.rounds() > at_crash + 50).then_some(())
    })?;
    story.ui.command("weaved …                          # on h2, the same state directory");
    let start = Instant::now();
    victim.start_again()?;
    story.claim("h2 has the addresses that it had", || {
        let after = addresses(victim)?;
        match after == before {
            true => Ok(after.join(", ")),
            false => bail!("got {after:?}, want {before:?}"),
        }
    });
    story.claim("its containers are reached again", || {
        for container in [two, &containers[3]] {
            ping_until_answered(one.ns(), IpAddr::V4(container.ipv4()?), RECOVERY)?;
        }
        Ok(format!("{:.2} s after the start", start.elapsed().as_secs_f64()))
    });
    story.claim("the connection between h1 and h3 lived through it", || {
        let report = flow.stop()?;
        let stall = report.longest_stall.as_secs_f64() * 1e3;
        Ok(format!("{} round trips, the longest {stall:.0} ms", report.rounds))
    });
    Ok(())
}

/// Containers and addresses of a host as its router tells them.
fn addresses(host: &Host) -> Result<Vec<String>> {
    let listed = host.json(&["ps"])?;
    let listed =
        listed.as_array().with_context(|| format!("`weavectl --json ps` answered no list: {listed}"))?;
    let mut found: Vec<String> = listed
        .iter()
        .map(|one| {
            format!("{} {}", one["container"].as_str().unwrap_or("?"), one["address"].as_str().unwrap_or("?"))
        })
        .collect();
    found.sort();
    Ok(found)
}
