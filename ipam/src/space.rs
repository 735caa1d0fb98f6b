//! The addresses that this peer may hand out, and to whom it did. Knows nothing of other peers.
//!
//! Free addresses are kept as intervals, so that the lowest one, a given one and the ones inside a subnet are found in
//! logarithmic time, and a million free addresses take no more room than one.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use ipnet::Ipv4Net;

use crate::hash::NameHash;
use crate::span::{Span, halves};

/// What an address of ours is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Use {
    Free,
    Leased(Arc<str>),
    Resting,
    /// The first or the last address of the range, or not ours to hand out.
    Unusable,
}

/// The addresses of one holder, ascending. Nearly all holders have one, for which nothing is allocated.
#[derive(Debug)]
enum Held {
    One([u32; 1]),
    Many(Vec<u32>),
}

impl Held {
    fn as_slice(&self) -> &[u32] {
        match self {
            Held::One(addr) => addr,
            Held::Many(addrs) => addrs,
        }
    }

    fn add(&mut self, addr: u32) {
        let mut addrs = self.as_slice().to_vec();
        if let Err(at) = addrs.binary_search(&addr) {
            addrs.insert(at, addr);
        }
        *self = Held::Many(addrs);
    }
}

/// See the top of the file.
#[derive(Debug)]
pub(crate) struct Space {
    range: Span,
    /// First → last address of every run of free addresses; runs never touch.
    free: BTreeMap<u32, u32>,
    free_count: u64,
    leases: BTreeMap<u32, Arc<str>>,
    /// Only looked up, never iterated: its order cannot be observed.
    holders: HashMap<Arc<str>, Held, NameHash>,
    resting: BTreeMap<u32, Instant>,
    /// In order of time, because every address rests equally long. Entries may be outlived by what they wake.
    wakeups: VecDeque<(Instant, u32)>,
    /// Whether we own the first and the last address of the range: never handed out, but given away with their block.
    owns_first: bool,
    owns_last: bool,
}

impl Space {
    pub(crate) fn new(range: Span) -> Space {
        Space {
            range,
            free: BTreeMap::new(),
            free_count: 0,
            leases: BTreeMap::new(),
            holders: HashMap::default(),
            resting: BTreeMap::new(),
            wakeups: VecDeque::new(),
            owns_first: false,
            owns_last: false,
        }
    }

    /// Whether the address is one of the two that are never handed out.
    pub(crate) fn is_reserved(&self, addr: u32) -> bool {
        addr == self.range.first || addr == self.range.last
    }

    pub(crate) fn free_count(&self) -> u64 {
        self.free_count
    }

    pub(crate) fn used_count(&self) -> u64 {
        self.leases.len() as u64
    }

    pub(crate) fn resting_count(&self) -> u64 {
        self.resting.len() as u64
    }

