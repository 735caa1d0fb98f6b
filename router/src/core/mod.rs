//! The sans-IO half of the router: identity, joining, sessions, and the state machine that ties them to gossip and allocation.

pub mod advert;
pub mod endpoints;
pub mod fabric;
pub mod hello;
pub mod identity;
pub mod mac;
pub mod names;
pub mod node;
pub mod sealed;
pub mod seeds;
pub mod session;
#[cfg(feature = "simulated")]
pub mod simulated;
pub mod token;
