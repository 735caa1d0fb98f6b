//! Many whole routers in one process, on one virtual clock: the code that ships, and a model that checks it after every step.
//!
//! Everything that chance decides comes from one seed, so that a run can be repeated to the step. The parts, from the inside out:
//!
//! - [`dice`], [`clock`]: chance and time;
//! - [`network`], [`disk`]: what routers stand on, and how it fails;
//! - [`host`]: a router's control half with what the shell does around it;
//! - [`fault`], [`plan`], [`scenario`]: what goes wrong and when, drawn from a seed;
//! - [`model`], [`history`]: what must hold, and what happened;
//! - [`world`], [`run`]: all of it together;
//! - [`shrink`]: a smaller plan that fails in the same way;
//! - [`fleet`], [`figures`], [`plot`]: large fleets, measured and drawn.
//!
//! It must not know sockets, files, or the clock of the machine, except to tell how long a run took and how large it was.

pub mod clock;
pub mod dice;
pub mod disk;
pub mod fault;
pub mod figures;
pub mod fleet;
pub mod history;
pub mod host;
pub mod model;
pub mod network;
pub mod plan;
pub mod plot;
pub mod run;
pub mod scenario;
pub mod shrink;
pub mod world;