    pub(crate) fn leases(&self) -> impl Iterator<Item = (u32, &Arc<str>)> + '_ {
        self.leases.iter().map(|(&addr, holder)| (addr, holder))
    }

    pub(crate) fn resting(&self) -> impl Iterator<Item = u32> + '_ {
        self.resting.keys().copied()
    }

    pub(crate) fn resting_within(&self, span: Span) -> u64 {
        self.resting.range(span.first..=span.last).count() as u64
    }

    /// Addresses of a holder, ascending.
    pub(crate) fn leased_to(&self, holder: &str) -> &[u32] {
        self.holders.get(holder).map_or(&[], Held::as_slice)
    }

    pub(crate) fn usage(&self, addr: u32) -> Use {
        if let Some(holder) = self.leases.get(&addr) {
            Use::Leased(Arc::clone(holder))
        } else if self.resting.contains_key(&addr) {
            Use::Resting
        } else if self.is_free(addr) {
            Use::Free
        } else {
            Use::Unusable
        }
    }

    /// Leases the lowest free address inside `within`.
    pub(crate) fn lease_lowest(&mut self, within: Span, holder: &Arc<str>) -> Option<u32> {
        let addr = self.lowest_free(within)?;
        self.remove_free(Span::single(addr));
        self.put_lease(addr, holder);
        Some(addr)
    }

    /// Leases one address, which is free or resting.
    pub(crate) fn lease(&mut self, addr: u32, holder: &Arc<str>) {
        self.remove_free(Span::single(addr));
        self.resting.remove(&addr);
        self.put_lease(addr, holder);
    }

    /// Takes back a lease and lets the address rest until `until`, or makes it free at once.
    pub(crate) fn release(&mut self, addr: u32, until: Option<Instant>) -> Option<Arc<str>> {
        let holder = self.drop_lease(addr)?;
        match until {
            Some(until) => self.put_to_rest(addr, until),
            None => self.insert_free(Span::single(addr)),
        }
        Some(holder)
    }

    pub(crate) fn put_to_rest(&mut self, addr: u32, until: Instant) {
        self.remove_free(Span::single(addr));
        self.resting.insert(addr, until);
        self.wakeups.push_back((until, addr));
    }

    /// When the next address has rested enough.
    pub(crate) fn next_wakeup(&self) -> Option<Instant> {
        self.wakeups.front().map(|&(at, _)| at)
    }

    /// Frees what has rested enough; says whether there was any.
    pub(crate) fn wake(&mut self, now: Instant) -> Woken {
        let mut woken = Woken::None;
        while let Some(&(at, addr)) = self.wakeups.front() {
            if at > now {
                break;
            }
            self.wakeups.pop_front();
            if self.resting.get(&addr) == Some(&at) {
                self.resting.remove(&addr);
                self.insert_free(Span::single(addr));
                woken = Woken::Some;
            }
        }
        woken
    }

    /// The addresses of `span` are ours to hand out now. Leases that are already known in it stay.
    pub(crate) fn gain(&mut self, span: Span) {
        self.owns_first |= span.contains(self.range.first);
        self.owns_last |= span.contains(self.range.last);
        let mut next = Some(span.first);
        let mut runs = Vec::new();
        let taken = self.leases.range(span.first..=span.last).map(|(&addr, _)| addr);
        let resting = self.resting.range(span.first..=span.last).map(|(&addr, _)| addr);
        let edges = [self.range.first, self.range.last].into_iter().filter(|&addr| span.contains(addr));
        let mut holes: Vec<u32> = taken.chain(resting).chain(edges).collect();
        holes.sort_unstable();
        for hole in holes {
            if let Some(first) = next.filter(|&first| first < hole) {
                runs.push(Span { first, last: hole - 1 });
            }
            next = hole.checked_add(1);
        }
        if let Some(first) = next.filter(|&first| first <= span.last) {
            runs.push(Span { first, last: span.last });
        }
        for run in runs {
            self.insert_free(run);
        }
    }

    /// Nothing in `span` may be handed out any more; what is leased stays leased.
    pub(crate) fn withhold(&mut self, span: Span) {
        self.owns_first &= !span.contains(self.range.first);
        self.owns_last &= !span.contains(self.range.last);
        self.remove_free(span);
        let resting: Vec<u32> = self.resting.range(span.first..=span.last).map(|(&addr, _)| addr).collect();
        for addr in resting {
            self.resting.remove(&addr);
        }
    }

    /// `span` is not ours any more. Answers the leases that were in it.
    pub(crate) fn lose(&mut self, span: Span) -> Vec<(u32, Arc<str>)> {
        self.withhold(span);
        let lost: Vec<u32> = self.leases.range(span.first..=span.last).map(|(&addr, _)| addr).collect();
        lost.into_iter().filter_map(|addr| Some((addr, self.drop_lease(addr)?))).collect()
    }

    /// Takes one lease out of the books, wherever its address belongs.
    pub(crate) fn drop_lease(&mut self, addr: u32) -> Option<Arc<str>> {
        let holder = self.leases.remove(&addr)?;
        if let Entry::Occupied(mut entry) = self.holders.entry(Arc::clone(&holder)) {
            match entry.get_mut() {
                Held::Many(addrs) if addrs.len() > 1 => addrs.retain(|&held| held != addr),
                Held::Many(_) | Held::One(_) => drop(entry.remove()),
            }
        }
        Some(holder)
    }

    /// What to give to somebody who needs space inside `within`: half of the largest free block there, down to a single
    /// address. Of several the one that `rank` likes best, then the highest, because allocation fills from below.
    pub(crate) fn gift(&self, within: Span, rank: impl Fn(Span) -> u8) -> Option<Ipv4Net> {
        let largest = self
            .free_runs(within)
            .map(Span::largest_block)
            .filter(|block| !self.only_reserved(Span::of(*block)))
            .map(|block| (block.prefix_len(), self.part_to_give(block)))
            .min_by_key(|&(length, part)| {
                (length, std::cmp::Reverse(rank(Span::of(part))), std::cmp::Reverse(part.network()))
            })
            .map(|(_, part)| part);
        // The largest block of a run can be a reserved address alone, beside a free one of the same size.
        largest.or_else(|| self.lowest_free(within).map(|addr| Span::single(addr).largest_block()))
    }

    /// Runs of addresses that can be given away inside `within`; a reserved address goes with the free one beside it.
    pub(crate) fn free_runs(&self, within: Span) -> impl Iterator<Item = Span> + '_ {
        self.free.iter().filter_map(move |(&first, &last)| {
            let edged = Span {
                first: if self.owns_first && first == self.range.first + 1 {
                    self.range.first
                } else {
                    first
                },
                last: if self.owns_last && last + 1 == self.range.last { self.range.last } else { last },
            };
            edged.intersection(within).filter(|run| !self.only_reserved(*run))
        })
    }

    /// The upper half, or all of a single address.
    fn part_to_give(&self, block: Ipv4Net) -> Ipv4Net {
        match halves(block) {
            Some([low, high]) if self.only_reserved(Span::of(high)) => low,
            Some([_, high]) => high,
            None => block,
        }
    }

    fn only_reserved(&self, span: Span) -> bool {
        span.size() == 1 && self.is_reserved(span.first)
    }

    fn put_lease(&mut self, addr: u32, holder: &Arc<str>) {
        self.leases.insert(addr, Arc::clone(holder));
        match self.holders.entry(Arc::clone(holder)) {
            Entry::Vacant(entry) => drop(entry.insert(Held::One([addr]))),
            Entry::Occupied(entry) => entry.into_mut().add(addr),
        }
    }

    fn lowest_free(&self, within: Span) -> Option<u32> {
        if self.is_free(within.first) {
            return Some(within.first);
        }
        let (&first, _) = self.free.range(within.first..=within.last).next()?;
        Some(first)
    }

    fn is_free(&self, addr: u32) -> bool {
        self.free.range(..=addr).next_back().is_some_and(|(_, &last)| addr <= last)
    }

    fn insert_free(&mut self, run: Span) {
        self.remove_free(run);
        let mut joined = run;
        if let Some((&first, &last)) = self.free.range(..run.first).next_back()
            && last + 1 == run.first
        {
            joined.first = first;
        }
        if let Some(after) = run.last.checked_add(1)
            && let Some(last) = self.free.remove(&after)
        {
            joined.last = last;
        }
        self.free.insert(joined.first, joined.last);
        self.free_count += run.size();
    }

    fn remove_free(&mut self, span: Span) {
        let start = match self.free.range(..=span.first).next_back() {
            Some((&first, &last)) if last >= span.first => first,
            Some(_) | None => span.first,
        };
        while let Some((&first, &last)) = self.free.range(start..=span.last).next() {
            self.free.remove(&first);
            if first < span.first {
                self.free.insert(first, span.first - 1);
            }
            if last > span.last {
                self.free.insert(span.last + 1, last);
            }
            self.free_count -= Span { first: first.max(span.first), last: last.min(span.last) }.size();
            if first < span.first {
                // Only the first run can reach in from below; go on behind it.
                return self.remove_free_from(span);
            }
        }
    }

    fn remove_free_from(&mut self, span: Span) {
        while let Some((&first, &last)) = self.free.range(span.first..=span.last).next() {
            self.free.remove(&first);
            if last > span.last {
                self.free.insert(span.last + 1, last);
            }
            self.free_count -= Span { first, last: last.min(span.last) }.size();
        }
    }
}

/// Whether anything became free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Woken {
    None,
    Some,
}
