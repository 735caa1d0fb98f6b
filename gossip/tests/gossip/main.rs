//! Gossip from outside: several peers in one process, one virtual clock, one bad network. No sleeping, no ports.

mod behaviour;
mod faults;
mod hostile;
mod signer;
mod sim;
mod wire;
