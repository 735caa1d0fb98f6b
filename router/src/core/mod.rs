//! The sans-IO half of the router: identity, joining, sessions, and the state machine that ties them to gossip and allocation.

pub mod fabric;
pub mod identity;
pub mod token;
