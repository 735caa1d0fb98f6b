//! An unbroken run of addresses, and its decomposition into CIDR blocks. Knows nothing of owners.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// Addresses from `first` to `last`, both included, so that the end of the IPv4 space needs no special case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    pub(crate) first: u32,
    pub(crate) last: u32,
}

impl Span {
    pub(crate) fn of(net: Ipv4Net) -> Span {
        Span { first: net.network().to_bits(), last: net.broadcast().to_bits() }
    }

    pub(crate) fn single(addr: u32) -> Span {
        Span { first: addr, last: addr }
    }

    pub(crate) fn size(self) -> u64 {
        u64::from(self.last - self.first) + 1
    }

    pub(crate) fn contains(self, addr: u32) -> bool {
        self.first <= addr && addr <= self.last
    }

    pub(crate) fn intersection(self, other: Span) -> Option<Span> {
        let (first, last) = (self.first.max(other.first), self.last.min(other.last));
        (first <= last).then_some(Span { first, last })
    }

    /// The fewest CIDR blocks that make up this span, in ascending order; at most 62 of them.
    pub(crate) fn blocks(self) -> Blocks {
        Blocks { rest: Some(self) }
    }

    /// The largest aligned block inside; of several the highest, because allocation fills from the lowest.
    pub(crate) fn largest_block(self) -> Ipv4Net {
        // The fewest-blocks decomposition contains a largest block: a larger one would have been taken instead.
        self.blocks()
            .max_by_key(|block| (std::cmp::Reverse(block.prefix_len()), block.network()))
            .expect("a span has at least one address")
    }
}

/// Iterator of [`Span::blocks`].
pub(crate) struct Blocks {
    rest: Option<Span>,
}

impl Iterator for Blocks {
    type Item = Ipv4Net;

    fn next(&mut self) -> Option<Ipv4Net> {
        let span = self.rest?;
        let aligned = span.first.trailing_zeros();
        let fitting = span.size().ilog2();
        let bits = aligned.min(fitting);
        let length = u8::try_from(32 - bits).expect("at most 32");
        let block = Ipv4Net::new(Ipv4Addr::from_bits(span.first), length).expect("at most 32");
        let end = Span::of(block).last;
        self.rest = (end < span.last).then(|| Span { first: end + 1, last: span.last });
        Some(block)
    }
}

/// The lower and the upper half of `block`; none of a single address.
pub(crate) fn halves(block: Ipv4Net) -> Option<[Ipv4Net; 2]> {
    let mut parts = block.subnets(block.prefix_len() + 1).ok()?;
    Some([parts.next()?, parts.next()?])
}

/// The block that `block` is one half of.
pub(crate) fn parent(block: Ipv4Net) -> Option<Ipv4Net> {
    let length = block.prefix_len().checked_sub(1)?;
    Ipv4Net::new(block.network(), length).ok().map(|net| net.trunc())
}

/// SplitMix64's finaliser: neighbouring inputs, unrelated outputs. Not a secret; peers are authenticated.
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn blocks_cover_a_span_exactly(a: u32, b: u32) {
            let span = Span { first: a.min(b), last: a.max(b) };
            let mut next = Some(span.first);
            for block in span.blocks() {
                prop_assert_eq!(block.trunc(), block);
                prop_assert_eq!(Some(Span::of(block).first), next);
                next = Span::of(block).last.checked_add(1);
            }
            prop_assert_eq!(next, span.last.checked_add(1));
        }
    }

    #[test]
    fn the_whole_space_is_one_block() {
        let all: Vec<_> = Span { first: 0, last: u32::MAX }.blocks().collect();
        assert_eq!(all, ["0.0.0.0/0".parse().unwrap()]);
    }

    #[test]
    fn largest_block_is_the_highest_of_the_largest() {
        let span = Span { first: 1, last: 14 };
        assert_eq!(span.largest_block(), "0.0.0.8/30".parse().unwrap());
    }

    #[test]
    fn halves_and_parent_are_inverse() {
        let block: Ipv4Net = "10.0.0.0/31".parse().unwrap();
        let [low, high] = halves(block).unwrap();
        assert_eq!((parent(low), parent(high)), (Some(block), Some(block)));
        assert_eq!(halves(low), None);
        assert_eq!(parent("0.0.0.0/0".parse().unwrap()), None);
    }
}
