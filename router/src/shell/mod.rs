//! The half of the router that touches the machine: netlink, sockets, state on disk, the control socket and the event loop.

pub mod config;
pub mod kernel;
pub mod state;
