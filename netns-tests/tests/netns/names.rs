//! Names of the fabric, as containers ask for them.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lab::{
    Container, ELSEWHERE, Host, Kind, Lab, NAMESERVER, NameServer, Named, NetNs, Transport, ask_name, until,
};
use serde_json::Value;

use crate::support::{SETTLE, fabric, fabric_alone, fabric_of, figure, hosts, same};

/// A name is known on other hosts after this long.
const KNOWN: Duration = Duration::from_secs(1);
/// And is not there any more so long after its container.
const GONE: Duration = Duration::from_secs(2);
/// And so long after its host.
const GONE_WITH_HOST: Duration = Duration::from_secs(20);

fn ask(from: &NetNs, name: &str, kind: Kind) -> Result<Named> {
    ask_name(from, NAMESERVER, name, kind, Transport::Udp)
}

fn addresses(from: &NetNs, name: &str) -> Result<Vec<IpAddr>> {
    let mut found = ask(from, name, Kind::A)?.addresses;
    found.sort();
    Ok(found)
}

/// A container that a pod's name was given for.
fn pod(host: &Host, name: &str) -> Result<Container> {
    let mut container = host.container()?;
    let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=team;K8S_POD_NAME={name}");
    container.cni_add_with(&args)?;
    Ok(container)
}

/// Waits until a name has these addresses.
fn becomes(from: &NetNs, name: &str, want: &[IpAddr], limit: Duration) -> Result<Duration> {
    let mut want = want.to_vec();
    want.sort();
    let mut last = Ok(Vec::new());
    let waited = until(limit, &format!("{name} is {want:?}"), || {
        last = addresses(from, name);
        last.as_ref().is_ok_and(|found| *found == want).then_some(())
    });
    waited.map(|(_, time)| time).with_context(|| format!("at last: {last:?}"))
}

#[test]
fn containers_find_each_other_across_hosts() {
    fabric(2, |lab| {
        let (web, client) = (pod(lab.host(1), "web")?, pod(lab.host(2), "client")?);
        let ns = client.ns();
        becomes(ns, "web.team.weave.local", &[web.ipv4()?.into()], SETTLE)?;
        let answer = ask(ns, "Web.TEAM.weave.LOCAL", Kind::A)?;
        same("answer", &(answer.code, answer.authoritative, answer.ttl), &(0, true, Some(1)))?;
        same("IPv6", &ask(ns, "web.team.weave.local", Kind::Aaaa)?.addresses, &vec![web.ipv6()?.into()])?;
        let backwards = reverse(web.ipv4()?.into());
        same("PTR", &ask(ns, &backwards, Kind::Ptr)?.names, &vec!["web.team.weave.local".to_owned()])?;
        let backwards = reverse(web.ipv6()?.into());
        same(
            "PTR of IPv6",
            &ask(ns, &backwards, Kind::Ptr)?.names,
            &vec!["web.team.weave.local".to_owned()],
        )?;
        let without = ask(ns, "web.team.weave.local", Kind::Mx)?;
        same("no data", &(without.code, without.addresses.len(), without.authorities), &(0, 0, 1))?;
        same("above a name", &ask(ns, "team.weave.local", Kind::A)?.code, &0)?;
        let nobody = ask(ns, "nobody.weave.local", Kind::A)?;
        same("no such name", &(nobody.code, nobody.authorities, nobody.authoritative), &(3, 1, true))?;
        same("no such address", &ask(ns, "1.2.44.10.in-addr.arpa", Kind::Ptr)?.code, &3)?;
        // The host asks at the same address as its containers.
        same("host", &addresses(lab.host(2).ns(), "web.team.weave.local")?, &vec![web.ipv4()?.into()])?;
        let looked = lab.host(2).json(&["dns", "lookup", "web.team"])?;
        same("lookup", &looked["addresses"][0], &Value::from(web.ipv4()?.to_string()))?;
        same("from", &looked["entries"][0]["nickname"], &Value::from("h1"))?;
        one_host_answers(&client, lab)
    });
}

/// Every host has the nameserver's address: a container must be answered by its own, and ask no other.
fn one_host_answers(client: &Container, lab: &Lab) -> Result<()> {
    let questions = |host: &Host| -> Result<u64> {
        let counts = host.json(&["status", "dns"])?["summary"]["questions"].clone();
        let counts = counts.as_array().into_iter().flatten().filter_map(|one| one["count"].as_u64());
        Ok(counts.sum())
    };
    let before = (questions(lab.host(1))?, questions(lab.host(2))?);
    client.ns().ip("neigh flush all")?;
    for _ in 0..20 {
        ask(client.ns(), "web.team.weave.local", Kind::A)?;
    }
    let after = (questions(lab.host(1))?, questions(lab.host(2))?);
    same("questions", &after, &(before.0, before.1 + 20))
}

