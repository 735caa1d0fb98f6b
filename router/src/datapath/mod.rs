//! The hot path: frames from the TAP device to sealed datagrams and back, on threads without tokio.

pub mod checksum;
pub mod drops;
pub mod frame;
pub mod keys;
pub mod mtu;
pub mod replay;
pub mod virtio;
pub mod wire;
