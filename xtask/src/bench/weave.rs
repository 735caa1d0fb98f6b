//! This fabric, with containers attached as a runtime would.

use std::path::Path;

use anyhow::{Result, bail};
use lab::Programs;

use crate::bench::topology::{Hosts, Topology};
use crate::bench::wire::Wire;

/// A fabric of two hosts; `build` is the folder of another build's programs.
pub(crate) fn bring_up(wire: Wire, build: Option<&Path>, args: &[&str]) -> Result<Topology> {
    let hosts = match build {
        Some(folder) => Hosts::with_programs(wire, &Programs::within(folder)?)?,
        None => Hosts::new(wire)?,
    };
    let lab = &hosts.lab;
    lab.start_all(args)?;
    let token = lab.host(1).up(&[])?;
    lab.host(2).join(&token)?;
    lab.wait_complete()?;
    if let Some(wanted) = args.iter().skip_while(|arg| **arg != "--cipher").nth(1) {
        for host in lab.hosts() {
            let used = host.ciphers()?;
            if used != [*wanted] {
                bail!("{} seals with {used:?} (want `{wanted}`)", host.nickname());
            }
        }
    }
    let (one, two) = (lab.host(1).attached()?, lab.host(2).attached()?);
    hosts.attached(&one, &two)
}
