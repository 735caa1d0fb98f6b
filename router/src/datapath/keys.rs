//! Names and keys of lanes, as the session layer hands them to the hot path. How they are agreed is none of its business.

pub use gossip::PeerId;

pub use crate::core::session::{Cipher, LaneId, RxLaneKey, TxLaneKey};
