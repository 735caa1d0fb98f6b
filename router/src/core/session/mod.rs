//! Sessions between routers: finding a peer, the handshake, the control channel inside it, and the keys of the lanes. Sans-IO: knows no
//! sockets, clocks or files; ADR 0003 says how boringtun is used and what of it reads the clock all the same.

mod backoff;
mod bucket;
mod chunks;
mod common;
mod control;
mod dial;
mod drops;
mod guard;
mod kem;
mod lane_keys;
mod lanes;
mod link;
mod peer;
#[cfg(feature = "simulated")]
mod pretend;
mod random;
mod sessions;
mod target;
mod timer;
mod types;
mod view;

pub use chunks::MAX_MESSAGE;
pub use drops::{DropReason, RefusedSender};
pub use lane_keys::{Cipher, LaneId, LaneKeys, RxLaneKey, TxLaneKey};
pub use random::RandomSource;
pub use sessions::Sessions;
pub use types::{
    Channel, ConnectionState, ConnectionView, Direction, DownReason, Failure, Newer, OTHER_SEEDS, Refusal,
    SessionConfig, SessionEvent, Want,
};

#[cfg(test)]
mod tests;
