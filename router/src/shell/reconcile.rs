//! Keeps the kernel as it should be while others change it: firewall reloads, flushed rules, a bridge set down.

use std::sync::Arc;
use std::time::Duration;

use super::attach::Attacher;
use super::kernel::{Kernel, Watch};

/// Changes come in bursts (a firewall reload is hundreds): after a look, what came meanwhile waits this long for the next one.
/// Our own changes come back as events too; the look that they cause finds nothing to do and makes no more.
const PAUSE: Duration = Duration::from_millis(200);
/// A look without any event, in case one was lost.
const AT_LEAST_EVERY: Duration = Duration::from_secs(10);

/// Runs until the task is dropped.
pub async fn run(kernel: Kernel, attacher: Arc<Attacher>) {
    let mut watch = match kernel.watch() {
        Ok(watch) => Some(watch),
        Err(error) => {
            tracing::warn!(%error, "cannot watch the kernel; looking every {} s", AT_LEAST_EVERY.as_secs());
            None
        }
    };
    let mut came_meanwhile = false;
    loop {
        if !came_meanwhile
            && let Ok(Over::Ended) = tokio::time::timeout(AT_LEAST_EVERY, next(&mut watch)).await
        {
            tracing::warn!("the kernel's events ended; looking every {} s", AT_LEAST_EVERY.as_secs());
            watch = None;
        }
        if let Err(error) = attacher.reconcile().await {
            tracing::warn!(%error, "cannot put the kernel's state right");
        }
        tokio::time::sleep(PAUSE).await;
        came_meanwhile = false;
        while let Ok(Over::Event) = tokio::time::timeout(Duration::ZERO, next(&mut watch)).await {
            came_meanwhile = true;
        }
    }
}

enum Over {
    Event,
    Ended,
}

async fn next(watch: &mut Option<Watch>) -> Over {
    match watch {
        Some(watch) => match watch.next().await {
            Some(_) => Over::Event,
            None => Over::Ended,
        },
        None => std::future::pending().await,
    }
}
