//! Measures how long a Kubernetes pod takes to start with the fabric as its network, beside Debian's `bridge` plugin with `host-local`:
//! real containerd, asked by CRI. Needs root and the optimised programs.
//!
//! `cargo build --release -p router -p weavectl -p cni-plugin`, then `cargo run -p netns-tests --example pods [PODS]`
//!
//! Two hosts of one lab, one with each network, are asked in turn, so that what else the machine does meets both.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Containerd, Lab};
use serde_json::json;

#[path = "../tests/netns/engines/cri.rs"]
#[expect(dead_code, reason = "the tests use all of it")]
mod cri;

use cri::Cri;

/// Pods with each network.
const PODS: u64 = 100;

fn main() -> Result<()> {
    let [pods] = lab::numbers([PODS])?;
    let lab = Lab::fabric(2)?;
    let plain = json!({ "cniVersion": "1.0.0", "name": "plain", "plugins": [
        { "type": "bridge", "bridge": "plain0", "isGateway": true, "ipMasq": true, "ipam": { "type": "host-local",
          "subnet": "10.88.0.0/16", "routes": [{ "dst": "0.0.0.0/0" }], "dataDir": lab.host(2).dir().join("host-local") } },
        { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true }] });
    let (ours, rival) = (Containerd::start(lab.host(1))?, Containerd::start_with(lab.host(2), &plain)?);
    let clients = [Cri::connect(&ours.socket())?, Cri::connect(&rival.socket())?];
    let group = format!("/{}", lab.run());
    // The first pod of each is slower: images are unpacked, bridges and rules made.
    for (client, plain) in clients.iter().zip([false, true]) {
        let pod = client.run_pod("first", &group, &[])?;
        let address = client.addresses(&pod)?.into_iter().next().unwrap_or_default();
        ensure!(address.starts_with("10.88.") == plain, "`{address}` is of the other network");
        client.remove_pod(&pod)?;
    }
    let mut times = [Vec::new(), Vec::new()];
    for number in 0..pods {
        for (client, times) in clients.iter().zip(&mut times) {
            let start = Instant::now();
            let pod = client.run_pod(&format!("pod-{number}"), &group, &[]).context("no pod")?;
            times.push(start.elapsed());
            client.remove_pod(&pod)?;
        }
    }
    for times in &mut times {
        times.sort_unstable();
    }
    let at = |times: &[Duration], percent: usize| {
        times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1000.0
    };
    let [ours, rival] = &times;
    writeln!(
        io::stdout(),
        "{pods} pods each, by CRI: with the fabric p50 {:.1} ms, p99 {:.1} ms; with `bridge` p50 {:.1} ms, p99 {:.1} ms; more: {:.1} and {:.1} ms",
        at(ours, 50),
        at(ours, 99),
        at(rival, 50),
        at(rival, 99),
        at(ours, 50) - at(rival, 50),
        at(ours, 99) - at(rival, 99),
    )?;
    Ok(())
}
