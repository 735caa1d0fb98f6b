//! The range as a bar of owners: a line of letters, one for each equal part.

use std::collections::BTreeMap;

use control::api::{Ipam, IpamOwner};

use super::paint::{Paint, Tone};

/// Letters for owners, largest first; who comes after these is [`SMALL`].
const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// This router.
const MYSELF: char = '#';

/// An owner without a letter of its own.
const SMALL: char = '+';

/// Nobody that is known.
const NOBODY: char = '.';

/// Narrower than this nothing can be seen.
const LEAST_WIDTH: usize = 10;

/// Which letter stands for which owner.
pub(crate) struct Legend<'a> {
    letters: BTreeMap<&'a str, char>,
}

impl<'a> Legend<'a> {
    /// Of all owners.
    pub(crate) fn of(ipam: &'a Ipam) -> Legend<'a> {
        let mut others: Vec<&IpamOwner> = ipam.owners.iter().filter(|owner| owner.state != "self").collect();
        others.sort_by_key(|owner| (std::cmp::Reverse(owner.addresses), &owner.peer));
        let letters = LETTERS.iter().map(|letter| char::from(*letter)).chain(std::iter::repeat(SMALL));
        let mut all: BTreeMap<&str, char> =
            others.iter().map(|owner| owner.peer.as_str()).zip(letters).collect();
        let myself = ipam.owners.iter().find(|owner| owner.state == "self");
        all.extend(myself.map(|owner| (owner.peer.as_str(), MYSELF)));
        Legend { letters: all }
    }

    /// The letter of an owner.
    pub(crate) fn letter(&self, peer: &str) -> char {
        self.letters.get(peer).copied().unwrap_or(SMALL)
    }
}

/// The bar and the ends of the range below it, in a terminal of this width.
pub(crate) fn bar(ipam: &Ipam, legend: &Legend<'_>, width: usize, paint: Paint) -> String {
    let range = ipam.summary.range;
    let total = 1u64 << (32 - u32::from(range.prefix_len()));
    let cells = width.saturating_sub(2).max(LEAST_WIDTH).min(usize::try_from(total).unwrap_or(usize::MAX));
    let mut text = String::from("[");
    for (letter, tone) in letters(ipam, legend, cells, total) {
        text.push_str(&paint.tone(tone, &letter.to_string()));
    }
    text.push_str("]\n");
    let (first, last) = (range.network().to_string(), range.broadcast().to_string());
    let gap = (cells + 2).saturating_sub(first.len() + last.len()).max(1);
    format!("{text}{first}{}{last}\n", " ".repeat(gap))
}

/// For each cell whoever has most of it.
fn letters(ipam: &Ipam, legend: &Legend<'_>, cells: usize, total: u64) -> Vec<(char, Tone)> {
    let start = u64::from(ipam.summary.range.network().to_bits());
    let edge = |cell: usize| total * cell as u64 / cells as u64;
    let mut most: Vec<BTreeMap<usize, u64>> = vec![BTreeMap::new(); cells];
    for (index, owner) in ipam.owners.iter().enumerate() {
        for block in &owner.blocks {
            let first = u64::from(block.prefix.network().to_bits()).saturating_sub(start);
            let end = (u64::from(block.prefix.broadcast().to_bits()) + 1).saturating_sub(start).min(total);
            let mut cell = usize::try_from(first * cells as u64 / total).unwrap_or(cells);
            while cell < cells && edge(cell) < end {
                let part = end.min(edge(cell + 1)).saturating_sub(first.max(edge(cell)));
                *most[cell].entry(index).or_default() += part;
                cell += 1;
            }
        }
    }
    let of = |shares: &BTreeMap<usize, u64>| {
        let largest = shares
            .iter()
            .filter(|(_, part)| **part > 0)
            .max_by_key(|(index, part)| (**part, usize::MAX - **index));
        largest.map_or((NOBODY, Tone::Warn), |(index, _)| {
            let owner = &ipam.owners[*index];
            let tone = match owner.state.as_str() {
                "self" => Tone::Good,
                "alive" => Tone::Normal,
                _ => Tone::Bad,
            };
            (legend.letter(&owner.peer), tone)
        })
    };
    most.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn owner(peer: &str, state: &str, blocks: &[&str]) -> serde_json::Value {
        let size = |block: &&str| 1u64 << (32 - block.split('/').nth(1).unwrap().parse::<u32>().unwrap());
        let listed: Vec<_> = blocks.iter().map(|prefix| json!({ "prefix": prefix, "epoch": 1 })).collect();
        json!({ "peer": peer, "nickname": peer, "state": state, "addresses": blocks.iter().map(size).sum::<u64>(), "blocks": listed })
    }

    fn ipam(range: &str, owners: &[serde_json::Value]) -> Ipam {
        serde_json::from_value(json!({ "summary": { "range": range, "range6": "fd00::/64", "state": "ready", "owned": 0, "used": 0,
            "resting": 0, "unreachable": 0, "unknown": 0 }, "owners": owners, "leases": [], "quarantined": [] }))
        .unwrap()
    }

    fn shown(ipam: &Ipam, width: usize) -> String {
        bar(ipam, &Legend::of(ipam), width, Paint::Plain)
    }

    #[test]
    fn each_owner_has_its_part_of_the_line() {
        let owners = [
            owner("a", "self", &["10.0.0.0/26"]),
            owner("b", "alive", &["10.0.0.128/25"]),
            owner("c", "unreachable", &["10.0.0.64/27"]),
        ];
        let text = shown(&ipam("10.0.0.0/24", &owners), 34);
        assert_eq!(text, "[########BBBB....AAAAAAAAAAAAAAAA]\n10.0.0.0                10.0.0.255\n");
    }

    #[test]
    fn bar_fits_any_width_and_never_breaks() {
        let owners = [owner("a", "self", &["0.0.0.0/1"]), owner("b", "alive", &["128.0.0.0/1"])];
        for width in [0, 1, 12, 79, 80, 81, 500] {
            let text = shown(&ipam("0.0.0.0/0", &owners), width);
            let line = text.lines().next().unwrap();
            assert_eq!(line.len(), width.max(LEAST_WIDTH + 2), "{text}");
            assert_eq!(line.matches('#').count() + line.matches('A').count(), line.len() - 2);
        }
        let small = [owner("a", "self", &["10.0.0.0/31"]), owner("b", "alive", &["10.0.0.3/32"])];
        assert_eq!(shown(&ipam("10.0.0.0/30", &small), 80).lines().next(), Some("[##.A]"));
    }

    #[test]
    fn more_owners_than_letters_share_one() {
        let owners: Vec<_> = (0..64u32)
            .map(|n| owner(&format!("p{n:02}"), "alive", &[&format!("10.0.0.{}/30", n * 4)]))
            .collect();
        let text = shown(&ipam("10.0.0.0/24", &owners), 66);
        assert!(
            text.starts_with("[ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz++++++++++++]\n"),
            "{text}"
        );
    }
}