#[test]
fn one_name_of_several_hosts_comes_in_rotation() {
    fabric(3, |lab| {
        let all: Vec<Container> = lab.hosts().iter().map(|host| pod(host, "web")).collect::<Result<_>>()?;
        let every: Vec<IpAddr> = all.iter().map(|c| c.ipv4().map(IpAddr::from)).collect::<Result<_>>()?;
        let ns = all[0].ns();
        becomes(ns, "web.team.weave.local", &every, SETTLE)?;
        let mut firsts = Vec::new();
        for _ in 0..60 {
            firsts.extend(ask(ns, "web.team.weave.local", Kind::A)?.addresses.first().copied());
        }
        firsts.sort();
        firsts.dedup();
        same("each is first for somebody", &firsts.len(), &3)
    });
}

#[test]
fn long_answers_are_cut_and_come_whole_by_tcp() {
    fabric(3, |lab| {
        let client = lab.host(1).attached()?;
        for host in lab.hosts() {
            // Sixteen addresses fit a record; a name has as many records as hosts say it.
            let addresses: Vec<String> = (0..16).map(|n| format!("fd99::{}:{n:x}", host.index())).collect();
            let mut words = vec!["dns", "add", "many"];
            words.extend(addresses.iter().map(String::as_str));
            host.json(&words)?;
        }
        let by = |transport| ask_name(client.ns(), NAMESERVER, "many.weave.local", Kind::Aaaa, transport);
        let whole = || (by(Transport::Tcp).ok()?.addresses.len() == 48).then_some(());
        until(SETTLE, "all hosts are heard", whole)?;
        same("not cut", &by(Transport::Tcp)?.cut, &false)?;
        for (transport, limit) in
            [(Transport::Udp, 512), (Transport::UdpUpTo(800), 800), (Transport::UdpUpTo(4096), 1232)]
        {
            let part = by(transport)?;
            // An address takes 28 bytes, the question and the OPT record some 50.
            let fits = (limit - 50) / 28;
            same(
                "cut",
                &(part.cut, part.addresses.len() >= fits - 1, part.addresses.len() <= fits + 1),
                &(true, true, true),
            )
            .context(format!("{transport:?}: {}", part.addresses.len()))?;
        }
        Ok(())
    });
}

#[test]
fn names_added_by_hand_live_with_their_host() {
    fabric(2, |lab| {
        let (one, two) = (lab.host(1), lab.host(2));
        let client = two.attached()?;
        one.json(&["dns", "add", "db", "192.0.2.7", "2001:db8::7"])?;
        becomes(client.ns(), "db.weave.local", &["192.0.2.7".parse()?], SETTLE)?;
        let added = one.json(&["dns", "add", "DB.weave.local.", "192.0.2.8"])?;
        same("added", &added["addresses"].as_array().map(Vec::len), &Some(3))?;
        let both = ["192.0.2.7".parse()?, "192.0.2.8".parse()?];
        becomes(client.ns(), "db.weave.local", &both, SETTLE)?;
        let refused = two.weavectl(&["dns", "remove", "db"])?;
        same("not there", &refused.text().contains("comes from h1"), &true).context(refused.text())?;
        one.kill9()?;
        one.start_again()?;
        lab.wait_complete()?;
        becomes(client.ns(), "db.weave.local", &both, SETTLE).context("after a crash")?;
        one.json(&["dns", "remove", "db", "192.0.2.7"])?;
        becomes(client.ns(), "db.weave.local", &both[1..], SETTLE)?;
        one.json(&["dns", "remove", "db"])?;
        let gone = || ask(client.ns(), "db.weave.local", Kind::A).is_ok_and(|a| a.code == 3).then_some(());
        until(SETTLE, "the name is gone", gone)?;
        for wrong in [
            &["dns", "add", "a_b!", "192.0.2.1"][..],
            &["dns", "add", "x.example.", "192.0.2.1"],
            &["dns", "lookup", "nobody"],
        ] {
            same("refused", &two.weavectl(wrong)?.success(), &false)?;
        }
        Ok(())
    });
}

