//! Who owns what, and how it came to, proven from signed steps: what `ipam audit` and `ipam history` answer.
//!
//! A pure judgement over three things: the present map, the removals, and all steps that somebody kept. It does not check signatures
//! itself: each step comes with what the check said. Steps that nobody kept leave gaps, which are named; steps that contradict each
//! other, or that somebody signed who had no right to, are conflicts.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use gossip::PeerId;
use ipnet::Ipv4Net;

use crate::Ipam;
use crate::map::{Holding, OwnerMap, Standing};
use crate::record::{BlockRecord, RemovalRecord};
use crate::span::Span;

/// What speaks for a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proof {
    /// The signature of whoever is said to have signed it, checked now.
    Signed,
    /// Nothing but this peer's own journal: the signed record is gone, or was never seen.
    Journal,
    /// The signature is wrong.
    Forged,
}

/// A change of ownership, and what speaks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Step {
    /// What was signed.
    pub record: BlockRecord,
    /// By whom.
    pub signer: PeerId,
    /// What speaks for that.
    pub proof: Proof,
}

/// How a step follows from the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    /// It is the first one: whoever began the fabric, or a seed its part.
    Founded,
    /// Signed by the owner before: a gift, or the owner's own next word.
    ByOwner,
    /// Signed by whoever takes over from a removed peer.
    Takeover,
    /// Steps between are not known here.
    Gap,
    /// Signed by somebody who was not the owner.
    NotTheOwner,
    /// Two steps of one epoch differ.
    Contradiction,
}

impl Link {
    /// Whether it proves that somebody is faulty.
    pub fn is_conflict(self) -> bool {
        match self {
            Link::NotTheOwner | Link::Contradiction => true,
            Link::Founded | Link::ByOwner | Link::Takeover | Link::Gap => false,
        }
    }
}

/// A block as it is owned now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Audited {
    /// The newest step about it, cut to the addresses that it still speaks for.
    pub step: Step,
    /// How that step follows from the one before, in the worst case among its addresses.
    pub link: Link,
}

/// Something that two steps cannot both mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// The addresses.
    pub prefix: Ipv4Net,
    /// The step that is in conflict.
    pub step: Step,
    /// The one that it is in conflict with; the one before it if nobody had the right to sign.
    pub with: Option<Step>,
    /// What is wrong.
    pub link: Link,
    /// Whether a later step of an owner has settled it.
    pub settled: bool,
}

/// What an audit found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// The range.
    pub range: Ipv4Net,
    /// Everything that is owned, in ascending order.
    pub blocks: Vec<Audited>,
    /// Parts of the range without a known owner.
    pub unowned: Vec<Ipv4Net>,
    /// Conflicts, those that stand first.
    pub conflicts: Vec<Conflict>,
    /// Steps with a wrong signature. They count for nothing.
    pub forged: Vec<Step>,
    /// Steps that were looked at.
    pub steps: usize,
}

impl Audit {
    /// Whether somebody is faulty now: a conflict that nobody has settled, or a forged record.
    pub fn has_conflict(&self) -> bool {
        !self.forged.is_empty() || self.conflicts.iter().any(|conflict| !conflict.settled)
    }
}

/// All that is needed for an audit; it can be carried to where the waiting hurts nobody.
#[derive(Debug, Clone)]
pub struct Basis {
    range: Ipv4Net,
    map: OwnerMap,
    /// (removed, heir), as the heirs have signed, with what follows from all of them together.
    removals: BTreeSet<(PeerId, PeerId)>,
}

impl Ipam {
    /// What an audit starts from.
    pub fn audit_basis(&self) -> Basis {
        let claimed = self.removals.claims().map(|RemovalRecord { removed, heir }| (removed, heir));
        let removals = claimed.chain(self.removals.iter()).collect();
        Basis { range: self.config.range, map: self.map.clone(), removals }
    }
}

