//! Signed records as evidence: kept by the shell when they come, checked again when somebody asks who owns what.
//!
//! A piece of evidence stands for itself: the record, its signature, and the keys, of which the origin's id is the hash. So it proves what
//! it says also when its origin has long left.

use std::collections::BTreeMap;

use gossip::codec::{self, DecodeError};
use gossip::{Kind, PeerId, Record, RecordKey};
use ipam::BlockRecord;
use ipam::audit::{Basis, Proof, Step};
use serde::{Deserialize, Serialize};

use super::{Node, Output};
use crate::core::identity::PublicIdentity;

/// Longest piece: a block record takes some 140 bytes, the keys 64.
const MAX_EVIDENCE: usize = 1024;

/// A record of ownership as it was signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    record: Record,
    ed25519: [u8; 32],
    x25519: [u8; 32],
}

impl Evidence {
    /// The bytes to keep.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads them.
    pub fn decode(bytes: &[u8]) -> Result<Evidence, DecodeError> {
        codec::decode(bytes, MAX_EVIDENCE)
    }

    /// What it says about a block, and whether the signature is good; nothing if it is about something else. Costs a signature check.
    pub fn step(&self) -> Option<Step> {
        let value = self.record.value.as_deref().filter(|_| self.record.key.kind == Kind::BLOCK)?;
        let record = BlockRecord::stated(&self.record.key, value).ok()?;
        let public = PublicIdentity { ed25519: self.ed25519, x25519: self.x25519 };
        let good = public.peer_id() == self.record.origin
            && public.verify(&self.record.signing_bytes(), &self.record.signature);
        let proof = if good { Proof::Signed } else { Proof::Forged };
        Some(Step { record, signer: self.record.origin, proof })
    }
}

/// All that an audit needs of a node, to be judged where it holds nobody up.
pub struct AuditBasis {
    /// What allocation believes.
    pub ipam: Basis,
    /// Records that gossip holds now.
    pub present: Vec<Evidence>,
    /// Names for people.
    pub nicknames: BTreeMap<PeerId, String>,
}

impl Node {
    /// What an audit of this node's view starts from; the shell adds what it has kept.
    pub fn audit_basis(&self) -> AuditBasis {
        let present = self.gossip.records(Kind::BLOCK).filter_map(|record| self.evidence(record)).collect();
        let known = self.peers.keys().chain([&self.me]).map(|peer| (*peer, self.nickname(*peer)));
        AuditBasis { ipam: self.ipam.audit_basis(), present, nicknames: known.collect() }
    }

    /// Hands a record about a block to whoever keeps them.
    pub(super) fn keep_evidence(&mut self, origin: PeerId, key: &RecordKey) {
        if key.kind != Kind::BLOCK {
            return;
        }
        // A deed says what was said before, to whoever missed it.
        let states = |record: &&Record| {
            record.value.as_deref().is_some_and(|value| BlockRecord::stated(key, value).is_ok())
        };
        let record = self.gossip.record(origin, key).filter(states);
        if let Some(evidence) = record.and_then(|record| self.evidence(record)) {
            self.outputs.push_back(Output::Evidence(Box::new(evidence)));
        }
    }

    fn evidence(&self, record: &Record) -> Option<Evidence> {
        let public = match self.peers.get(&record.origin) {
            Some(advert) => advert.public(),
            None if record.origin == self.me => self.config.identity.public(),
            None => return None,
        };
        Some(Evidence { record: record.clone(), ed25519: public.ed25519, x25519: public.x25519 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::identity::Identity;

    fn evidence(signer: &Identity, named: &Identity) -> Evidence {
        let block = BlockRecord {
            prefix: "10.32.0.0/24".parse().expect("a prefix"),
            owner: named.peer_id(),
            epoch: 7,
        };
        let mut record = Record {
            origin: named.peer_id(),
            key: block.key(),
            version: 1,
            value: Some(block.encode()),
            signature: [0; 64],
        };
        record.signature = signer.sign(&record.signing_bytes());
        let public = named.public();
        Evidence { record, ed25519: public.ed25519, x25519: public.x25519 }
    }

    #[test]
    fn evidence_proves_itself_after_a_round_trip() {
        let one = Identity::from_seed([1; 64]);
        let kept = evidence(&one, &one);
        let read = Evidence::decode(&kept.encode()).expect("own bytes");
        assert_eq!(read, kept);
        let step = read.step().expect("about a block");
        assert_eq!((step.signer, step.record.epoch, step.proof), (one.peer_id(), 7, Proof::Signed));
    }

    #[test]
    fn foreign_signature_and_foreign_keys_are_forged() {
        let (one, other) = (Identity::from_seed([1; 64]), Identity::from_seed([2; 64]));
        assert_eq!(evidence(&other, &one).step().expect("about a block").proof, Proof::Forged);
        let mut foreign = evidence(&one, &one);
        foreign.ed25519 = other.public().ed25519;
        assert_eq!(foreign.step().expect("about a block").proof, Proof::Forged);
        let mut changed = evidence(&one, &one);
        changed.record.version += 1;
        assert_eq!(changed.step().expect("about a block").proof, Proof::Forged);
    }
}
