//! Bugs that are put in on purpose, to see whether the simulation finds them. Only the feature `planted` makes them possible, and only
//! the simulator's own build has it; in every other build [`planted`] is false, and nothing of them is left.

/// Writes the enum and its tables from one list.
macro_rules! bugs {
    ($($bug:ident $name:literal $about:literal;)*) => {
        /// A bug to put in.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Bug {
            $(#[doc = $about] $bug,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &[Bug] = &[$(Bug::$bug,)*];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self { $(Bug::$bug => $name,)* }
            }

            /// What it does.
            pub fn about(self) -> &'static str {
                match self { $(Bug::$bug => $about,)* }
            }
        }
    };
}

bugs! {
    EpochNotRaised "epoch-not-raised" "A block is given away with the epoch that it has.";
    LowerEpochWins "lower-epoch-wins" "A record with a lower epoch replaces one with a higher.";
    OwnerUnchecked "owner-unchecked" "A block may be given away by somebody who does not own it.";
    RestIgnored "rest-ignored" "A released address is leased again at once.";
    LeaseForgotten "lease-forgotten" "A lease is not written to the journal.";
    GrantForgotten "grant-forgotten" "A block that is given away is not written to the journal.";
    TakeoverUnasked "takeover-unasked" "The space of a removed peer is taken over without asking anybody.";
    LeaseGivenAway "lease-given-away" "A fixed address is given away although it is leased.";
    DeadlineUnanswered "deadline-unanswered" "A caller whose deadline passes gets no answer.";
    TombstoneDropped "tombstone-dropped" "A tombstone is forgotten as soon as it comes.";
    OldRecordWins "old-record-wins" "An older version of a record replaces a newer one.";
    DeathUndenied "death-undenied" "A peer does not contradict when it is called dead.";
    RepairSkipped "repair-skipped" "Peers never compare what they know.";
    EndpointKept "endpoint-kept" "The endpoint of a detached container stays announced.";
    SyncSkipped "sync-skipped" "The host answers before its writes are synced.";
    DeathBelieved "death-believed" "A death that others tell of is believed at once.";
    EquivocationKept "equivocation-kept" "Of two contents with one version the one that came first stays.";
    KindsDropped "kinds-dropped" "Records of kinds that are not known are not passed on.";
    RumourEchoed "rumour-echoed" "A rumour that is no news is told to all neighbours again.";
    MinorityReclaims "minority-reclaims" "Peers that are dead for long are removed from the minority side as well.";
    TakeoverSkipped "takeover-skipped" "The space of a removed peer is taken over by nobody.";
    BootKept "boot-kept" "The boot counter is not raised at a start.";
}

#[cfg(feature = "planted")]
mod active {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::Bug;

    static ACTIVE: AtomicU32 = AtomicU32::new(0);

    /// Puts a bug in, in the whole process, or takes it out.
    pub fn plant(bug: Option<Bug>) {
        ACTIVE.store(bug.map_or(0, |bug| bug as u32 + 1), Ordering::Relaxed);
    }

    /// Whether this bug is in.
    pub fn planted(bug: Bug) -> bool {
        ACTIVE.load(Ordering::Relaxed) == bug as u32 + 1
    }
}

#[cfg(feature = "planted")]
pub use active::{plant, planted};

/// Whether this bug is in: never in this build.
#[cfg(not(feature = "planted"))]
pub const fn planted(_: Bug) -> bool {
    false
}