impl Basis {
    /// Judges everything.
    pub fn audit(&self, steps: Vec<Step>) -> Audit {
        let (steps, forged) = sorted(steps.into_iter().chain(self.present()));
        let mut replay = OwnerMap::default();
        let (mut blocks, mut conflicts) = (Vec::new(), Vec::new());
        for step in &steps {
            let holding = Holding::new(step.signer, &step.record);
            for (piece, before) in replay.pieces(Span::of(step.record.prefix)) {
                if before == Some(holding) {
                    continue;
                }
                let link = self.link(before.as_ref(), step);
                if link.is_conflict() {
                    let with = before.map(|before| self.step_of(piece, &before, &steps));
                    conflicts.extend(self.conflicts(piece, step, with, link));
                } else {
                    replay.put(piece, holding);
                }
                let now = self.map.within(piece).filter(|(_, now)| now.is_of(step.signer, &step.record));
                blocks.extend(now.flat_map(|(part, _)| part.blocks()).map(|prefix| {
                    let record = BlockRecord { prefix, ..step.record };
                    Audited { step: Step { record, ..*step }, link }
                }));
            }
        }
        conflicts.extend(self.contested(&steps));
        conflicts.sort_by_key(|conflict| (conflict.settled, conflict.prefix, conflict.step));
        conflicts.dedup();
        Audit {
            range: self.range,
            blocks: joined(blocks),
            unowned: self.unowned(),
            conflicts,
            forged,
            steps: steps.len(),
        }
    }

    /// The steps of one address, oldest first, and how each follows from the one before.
    pub fn history(&self, addr: Ipv4Addr, steps: Vec<Step>) -> Vec<(Step, Link)> {
        let about = |step: &Step| step.record.prefix.contains(&addr);
        let (steps, forged) = sorted(steps.into_iter().chain(self.present()).filter(about));
        let mut before: Option<Holding> = None;
        let mut history = Vec::new();
        for step in steps {
            let link = self.link(before.as_ref(), &step);
            history.push((step, link));
            if !link.is_conflict() {
                before = Some(Holding::new(step.signer, &step.record));
            }
        }
        history.extend(forged.into_iter().map(|step| (step, Link::NotTheOwner)));
        history
    }

    /// What this peer believes, whether or not a signed record speaks for it.
    fn present(&self) -> impl Iterator<Item = Step> + '_ {
        self.map.iter().flat_map(|(span, holding)| {
            span.blocks().map(move |prefix| {
                let record = BlockRecord { prefix, owner: holding.owner, epoch: holding.epoch };
                Step { record, signer: holding.signer, proof: Proof::Journal }
            })
        })
    }

    fn link(&self, before: Option<&Holding>, step: &Step) -> Link {
        let record = &step.record;
        let Some(before) = before else {
            return if record.epoch == 1 && record.owner == step.signer { Link::Founded } else { Link::Gap };
        };
        let inherits = |from: PeerId| self.removals.contains(&(from, step.signer));
        match record.epoch {
            epoch if epoch == before.epoch => Link::Contradiction,
            _ if step.signer == before.owner => Link::ByOwner,
            // What a removed peer gave and nobody took up goes to the heir too.
            _ if inherits(before.owner) || inherits(before.signer) => Link::Takeover,
            epoch if epoch == before.epoch + 1 => Link::NotTheOwner,
            _ => Link::Gap,
        }
    }

    /// A conflict on `piece`, apart where it stands and where it is settled.
    fn conflicts(&self, piece: Span, step: &Step, with: Option<Step>, link: Link) -> Vec<Conflict> {
        let of = |span: Span, settled: bool| {
            span.blocks().map(move |prefix| Conflict { prefix, step: *step, with, link, settled })
        };
        let known = self.map.within(piece);
        known
            .flat_map(|(part, now)| {
                of(part, now.standing == Standing::Clean && now.epoch > step.record.epoch)
            })
            .collect()
    }

    /// What the map itself says is contested, if the records that say so are gone.
    fn contested(&self, steps: &[Step]) -> Vec<Conflict> {
        let contested = self.map.iter().filter(|(_, holding)| holding.standing == Standing::Contested);
        contested
            .flat_map(|(span, holding)| {
                let step = self.step_of(span, &holding, steps);
                let rival = steps.iter().find(|other| {
                    let theirs = Span::of(other.record.prefix);
                    other.record.epoch == holding.epoch
                        && (other.signer, other.record.owner) != (holding.signer, holding.owner)
                        && theirs.intersection(span).is_some()
                });
                let with = rival.copied();
                span.blocks().map(move |prefix| Conflict {
                    prefix,
                    step,
                    with,
                    link: Link::Contradiction,
                    settled: false,
                })
            })
            .collect()
    }

    fn step_of(&self, span: Span, holding: &Holding, steps: &[Step]) -> Step {
        let same = |step: &&Step| {
            holding.is_of(step.signer, &step.record)
                && Span::of(step.record.prefix).intersection(span) == Some(span)
        };
        steps.iter().find(same).copied().unwrap_or(Step {
            record: BlockRecord { prefix: span.largest_block(), owner: holding.owner, epoch: holding.epoch },
            signer: holding.signer,
            proof: Proof::Journal,
        })
    }

    fn unowned(&self) -> Vec<Ipv4Net> {
        self.map.gaps(Span::of(self.range)).flat_map(Span::blocks).collect()
    }
}

