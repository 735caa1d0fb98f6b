//! tinc 1.0 in switch mode: one Ethernet segment, as this fabric makes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::run;

use crate::bench::daemon::Daemon;
use crate::bench::topology::{Hosts, Topology};
use crate::bench::wire::Wire;

/// MTU that leaves room for tinc's headers.
const MTU: u32 = 1400;

/// Time to make a key of 2048 bits.
const KEY_LIMIT: Duration = Duration::from_secs(60);

/// A tunnel between the hosts.
pub(crate) fn bring_up(wire: Wire, program: &Path) -> Result<Topology> {
    let hosts = Hosts::new(wire)?;
    let folders = hosts.pairs().map(|(host, _)| host.dir().join("tinc"));
    let mut described = Vec::new();
    for ((host, other), folder) in hosts.pairs().into_iter().zip(&folders) {
        let text = format!(
            "Name = {}\nMode = switch\nDeviceType = tap\nInterface = tun0\nConnectTo = {}\nAddressFamily = ipv4\n",
            host.nickname(),
            other.nickname()
        );
        fs::create_dir_all(folder.join("hosts"))
            .with_context(|| format!("cannot make `{}`", folder.display()))?;
        write(&folder.join("tinc.conf"), &text)?;
        described.push((host.nickname(), format!("Address = {}\n{}", host.address(), key(program, folder)?)));
    }
    for folder in &folders {
        for (name, text) in &described {
            write(&folder.join("hosts").join(name), text)?;
        }
    }
    let mut daemons = Vec::new();
    for ((host, _), folder) in hosts.pairs().into_iter().zip(&folders) {
        let mut command = Command::new(program);
        command.arg("-c").arg(folder).arg("--pidfile").arg(folder.join("pid")).arg("-D");
        daemons.push(Daemon::start(host, &mut command)?);
    }
    for ((host, _), daemon) in hosts.pairs().into_iter().zip(&mut daemons) {
        daemon.wait_for_device(host, "tun0").context("no tunnel of tinc")?;
    }
    hosts.bridged(daemons, "tun0", MTU)
}

/// Makes a key pair; without a terminal tinc puts both halves where it wants them, and where depends on the version.
fn key(program: &Path, folder: &Path) -> Result<String> {
    run(Command::new(program).arg("-c").arg(folder).args(["-K", "2048"]), &[], KEY_LIMIT)?;
    let mut public = String::new();
    for place in [folder.to_owned(), folder.join("hosts")] {
        let entries = fs::read_dir(&place).with_context(|| format!("cannot list `{}`", place.display()))?;
        for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()) {
            let text = fs::read_to_string(&path).unwrap_or_default();
            if text.contains("BEGIN RSA PUBLIC KEY") {
                public.push_str(&text);
            }
        }
    }
    anyhow::ensure!(!public.is_empty(), "tinc made no public key in `{}`", folder.display());
    Ok(public)
}

fn write(path: &PathBuf, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write `{}`", path.display()))
}
