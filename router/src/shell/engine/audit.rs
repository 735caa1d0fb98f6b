//! `ipam audit` and `ipam history`: reads what was kept, checks every signature off this thread, and says what it proves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use control::api::{ApiError, ErrorCode};
use control::audit::{AuditConflict, AuditStep, AuditedBlock, HistoryStep, IpamAudit, IpamHistory};
use gossip::PeerId;
use ipam::BlockRecord;
use ipam::audit::{Audit, Link, Proof, Step};

use super::call::{Reply, refusal_with};
use super::{Engine, fabric};
use crate::core::node::{AuditBasis, Evidence};

impl Engine {
    pub(super) async fn audit(&mut self, reply: Reply<IpamAudit>) {
        match self.kept().await {
            // Thousands of signatures: the answer comes from there.
            Ok((basis, kept)) => drop(tokio::task::spawn_blocking(move || {
                let audit = basis.ipam.audit(steps(&basis, &kept));
                // Fails only when nobody waits any more.
                let _ = reply.send(Ok(audit_answer(&audit, &basis.nicknames)));
            })),
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    pub(super) async fn history(&mut self, address: Ipv4Addr, reply: Reply<IpamHistory>) {
        let range = self.running.as_ref().map(|running| running.file.range);
        if let Some(range) = range.filter(|range| !range.contains(&address)) {
            let text = format!("{address} is outside of the range {range}");
            let error = refusal_with(ErrorCode::BadRequest, text, "weavectl status ipam shows the range");
            return drop(reply.send(Err(error)));
        }
        let running = self.running.as_ref();
        let holder = running.and_then(|running| running.node.leases().find(|(_, leased)| *leased == address));
        let holder = holder.map(|(owner, _)| owner.0);
        match self.kept().await {
            Ok((basis, kept)) => drop(tokio::task::spawn_blocking(move || {
                let history = basis.ipam.history(address, steps(&basis, &kept));
                let row = |(step, link): &(Step, Link)| HistoryStep {
                    step: step_answer(step, &basis.nicknames),
                    link: link_word(*link).to_owned(),
                };
                let steps = history.iter().map(row).collect();
                let _ = reply.send(Ok(IpamHistory { address, steps, holder }));
            })),
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    /// What the node knows now and what was kept of earlier times.
    async fn kept(&mut self) -> Result<(AuditBasis, Vec<Vec<u8>>), ApiError> {
        let Some(running) = &self.running else { return Err(fabric::no_fabric()) };
        let basis = running.node.audit_basis();
        // What has come in this turn is written, and read back, before anything is said about it.
        self.persist().await;
        let kept = match self.dir.as_mut().map(|dir| dir.history.read()) {
            Some(Ok(kept)) => kept,
            Some(Err(error)) => {
                tracing::warn!(%error, "kept records cannot be read: an audit has gaps");
                Vec::new()
            }
            None => Vec::new(),
        };
        Ok((basis, kept))
    }
}

fn steps(basis: &AuditBasis, kept: &[Vec<u8>]) -> Vec<Step> {
    let kept = kept.iter().filter_map(|entry| Evidence::decode(entry).ok());
    let mut seen = BTreeSet::new();
    let all = basis.present.iter().cloned().chain(kept).filter(|evidence| seen.insert(evidence.encode()));
    let mut told = BTreeSet::new();
    // A gift that was taken up is shown again as a deed: the same step under another signature.
    let is_new = |step: &Step| {
        let BlockRecord { prefix, owner, epoch } = step.record;
        told.insert((prefix, owner, epoch, step.signer, step.proof))
    };
    all.filter_map(|evidence| evidence.step()).filter(is_new).collect()
}

fn audit_answer(audit: &Audit, names: &BTreeMap<PeerId, String>) -> IpamAudit {
    let proven = |block: &ipam::audit::Audited| block.step.proof == Proof::Signed && block.link != Link::Gap;
    let verdict = match () {
        () if audit.has_conflict() => "conflict",
        () if audit.unowned.is_empty() && audit.blocks.iter().all(proven) => "proven",
        () => "gaps",
    };
    IpamAudit {
        range: audit.range,
        verdict: verdict.to_owned(),
        steps: audit.steps as u64,
        blocks: audit
            .blocks
            .iter()
            .map(|block| AuditedBlock {
                step: step_answer(&block.step, names),
                link: link_word(block.link).to_owned(),
            })
            .collect(),
        unowned: audit.unowned.clone(),
        conflicts: audit
            .conflicts
            .iter()
            .map(|conflict| AuditConflict {
                prefix: conflict.prefix,
                step: step_answer(&conflict.step, names),
                with: conflict.with.as_ref().map(|step| step_answer(step, names)),
                link: link_word(conflict.link).to_owned(),
                settled: conflict.settled,
            })
            .collect(),
        forged: audit.forged.iter().map(|step| step_answer(step, names)).collect(),
    }
}

fn step_answer(step: &Step, names: &BTreeMap<PeerId, String>) -> AuditStep {
    let name = |peer: PeerId| names.get(&peer).cloned().unwrap_or_else(|| peer.short());
    AuditStep {
        prefix: step.record.prefix,
        owner: step.record.owner.to_string(),
        owner_name: name(step.record.owner),
        epoch: step.record.epoch,
        signer: step.signer.to_string(),
        signer_name: name(step.signer),
        proof: match step.proof {
            Proof::Signed => "signed",
            Proof::Journal => "journal",
            Proof::Forged => "forged",
        }
        .to_owned(),
    }
}

fn link_word(link: Link) -> &'static str {
    match link {
        Link::Founded => "founded",
        Link::ByOwner => "by-owner",
        Link::Takeover => "takeover",
        Link::Gap => "gap",
        Link::NotTheOwner => "not-the-owner",
        Link::Contradiction => "contradiction",
    }
}
