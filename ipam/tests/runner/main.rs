//! Behaviour of whole allocators, seen from outside: one at a time, a few by hand, many in a simulated network.

mod behaviour;
mod deeds;
mod formats;
mod reclaim;
mod scale;
mod seeds;
mod sim;
mod world;