/// In the order in which they were signed, each once with the best that speaks for it; forged ones apart.
fn sorted(steps: impl Iterator<Item = Step>) -> (Vec<Step>, Vec<Step>) {
    let (forged, mut good): (Vec<Step>, Vec<Step>) = steps.partition(|step| step.proof == Proof::Forged);
    good.sort_by_key(|step| {
        (step.record.epoch, step.signer, step.record.owner, step.proof, step.record.prefix)
    });
    let mut kept: Vec<Step> = Vec::new();
    for step in good {
        let covered = |other: &Step| {
            (other.signer, other.record.owner, other.record.epoch)
                == (step.signer, step.record.owner, step.record.epoch)
                && other.record.prefix.contains(&step.record.prefix)
        };
        let same_epoch = kept.iter().rev().take_while(|other| other.record.epoch == step.record.epoch);
        if !same_epoch.into_iter().any(covered) {
            kept.push(step);
        }
    }
    (kept, forged)
}

/// Blocks in ascending order; the two halves of one block that came the same way are one.
fn joined(mut blocks: Vec<Audited>) -> Vec<Audited> {
    blocks.sort_by_key(|block| (block.step.record.prefix, block.step.proof));
    blocks.dedup_by_key(|block| block.step.record.prefix);
    let mut joined: Vec<Audited> = Vec::new();
    for block in blocks {
        joined.push(block);
        while let [.., low, high] = joined.as_slice() {
            let parent = crate::span::parent(low.step.record.prefix);
            let same = |a: &Audited, b: &Audited| {
                let of = |x: &Audited| {
                    (x.link, x.step.proof, x.step.signer, x.step.record.owner, x.step.record.epoch)
                };
                of(a) == of(b) && a.step.record.prefix.prefix_len() == b.step.record.prefix.prefix_len()
            };
            let (low, high) = (*low, *high);
            match parent.filter(|_| same(&low, &high)) {
                Some(parent) if crate::span::parent(high.step.record.prefix) == Some(parent) => {
                    let record = BlockRecord { prefix: parent, ..low.step.record };
                    joined.truncate(joined.len() - 2);
                    joined.push(Audited { step: Step { record, ..low.step }, ..low });
                }
                Some(_) | None => break,
            }
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::Config;

    fn peer(n: u8) -> PeerId {
        PeerId([n; 16])
    }

    fn step(signer: u8, prefix: &str, owner: u8, epoch: u64) -> Step {
        let record = BlockRecord { prefix: prefix.parse().unwrap(), owner: peer(owner), epoch };
        Step { record, signer: peer(signer), proof: Proof::Signed }
    }

    /// A peer that has heard of these steps, in this order, as far as it takes them.
    fn basis(steps: &[Step]) -> Basis {
        let now = Instant::now();
        let mut ipam = Ipam::new(Config::new("10.0.0.0/24".parse().unwrap()), peer(9), 1, now);
        for step in steps {
            let record = step.record;
            ipam.handle_record(step.signer, &record.key(), Some(&record.encode()), now).unwrap();
        }
        ipam.audit_basis()
    }

    fn honest() -> Vec<Step> {
        vec![
            step(1, "10.0.0.0/24", 1, 1),
            step(1, "10.0.0.128/25", 2, 2),
            step(2, "10.0.0.128/25", 2, 3),
            step(2, "10.0.0.192/26", 3, 4),
            step(3, "10.0.0.192/26", 3, 5),
        ]
    }

    fn blocks(audit: &Audit) -> Vec<(String, u8, u64, Link, Proof)> {
        let row = |block: &Audited| {
            let Step { record, proof, .. } = block.step;
            (record.prefix.to_string(), record.owner.0[0], record.epoch, block.link, proof)
        };
        audit.blocks.iter().map(row).collect()
    }

    #[test]
    fn complete_records_prove_every_block() {
        let audit = basis(&honest()).audit(honest());
        assert_eq!(
            blocks(&audit),
            [
                ("10.0.0.0/25".to_owned(), 1, 1, Link::Founded, Proof::Signed),
                ("10.0.0.128/26".to_owned(), 2, 3, Link::ByOwner, Proof::Signed),
                ("10.0.0.192/26".to_owned(), 3, 5, Link::ByOwner, Proof::Signed),
            ]
        );
        assert!(!audit.has_conflict() && audit.conflicts.is_empty() && audit.unowned.is_empty());
    }

    #[test]
    fn history_tells_every_step_of_an_address() {
        let history = basis(&honest()).history("10.0.0.200".parse().unwrap(), honest());
        let told: Vec<_> = history.iter().map(|(step, link)| (step.record.epoch, *link)).collect();
        assert_eq!(
            told,
            [
                (1, Link::Founded),
                (2, Link::ByOwner),
                (3, Link::ByOwner),
                (4, Link::ByOwner),
                (5, Link::ByOwner)
            ]
        );
    }

    #[test]
    fn lost_steps_are_gaps_and_lost_records_are_said_to_be() {
        let kept = [honest()[0], honest()[4]];
        let audit = basis(&honest()).audit(kept.to_vec());
        assert_eq!(
            blocks(&audit)[1..],
            [
                ("10.0.0.128/26".to_owned(), 2, 3, Link::Gap, Proof::Journal),
                ("10.0.0.192/26".to_owned(), 3, 5, Link::Gap, Proof::Signed),
            ]
        );
        assert!(!audit.has_conflict());
    }

    #[test]
    fn two_steps_of_one_epoch_are_a_conflict_that_names_both() {
        let mut steps = honest();
        steps.push(step(1, "10.0.0.128/25", 4, 2));
        let now_settled = basis(&steps).audit(steps.clone());
        assert_eq!(now_settled.conflicts.len(), 2, "one for each present block");
        assert!(now_settled.conflicts.iter().all(|conflict| conflict.settled) && !now_settled.has_conflict());
        let open = [honest()[0], honest()[1], steps[5]];
        let audit = basis(&open).audit(open.to_vec());
        assert!(audit.has_conflict());
        let conflict = audit.conflicts[0];
        assert_eq!(
            (conflict.prefix.to_string().as_str(), conflict.link),
            ("10.0.0.128/25", Link::Contradiction)
        );
        let owners = [conflict.step.record.owner, conflict.with.unwrap().record.owner];
        assert!(owners.contains(&peer(2)) && owners.contains(&peer(4)), "{conflict:?}");
    }

    #[test]
    fn a_step_of_somebody_who_was_not_the_owner_is_a_conflict_until_the_owner_steps_above() {
        let mut steps = honest();
        steps.push(step(7, "10.0.0.0/26", 7, 2));
        let audit = basis(&steps).audit(steps.clone());
        assert_eq!(audit.conflicts.len(), 1);
        assert_eq!((audit.conflicts[0].link, audit.conflicts[0].settled), (Link::NotTheOwner, false));
        assert!(audit.has_conflict());
        steps.push(step(1, "10.0.0.0/26", 1, 3));
        assert!(!basis(&steps).audit(steps.clone()).has_conflict());
    }

    #[test]
    fn a_forged_record_counts_for_nothing_and_is_a_conflict() {
        let mut steps = honest();
        steps.push(Step { proof: Proof::Forged, ..step(1, "10.0.0.0/26", 7, 2) });
        let audit = basis(&honest()).audit(steps);
        assert_eq!((audit.forged.len(), audit.conflicts.len()), (1, 0));
        assert!(audit.has_conflict());
    }

    #[test]
    fn a_takeover_is_proven_by_the_removal() {
        let mut steps = honest();
        steps.push(step(1, "10.0.0.192/26", 1, 5 + 65_536));
        let now = Instant::now();
        let mut ipam = Ipam::new(Config::new("10.0.0.0/24".parse().unwrap()), peer(9), 1, now);
        for step in &steps {
            let record = step.record;
            ipam.handle_record(step.signer, &record.key(), Some(&record.encode()), now).unwrap();
        }
        let last = |ipam: &Ipam| {
            let last = ipam.audit_basis().audit(steps.clone()).blocks.pop().unwrap();
            (last.step.record.owner, last.link)
        };
        assert_eq!(last(&ipam), (peer(3), Link::ByOwner), "without the removal it does not count");
        ipam.handle_removal(RemovalRecord { removed: peer(3), heir: peer(1) }, now);
        assert_eq!(last(&ipam), (peer(1), Link::Takeover));
    }
}
