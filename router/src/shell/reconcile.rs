//! Keeps the kernel as it should be while others change it: firewall reloads, flushed rules, a bridge set down.

use std::time::Duration;

use super::engine::call::{Call, Hub};
use super::kernel::{BridgeSpec, Exposure, FirewallSpec, Kernel, KernelError, Outcome};
use crate::core::mac::Mac;

/// Changes come in bursts (a firewall reload is hundreds); one look after the burst is enough.
const SETTLE: Duration = Duration::from_millis(200);
/// A look without any event, in case one was lost.
const AT_LEAST_EVERY: Duration = Duration::from_secs(10);

/// Runs until the task is dropped.
pub async fn run(kernel: Kernel, hub: Hub, bridge: String) {
    let mut events = match kernel.watch() {
        Ok(events) => Some(events),
        Err(error) => {
            tracing::warn!(%error, "cannot watch the kernel; looking every {} s", AT_LEAST_EVERY.as_secs());
            None
        }
    };
    loop {
        let event = async {
            match &mut events {
                Some(events) => drop(events.next().await),
                None => std::future::pending().await,
            }
        };
        let _ = tokio::time::timeout(AT_LEAST_EVERY, event).await;
        tokio::time::sleep(SETTLE).await;
        if let Some(events) = &mut events {
            while tokio::time::timeout(Duration::ZERO, events.next()).await.is_ok_and(|event| event.is_some())
            {
            }
        }
        let Ok(ground) = hub.ask(Call::Ground).await else { continue };
        let Ok(status) = hub.ask(Call::Status).await else { continue };
        let (masquerade, exposure) = match status.exposed {
            Some(_) => (Some((ground.range, ground.range6)), Exposure::Exposed),
            None => (None, Exposure::Hidden),
        };
        let spec = FirewallSpec { bridge: bridge.clone(), masquerade };
        let Ok(mac) = ground.bridge_mac.parse::<Mac>() else { continue };
        let bridge_spec = BridgeSpec { mtu: ground.mtu, mac: mac.0, gso_max_size: ground.gso_max_size };
        if let Err(error) = put_right(&kernel, bridge_spec, spec, exposure).await {
            tracing::warn!(%error, "cannot put the kernel's state right");
        }
    }
}

async fn put_right(
    kernel: &Kernel,
    bridge: BridgeSpec,
    spec: FirewallSpec,
    exposure: Exposure,
) -> Result<(), KernelError> {
    note("bridge", kernel.ensure_bridge(bridge).await?.outcome);
    note("own nftables table", kernel.ensure_firewall(spec).await?);
    note("rules that let our bridge forward", kernel.ensure_forward_accept(exposure).await?);
    Ok(())
}

fn note(what: &str, outcome: Outcome) {
    match outcome {
        Outcome::AsWanted => {}
        Outcome::Adjusted | Outcome::Created => tracing::info!(what, "was changed by others and put right"),
    }
}
