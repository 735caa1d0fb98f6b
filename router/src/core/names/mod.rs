//! Names of the fabric: what they may look like, how routers tell each other of them, and who is found by them (ADR 0012).
//!
//! Knows nothing of DNS messages, and nothing of the domain that stands behind each name: that is a matter of whoever serves them.

mod advert;
mod index;
mod name;

pub use advert::{MAX_ADDRESSES, MAX_NAMES, NameOwner, NamesAdvert, NamesError, Said};
pub use index::{Found, MAX_ADDRESSES_OF_NAME, MAX_NAMES_OF_ADDRESS, MAX_PER_PEER, NameIndex, SharedNames};
pub use name::{DnsName, MAX_DOMAIN, MAX_NAME, NotAName};
