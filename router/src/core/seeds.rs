//! The list of hosts that create a fabric together, without talking first (ADR 0009). Knows names and ranges, no addresses.
//!
//! Everything follows from the list, the range and the password: the fabric's id, and which part of the range is whose. Hosts with
//! different lists are in different fabrics, whose ids begin alike, so that each can tell the other why it is refused.

use std::fmt;

use aws_lc_rs::digest;
use ipnet::Ipv4Net;

use super::fabric::{FabricError, FabricId, Secret};

/// Seeds at most: as many targets as a router dials. A larger fleet starts from some of its hosts, the others join.
pub const MAX_SEEDS: usize = 128;
/// Longest name, as for nicknames.
const MAX_NAME: usize = 63;
/// Bytes of a fabric's id that say which password and range; the others say which list.
const FAMILY: usize = 8;
const SALT_LABEL: &[u8] = b"weave seeds salt v1";
const FAMILY_LABEL: &[u8] = b"weave seeds family v1";
const LIST_LABEL: &[u8] = b"weave seeds list v1";

/// At least two names, sorted, each once. The order in which they were given does not matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seeds {
    names: Vec<String>,
}

/// Why a list is not usable. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeedsError {
    /// One host alone creates a fabric without a list.
    #[error("the list names {got} host, want 2 to {MAX_SEEDS}: one host alone needs no `--seeds`")]
    TooFew {
        /// Names in it.
        got: usize,
    },
    /// More than anybody needs.
    #[error("the list names {got} hosts, want 2 to {MAX_SEEDS}: the others join by a token")]
    TooMany {
        /// Names in it.
        got: usize,
    },
    /// Two hosts would take the same part.
    #[error("`{name}` is in the list twice")]
    Twice {
        /// The name.
        name: String,
    },
    /// Not a nickname.
    #[error("`{name}` is not a name of 1 to {MAX_NAME} printable characters without spaces, commas and `=`")]
    BadName {
        /// What was given.
        name: String,
    },
    /// A part would have no address to hand out.
    #[error("the range {range} is too small for {seeds} seeds")]
    RangeTooSmall {
        /// The range.
        range: Ipv4Net,
        /// Names in the list.
        seeds: usize,
    },
    /// This host has no part.
    #[error("this router is called `{name}`, which is not in the list `{list}`")]
    NotASeed {
        /// Its nickname.
        name: String,
        /// The list.
        list: String,
    },
}

impl Seeds {
    /// Checks the names.
    pub fn new(mut names: Vec<String>) -> Result<Seeds, SeedsError> {
        let plain = |c: char| !c.is_whitespace() && !c.is_control() && c != ',' && c != '=';
        if let Some(name) = names.iter().find(|n| n.is_empty() || n.len() > MAX_NAME || !n.chars().all(plain))
        {
            return Err(SeedsError::BadName { name: name.clone() });
        }
        match names.len() {
            got @ 0..=1 => return Err(SeedsError::TooFew { got }),
            2..=MAX_SEEDS => {}
            got => return Err(SeedsError::TooMany { got }),
        }
        names.sort();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(SeedsError::Twice { name: pair[0].clone() });
        }
        Ok(Seeds { names })
    }

    /// The names, sorted.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The id of the fabric. Stretches the password, so it takes a noticeable part of a second.
    pub fn fabric(&self, range: Ipv4Net, password: &[u8]) -> Result<FabricId, FabricError> {
        let mut ranged = range.network().octets().to_vec();
        ranged.push(range.prefix_len());
        let salt = FabricId(hash(&[SALT_LABEL, &ranged]));
        let stretched = Secret::from_password(password, salt)?;
        let mut id = hash::<16>(&[FAMILY_LABEL, stretched.expose()]);
        let list = hash::<8>(&[LIST_LABEL, self.to_string().as_bytes()]);
        id[FAMILY..].copy_from_slice(&list);
        Ok(FabricId(id))
    }

    /// The part of the range that is `name`'s: parts are equal up to a factor of two, and one or a few blocks each.
    pub fn part(&self, name: &str, range: Ipv4Net) -> Result<Vec<Ipv4Net>, SeedsError> {
        let count = self.names.len() as u64;
        let slices = count.next_power_of_two();
        let size = 1u64 << (32 - u32::from(range.prefix_len()));
        // Two addresses at least: the first and the last of the range are never handed out.
        if size / slices < 2 {
            return Err(SeedsError::RangeTooSmall { range, seeds: self.names.len() });
        }
        let index = self.names.binary_search_by(|known| known.as_str().cmp(name));
        let index =
            index.map_err(|_| SeedsError::NotASeed { name: name.to_owned(), list: self.to_string() })?;
        let (first, end) = (index as u64 * slices / count, (index as u64 + 1) * slices / count);
        let length = range.prefix_len() + slices.ilog2() as u8;
        let start = u64::from(range.network().to_bits());
        let slice = |n: u64| Ipv4Net::new_assert(((start + n * (size / slices)) as u32).into(), length);
        Ok(Ipv4Net::aggregate(&(first..end).map(slice).collect()))
    }
}

