//! Hosts made of network namespaces, and what one does to them: start routers, attach containers, cut wires, count packets.
//!
//! Knows the built programs from the outside only: their arguments, environment, standard streams and exit codes. Needs root,
//! and fails rather than skips without it. All that is made carries the prefix of one run and goes away with its [`Lab`],
//! also after a panic; what a killed run left behind is removed by the next one.

mod arguments;
mod burst;
mod capture;
mod chain;
mod command;
mod container;
mod containerd;
mod dockerd;
mod host;
mod idle;
mod image;
mod iperf;
mod lab;
mod leftovers;
mod loss;
mod names;
mod netns;
mod packet;
mod plugins;
mod podman;
mod programs;
mod rate;
mod requests;
mod tcp;
mod text;
mod threads;
mod traffic;
mod udp;
mod usage;
mod views;
mod wait;
mod walk;
mod wire;

pub use arguments::numbers;
pub use capture::{Capture, Captured};
pub use chain::Chain;
pub use command::{Output, run, run_ok};
pub use container::{CniCall, CniOutcome, Container};
pub use containerd::Containerd;
pub use dockerd::{Dockerd, IMAGE};
pub use host::{Exit, Host};
pub use idle::{IdleFabric, IdleReport};
pub use image::busybox_tar;
pub use iperf::{Direction, Iperf, Throughput};
pub use lab::{Lab, LabConfig, Underlay, WIREGUARD_SOCKETS, remove_kept};
pub use loss::Loss;
pub use names::{ELSEWHERE, Kind, NAMESERVER, NameServer, Named, Transport, ask_name};
pub use netns::NetNs;
pub use packet::{PacketSocket, VNET_HEADER, set_option};
pub use podman::{PODMAN_IMAGE, Podman};
pub use programs::{Programs, require_root, require_tools};
pub use rate::{RequestReply, Window, WindowReport};
pub use requests::{Requests, RequestsReport};
pub use tcp::{Flow, FlowReport, transfer};
pub use text::{payload, tail};
pub use threads::{ThreadUsage, Threads};
pub use traffic::{Ping, PingReport, Pinger, ping_until_answered};
pub use udp::{Lockstep, LockstepReport, Pace, Stream, StreamReport};
pub use usage::{MachineTime, Usage};
pub use views::{View, Views};
pub use wait::{POLL, until};
pub use walk::Walk;
pub use wire::{Segments, Wire};
