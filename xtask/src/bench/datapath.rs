//! The data paths that are compared: their names, and who brings them up.

use anyhow::{Context, Result};

use crate::bench::programs::Programs;
use crate::bench::topology::Topology;
use crate::bench::wire::Wire;
use crate::bench::{kernel, nebula, tinc, vpncloud, weave, wireguard};

/// A data path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Datapath {
    /// Plain routing over the cable: what the machine can do at all
    Veth,
    /// The kernel's VXLAN, without encryption
    Vxlan,
    /// This fabric with AES-256-GCM
    #[value(alias = "weave")]
    WeaveAes,
    /// This fabric with ChaCha20-Poly1305
    WeaveChacha,
    /// Another build of this fabric, with AES-256-GCM: see --before
    WeaveBefore,
    /// WireGuard in user space, Go, of December 2023 (Debian 13)
    #[value(name = "wireguard-go-2023", alias = "wireguard-go")]
    WireguardGo2023,
    /// The same of March 2022 (Debian 12)
    #[value(name = "wireguard-go-2022")]
    WireguardGo2022,
    /// WireGuard in user space, Rust
    Boringtun,
    /// Nebula with AES-256-GCM
    Nebula,
    /// tinc in switch mode
    Tinc,
    /// VpnCloud in switch mode
    Vpncloud,
}

/// What it is, for the colours of the chart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The kernel alone, without encryption.
    Kernel,
    /// This fabric.
    Ours,
    /// Encryption in user space by others.
    Rival,
}

impl Datapath {
    /// All, in the order of the table.
    pub(crate) const ALL: [Self; 11] = [
        Self::Veth,
        Self::Vxlan,
        Self::WeaveAes,
        Self::WeaveChacha,
        Self::WeaveBefore,
        Self::WireguardGo2023,
        Self::WireguardGo2022,
        Self::Boringtun,
        Self::Nebula,
        Self::Tinc,
        Self::Vpncloud,
    ];

    /// Those of a run that names none. A second build of our own is compared only when it is named.
    pub(crate) fn usual() -> Vec<Self> {
        Self::ALL.into_iter().filter(|datapath| *datapath != Self::WeaveBefore).collect()
    }

    /// Those of a quick run: ours, what it is measured by, and the best of the rivals.
    pub(crate) const QUICK: [Self; 3] = [Self::Vxlan, Self::WeaveAes, Self::WireguardGo2023];

    /// Its name in tables, JSON and on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Vxlan => "vxlan",
            Self::WeaveAes => "weave-aes",
            Self::WeaveChacha => "weave-chacha",
            Self::WeaveBefore => "weave-before",
            Self::WireguardGo2023 => "wireguard-go-2023",
            Self::WireguardGo2022 => "wireguard-go-2022",
            Self::Boringtun => "boringtun",
            Self::Nebula => "nebula",
            Self::Tinc => "tinc",
            Self::Vpncloud => "vpncloud",
        }
    }

    /// What it is.
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Veth | Self::Vxlan => Kind::Kernel,
            Self::WeaveAes | Self::WeaveChacha | Self::WeaveBefore => Kind::Ours,
            Self::WireguardGo2023
            | Self::WireguardGo2022
            | Self::Boringtun
            | Self::Nebula
            | Self::Tinc
            | Self::Vpncloud => Kind::Rival,
        }
    }

    /// Hosts, tunnel and containers.
    pub(crate) fn bring_up(self, programs: &Programs, wire: Wire) -> Result<Topology> {
        let aes = ["--cipher", "aes-256-gcm"];
        let chacha = ["--cipher", "chacha20-poly1305"];
        match self {
            Self::Veth => kernel::veth(wire),
            Self::Vxlan => kernel::vxlan(wire),
            Self::WeaveAes => weave::bring_up(wire, None, &aes),
            Self::WeaveChacha => weave::bring_up(wire, None, &chacha),
            // An older build may not know the flag; it takes AES where the processor has it.
            Self::WeaveBefore => weave::bring_up(wire, Some(&programs.get(self)?), &[]),
            Self::WireguardGo2023 | Self::WireguardGo2022 => {
                wireguard::bring_up(wire, programs, &programs.get(self)?, &[])
            }
            Self::Boringtun => {
                wireguard::bring_up(wire, programs, &programs.get(self)?, &["--disable-drop-privileges"])
            }
            Self::Nebula => nebula::bring_up(wire, &programs.get(self)?),
            Self::Tinc => tinc::bring_up(wire, &programs.get(self)?),
            Self::Vpncloud => vpncloud::bring_up(wire, &programs.get(self)?),
        }
        .with_context(|| format!("cannot bring up {}", self.name()))
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::Datapath;

    #[test]
    fn names_are_those_of_the_command_line_and_all_are_listed() {
        assert_eq!(Datapath::ALL, Datapath::value_variants());
        for datapath in Datapath::ALL {
            let value = datapath.to_possible_value().expect("none is hidden");
            assert_eq!(value.get_name(), datapath.name());
        }
    }
}