impl fmt::Display for Seeds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names.join(","))
    }
}

/// Whether two fabrics have the same password and range, and started from different lists.
pub fn same_family(one: FabricId, other: FabricId) -> bool {
    one != other && one.0[..FAMILY] == other.0[..FAMILY]
}

fn hash<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut context = digest::Context::new(&digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut out = [0; N];
    out.copy_from_slice(&context.finish().as_ref()[..N]);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seeds(names: &[&str]) -> Result<Seeds, SeedsError> {
        Seeds::new(names.iter().map(|name| (*name).to_owned()).collect())
    }

    proptest! {
        #[test]
        fn parts_are_the_whole_range_and_nobody_has_two(count in 2..=MAX_SEEDS, length in 8..=24u8) {
            let names: Vec<String> = (0..count).map(|n| format!("host-{n}")).collect();
            let seeds = Seeds::new(names.clone()).unwrap();
            let range: Ipv4Net = format!("10.0.0.0/{length}").parse().unwrap();
            let mut all = Vec::new();
            let mut sizes = Vec::new();
            for name in &names {
                let part = seeds.part(name, range).unwrap();
                sizes.push(part.iter().map(|block| 1u64 << (32 - block.prefix_len())).sum::<u64>());
                all.extend(part);
            }
            prop_assert_eq!(sizes.iter().sum::<u64>(), 1 << (32 - length));
            prop_assert!(sizes.iter().max() <= sizes.iter().min().map(|least| least * 2).as_ref());
            prop_assert_eq!(Ipv4Net::aggregate(&all), vec![range]);
            prop_assert!(all.len() <= 2 * count);
        }
    }

    #[test]
    fn order_does_not_matter_and_anything_else_does() {
        let range = "10.0.0.0/16".parse().unwrap();
        let id = |names: &[&str], password: &[u8]| seeds(names).unwrap().fabric(range, password).unwrap();
        let one = id(&["a", "b"], b"correct horse");
        assert_eq!(id(&["b", "a"], b"correct horse"), one);
        let longer = id(&["a", "b", "c"], b"correct horse");
        assert!(same_family(one, longer) && !same_family(one, one));
        let other_password = id(&["a", "b"], b"battery staple");
        assert!(one != other_password && !same_family(one, other_password));
    }

    #[test]
    fn lists_that_make_no_sense_are_refused() {
        assert_eq!(seeds(&["a"]), Err(SeedsError::TooFew { got: 1 }));
        assert_eq!(seeds(&["a", "b", "a"]), Err(SeedsError::Twice { name: "a".to_owned() }));
        assert!(matches!(seeds(&["a", "b c"]), Err(SeedsError::BadName { .. })));
        let two = seeds(&["b", "a"]).unwrap();
        let small = "10.0.0.0/30".parse().unwrap();
        assert_eq!(two.part("a", small), Ok(vec!["10.0.0.0/31".parse().unwrap()]));
        let none = SeedsError::NotASeed { name: "c".to_owned(), list: "a,b".to_owned() };
        assert_eq!(two.part("c", small), Err(none));
        let three = seeds(&["a", "b", "c"]).unwrap();
        assert!(matches!(three.part("a", small), Err(SeedsError::RangeTooSmall { seeds: 3, .. })));
    }
}
