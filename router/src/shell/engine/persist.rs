//! Making a turn's records durable, and what happens when the disk refuses.

use std::time::Instant;

use control::api::{ApiError, ErrorCode};

use super::Engine;
use super::call::refusal_with;
use crate::shell::state::Journal;
use crate::shell::state::dir::{COMPACT_AFTER, KnownPeer, StateDir};

/// Peers that are remembered for dialling after a restart.
const MAX_KNOWN_PEERS: usize = 64;

impl Engine {
    /// Writes both journals with one fsync each, off this thread, and then lets allocation speak; a failed write undoes what the turn
    /// recorded.
    pub(super) async fn persist(&mut self) {
        let now = Instant::now();
        let mut ipam = Vec::new();
        if let Some(running) = &mut self.running {
            while let Some(entry) = running.node.poll_persist() {
                ipam.push(entry);
            }
        }
        let (attachments, told): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.attachment_writes).into_iter().unzip();
        let waiting = std::mem::take(&mut self.after_ipam);
        let evidence = std::mem::take(&mut self.evidence);
        if ipam.is_empty() && attachments.is_empty() && evidence.is_empty() {
            self.let_out(now);
            waiting.into_iter().for_each(|tell| tell(Ok(())));
            return;
        }
        let Some(mut dir) = self.dir.take() else { return };
        let written = tokio::task::spawn_blocking(move || {
            let ipam_result = if ipam.is_empty() { Ok(()) } else { dir.ipam.append(&ipam) };
            let attachment_result =
                if attachments.is_empty() { Ok(()) } else { dir.attachments.append(&attachments) };
            // Last, since nothing is promised on its strength.
            if let Err(error) = dir.history.keep(evidence) {
                tracing::warn!(%error, "signed records are not kept: an audit will have gaps");
            }
            (dir, ipam_result, attachment_result)
        })
        .await;
        let (dir, ipam_result, attachment_result) = match written {
            Ok(all) => all,
            // The closure cannot panic short of a bug, and without its journals a router must not go on.
            Err(error) => panic!("journal task ended: {error}"),
        };
        self.dir = Some(dir);
        match &ipam_result {
            Ok(()) => self.let_out(now),
            Err(error) => self.undo_turn(&error.to_string(), now),
        }
        let verdict = |result: &std::io::Result<()>| match result {
            Ok(()) => Ok(()),
            Err(error) => Err(not_durable(&error.to_string())),
        };
        waiting.into_iter().for_each(|tell| tell(verdict(&ipam_result)));
        told.into_iter().for_each(|tell| tell(verdict(&attachment_result)));
        let failure = ipam_result.err().or(attachment_result.err());
        match (&failure, &self.not_durable) {
            (Some(error), _) => tracing::error!(%error, "state cannot be written; what needs it is refused"),
            (None, Some(_)) => tracing::info!("state can be written again"),
            (None, None) => {}
        }
        self.not_durable = failure.map(|error| error.to_string());
    }

    fn let_out(&mut self, now: Instant) {
        if let Some(running) = &mut self.running {
            running.node.settle(now);
        }
    }

    /// Nothing of the turn is durable: allocation goes back to what is, as after a crash, and everybody who waits is told.
    fn undo_turn(&mut self, why: &str, now: Instant) {
        let entries = match self.dir.as_mut().map(|dir: &mut StateDir| dir.ipam.read_back()) {
            Some(Ok(entries)) => entries,
            Some(Err(error)) => panic!("the journal can be neither written nor read: {error}"),
            None => Vec::new(),
        };
        if let Some(running) = &mut self.running {
            // Not settled: what follows from the restored state is not durable either before the next turn wrote it.
            running.node.restore(&entries, now);
            self.unsure = running.node.distrusts_journal();
        }
        for (reply, _) in std::mem::take(&mut self.leases).into_values() {
            let _ = reply.send(Err(not_durable(why)));
        }
    }

    /// Rewrites a journal that has grown long.
    pub(super) async fn compact(&mut self) {
        let (Some(running), Some(dir)) = (&self.running, &mut self.dir) else { return };
        if dir.ipam.is_longer_than(COMPACT_AFTER) {
            let snapshot = running.node.snapshot();
            shrink(&mut dir.ipam, &snapshot, "allocation");
        }
        if dir.attachments.is_longer_than(COMPACT_AFTER) {
            let snapshot: Vec<Vec<u8>> =
                self.attachments.values().map(super::fabric::attached_entry).collect();
            shrink(&mut dir.attachments, &snapshot, "attachment");
        }
    }

    /// Keeps the addresses of some peers for the next start.
    pub(super) fn remember_peers(&mut self) {
        let Some(running) = &mut self.running else { return };
        let known: Vec<KnownPeer> = running
            .node
            .dialable_peers()
            .take(MAX_KNOWN_PEERS)
            .map(|(id, addresses)| KnownPeer { id: id.to_string(), addresses: addresses.to_vec() })
            .collect();
        if known != running.file.known && !known.is_empty() {
            running.file.known = known;
            self.store_fabric();
        }
    }

    /// Writes the membership file; a failure is shown in the status and tried again with the next change.
    pub(super) fn store_fabric(&mut self) -> bool {
        let (Some(running), Some(dir)) = (&self.running, &self.dir) else { return false };
        match dir.fabric.store(&running.file) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%error, "cannot write the fabric file");
                self.not_durable = Some(error.to_string());
                false
            }
        }
    }
}

fn shrink(journal: &mut Journal, snapshot: &[Vec<u8>], name: &str) {
    if let Err(error) = journal.shrink(snapshot) {
        tracing::warn!(%error, name, "cannot compact the journal");
    }
}

pub(super) fn not_durable(why: &str) -> ApiError {
    refusal_with(
        ErrorCode::StateNotDurable,
        format!(
            "the state directory cannot be written ({why}), so nothing new is promised; what runs goes on"
        ),
        "free space in the state directory, then try again",
    )
}
