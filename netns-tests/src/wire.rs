//! What a wire does to packets: it has an MTU, cuts long packets or not, loses some, connects some hosts and not others.

use anyhow::Result;

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
        self.replace(&format!(
            "meta l4proto udp numgen random mod 1000 < {per_mille} counter name {LOST} drop"
        ))
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
        let rules: Vec<String> = pairs
            .iter()
            .flat_map(|(a, b)| [(a, b), (b, a)])
            .map(|(from, to)| format!("iifname \"p{from}\" oifname \"p{to}\" drop"))
            .collect();
        self.replace(&rules.join("\n"))
    }

    /// Forgets all rules.
    ///
    /// # Errors
    /// When `nft` refuses.
    pub fn heal(&self) -> Result<()> {
        self.replace("")
    }

    fn replace(&self, rules: &str) -> Result<()> {
        self.switch.nft(&format!(
            "table bridge lab\ndelete table bridge lab\ntable bridge lab {{\ncounter {LOST} {{ }}\n\
             chain forward {{\ntype filter hook forward priority 0; policy accept;\n{rules}\n}}\n}}\n"
        ))
    }
}
