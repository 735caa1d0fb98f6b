//! What a wire does to packets: it has an MTU, cuts long packets or not, loses some, connects some hosts and not others.

use anyhow::Result;

use crate::host::{address, address6};
use crate::netns::NetNs;

/// Whether packets longer than the MTU cross the wire whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segments {
    /// As between virtual machines: super-packets cross as they are.
    Whole,
    /// As on a network card without segmentation offload: each packet is cut to the MTU before it is sent.
    Cut,
    /// The same by the features of the device, and what arrives is merged again (GRO) as drivers with NAPI do: nearest to a
    /// network card without offloads.
    Nic,
}

/// The rules of the switch: loss and partitions, by nftables on the bridge.
#[derive(Debug)]
pub struct Wire {
    switch: NetNs,
}

/// Counter of datagrams that were lost on purpose.
const LOST: &str = "lost";

impl Wire {
    pub(crate) fn new(switch: NetNs) -> Self {
        Self { switch }
    }

    /// The switch's own namespace, which is also the hosts' default router.
    pub fn switch(&self) -> &NetNs {
        &self.switch
    }

    /// Loses so many of a thousand UDP datagrams at random, in each direction, and forgets earlier rules and counts.
    ///
    /// # Errors
    /// When `nft` refuses.
    pub fn lose_per_mille(&self, per_mille: u32) -> Result<()> {
        let bridged =
            format!("meta l4proto udp numgen random mod 1000 < {per_mille} counter name {LOST} drop");
        self.replace(&Rules { bridged, routed: String::new() })
    }

    /// Datagrams lost on purpose so far.
    ///
    /// # Errors
    /// When no loss was asked for.
    pub fn lost(&self) -> Result<u64> {
        self.switch.counter(LOST)
    }

    /// Lets nothing pass between each of these pairs of hosts, in both directions, and forgets earlier rules.
    ///
    /// # Errors
    /// When `nft` refuses.
    pub fn cut(&self, pairs: &[(usize, usize)]) -> Result<()> {
        let both = pairs.iter().flat_map(|(a, b)| [(a, b), (b, a)]);
        let rules = both.map(|(from, to)| Rules {
            bridged: format!("iifname \"p{from}\" oifname \"p{to}\" drop\n"),
            routed: format!(
                "ip saddr {} ip daddr {} drop\nip6 saddr {} ip6 daddr {} drop\n",
                address(*from),
                address(*to),
                address6(*from),
                address6(*to)
            ),
        });
        self.replace(&rules.collect())
    }

    /// Lets nothing pass between these hosts and all others, in both directions, and forgets earlier rules.
    ///
    /// # Errors
    /// When `nft` refuses.
    pub fn split(&self, minority: &[usize]) -> Result<()> {
        let set = |name: &dyn Fn(usize) -> String| {
            format!("{{ {} }}", minority.iter().map(|host| name(*host)).collect::<Vec<_>>().join(", "))
        };
        let between = |from: &str, to: &str, set: &str| {
            format!("{from} {set} {to} != {set} drop\n{from} != {set} {to} {set} drop\n")
        };
        let bridged = between("iifname", "oifname", &set(&|host| format!("\"p{host}\"")));
        let mut routed = between("ip saddr", "ip daddr", &set(&|host| address(host).to_string()));
        routed += &between("ip6 saddr", "ip6 daddr", &set(&|host| address6(host).to_string()));
        self.replace(&Rules { bridged, routed })
    }

    /// Forgets all rules.
    ///
    /// # Errors
    /// When `nft` refuses.
    pub fn heal(&self) -> Result<()> {
        self.replace(&Rules::default())
    }

    fn replace(&self, rules: &Rules) -> Result<()> {
        let table = |family: &str, counters: &str, rules: &str| {
            format!(
                "table {family} lab\ndelete table {family} lab\ntable {family} lab {{\n{counters}\n\
                 chain forward {{\ntype filter hook forward priority 0; policy accept;\n{rules}\n}}\n}}\n"
            )
        };
        self.switch.nft(
            &(table("bridge", &format!("counter {LOST} {{ }}"), &rules.bridged)
                + &table("inet", "", &rules.routed)),
        )
    }
}

/// What the switch drops, as a bridge and as a router: a packet takes one of the two ways.
#[derive(Debug, Default)]
struct Rules {
    bridged: String,
    routed: String,
}

impl FromIterator<Rules> for Rules {
    fn from_iter<I: IntoIterator<Item = Rules>>(all: I) -> Self {
        all.into_iter().fold(Self::default(), |sum, one| Self {
            bridged: sum.bridged + &one.bridged,
            routed: sum.routed + &one.routed,
        })
    }
}
