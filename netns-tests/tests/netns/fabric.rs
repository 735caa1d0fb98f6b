//! Forming a fabric: who gets in, how fast, and what is said to those who do not.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use lab::{Host, Lab, Ping, ping_until_answered, until};

use crate::support::{alone, answers, fabric, figure, hosts, one_each, reaches, same};

/// The issue of every sentence about joining: it is felt as immediate.
const JOIN_BAR: Duration = Duration::from_secs(2);

/// A dialler's pause grows to a minute; after one of these it has tried again.
const REDIAL: Duration = Duration::from_secs(75);

/// An answer must come, whether good or bad; nobody waits longer for a prompt.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

#[test]
fn first_ping_across_comes_within_two_seconds_of_join() {
    alone(2, |lab| {
        lab.start_all(&[])?;
        let token = lab.host(1).up(&[])?;
        let one = lab.host(1).attached()?;
        let mut two = lab.host(2).container()?;
        let start = Instant::now();
        lab.host(2).join(&token)?;
        let joined = start.elapsed();
        two.cni_add()?;
        let attached = start.elapsed();
        ping_until_answered(two.ns(), IpAddr::V4(one.ipv4()?), Duration::from_secs(10))?;
        let pinged = start.elapsed();
        figure("join to first ping", &format!("{pinged:.2?} (joined {joined:.2?}, attached {attached:.2?})"));
        match pinged <= JOIN_BAR {
            true => Ok(()),
            false => bail!("got {pinged:?} from join to first ping, want at most {JOIN_BAR:?}"),
        }
    });
}

#[test]
fn all_containers_reach_each_other_over_both_families() {
    fabric(3, |lab| {
        let mut containers = one_each(lab)?;
        containers.extend(one_each(lab)?);
        for from in &containers {
            for to in containers.iter().filter(|to| to.id() != from.id()) {
                reaches(from, to)?;
            }
        }
        Ok(())
    });
}

#[test]
fn joining_twice_changes_nothing() {
    fabric(2, |lab| {
        let token = lab.host(1).json(&["token"])?["token"].as_str().context("no token")?.to_owned();
        let again = lab.host(2).join(&token)?;
        same("second join", &again["changed"], &false.into())?;
        let again = lab.host(1).json(&["up"])?;
        same("second up", &again["changed"], &false.into())
    });
}

#[test]
fn token_that_is_none_is_refused_with_words() {
    hosts(1, |lab| {
        let host = lab.host(1);
        host.start_weaved(&[])?;
        let good = host.up(&[])?;
        host.json(&["reset", "--force"])?;
        let cut_short = &good[..good.len() - 6];
        let mut mistyped = good.clone();
        let last = if mistyped.pop() == Some('a') { 'b' } else { 'a' };
        mistyped.push(last);
        for bad in ["", "hello", "weave9.abcdef", cut_short, &mistyped] {
            let output = host.weavectl(&["join", bad])?;
            if output.success() {
                bail!("joined with the token `{bad}`");
            }
            if !output.stderr.contains("token") {
                bail!("says nothing of the token `{bad}`: {}", output.text());
            }
        }
        let status = host.json(&["status"])?;
        same("fabric after refused tokens", &status["fabric"].is_null(), &true)
    });
}

#[test]
fn foreign_fabric_is_refused_with_both_ids() {
    hosts(2, |lab| {
        lab.start_all(&[])?;
        let ids: Vec<String> = lab.hosts().iter().map(create).collect::<Result<_>>()?;
        let output = lab.host(2).weavectl(&["connect", &lab.host(1).address().to_string()])?;
        // Whether the command itself tells or the status does, somebody must.
        drop(output);
        let what = "h2 says why it is not connected, and names both fabrics";
        let mut last = String::new();
        until(ANSWER_LIMIT, what, || {
            last = lab.host(2).weavectl(&["status", "connections"]).ok()?.stdout;
            // Ids are shown by their beginning.
            ids.iter().all(|id| last.contains(&id[..8])).then_some(())
        })
        .with_context(|| last.clone())?;
        for host in lab.hosts() {
            same("alive", &host.json(&["status"])?["peers"]["alive"], &1.into())?;
        }
        Ok(())
    });
}

#[test]
fn wrong_password_is_refused_with_a_reason() {
    hosts(2, |lab| {
        let good = lab.host(1).write_file("password", "the right one, and long enough\n")?;
        let bad = lab.host(2).write_file("password", "the wrong one, and long enough\n")?;
        lab.start_all(&[])?;
        let token = lab.host(1).up(&["--password-file", &good.to_string_lossy()])?;
        let start = Instant::now();
        let output = lab.host(2).weavectl(&["join", &token, "--password-file", &bad.to_string_lossy()])?;
        same("join answers in time", &(start.elapsed() < ANSWER_LIMIT), &true)?;
        let mut last = output.text();
        until(ANSWER_LIMIT, "h2 says that the secret is wrong", || {
            last.push_str(&lab.host(2).weavectl(&["status", "connections"]).ok()?.stdout);
            let said = last.to_lowercase();
            ["secret", "password"].iter().any(|word| said.contains(word)).then_some(())
        })
        .with_context(|| last.clone())?;
        same("alive on h1", &lab.host(1).json(&["status"])?["peers"]["alive"], &1.into())?;
        let refused = &lab.host(1).json(&["status", "connections"])?["refused"];
        same(
            "h1 lists the sender that it refused",
            &refused.as_array().is_some_and(|list| !list.is_empty()),
            &true,
        )
    });
}

