//! The built plugin as a runtime sees it: environment and standard input in, standard output and exit code out, against a stand-in
//! for `weaved` on a real socket.

mod call;
mod commands;
#[path = "../../../control/tests/client/fake.rs"]
mod fake;
mod faults;
mod property;
mod replay;
