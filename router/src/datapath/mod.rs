//! The hot path: frames from the TAP device to sealed datagrams and back, on threads without tokio.

pub mod checksum;
pub mod cut;
pub mod drops;
pub mod frame;
pub mod keys;
pub mod mtu;
pub mod open;
pub mod reassembly;
pub mod rebuild;
pub mod replay;
pub mod rewrite;
pub mod seal;
pub mod virtio;
pub mod wire;
