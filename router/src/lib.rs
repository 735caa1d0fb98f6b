//! The router of a host: a sans-IO core, the hot path that moves frames, and the shell that touches the kernel.
//!
//! `core` knows no sockets, clocks, files or threads. `datapath` runs on threads of its own and knows no tokio. `shell` ties both to
//! the machine. Dependencies point from `shell` to the other two; `datapath` uses only the plain types of `core`.

pub mod core;
pub mod datapath;
pub mod shell;
