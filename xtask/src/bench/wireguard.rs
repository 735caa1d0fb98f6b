//! WireGuard in user space: programs that differ in nothing but their name and arguments.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::{WIREGUARD_SOCKETS, run, run_ok};

use crate::bench::daemon::Daemon;
use crate::bench::programs::Programs;
use crate::bench::topology::{Hosts, Topology};
use crate::bench::wire::Wire;

/// MTU that leaves room for WireGuard's headers over IPv6: what `wg-quick` sets.
const MTU: u32 = 1420;

/// Time for `wg`.
const TOOL_LIMIT: Duration = Duration::from_secs(20);

/// A tunnel between the hosts, with routes into it.
pub(crate) fn bring_up(wire: Wire, programs: &Programs, program: &Path, args: &[&str]) -> Result<Topology> {
    let hosts = Hosts::new(wire)?;
    // The sockets of all namespaces share a folder, so device names must not repeat. Linux allows 15 bytes.
    let devices = ["a", "b"].map(|end| format!("{}{end}", hosts.lab.run()));
    let wg = programs.wg()?;
    let keys = [Keys::new(wg)?, Keys::new(wg)?];
    let mut daemons = Vec::new();
    fs::create_dir_all(WIREGUARD_SOCKETS).with_context(|| format!("cannot make `{WIREGUARD_SOCKETS}`"))?;
    for (index, (host, other)) in hosts.pairs().into_iter().enumerate() {
        let device = &devices[index];
        let mut command = Command::new(program);
        command.arg("-f").args(args).arg(device).env("WG_PROCESS_FOREGROUND", "1").env("LOG_LEVEL", "error");
        let mut daemon = Daemon::start(host, &mut command)?;
        let socket = Path::new(WIREGUARD_SOCKETS).join(format!("{device}.sock"));
        daemon.wait("its socket", || socket.exists())?;
        daemon.wait_for_device(host, device)?;
        daemons.push(daemon);
        let private = host.write_file("wg.key", &keys[index].private)?;
        let line = format!(
            "set {device} private-key {} listen-port 51820 peer {} endpoint {}:51820 allowed-ips 10.78.0.0/16",
            private.display(),
            keys[1 - index].public,
            other.address()
        );
        host.ns().tool(&wg.to_string_lossy(), &line)?;
        host.ns().ip(&format!("link set {device} mtu {MTU} up"))?;
    }
    let via = devices.map(|device| format!("dev {device}"));
    hosts.routed(daemons, Some([&via[0], &via[1]]), MTU)
}

struct Keys {
    private: String,
    public: String,
}

impl Keys {
    fn new(wg: &Path) -> Result<Self> {
        let private = run_ok(Command::new(wg).arg("genkey"), TOOL_LIMIT)?.stdout;
        let public = run(Command::new(wg).arg("pubkey"), private.as_bytes(), TOOL_LIMIT)?.stdout;
        Ok(Self { private, public: public.trim().to_owned() })
    }
}