#[test]
fn join_by_a_dead_address_says_so_and_succeeds_when_it_lives() {
    hosts(3, |lab| {
        lab.start_all(&[])?;
        let token = lab.host(1).up(&[])?;
        lab.host(1).kill9()?;
        let start = Instant::now();
        // It may answer that nobody is there yet, or that it goes on trying; it must answer.
        let output = lab.host(2).weavectl(&["join", &token])?;
        same("join answers in time", &(start.elapsed() < ANSWER_LIMIT), &true)?;
        let mut last = output.text();
        until(ANSWER_LIMIT, "h2 says that nobody answers", || {
            last = lab.host(2).weavectl(&["status", "connections"]).ok()?.stdout;
            last.contains(&lab.host(1).address().to_string()).then_some(())
        })
        .with_context(|| last.clone())?;
        let connections = lab.host(2).json(&["status", "connections"])?;
        let tries = connections["connections"].as_array().context("no list of connections")?;
        let reasoned =
            tries.iter().any(|one| one["reason"].as_str().is_some_and(|reason| !reason.is_empty()));
        same("a reason is given", &reasoned, &true).with_context(|| connections.to_string())?;
        lab.host(1).start_again()?;
        lab.host(3).join(&token)?;
        until(REDIAL, "h2 gets in by itself", || {
            (lab.host(2).json(&["status"]).ok()?["peers"]["alive"] == 3).then_some(())
        })?;
        let containers = one_each(lab)?;
        reaches(&containers[1], &containers[2])
    });
}

#[test]
fn eight_join_at_the_same_time() {
    hosts(9, |lab| {
        lab.start_all(&[])?;
        let token = lab.host(1).up(&[])?;
        let start = Instant::now();
        everywhere(&lab.hosts()[1..], |host| host.join(&token).map(drop))?;
        lab.wait_complete()?;
        figure("eight join at once, all know all", &format!("{:.2?}", start.elapsed()));
        let containers = everywhere(lab.hosts(), Host::attached)?;
        let addresses: BTreeSet<_> = containers.iter().map(lab::Container::ipv4).collect::<Result<_>>()?;
        same("different addresses", &addresses.len(), &9)?;
        for (from, to) in containers.iter().zip(containers.iter().cycle().skip(1)) {
            reaches(from, to)?;
        }
        Ok(())
    });
}

#[test]
fn two_of_four_that_cannot_reach_each_other_say_why() {
    hosts(4, |lab| {
        lab.wire()?.cut(&[(2, 3)])?;
        lab.start_all(&[])?;
        let token = lab.host(1).up(&[])?;
        for host in &lab.hosts()[1..] {
            host.join(&token)?;
        }
        // The others carry the gossip, so all know all.
        lab.wait_complete()?;
        let containers = one_each(lab)?;
        for (from, to) in [(0, 1), (0, 2), (1, 3), (2, 3)] {
            reaches(&containers[from], &containers[to])?;
        }
        same("answers over the cut", &answers(&containers[1], IpAddr::V4(containers[2].ipv4()?)), &false)?;
        says_unreachable(lab, 2, 3, &containers[2].ipv4()?.to_string())?;
        lab.wire()?.heal()?;
        ping_until_answered(containers[1].ns(), IpAddr::V4(containers[2].ipv4()?), REDIAL)?;
        Ping::default().expect_all(containers[1].ns(), IpAddr::V4(containers[2].ipv4()?)).map(drop)
    });
}

/// Peers, status and ping of one host name the other and give a reason.
fn says_unreachable(lab: &Lab, from: usize, to: usize, address: &str) -> Result<()> {
    let (host, other) = (lab.host(from), lab.host(to).nickname());
    let mut last = String::new();
    let what = format!("the peers of h{from} show why {other} cannot be reached");
    until(Duration::from_secs(30), &what, || {
        let peers = host.json(&["status", "peers"]).ok()?;
        last = peers.to_string();
        let peer = peers.as_array()?.iter().find(|peer| peer["nickname"] == *other)?;
        peer["unreachable"].as_str().is_some_and(|reason| !reason.is_empty()).then_some(())
    })
    .with_context(|| last.clone())?;
    let text = host.weavectl(&["status"])?.stdout;
    if !text.contains(&other) {
        bail!("the status of h{from} does not name {other}:\n{text}");
    }
    let output = host.weavectl(&["ping", address, "-c", "1"])?;
    if output.success() || output.stderr.trim().is_empty() {
        bail!("`weavectl ping {address}` on h{from}: {}", output.text());
    }
    figure("said of an unreachable peer", output.stderr.trim());
    Ok(())
}

/// Creates a fabric and answers its id.
fn create(host: &Host) -> Result<String> {
    let info = host.json(&["up"])?;
    info["fabric"].as_str().map(str::to_owned).with_context(|| format!("no fabric in {info}"))
}

/// Does the same on several hosts at once.
fn everywhere<T: Send>(hosts: &[Host], action: impl Fn(&Host) -> Result<T> + Sync) -> Result<Vec<T>> {
    thread::scope(|scope| {
        let threads: Vec<_> = hosts.iter().map(|host| scope.spawn(|| action(host))).collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?).collect()
    })
}
