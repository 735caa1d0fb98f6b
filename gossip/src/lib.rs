//! Membership, failure detection and the spreading of signed records over a sparse mesh of peers, without I/O.
//!
//! [`Gossip`] is one peer's half of the conversation. It is fed links, messages and the time, and is asked what to send,
//! what happened and when to wake it. It must not know sockets, clocks, files, threads or a source of random numbers:
//! time and seed are arguments, so that thousands of peers run in one deterministic simulation.
//!
//! The parts, from the inside out:
//!
//! - [`peer`], [`record`], [`keys`]: who says what, and how it is proven;
//! - [`codec`], [`wire`]: how it looks in bytes;
//! - [`store`]: every record that is known, with a digest that is kept up to date record by record;
//! - [`membership`]: who is alive, as far as can be told (SWIM with Lifeguard's refinements);
//! - [`mesh`]: which few peers to keep a link with;
//! - [`gossip`]: all of them together.

mod adjacency;
mod bulk;
pub mod codec;
pub mod config;
mod detector;
pub mod fill;
pub mod gossip;
mod hash;
mod intake;
pub mod keys;
mod link;
mod links;
pub mod membership;
pub mod mesh;
mod origin;
mod own;
pub mod peer;
pub mod planted;
pub mod record;
mod repair;
mod rng;
mod rumours;
pub mod stats;
pub mod store;
mod tree;
pub mod wire;

pub use config::Config;
pub use fill::Fill;
pub use gossip::{Event, Gossip, MessageError, PublishError, Transmit};
pub use keys::{Keys, Signer, Verdict, Verifier};
pub use membership::{Member, MemberState};
pub use peer::{ParsePeerIdError, PeerId};
pub use record::{Kind, MAX_NAME, MAX_VALUE, Record, RecordKey};
pub use stats::{DropReason, Stats};
pub use wire::MAX_MESSAGE;
