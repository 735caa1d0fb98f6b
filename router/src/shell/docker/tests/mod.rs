//! The driver against a fabric of the test's own.

mod calls;
mod interleavings;
mod world;
