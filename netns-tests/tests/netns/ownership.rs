//! Who owns which addresses: proven from records, also after a peer was removed and routers were restarted.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::{Host, until};
use serde_json::Value;

use crate::support::{SETTLE, fabric, one_each, same};

/// Long enough for a death to be noticed and a removal to be carried out.
const REMOVAL: Duration = Duration::from_secs(60);

#[test]
fn audit_proves_the_way_of_every_block() {
    fabric(3, |lab| {
        let containers = one_each(lab)?;
        let founder = lab.host(1);
        proven(founder)?;
        let history = founder.json(&["ipam", "history", &containers[2].ipv4()?.to_string()])?;
        let steps = history["steps"].as_array().context("no steps")?;
        let (first, last) = (&steps[0], &steps[steps.len() - 1]);
        same("the first step", &first["link"].as_str(), &Some("founded"))?;
        same("its owner", &first["owner_name"].as_str(), &Some("h1"))?;
        same("the last owner", &last["owner_name"].as_str(), &Some("h3"))?;
        same("who signed it", &last["signer_name"].as_str(), &Some("h3"))?;
        // What was seen survives the router, and so does the proof.
        founder.kill9()?;
        founder.start_again()?;
        lab.wait_complete()?;
        proven(founder)?;
        let again = founder.json(&["ipam", "history", &containers[2].ipv4()?.to_string()])?;
        same("history after a restart", &again["steps"].as_array().map(Vec::len), &Some(steps.len()))
    });
}

#[test]
fn audit_proves_a_takeover() {
    fabric(3, |lab| {
        let containers = one_each(lab)?;
        let address = containers[2].ipv4()?.to_string();
        lab.host(3).kill9()?;
        until(REMOVAL, "h1 counts h3 among the dead", || {
            (lab.host(1).json(&["status"]).ok()?["peers"]["dead"] == 1).then_some(())
        })?;
        lab.host(1).json(&["rmpeer", "h3"])?;
        until(REMOVAL, "h1 has taken over", || {
            let history = lab.host(1).json(&["ipam", "history", &address]).ok()?;
            let steps = history["steps"].as_array()?;
            // Joining the block with its neighbour may be one more step, of the owner that it has now.
            let taken = steps.iter().any(|step| step["link"] == "takeover" && step["owner_name"] == "h1");
            (taken && steps.last()?["owner_name"] == "h1").then_some(())
        })?;
        lab.hosts()[..2].iter().try_for_each(no_conflict)
    });
}

/// The audit of the founder, who has seen everything, finds nothing missing.
fn proven(host: &Host) -> Result<()> {
    let mut last = Value::Null;
    until(SETTLE, "the audit proves everything", || {
        last = host.json(&["ipam", "audit"]).ok()?;
        (last["verdict"] == "proven").then_some(())
    })
    .with_context(|| format!("{} says {last:#}", host.nickname()))
    .map(drop)
}

fn no_conflict(host: &Host) -> Result<()> {
    let audit = host.json(&["ipam", "audit"])?;
    if audit["verdict"] == "conflict" {
        bail!("{} finds a conflict: {audit:#}", host.nickname());
    }
    Ok(())
}
