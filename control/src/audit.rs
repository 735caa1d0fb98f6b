//! Answers about who owns which addresses and how it came to, as they appear in JSON.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// `GET /ipam/audit`: every block with its proof, and all that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpamAudit {
    /// IPv4 range.
    pub range: Ipv4Net,
    /// `proven` when a signature speaks for every block and nothing is wrong, `gaps` when something is only believed, `conflict` when
    /// somebody is faulty.
    pub verdict: String,
    /// Signed steps that were looked at.
    pub steps: u64,
    /// Every block that is owned, in ascending order.
    pub blocks: Vec<AuditedBlock>,
    /// Parts of the range without a known owner.
    pub unowned: Vec<Ipv4Net>,
    /// Steps that contradict others, those that stand first.
    pub conflicts: Vec<AuditConflict>,
    /// Records with a wrong signature.
    pub forged: Vec<AuditStep>,
}

/// A block as it is owned now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditedBlock {
    /// The newest step about it.
    #[serde(flatten)]
    pub step: AuditStep,
    /// How the step follows from the one before: see [`HistoryStep::link`].
    pub link: String,
}

/// A change of ownership.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditStep {
    /// The addresses.
    pub prefix: Ipv4Net,
    /// Id of the owner from then on.
    pub owner: String,
    /// Its nickname.
    pub owner_name: String,
    /// Grows with each step.
    pub epoch: u64,
    /// Id of whoever signed it.
    pub signer: String,
    /// Its nickname.
    pub signer_name: String,
    /// `signed` when the signature was checked and is good, `journal` when only this router's own journal says so, `forged`.
    pub proof: String,
}

/// Two steps that cannot both be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditConflict {
    /// The addresses.
    pub prefix: Ipv4Net,
    /// The step.
    pub step: AuditStep,
    /// The one that it is in conflict with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with: Option<AuditStep>,
    /// `not-the-owner` or `contradiction`.
    pub link: String,
    /// Whether a later step of an owner has settled it.
    pub settled: bool,
}

/// `GET /ipam/history/ADDRESS`: everything that is known about one address, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpamHistory {
    /// The address.
    pub address: Ipv4Addr,
    /// The steps.
    pub steps: Vec<HistoryStep>,
    /// Who holds the address on this router.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
}

/// One step of an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryStep {
    /// What was signed.
    #[serde(flatten)]
    pub step: AuditStep,
    /// `founded`, `by-owner`, `takeover`, `gap`, `not-the-owner`, `contradiction`.
    pub link: String,
}
