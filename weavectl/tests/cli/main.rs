//! The built `weavectl` as a person or a script sees it, against a stand-in for `weaved` on a real socket.

#[path = "../../../control/tests/client/fake.rs"]
mod fake;
mod help;
mod run;
mod setup;
mod start;
mod verbs;