#[test]
fn names_go_with_container_and_host_in_time() {
    fabric_alone(3, |lab| {
        let client = lab.host(2).attached()?;
        let (mut known, mut gone) = (Vec::new(), Vec::new());
        for round in 0..10 {
            let name = format!("round{round}");
            let began = Instant::now();
            let web = pod(lab.host(1), &name)?;
            let full = format!("{name}.team.weave.local");
            becomes(client.ns(), &full, &[web.ipv4()?.into()], KNOWN)?;
            known.push(began.elapsed());
            // Without a DEL: the namespace ends, as when everything of a container is killed.
            let began = Instant::now();
            web.remove()?;
            becomes(client.ns(), &full, &[], GONE)?;
            same("no such name", &ask(client.ns(), &full, Kind::A)?.code, &3)?;
            gone.push(began.elapsed());
        }
        let worst = |all: &[Duration]| all.iter().max().copied().unwrap_or_default();
        figure("name known on another host, from ADD, worst of 10", &format!("{:?}", worst(&known)));
        figure(
            "name gone on another host, from the container's end, worst of 10",
            &format!("{:?}", worst(&gone)),
        );
        let web = pod(lab.host(1), "web")?;
        becomes(client.ns(), "web.team.weave.local", &[web.ipv4()?.into()], KNOWN)?;
        let began = Instant::now();
        lab.host(1).ns().ip("link set eth0 down")?;
        lab.host(1).kill9()?;
        becomes(client.ns(), "web.team.weave.local", &[], GONE_WITH_HOST)?;
        figure("name gone on another host, from the host's death", &format!("{:?}", began.elapsed()));
        Ok(())
    });
}

#[test]
fn container_that_ended_while_its_router_was_down_has_no_name_after_it() {
    fabric(2, |lab| {
        let client = lab.host(2).attached()?;
        let (stays, goes) = (pod(lab.host(1), "stays")?, pod(lab.host(1), "goes")?);
        becomes(client.ns(), "goes.team.weave.local", &[goes.ipv4()?.into()], SETTLE)?;
        lab.host(1).kill9()?;
        goes.remove()?;
        lab.host(1).start_again()?;
        lab.wait_complete()?;
        becomes(client.ns(), "stays.team.weave.local", &[stays.ipv4()?.into()], SETTLE)?;
        becomes(client.ns(), "goes.team.weave.local", &[], GONE).map(drop)
    });
}

#[test]
fn flood_of_questions_keeps_nobody_else_from_answers() {
    fabric(2, |lab| {
        let (web, flooder, client) =
            (pod(lab.host(2), "web")?, lab.host(1).attached()?, lab.host(1).attached()?);
        becomes(client.ns(), "web.team.weave.local", &[web.ipv4()?.into()], SETTLE)?;
        let stop = std::sync::atomic::AtomicBool::new(false);
        let sent = std::thread::scope(|scope| -> Result<u64> {
            let flood = scope.spawn(|| {
                let flooding = flooder.ns().enter(|| {
                    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
                    let mut sent = 0u64;
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        // Names of the world that nobody answers for, each another one.
                        let label = format!("{sent:08x}");
                        let mut bytes = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 8];
                        bytes.extend(label.as_bytes());
                        bytes.extend([4, b't', b'e', b's', b't', 0, 0, 1, 0, 1]);
                        sent += u64::from(socket.send_to(&bytes, ("169.254.67.83", 53)).is_ok());
                    }
                    Ok::<u64, std::io::Error>(sent)
                });
                flooding.map(|sent| sent.unwrap_or_default())
            });
            let asked = || -> Result<()> {
                let mut slowest = Duration::ZERO;
                for _ in 0..100 {
                    let asking = || addresses(client.ns(), "web.team.weave.local").ok();
                    let (found, time) = until(SETTLE, "an answer", asking)?;
                    slowest = slowest.max(time);
                    same("answer", &found, &vec![web.ipv4()?.into()])?;
                }
                figure("answer to another container during a flood, slowest of 100", &format!("{slowest:?}"));
                // The control half is not kept from its work either.
                let alive = lab.host(1).json(&["status"])?["peers"]["alive"].clone();
                same("peers alive", &alive, &Value::from(2))
            };
            let result = asked();
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            let sent = flood.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            result.map(|()| sent)
        })?;
        let counts = lab.host(1).json(&["status", "dns"])?["summary"]["questions"].to_string();
        figure("questions of a flood, and what became of them", &format!("{sent}: {counts}"));
        same("thrown away", &counts.contains("too-often"), &true).context(counts)
    });
}

