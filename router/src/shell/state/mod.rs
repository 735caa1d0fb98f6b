//! State on disk: small checked files and append-only journals, made durable before anything is promised.

pub mod dir;
pub mod file;
pub mod history;
pub mod journal;

pub use file::CheckedFile;
pub use journal::Journal;
