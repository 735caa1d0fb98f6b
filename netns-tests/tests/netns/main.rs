//! All tests that need root, in one program: the fabric seen from outside.
//!
//! Run by `cargo xtask netns`, which builds the programs first. Every test has hosts of its own and fails, rather than skips,
//! where it cannot run.

mod attach;
mod callers;
mod capture;
mod chain;
mod cipher;
mod cni;
mod commands;
mod crash;
mod differential;
mod docker;
mod engines;
mod fabric;
mod firewall;
mod fleet;
mod frames;
mod lab_itself;
mod leaks;
mod lease;
mod names;
mod ownership;
mod reclaim;
mod restart;
mod seeds;
mod state;
mod support;
mod udp;
mod wires;
