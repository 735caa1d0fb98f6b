//! The control protocol of `weaved`: what goes over its unix socket, and a client for it.
//!
//! HTTP/1.1 with JSON bodies, so that `curl --unix-socket` works too. This crate knows nothing of how the router does its work.

pub mod api;
pub mod audit;
pub mod dns;
pub mod http;
pub mod lease;
pub mod netns;
pub mod pending;

mod client;
mod error;

pub use client::Client;
pub use error::ClientError;
