//! What can go wrong: each kind has a name and a line that says what it does.

use std::fmt;
use std::time::Duration;

/// Writes the enum and its tables from one list, so that no kind is without name and text.
macro_rules! kinds {
    ($($kind:ident $name:literal $about:literal;)*) => {
        /// A kind of fault.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind {
            $(#[doc = $about] $kind,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &[Kind] = &[$(Kind::$kind,)*];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name,)* }
            }

            /// What it does.
            pub fn about(self) -> &'static str {
                match self { $(Kind::$kind => $about,)* }
            }
        }
    };
}

kinds! {
    Crash "crash" "The process is killed and started again later; what it wrote stays, containers stay.";
    PowerLoss "power-loss" "The machine dies: writes that were not synced are lost or torn, containers are gone.";
    TornWrite "torn-write" "The machine dies in the middle of its next write to disk.";
    DiskFull "disk-full" "Every write to disk fails for a while.";
    DiskSlow "disk-slow" "Every fsync takes up to two seconds for a while, in which the router does nothing else.";
    DiskDamage "disk-damage" "A bit of the allocation journal rots, which shows at the next start.";
    DiskLost "disk-lost" "The disk is replaced by an empty one: the host comes back as a stranger, the old peer is removed.";
    Rollback "rollback" "The router is restarted from an older copy of its disk.";
    Clone "clone" "A copy of the machine, disk and identity, runs beside it.";
    SlowPeer "slow-peer" "A router hears everything up to two minutes late.";
    Frozen "frozen" "The process stops without dying, and goes on later with what its socket still holds.";
    Mute "mute" "A router accepts everything and never answers: nothing that it sends leaves the machine.";
    FlappingLink "flapping-link" "The link between two hosts opens and closes.";
    Partition "partition" "The hosts fall into two halves that do not hear each other, and come together again.";
    OneWayPartition "one-way-partition" "One half hears the other, which does not hear it.";
    PartialPartition "partial-partition" "Two hosts cannot reach each other, though all others can reach both.";
    DeafAsker "deaf-asker" "A host that asks for space hears no answer while it asks.";
    ClockLeap "clock-leap" "A host's clock leaps ahead by up to two minutes.";
    ClockStop "clock-stop" "A host's clock stands still, and stays behind all others from then on.";
    Loss "loss" "Up to two fifths of all datagrams are lost.";
    Duplication "duplication" "Up to half of all datagrams arrive twice.";
    Corruption "corruption" "A bit is changed in up to a tenth of all datagrams.";
    Reordering "reordering" "Up to half of all datagrams come up to two seconds late.";
    SmallMtu "small-mtu" "No datagram above the smallest MTU of IPv6 passes.";
    Flood "flood" "A stranger sends junk to a router as fast as it can.";
    Replay "replay" "Datagrams that were sent before are sent again, to anybody and from anywhere.";
    RemovalInPartition "removal-in-partition" "A peer behind a partition is removed while it runs.";
    RemovalTwice "removal-twice" "Two operators remove the same dead peer at once.";
    RemovedReturns "removed-returns" "A dead peer is removed, and comes back.";
    MassRestart "mass-restart" "All routers restart within a second.";
    MassJoin "mass-join" "Several new hosts join at once.";
    Join "join" "A new host joins.";
    Leave "leave" "A host leaves in good order and gives its space to an heir.";
    FixedConflict "fixed-conflict" "Two containers on two hosts want the same address at once.";
    Exhaustion "exhaustion" "More containers come than there are addresses, and half of them go again.";
    SecretSplit "secret-split" "The fabric's secret is replaced on half of the hosts, and on the others later.";
    LyingGift "lying-gift" "A member gives away blocks that another one owns; the operators remove it later.";
    LyingEndpoint "lying-endpoint" "A member announces another one's container as its own; the operators remove it later.";
    LyingDeath "lying-death" "A member tells its neighbours again and again that all others are dead; the operators remove it later.";
    LyingTwice "lying-twice" "A member signs two contents with one version and tells each half of its neighbours one of them; the operators remove it later.";
    VersionSkew "version-skew" "A router of a later version says things of kinds that nobody knows, and sends messages that nobody understands.";
    Stuck "stuck" "A router hears everything and gossips on, but its disk hangs: whoever asks it for space gets no answer.";
    AddressChange "address-change" "A host gets another underlay address, or its NAT box another port.";
}

impl Kind {
    /// Whether all members go on hearing each other, so that none may be taken for dead.
    pub fn is_calm(self) -> bool {
        match self {
            Kind::LyingGift
            | Kind::LyingEndpoint
            | Kind::LyingDeath
            | Kind::LyingTwice
            | Kind::VersionSkew
            | Kind::Stuck
            | Kind::FixedConflict
            | Kind::Exhaustion
            | Kind::Duplication
            | Kind::Flood
            | Kind::Replay
            | Kind::Join
            | Kind::MassJoin => true,
            Kind::Crash
            | Kind::PowerLoss
            | Kind::TornWrite
            | Kind::DiskFull
            | Kind::DiskSlow
            | Kind::DiskDamage
            | Kind::DiskLost
            | Kind::Rollback
            | Kind::Clone
            | Kind::SlowPeer
            | Kind::Frozen
            | Kind::Mute
            | Kind::FlappingLink
            | Kind::Partition
            | Kind::OneWayPartition
            | Kind::PartialPartition
            | Kind::DeafAsker
            | Kind::ClockLeap
            | Kind::ClockStop
            | Kind::Loss
            | Kind::Corruption
            | Kind::Reordering
            | Kind::SmallMtu
            | Kind::RemovalInPartition
            | Kind::RemovalTwice
            | Kind::RemovedReturns
            | Kind::MassRestart
            | Kind::Leave
            | Kind::SecretSplit
            | Kind::AddressChange => false,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One fault of a plan. All kinds have the same dials; each uses those that mean something to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// What goes wrong.
    pub kind: Kind,
    /// For whom.
    pub host: u16,
    /// Who else has to do with it.
    pub other: u16,
    /// For how long.
    pub lasts: Duration,
    /// How badly, or which of several ways: any number.
    pub how: u64,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault { kind, host, other, lasts, how } = self;
        write!(f, "{kind} of host {host} with {other} for {:.1} s ({how:x})", lasts.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_kind_has_its_own_name_and_a_sentence() {
        let names: BTreeSet<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), Kind::ALL.len());
        assert!(Kind::ALL.len() >= 25);
        assert!(Kind::ALL.iter().all(|kind| kind.about().ends_with('.')));
    }
}
