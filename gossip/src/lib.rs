//! Membership, failure detection and the spreading of signed records over a sparse mesh of peers, without I/O.
//!
//! It must not know sockets, clocks, files, threads or a source of random numbers.

pub mod codec;
mod hash;
pub mod keys;
pub mod peer;
pub mod record;

pub use keys::{Keys, Signer, Verdict, Verifier};
pub use peer::{ParsePeerIdError, PeerId};
pub use record::{Kind, MAX_NAME, MAX_VALUE, Record, RecordKey};
