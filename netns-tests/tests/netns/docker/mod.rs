//! Docker itself on two or three hosts, with its networks on the fabric.

mod life;
mod many;
mod named;
mod names;
mod replay;
pub(crate) mod support;
mod swarm;
