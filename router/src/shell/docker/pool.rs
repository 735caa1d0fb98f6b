//! Pools of addresses. A pool's id says all about it, so that Docker's networks outlive whatever happens to our records.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};

use super::fabric::Ranges;

/// Address space of networks of one host.
pub const LOCAL: &str = "weave-local";
/// Address space of Swarm's networks, as their manager sees them.
pub const GLOBAL: &str = "weave-global";

/// Prefix length of what precedes an embedded IPv4 address.
const EMBEDDED_AT: u8 = 96;

/// A pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolId {
    /// Whose it is.
    pub space: Space,
    /// Its subnet, whose prefix length containers get.
    pub subnet: IpNet,
    /// The part of it that addresses are chosen from.
    pub chosen_from: IpNet,
}

/// Whose a pool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// This host's.
    Local,
    /// All nodes' of a Swarm.
    Global,
}

/// Why there is no such pool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// Docker's other drivers have spaces of their own.
    #[error("`{0}` is not an address space of this driver, which has `{LOCAL}` and `{GLOBAL}`")]
    UnknownSpace(String),
    /// Not an address with a prefix length, or of the other family.
    #[error("`{0}` is not an {1} subnet such as {2}")]
    NotASubnet(String, &'static str, String),
    /// The fabric has other addresses.
    #[error(
        "subnet {asked} is not part of the fabric's range {range}; type --subnet {example}, or another part of the range"
    )]
    OutOfRange {
        /// As asked for.
        asked: Ipv4Net,
        /// What there is.
        range: Ipv4Net,
        /// One that would do.
        example: Ipv4Net,
    },
    /// The fabric has other IPv6 addresses.
    #[error(
        "subnet {asked} is not part of the fabric's IPv6 prefix {prefix}, or embeds no IPv4 addresses of its range; \
         leave it out, or type --subnet {example}"
    )]
    OutOfPrefix {
        /// As asked for.
        asked: IpNet,
        /// What there is.
        prefix: IpNet,
        /// One that would do.
        example: IpNet,
    },
    /// `--ip-range` elsewhere.
    #[error("address range {part} is not part of subnet {subnet}; type --ip-range within --subnet")]
    PartOutside {
        /// `--ip-range`.
        part: IpNet,
        /// `--subnet`.
        subnet: IpNet,
    },
    /// Nobody could have an address in it.
    #[error("subnet {0} has no room for containers; type one of at most /{1}")]
    TooSmall(IpNet, u8),
    /// An id that was not made here.
    #[error("`{0}` is not a pool of this driver")]
    NotAPool(String),
}

impl PoolId {
    /// The pool for a wish: empty words mean all there is.
    pub fn wanted(
        space: &str,
        pool: &str,
        part: &str,
        family: Family,
        ranges: &Ranges,
    ) -> Result<PoolId, PoolError> {
        let space = space.parse()?;
        let whole = match family {
            Family::V4 => IpNet::V4(ranges.v4.trunc()),
            Family::V6 => IpNet::V6(ranges.v6.trunc()),
        };
        let subnet = if pool.is_empty() { whole } else { net(pool, whole)? };
        embedded_part(subnet, ranges)?;
        let chosen_from = if part.is_empty() { subnet } else { net(part, whole)? };
        if !subnet.contains(&chosen_from) {
            return Err(PoolError::PartOutside { part: chosen_from, subnet });
        }
        Ok(PoolId { space, subnet, chosen_from })
    }

    /// The IPv4 addresses of the fabric that this pool stands for.
    pub fn part(&self, ranges: &Ranges) -> Result<Ipv4Net, PoolError> {
        embedded_part(self.subnet, ranges)?;
        embedded_part(self.chosen_from, ranges)
    }

    /// Which kind of addresses it has.
    pub fn family(&self) -> Family {
        match self.subnet {
            IpNet::V4(_) => Family::V4,
            IpNet::V6(_) => Family::V6,
        }
    }

    /// An address as Docker is told it.
    pub fn show(&self, address: IpAddr) -> String {
        format!("{address}/{}", self.subnet.prefix_len())
    }

    /// Is this an end of the subnet, which no machine in it can have?
    pub fn is_end(&self, address: Ipv4Addr) -> bool {
        match self.subnet {
            IpNet::V4(net) => address == net.network() || address == net.broadcast(),
            IpNet::V6(_) => false,
        }
    }
}

/// A kind of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl FromStr for Space {
    type Err = PoolError;

    fn from_str(text: &str) -> Result<Space, PoolError> {
        match text {
            LOCAL => Ok(Space::Local),
            GLOBAL => Ok(Space::Global),
            other => Err(PoolError::UnknownSpace(other.to_owned())),
        }
    }
}

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let space = match self.space {
            Space::Local => LOCAL,
            Space::Global => GLOBAL,
        };
        write!(f, "{space},{}", self.subnet)?;
        if self.chosen_from == self.subnet { Ok(()) } else { write!(f, ",{}", self.chosen_from) }
    }
}

impl FromStr for PoolId {
    type Err = PoolError;

    fn from_str(text: &str) -> Result<PoolId, PoolError> {
        let not = || PoolError::NotAPool(text.to_owned());
        let mut words = text.split(',');
        let space = words.next().and_then(|word| word.parse().ok()).ok_or_else(not)?;
        let subnet: IpNet = words.next().and_then(|word| word.parse().ok()).ok_or_else(not)?;
        let chosen_from = match words.next() {
            None => subnet,
            Some(word) => word.parse().map_err(|_| not())?,
        };
        Ok(PoolId { space, subnet, chosen_from })
    }
}

