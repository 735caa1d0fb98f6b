//! Nebula: certificates of an authority made for the run, the containers' networks as unsafe routes, one routine as usual.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::run_ok;

use crate::bench::daemon::Daemon;
use crate::bench::topology::{Hosts, NETS, Topology};
use crate::bench::wire::Wire;

/// MTU in Nebula's own examples is 1300; 1400 is what its headers leave room for.
const MTU: u32 = 1400;

/// Time for `nebula-cert`.
const TOOL_LIMIT: Duration = Duration::from_secs(20);

/// The hosts' addresses inside of Nebula's own network.
const INSIDE: [&str; 2] = ["10.79.0.1", "10.79.0.2"];

/// A tunnel between the hosts.
pub(crate) fn bring_up(wire: Wire, program: &Path) -> Result<Topology> {
    let hosts = Hosts::new(wire)?;
    let authority = hosts.lab.dir().to_owned();
    let cert = program.with_file_name("nebula-cert");
    let sign = |line: &str| {
        let mut command = Command::new(&cert);
        run_ok(command.args(line.split(' ')).current_dir(&authority), TOOL_LIMIT).map(drop)
    };
    sign("ca -name bench")?;
    let mut daemons = Vec::new();
    for (index, (host, other)) in hosts.pairs().into_iter().enumerate() {
        let name = host.nickname();
        sign(&format!("sign -name {name} -ip {}/24 -subnets {}.0/24", INSIDE[index], NETS[index]))?;
        let addresses = match index {
            0 => [host.address(), other.address()],
            _ => [other.address(), host.address()],
        };
        let text = config(index, &authority, &name, addresses.map(|address| address.to_string()));
        let file = host.write_file("nebula.yml", &text)?;
        let mut daemon = Daemon::start(host, Command::new(program).arg("-config").arg(&file))?;
        daemon.wait_for_device(host, "tun0").context("no tunnel of nebula")?;
        daemons.push(daemon);
    }
    hosts.routed(daemons, None, MTU)
}

/// The first host is the lighthouse. Buffers and batch are larger than by default, the cipher is the faster one.
fn config(index: usize, authority: &Path, name: &str, addresses: [String; 2]) -> String {
    let folder = authority.display();
    let (lighthouse, asks) = if index == 0 { ("true", "") } else { ("false", "\"10.79.0.1\"") };
    let [one, two] = addresses;
    let (net, via) = (NETS[1 - index], INSIDE[1 - index]);
    format!(
        r#"pki: {{ca: {folder}/ca.crt, cert: {folder}/{name}.crt, key: {folder}/{name}.key}}
static_host_map: {{"{}": ["{one}:4242"], "{}": ["{two}:4242"]}}
lighthouse: {{am_lighthouse: {lighthouse}, interval: 60, hosts: [{asks}]}}
listen: {{host: 0.0.0.0, port: 4242, batch: 64, read_buffer: 4000000, write_buffer: 4000000}}
cipher: aes
punchy: {{punch: false}}
routines: 1
tun:
  dev: tun0
  mtu: {MTU}
  tx_queue: 1000
  unsafe_routes: [{{route: {net}.0/24, via: {via}}}]
logging: {{level: error, format: text}}
firewall:
  default_local_cidr_any: true
  conntrack: {{tcp_timeout: 12m, udp_timeout: 3m, default_timeout: 10m}}
  outbound: [{{port: any, proto: any, host: any}}]
  inbound: [{{port: any, proto: any, host: any}}]
"#,
        INSIDE[0], INSIDE[1]
    )
}
