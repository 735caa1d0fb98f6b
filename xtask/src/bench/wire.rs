//! The wires between the two hosts that a comparison can be made over.

use lab::Segments;

/// A wire, as it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum WireArg {
    /// Super-packets cross whole, as between virtual machines
    Passthrough,
    /// Cut to the MTU in software on the way out, merged in NAPI on the way in: a network card without offloads
    Nic,
    /// Both of the lossy ones
    Lossy,
    /// As nic, and 0.1 % of the packets are lost on arrival, both ways
    #[value(name = "lossy-0.1")]
    LossyLittle,
    /// As nic, and 1 % are lost
    #[value(name = "lossy-1")]
    LossyMuch,
}

/// A wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wire {
    /// See [`WireArg::Passthrough`].
    Passthrough,
    /// See [`WireArg::Nic`].
    Nic,
    /// See [`WireArg::LossyLittle`].
    LossyLittle,
    /// See [`WireArg::LossyMuch`].
    LossyMuch,
}

impl WireArg {
    /// The wires that are meant.
    pub(crate) fn wires(self) -> &'static [Wire] {
        match self {
            Self::Passthrough => &[Wire::Passthrough],
            Self::Nic => &[Wire::Nic],
            Self::Lossy => &[Wire::LossyLittle, Wire::LossyMuch],
            Self::LossyLittle => &[Wire::LossyLittle],
            Self::LossyMuch => &[Wire::LossyMuch],
        }
    }
}

impl Wire {
    /// All, in the order in which they are measured.
    pub(crate) const ALL: [Self; 4] = [Self::Passthrough, Self::Nic, Self::LossyLittle, Self::LossyMuch];

    /// Its name in tables and of result files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Passthrough => "passthrough",
            Self::Nic => "nic",
            Self::LossyLittle => "lossy-0.1",
            Self::LossyMuch => "lossy-1",
        }
    }

    /// What it does, for people.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Passthrough => "super-packets cross the wire whole",
            Self::Nic => "packets are cut to 1500 bytes before the wire and merged behind it (GRO)",
            Self::LossyLittle => "as nic, and 0.1 % of the packets are lost",
            Self::LossyMuch => "as nic, and 1 % of the packets are lost",
        }
    }

    /// What happens to packets longer than the MTU.
    pub(crate) fn segments(self) -> Segments {
        match self {
            Self::Passthrough => Segments::Whole,
            Self::Nic | Self::LossyLittle | Self::LossyMuch => Segments::Nic,
        }
    }

    /// Millionths of the packets that are lost in each direction.
    pub(crate) fn loss(self) -> Option<u32> {
        match self {
            Self::Passthrough | Self::Nic => None,
            Self::LossyLittle => Some(1_000),
            Self::LossyMuch => Some(10_000),
        }
    }
}
