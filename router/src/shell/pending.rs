//! Carries out detachments that `weave-cni` wrote down while this router was not running.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use control::pending;

use super::attach::Attacher;
use super::engine::call::{Call, Hub, Rest};
use super::lease;
use control::api::{ApiError, UndoRequest};
use control::pending::PendingDetach;

/// Runs each of them once; what fails stays for the next start.
pub async fn replay(state_dir: &Path, hub: &Hub, attacher: &Arc<Attacher>) {
    let found = match pending::read_all(state_dir) {
        Ok(found) => found,
        Err(error) => {
            tracing::error!(%error, "cannot read the journal of detachments");
            return;
        }
    };
    for (path, reason) in &found.rejected {
        tracing::warn!(path = %path.display(), reason, "pending detachment is not readable and stays");
    }
    for wish in &found.pending {
        match carry_out(wish, hub, attacher).await {
            Ok(released) => {
                tracing::info!(container = %wish.container, ?released, "pending detachment done");
                if let Err(error) = pending::remove(state_dir, wish) {
                    tracing::warn!(%error, "cannot remove a pending detachment; it will be repeated");
                }
            }
            Err(error) => {
                tracing::error!(container = %wish.container, error = error.message, "pending detachment failed");
            }
        }
    }
}

async fn carry_out(
    wish: &PendingDetach,
    hub: &Hub,
    attacher: &Arc<Attacher>,
) -> Result<Vec<Ipv4Addr>, ApiError> {
    let (container, ifname) = (wish.container.clone(), wish.ifname.clone());
    match (&wish.lease, &wish.attempt) {
        (Some(name), _) => {
            let holder = lease::holder(name)?;
            hub.ask(|reply| Call::Release(holder, Rest::Used, reply)).await
        }
        (None, Some(attempt)) => {
            let undo = UndoRequest { container, ifname, attempt: attempt.clone() };
            attacher.undo(undo).await.map(|answer| answer.released)
        }
        (None, None) => attacher.detach(wish.request()).await.map(|answer| answer.released),
    }
}