fn net(text: &str, whole: IpNet) -> Result<IpNet, PoolError> {
    let kind = match whole {
        IpNet::V4(_) => "IPv4",
        IpNet::V6(_) => "IPv6",
    };
    match (text.parse::<IpNet>(), whole) {
        (Ok(net @ IpNet::V4(_)), IpNet::V4(_)) | (Ok(net @ IpNet::V6(_)), IpNet::V6(_)) => Ok(net.trunc()),
        _ => Err(PoolError::NotASubnet(text.to_owned(), kind, whole.to_string())),
    }
}

/// The part of the fabric's range that a subnet's addresses are, or embed.
pub fn embedded_part(subnet: IpNet, ranges: &Ranges) -> Result<Ipv4Net, PoolError> {
    match subnet {
        IpNet::V4(asked) if ranges.v4.contains(&asked) => match asked.prefix_len() {
            ..=30 => Ok(asked),
            _ => Err(PoolError::TooSmall(subnet, 30)),
        },
        IpNet::V4(asked) => {
            let range = ranges.v4.trunc();
            Err(PoolError::OutOfRange { asked, range, example: example(range) })
        }
        IpNet::V6(asked) => {
            let refuse = || {
                let part = example(ranges.v4.trunc());
                let from =
                    IpNet::new_assert(ranges.embed(part.network()).into(), EMBEDDED_AT + part.prefix_len());
                let prefix = IpNet::V6(ranges.v6.trunc());
                PoolError::OutOfPrefix { asked: subnet, prefix, example: from }
            };
            let [.., a, b, c, d] = asked.network().octets();
            let low = Ipv4Addr::new(a, b, c, d);
            if !ranges.v6.contains(&asked) || ranges.embed(low) != asked.network() {
                return Err(refuse());
            }
            match asked.prefix_len().checked_sub(EMBEDDED_AT) {
                None | Some(0) => Ok(ranges.v4.trunc()),
                Some(bits) => {
                    let part = Ipv4Net::new_assert(low, bits);
                    match (ranges.v4.contains(&part), part.contains(&ranges.v4.trunc())) {
                        (true, _) if bits > 30 => Err(PoolError::TooSmall(subnet, EMBEDDED_AT + 30)),
                        (true, _) => Ok(part),
                        (false, true) => Ok(ranges.v4.trunc()),
                        (false, false) => Err(refuse()),
                    }
                }
            }
        }
    }
}

/// A part of the range that a person could have meant.
fn example(range: Ipv4Net) -> Ipv4Net {
    let length = range.prefix_len().max(24);
    range.subnets(length).ok().and_then(|mut subnets| subnets.nth(5).or(Some(range))).unwrap_or(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges() -> Ranges {
        Ranges {
            v4: "10.32.0.0/12".parse().expect("v4"),
            v6: "fd01:2:3::/64".parse().expect("v6"),
            nameserver: None,
        }
    }

    fn wanted(pool: &str, part: &str, family: Family) -> Result<PoolId, PoolError> {
        PoolId::wanted(LOCAL, pool, part, family, &ranges())
    }

    #[track_caller]
    fn stands_for(pool: &str, family: Family, want: &str) {
        let id = wanted(pool, "", family).expect("a pool");
        assert_eq!(id.part(&ranges()).expect("a part").to_string(), want);
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[track_caller]
    fn refused(pool: &str, part: &str, family: Family, want: &str) {
        assert_eq!(wanted(pool, part, family).expect_err("refused").to_string(), want);
    }

    #[test]
    fn empty_wish_is_the_whole_fabric() {
        stands_for("", Family::V4, "10.32.0.0/12");
        stands_for("", Family::V6, "10.32.0.0/12");
    }

    #[test]
    fn subnets_of_both_families_are_parts_of_one_range() {
        stands_for("10.32.5.0/24", Family::V4, "10.32.5.0/24");
        stands_for("fd01:2:3::a20:500/120", Family::V6, "10.32.5.0/24");
        stands_for("fd01:2:3::/80", Family::V6, "10.32.0.0/12");
        stands_for("fd01:2:3::/97", Family::V6, "10.32.0.0/12");
        let id = wanted("10.32.5.0/24", "10.32.5.128/25", Family::V4).expect("a pool");
        assert_eq!(id.part(&ranges()).expect("a part").to_string(), "10.32.5.128/25");
        assert_eq!(id.to_string(), "weave-local,10.32.5.0/24,10.32.5.128/25");
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn refusals_say_what_to_type() {
        let range = "is not part of the fabric's range 10.32.0.0/12; type --subnet 10.32.5.0/24, or another part of the range";
        refused("172.18.0.0/16", "", Family::V4, &format!("subnet 172.18.0.0/16 {range}"));
        refused("10.0.0.0/8", "", Family::V4, &format!("subnet 10.0.0.0/8 {range}"));
        let prefix = "is not part of the fabric's IPv6 prefix fd01:2:3::/64, or embeds no IPv4 addresses of its range; \
                      leave it out, or type --subnet fd01:2:3::a20:500/120";
        refused("fd00::/64", "", Family::V6, &format!("subnet fd00::/64 {prefix}"));
        refused("fd01:2:3::1:0:0/96", "", Family::V6, &format!("subnet fd01:2:3::1:0:0/96 {prefix}"));
        refused("ten", "", Family::V4, "`ten` is not an IPv4 subnet such as 10.32.0.0/12");
        refused(
            "10.32.5.0/31",
            "",
            Family::V4,
            "subnet 10.32.5.0/31 has no room for containers; type one of at most /30",
        );
        let outside =
            "address range 10.33.0.0/16 is not part of subnet 10.32.5.0/24; type --ip-range within --subnet";
        refused("10.32.5.0/24", "10.33.0.0/16", Family::V4, outside);
    }
}
