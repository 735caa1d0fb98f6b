//! A fleet that starts at once from one list, and one whose lists differ.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::{Host, Lab, until};

use crate::support::{SETTLE, hosts, one_each, reaches, same};

/// A seed listens for three seconds and more before it takes its part.
const PART: Duration = Duration::from_secs(20);

/// `up` with this list, and the same password everywhere.
fn seed(host: &Host, list: &str) -> Result<serde_json::Value> {
    let file = host.write_file("password", "correct horse\n")?;
    host.json(&["up", "--password-file", &file.to_string_lossy(), "--seeds", list])
}

fn list(lab: &Lab, seeds: &[usize]) -> String {
    let entry = |index: &usize| format!("h{index}={}", lab.host(*index).address());
    seeds.iter().map(entry).collect::<Vec<_>>().join(",")
}

#[test]
fn seeds_form_one_fabric_and_share_the_range() {
    hosts(4, |lab| {
        lab.start_all(&[])?;
        let fabrics: BTreeSet<String> = (1..=3)
            .map(|index| Ok(seed(lab.host(index), &list(lab, &[3, 1, 2]))?["fabric"].to_string()))
            .collect::<Result<_>>()?;
        same("fabrics", &fabrics.len(), &1)?;
        // The list again changes nothing; the fourth joins by a token.
        same("changed", &seed(lab.host(1), &list(lab, &[1, 2, 3]))?["changed"], &false.into())?;
        until(PART, "every seed has its part", || {
            (1..=3).all(|index| owned(lab.host(index)).is_some_and(|owned| owned >= 1 << 18)).then_some(())
        })?;
        let token = lab.host(1).json(&["token"])?;
        let token = token["token"].as_str().context("no token")?.to_owned();
        let file = lab.host(4).write_file("password", "correct horse\n")?;
        lab.host(4).json(&["join", &token, "--password-file", &file.to_string_lossy()])?;
        lab.wait_complete()?;
        let containers = one_each(lab)?;
        reaches(&containers[0], &containers[2])?;
        reaches(&containers[1], &containers[3])?;
        let audit = lab.host(2).json(&["ipam", "audit"])?;
        same("a conflict is found", &(audit["verdict"] == "conflict"), &false)?;
        // A seed remembers that it has taken its part.
        lab.host(3).restart()?;
        lab.wait_complete()?;
        reaches(&containers[0], &containers[2])
    });
}

#[test]
fn lists_that_differ_are_named_and_never_meet() {
    hosts(2, |lab| {
        lab.start_all(&[])?;
        seed(lab.host(1), &list(lab, &[1, 2]))?;
        let other = format!("{},h3=10.77.0.99", list(lab, &[1, 2]));
        seed(lab.host(2), &other)?;
        until(SETTLE, "both name both lists", || lab.hosts().iter().all(names_both_lists).then_some(()))
            .with_context(|| format!("{:#}", lab.host(1).json(&["status"]).unwrap_or_default()))?;
        for host in lab.hosts() {
            same("alive on each side", &host.json(&["status"])?["peers"]["alive"], &1.into())?;
        }
        let again = lab.host(1).weavectl(&["up", "--seeds", "h1,h2,h3", "--password-file", "/dev/null"])?;
        same("another list for the same host is refused", &again.success(), &false)
    });
}

fn names_both_lists(host: &Host) -> bool {
    let Ok(status) = host.json(&["status"]) else { return false };
    let text = status["problems"].to_string();
    text.contains("`h1,h2`") && text.contains("`h1,h2,h3`")
}

fn owned(host: &Host) -> Option<u64> {
    host.json(&["status"]).ok()?["ipam"]["owned"].as_u64()
}
