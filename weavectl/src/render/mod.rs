//! Text for people, as pure functions over the API's types. Nothing here asks, waits or writes.

pub(crate) mod attachments;
pub(crate) mod audit;
pub(crate) mod bar;
pub(crate) mod commands;
pub(crate) mod connections;
pub(crate) mod ipam;
pub(crate) mod names;
pub(crate) mod paint;
pub(crate) mod peers;
pub(crate) mod status;
pub(crate) mod table;
pub(crate) mod targets;
pub(crate) mod units;

#[cfg(test)]
mod tests;
