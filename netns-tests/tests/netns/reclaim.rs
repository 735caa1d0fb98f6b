//! A peer that is dead for long, and nobody who types `rmpeer`.

use std::time::Duration;

use anyhow::Result;
use lab::{Host, until};

use crate::support::{hosts, one_each, same};

/// The shortest time that a router takes.
const AFTER: &str = "1m";

/// That, the failure detector, two ranks, a look, and the answers of the others.
const BOUND: Duration = Duration::from_secs(60 + 60);

/// All addresses of 10.32.0.0/12.
const ALL: u64 = 1 << 20;

#[test]
fn majority_takes_over_and_the_lost_one_is_told() {
    hosts(3, |lab| {
        lab.start_all(&["--reclaim-after", AFTER])?;
        let token = lab.host(1).up(&[])?;
        lab.hosts()[1..].iter().try_for_each(|host| host.join(&token).map(drop))?;
        lab.wait_complete()?;
        let _containers = one_each(lab)?;
        lab.host(3).kill9()?;
        let (_, time) = until(BOUND, "the other two own everything", || {
            let owned: Option<u64> = lab.hosts()[..2].iter().map(owned).sum();
            (owned? == ALL).then_some(())
        })?;
        same("not before its time", &(time >= Duration::from_secs(60)), &true)?;
        lab.host(3).start_again()?;
        until(Duration::from_secs(30), "h3 says that it was removed", || {
            let status = lab.host(3).json(&["status"]).ok()?;
            status["problems"].to_string().contains("removed from the fabric").then_some(())
        })
        .map(drop)
    });
}

fn owned(host: &Host) -> Option<u64> {
    let answer: Result<serde_json::Value> = host.json(&["status"]);
    answer.ok()?["ipam"]["owned"].as_u64()
}
