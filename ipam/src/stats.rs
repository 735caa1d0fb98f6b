//! What was refused, dropped or shed, and why. Shown to people; decides nothing.

/// Counters since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Records whose bytes are no record. Never in a healthy fabric of one version.
    pub records_undecodable: u64,
    /// Records of addresses outside of the range. Never in a healthy fabric.
    pub records_out_of_range: u64,
    /// Records whose signer did not own what it gave. Never in a healthy fabric.
    pub records_not_the_owners: u64,
    /// Records between which and what is known steps are missing. Normal for who was away; they count when they are connected.
    pub records_unconnected: u64,
    /// Questions to owners about such records. Normal for who was away.
    pub asked_owners: u64,
    /// Records that contradict another one of the same epoch. Never in a healthy fabric.
    pub records_contested: u64,
    /// Removal records that somebody else than the heir signed. Never in a healthy fabric.
    pub removals_not_the_heirs: u64,
    /// Messages whose bytes are no message. Never in a healthy fabric of one version.
    pub messages_undecodable: u64,
    /// Answers to questions that were answered already or given up. Normal.
    pub answers_late: u64,
    /// Messages and records of peers that were removed. Normal after `rmpeer`.
    pub messages_of_removed: u64,
    /// Requests for space that were sent.
    pub asked: u64,
    /// Blocks that were given away.
    pub given: u64,
    /// Of these, scraps that were given back unasked.
    pub given_back: u64,
    /// Requests of others that were denied.
    pub denied: u64,
    /// Blocks that were received.
    pub received: u64,
    /// Reports about removals that had more blocks than fit. Never in a fabric of reasonable size.
    pub reports_truncated: u64,
}

impl Stats {
    /// Records that were refused, by reason; only those that happened.
    pub fn quarantined(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("undecodable", self.records_undecodable),
            ("out of range", self.records_out_of_range),
            ("signer is not the owner", self.records_not_the_owners),
            ("contradicts another record", self.records_contested),
            ("signer is not the heir", self.removals_not_the_heirs),
        ]
        .into_iter()
        .filter(|&(_, count)| count > 0)
    }
}
