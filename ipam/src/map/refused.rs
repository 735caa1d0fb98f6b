//! Steps that do not count: refused, or with nothing that connects them to what is known (ADR 0011). They are kept and judged again
//! when more is known, so that the order in which records come does not matter.

use gossip::PeerId;

use super::{Court, Holding, Outcome, OwnerMap, Verdict};
use crate::span::Span;

/// Steps that do not count yet and are kept to be judged again when more is known: a fabric of 1,000 peers in which each has given
/// twice while this one was away. Past the limit the oldest go.
pub(crate) const MAX_REFUSED: usize = 2048;

/// Of these, those of one signer: nobody fills the list alone.
const MAX_REFUSED_OF_ONE: usize = 128;

/// A step that does not count on some part of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused {
    span: Span,
    step: Holding,
    number: u64,
    denied: Denied,
}

/// Who has said that a step is false.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Denied {
    /// Nobody so far.
    NotYet,
    /// The owner that was known. It may have forgotten.
    ByOwner,
}

impl OwnerMap {
    /// Records that are kept although they were refused.
    pub(crate) fn refused(&self) -> usize {
        self.refused.len()
    }

    /// The court may judge otherwise than before: what did not count in `span` is judged again.
    pub(crate) fn judge_again(&mut self, span: Span, court: &impl Court) -> Outcome {
        let mut outcome = Outcome::default();
        for again in self.take_refused(|at| at.intersection(span).is_some()) {
            self.step_again(again, court, &mut outcome);
        }
        self.judge_refused_again(court, &mut outcome);
        (outcome.refused, outcome.unconnected) = (0, 0);
        outcome
    }

    /// Where steps are missing: the owner that is known there, who has to know, and who signed what came after.
    pub(crate) fn unconnected(&self, court: &impl Court) -> Vec<(PeerId, PeerId, Span)> {
        self.open(court, |kept| kept.denied == Denied::NotYet)
    }

    /// As [`OwnerMap::unconnected`], of what the owner has said is false.
    pub(crate) fn refuted(&self, court: &impl Court) -> Vec<(PeerId, PeerId, Span)> {
        self.open(court, |kept| kept.denied == Denied::ByOwner)
    }

    fn open(&self, court: &impl Court, wanted: impl Fn(&Refused) -> bool) -> Vec<(PeerId, PeerId, Span)> {
        let mut open = Vec::new();
        for kept in self.refused.iter().filter(|kept| wanted(kept)) {
            for (piece, current) in self.pieces(kept.span) {
                let verdict = self.verdict(piece, current.as_ref(), &kept.step, court);
                if let (Some(current), Verdict::Unconnected) = (current, verdict) {
                    open.push((current.owner, kept.step.signer, piece));
                }
            }
        }
        open.sort_unstable();
        open.dedup();
        open
    }

    /// A number above those of all refused steps that are kept now.
    pub(crate) fn mark(&self) -> u64 {
        self.kept
    }

    /// The owner of `span` says that it is, and was asked when `mark` was taken: what was said to the contrary before and is not
    /// connected is false, as far as that owner knows. Answers how much there was.
    pub(crate) fn refute(&mut self, span: Span, mark: u64, court: &impl Court) -> usize {
        let is_refuted = |kept: &Refused| {
            let before = kept.number < mark && kept.denied == Denied::NotYet;
            let mut open = false;
            before
                && self.pieces(kept.span).into_iter().all(|(piece, current)| {
                    match self.verdict(piece, current.as_ref(), &kept.step, court) {
                        Verdict::Unconnected => {
                            open = true;
                            piece.intersection(span) == Some(piece)
                        }
                        Verdict::Stale => true,
                        Verdict::NotTheOwner | Verdict::Take(_) | Verdict::Contradiction(_) => false,
                    }
                })
                && open
        };
        let refuted: Vec<bool> = self.refused.iter().map(is_refuted).collect();
        for (kept, _) in self.refused.iter_mut().zip(&refuted).filter(|(_, refuted)| **refuted) {
            kept.denied = Denied::ByOwner;
        }
        refuted.into_iter().filter(|refuted| *refuted).count()
    }

    /// An epoch that owners may pass: above refused steps that come next, or would follow those. Whoever skips far ahead does not take
    /// us along to the end of all epochs.
    pub(super) fn above_refused(&self, span: Span, known: u64) -> u64 {
        let near = self.refused.iter().filter(|kept| kept.span.intersection(span).is_some());
        let mut epochs: Vec<u64> = near.map(|kept| kept.step.epoch).filter(|epoch| *epoch > known).collect();
        epochs.sort_unstable();
        epochs.into_iter().fold(known, |known, epoch| if epoch <= known + 1 { epoch } else { known })
    }

    pub(super) fn keep_refused(&mut self, span: Span, step: Holding) {
        if !self.refused.iter().any(|kept| (kept.span, kept.step) == (span, step)) {
            let number = self.kept;
            self.kept += 1;
            self.push_refused(Refused { span, step, number, denied: Denied::NotYet });
        }
    }

    fn push_refused(&mut self, new: Refused) {
        let of_same = |kept: &Refused| kept.step.signer == new.step.signer;
        if self.refused.iter().filter(|kept| of_same(kept)).count() >= MAX_REFUSED_OF_ONE {
            let oldest = self.refused.iter().position(of_same).expect("there are some");
            self.refused.remove(oldest);
        } else if self.refused.len() >= MAX_REFUSED {
            self.refused.remove(0);
        }
        self.refused.push(new);
    }

    fn take_refused(&mut self, wanted: impl Fn(Span) -> bool) -> Vec<Refused> {
        let all = std::mem::take(&mut self.refused);
        let (taken, rest) = all.into_iter().partition(|kept| wanted(kept.span));
        self.refused = rest;
        taken
    }

    /// As a step that came now, but it stays what it was if it still does not count.
    fn step_again(&mut self, again: Refused, court: &impl Court, outcome: &mut Outcome) {
        let before = self.kept;
        self.step(again.span, again.step, court, outcome);
        if self.kept > before
            && let Some(kept) = self.refused.last_mut()
        {
            (kept.number, kept.denied) = (again.number, again.denied);
        }
    }

    /// A record that came before the one that makes sense of it, or that contradicts one that comes later, must have the
    /// same effect as in the other order.
    pub(super) fn judge_refused_again(&mut self, court: &impl Court, outcome: &mut Outcome) {
        let mut seen = 0;
        while seen != outcome.changes.len() && !self.refused.is_empty() {
            let changed: Vec<Span> = outcome.changes[seen..].iter().map(|change| change.span).collect();
            seen = outcome.changes.len();
            let concerned = |span: Span| changed.iter().any(|at| at.intersection(span).is_some());
            for again in self.take_refused(concerned) {
                let mut result = Outcome::default();
                self.step_again(again, court, &mut result);
                outcome.changes.append(&mut result.changes);
                outcome.contested += result.contested;
            }
        }
    }
}
