//! Who owns which block of the address range, and allocation from the own blocks, without I/O.
//!
//! [`Ipam`] is one peer's half of the agreement of ADR 0004: every address has one owner at any time; only the owner
//! hands it out or gives it away, by a record that it signs with the next epoch. Allocation from own blocks needs no
//! message; a peer that is short asks others, and always answers its callers by their deadline.
//!
//! It must not know sockets, clocks, files, threads or a source of random numbers: time and seed are arguments. Records
//! are spread and signed by gossip; the caller carries them over.
//!
//! The parts, from the inside out:
//!
//! - `span`, [`record`]: addresses in blocks, and how they look in bytes;
//! - `map`: for every address the owner with the highest epoch; merging is order-free;
//! - `space`: free, leased and resting addresses of this peer; `hash`: finds their holders;
//! - [`journal`], `message`: what survives, and what peers say to each other;
//! - `ownership`, `ask`, `donate`, `removal` with `removed`, `forward` and `reclaim`: the four conversations; `leave`: handing over; `tidy`: giving scraps back; `seed`: a
//!   part of the range from the start;
//! - `doubt`: claims that do not follow from what is known; `deed`: what proves them;
//! - [`audit`]: who owns what and how it came to, proven from signed records;
//! - `types`: what callers say and hear; [`ipam`]: all of them together; `summary`: what a person is shown.

mod ask;
pub mod audit;
mod config;
mod deed;
mod donate;
mod doubt;
mod error;
mod fill;
mod forward;
mod hash;
pub mod ipam;
pub mod journal;
mod leave;
mod map;
mod message;
mod ownership;
mod reclaim;
pub mod record;
mod removal;
mod removed;
mod restore;
mod seed;
mod space;
mod span;
mod stats;
mod summary;
mod tidy;
mod types;

pub use config::Config;
pub use error::AllocateError;
pub use ipam::{
    Answer, HandoverError, Ipam, Lease, Owner, Presence, Publish, Rest, Ticket, Transmit, Trust, Want,
};
pub use journal::{JournalEntry, JournalError};
pub use map::Standing;
pub use message::{MAX_MESSAGE, MessageError};
pub use record::{BlockRecord, FreeRecord, RecordError, RemovalRecord};
pub use removal::Removal;
pub use restore::RestoreError;
pub use stats::Stats;
pub use summary::{Block, PeerSpace, PeerStanding, PendingTakeover, Summary};

/// Bytes of the name of who holds an address: a container id of 64, an interface name, and room for other runtimes.
pub const MAX_OWNER: usize = 300;
