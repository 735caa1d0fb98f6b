//! DNS for containers (ADR 0012): names of the fabric from the index, everything else from the resolvers of this host.
//!
//! `message` reads questions and writes answers, with hickory's types; `zone` knows what is ours and answers it; `forward` asks others,
//! with `cache`, `upstream` and limits on work; `server` has the sockets, `rates` says who is heard; `service` is a thread of its own, so that no flood of questions
//! keeps the control half from its work. `zone`, `cache`, `rates` and `message` are pure.

mod cache;
mod counters;
mod forward;
mod message;
pub mod options;
mod rates;
mod server;
mod service;
mod upstream;
mod zone;

pub use counters::Fate;
pub use service::{Service, Serving, Setup, View};
pub use zone::Zone;

/// The port of DNS; containers' resolvers know no other.
pub const PORT: u16 = 53;
