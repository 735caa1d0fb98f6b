//! What an administrator types, end to end.

use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use lab::{Host, until};

use crate::support::{SETTLE, attached, fabric, hosts, one_each, reaches, same};

#[test]
fn up_and_join_start_the_routers() {
    hosts(2, |lab| {
        let start = |host: &Host, command: &[&str]| {
            let (state, nickname) = (host.state_dir().to_string_lossy().into_owned(), host.nickname());
            let mut args = command.to_vec();
            args.extend(["--state-dir", &state, "--nickname", &nickname]);
            host.json(&args)
        };
        let info = start(lab.host(1), &["up"])?;
        let token = info["token"].as_str().context("no token")?;
        start(lab.host(2), &["join", token])?;
        lab.wait_complete()?;
        let containers = one_each(lab)?;
        reaches(&containers[0], &containers[1])
    });
}

#[test]
fn fabric_forms_over_ipv6_alone() {
    hosts(2, |lab| {
        for host in lab.hosts() {
            host.ns().ip(&format!("addr del {}/24 dev eth0", host.address()))?;
        }
        lab.start_all(&[])?;
        let token = lab.host(1).up(&[])?;
        lab.host(2).join(&token)?;
        lab.wait_complete()?;
        let containers = one_each(lab)?;
        reaches(&containers[0], &containers[1])
    });
}

#[test]
fn targets_are_listed_until_they_are_forgotten() {
    fabric(2, |lab| {
        let host = lab.host(1);
        let nobody = "10.77.0.99";
        host.json(&["connect", nobody])?;
        let listed = |host: &Host| Ok::<_, anyhow::Error>(host.json(&["status", "targets"])?.to_string());
        same("listed after connect", &listed(host)?.contains(nobody), &true)?;
        host.restart()?;
        same("listed after a restart", &listed(host)?.contains(nobody), &true)?;
        host.json(&["forget", nobody])?;
        same("listed after forget", &listed(host)?.contains(nobody), &false)
    });
}

#[test]
fn ping_names_the_path_and_the_cipher() {
    fabric(2, |lab| {
        let far = lab.host(2).attached()?;
        for target in ["h2".to_owned(), far.ipv4()?.to_string()] {
            let output = lab.host(1).weavectl(&["ping", &target, "-c", "1"])?;
            same("ping", &output.success(), &true).with_context(|| output.text())?;
            same("the path", &output.stdout.contains("direct"), &true).with_context(|| output.text())?;
        }
        Ok(())
    });
}

#[test]
fn report_holds_no_secret() {
    fabric(2, |lab| {
        let token = lab.host(1).json(&["token"])?["token"].as_str().context("no token")?.to_owned();
        let report = lab.host(1).weavectl(&["report"])?;
        same("report", &report.success(), &true).with_context(|| report.text())?;
        // The fabric's id stands in front and is no secret; any long piece of the rest would give the secret away.
        let bytes = token.as_bytes();
        let leaked =
            bytes.windows(24).skip(40).any(|piece| report.stdout.as_bytes().windows(24).any(|w| w == piece));
        same("pieces of the token in the report", &leaked, &false)
    });
}

#[test]
fn space_of_a_removed_peer_is_taken_over_once() {
    fabric(3, |lab| {
        // Everybody owns something.
        let containers = one_each(lab)?;
        lab.host(3).kill9()?;
        until(Duration::from_secs(30), "h3 is counted among the dead", || {
            (lab.host(1).json(&["status"]).ok()?["peers"]["dead"] == 1).then_some(())
        })?;
        let answer = lab.host(1).json(&["rmpeer", "h3"])?;
        same("changed", &answer["changed"], &true.into()).with_context(|| answer.to_string())?;
        same("took something over", &(answer["taken_over"].as_u64() > Some(0)), &true)?;
        let again = lab.host(1).json(&["rmpeer", answer["peer"].as_str().context("no id")?])?;
        same("changed by a second run", &again["changed"], &false.into())?;
        reaches(&containers[0], &containers[1])?;
        unowned(lab.host(1))
    });
}

/// Nothing of the range is without an owner, or with one that cannot be reached.
fn unowned(host: &Host) -> Result<()> {
    until(SETTLE, "the whole range has owners that are reachable", || {
        let summary = host.json(&["status", "ipam"]).ok()?["summary"].clone();
        (summary["unreachable"] == 0 && summary["unknown"] == 0).then_some(())
    })
    .map(drop)
}

#[test]
fn host_that_was_reset_joins_again_as_a_newcomer() {
    fabric(2, |lab| {
        let (one, two) = (lab.host(1), lab.host(2));
        let token = one.json(&["token"])?["token"].as_str().context("no token")?.to_owned();
        let _gone = two.attached()?;
        two.json(&["reset", "--force"])?;
        same("attached after reset", &attached(two).map_or(0, |set| set.len()), &0)?;
        two.join(&token)?;
        lab.wait_complete()?;
        let (near, far) = (one.attached()?, two.attached()?);
        reaches(&near, &far)?;
        reaches(&far, &near)
    });
}

#[test]
fn hosts_with_their_own_bridge_names_and_mtus_talk() {
    hosts(2, |lab| {
        lab.host(1).start_weaved(&["--bridge", "fabric7", "--mtu", "1300"])?;
        lab.host(2).start_weaved(&[])?;
        let token = lab.host(1).up(&["--ipalloc-range", "10.99.0.0/16"])?;
        lab.host(2).join(&token)?;
        lab.wait_complete()?;
        let containers = one_each(lab)?;
        let address = IpAddr::V4(containers[0].ipv4()?).to_string();
        same("address of the range", &address.starts_with("10.99."), &true)
            .with_context(|| address.clone())?;
        let link = containers[0].ns().ip("link show eth0")?.stdout;
        same("MTU", &link.contains("mtu 1300 "), &true)?;
        reaches(&containers[0], &containers[1])
    });
}

#[test]
fn callers_that_stay_do_not_use_up_the_router() {
    /// More than a router serves at a time.
    const CALLERS: usize = 700;
    /// What it serves, and what else it has open.
    const DESCRIPTORS: usize = 512 + 200;
    hosts(1, |lab| {
        let host = lab.host(1);
        host.start_weaved(&[])?;
        host.up(&[])?;
        let open = || -> Result<usize> {
            let folder = format!("/proc/{}/fd", host.pid().context("the router does not run")?);
            Ok(std::fs::read_dir(folder)?.count())
        };
        // Those that find no place wait in the socket's backlog, and it is full at some time.
        let socket = || UnixStream::connect(host.socket()).context("refused");
        let stay = std::thread::scope(|scope| {
            let callers = scope.spawn(|| (0..CALLERS).map_while(|_| socket().ok()).collect::<Vec<_>>());
            until(SETTLE, "the router has all callers that it takes", || (open().ok()? > 512).then_some(()))?;
            same("descriptors stay few", &(open()? < DESCRIPTORS), &true)?;
            // It goes on for those who are in.
            callers.join().map_err(|_| anyhow!("a thread panicked"))
        })?;
        drop(stay);
        until(SETTLE, "the router has let them go", || (open().ok()? < 100).then_some(()))?;
        host.json(&["status"]).map(drop)
    });
}
