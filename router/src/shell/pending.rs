//! Carries out detachments that `weave-cni` wrote down while this router was not running.

use std::path::Path;
use std::sync::Arc;

use control::pending;

use super::attach::Attacher;
use control::api::UndoRequest;

/// Runs each of them once; what fails stays for the next start.
pub async fn replay(state_dir: &Path, attacher: &Arc<Attacher>) {
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
        let done = match &wish.attempt {
            None => attacher.detach(wish.request()).await,
            Some(attempt) => {
                let (container, ifname) = (wish.container.clone(), wish.ifname.clone());
                attacher.undo(UndoRequest { container, ifname, attempt: attempt.clone() }).await
            }
        };
        match done {
            Ok(answer) => {
                tracing::info!(container = %wish.container, released = ?answer.released, "pending detachment done");
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