#[test]
fn other_names_are_asked_of_the_upstream() {
    let upstream = "10.77.0.1";
    fabric_of(&["--dns-upstream", upstream], |lab| {
        let server = NameServer::start(lab.host(1).ns(), upstream.parse()?)?;
        let client = lab.host(2).attached()?;
        let ns = client.ns();
        let asked = |name: &str| ask(ns, name, Kind::A);
        let answer = asked("www.example.com")?;
        same("forwarded", &(answer.code, answer.addresses.as_slice()), &(0, &[ELSEWHERE][..]))?;
        same("not ours", &answer.authoritative, &false)?;
        let before = server.asked();
        for _ in 0..10 {
            same("from the cache", &asked("WWW.example.com")?.addresses, &vec![ELSEWHERE])?;
        }
        same("asked no more", &server.asked(), &before)?;
        let missing = asked("missing.example.com")?;
        same("no such name", &(missing.code, missing.authorities), &(3, 1))?;
        let big = asked("big.example.com")?;
        same("cut", &(big.cut, big.addresses.is_empty()), &(true, false))?;
        let whole = ask_name(ns, NAMESERVER, "big.example.com", Kind::A, Transport::Tcp)?;
        same("whole by TCP", &whole.addresses.len(), &100)?;
        // What is ours is nobody else's business.
        let before = server.asked();
        for name in ["nobody.weave.local", "1.0.47.10.in-addr.arpa"] {
            same("not forwarded", &ask(ns, name, Kind::Ptr)?.code, &3)?;
        }
        same("upstream heard nothing", &server.asked(), &before)?;
        let began = Instant::now();
        same("silent upstream", &asked("silent.example.com")?.code, &2)?;
        same("in time", &(began.elapsed() < Duration::from_secs(6)), &true)?;
        drop(server);
        same("upstream is gone", &asked("www2.example.com")?.code, &2)?;
        same("ours goes on", &asked("ns.weave.local")?.addresses, &vec![NAMESERVER])
    });
}

#[test]
fn taken_port_is_shown_and_hurts_nothing_else() {
    hosts(1, |lab| {
        let host = lab.host(1);
        let squatter = NameServer::start(host.ns(), "0.0.0.0".parse()?)?;
        lab.start_all(&[])?;
        host.up(&[])?;
        let container = host.attached()?;
        let shown = || {
            let status = host.json(&["status"]).ok()?;
            let all = status["problems"].as_array().cloned().unwrap_or_default();
            all.into_iter().find(|problem| problem["code"] == "dns")
        };
        let (problem, _) = until(SETTLE, "the status says so", shown)?;
        let text = problem.to_string();
        same("says why", &(text.contains("169.254.67.83:53") && text.contains("ss -lnp")), &true)
            .context(text)?;
        drop(squatter);
        until(SETTLE, "names are served", || {
            ask(container.ns(), "ns.weave.local", Kind::A).is_ok_and(|a| a.code == 0).then_some(())
        })?;
        same("problem is gone", &shown().is_none(), &true)
    });
}

#[test]
fn without_names_nothing_is_there() {
    fabric_of(&["--no-dns"], |lab| {
        let mut container = lab.host(1).container()?;
        let added = container.cni_add()?;
        same("result", &added.answer["dns"], &serde_json::json!({}))?;
        let routes = container.ns().ip("route show")?.stdout;
        same("no route", &routes.contains("169.254"), &false)?;
        let bridge = lab.host(1).ns().ip("-4 address show dev weave0")?.stdout;
        same("no address", &bridge.contains("169.254"), &false)?;
        same("off", &lab.host(1).json(&["status", "dns"])?["summary"]["state"], &Value::from("off"))
    });
}

#[test]
fn neighbours_of_the_host_are_not_served() {
    hosts(2, |lab| {
        lab.host(1).start_weaved(&[])?;
        lab.host(1).up(&[])?;
        let container = lab.host(1).attached()?;
        same("containers are", &ask(container.ns(), "ns.weave.local", Kind::A)?.code, &0)?;
        // A machine beside the host, which believes that the address is there.
        lab.host(2).ns().ip("route add 169.254.67.83/32 via 10.77.0.1")?;
        let asked = lab.host(2).ns().enter(|| {
            let socket = std::net::UdpSocket::bind("10.77.0.2:0")?;
            socket.set_read_timeout(Some(Duration::from_secs(1)))?;
            socket.send_to(
                &[0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 2, b'n', b's', 0, 0, 1, 0, 1],
                ("169.254.67.83", 53),
            )?;
            socket.recv_from(&mut [0; 512])
        })?;
        same("no answer", &asked.is_err(), &true)
    });
}

/// The name under which an address is asked for.
fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(v6) => {
            let nibbles = v6.octets().into_iter().rev().flat_map(|byte| [byte & 15, byte >> 4]);
            let labels: Vec<String> = nibbles.map(|nibble| format!("{nibble:x}")).collect();
            format!("{}.ip6.arpa", labels.join("."))
        }
    }
}
