//! The half of the router that touches the machine: netlink, sockets, state on disk, the control socket and the event loop.

pub mod api;
pub mod attach;
pub mod busy_polling;
pub mod config;
pub mod containers;
pub mod dns;
pub mod docker;
pub mod doorkeeper;
pub mod engine;
pub mod kernel;
pub mod lease;
pub mod locks;
pub mod metrics;
pub mod pending;
pub mod random;
pub mod reclaim_after;
pub mod reconcile;
pub mod state;
pub mod targets;
