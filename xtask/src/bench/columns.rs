//! The columns of the comparison: how each data path is brought up between two hosts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::{Host, Lab, Segments, run, run_ok, until};

use crate::bench::report::Report;
use crate::bench::topology::Topology;
use crate::cargo;
use crate::tools;
use crate::ui::Ui;

/// Version of boringtun's own tunnel that is compared with: the newest when this was written.
const BORINGTUN: &str = "0.7.1";

/// MTU that leaves room for WireGuard's headers over IPv6.
const WIREGUARD_MTU: u32 = 1420;

/// MTU that leaves room for VXLAN's headers over IPv4.
const VXLAN_MTU: u32 = 1450;

/// Where user-space WireGuard puts its control socket; `wg` knows no other place.
const WIREGUARD_SOCKETS: &str = "/var/run/wireguard";

/// Time for a device to appear.
const DEVICE_LIMIT: Duration = Duration::from_secs(10);

/// Time for a tool.
const TOOL_LIMIT: Duration = Duration::from_secs(20);

/// A data path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Column {
    /// Plain routing over the cable: what the machine can do at all
    Veth,
    /// The kernel's VXLAN, without encryption
    Vxlan,
    /// This fabric
    Weave,
    /// WireGuard in user space, from Debian
    WireguardGo,
    /// WireGuard in user space, from crates.io
    Boringtun,
}

/// Programs of the rivals that are there.
#[derive(Debug, Default)]
pub(crate) struct Programs {
    columns: Vec<Column>,
    wg: PathBuf,
    wireguard_go: PathBuf,
    boringtun: PathBuf,
}

impl Programs {
    /// Whether a column can be measured.
    pub(crate) fn has(&self, column: Column) -> bool {
        self.columns.contains(&column)
    }
}

impl Column {
    /// All, in the order of the table.
    pub(crate) const ALL: [Self; 5] =
        [Self::Veth, Self::Vxlan, Self::Weave, Self::WireguardGo, Self::Boringtun];

    /// Its name in tables and JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Vxlan => "vxlan",
            Self::Weave => "weave",
            Self::WireguardGo => "wireguard-go",
            Self::Boringtun => "boringtun",
        }
    }

    /// Hosts, tunnel and containers.
    pub(crate) fn bring_up(self, programs: &Programs, segments: Segments) -> Result<Topology> {
        let lab = Topology::hosts(segments)?;
        match self {
            Self::Veth => veth(lab),
            Self::Vxlan => vxlan(lab),
            Self::Weave => weave(lab),
            Self::WireguardGo => wireguard(lab, programs, &programs.wireguard_go, &[]),
            Self::Boringtun => wireguard(lab, programs, &programs.boringtun, &["--disable-drop-privileges"]),
        }
    }
}

/// Finds the programs of the rivals, and builds the one that comes as source.
pub(crate) fn prepare(columns: &[Column], ui: &Ui, report: &mut Report) -> Result<Programs> {
    let mut programs = Programs::default();
    for column in columns {
        let ready = match column {
            Column::Veth | Column::Vxlan | Column::Weave => Ok(()),
            Column::WireguardGo => find("wireguard-go").map(|path| programs.wireguard_go = path),
            Column::Boringtun => boringtun(ui).map(|path| programs.boringtun = path),
        };
        let ready = ready.and_then(|()| match column {
            Column::Veth | Column::Vxlan | Column::Weave => Ok(()),
            Column::WireguardGo | Column::Boringtun => find("wg").map(|path| programs.wg = path),
        });
        match ready {
            Ok(()) => programs.columns.push(*column),
            Err(error) => report.absent(*column, &error, ui),
        }
    }
    Ok(programs)
}

fn find(name: &str) -> Result<PathBuf> {
    tools::find_program(name)
        .with_context(|| format!("there is no `{name}`; type `cargo xtask setup --bench`"))
}

/// Built once below the target folder.
fn boringtun(ui: &Ui) -> Result<PathBuf> {
    let root = cargo::target_dir()?.join("bench-rivals");
    let program = root.join("bin/boringtun-cli");
    if !program.is_file() {
        ui.say("building boringtun-cli, once");
        let target = root.join("build");
        let mut command = cargo::cargo();
        command.args(["install", "boringtun-cli", "--locked", "--quiet", "--version", BORINGTUN]);
        command.arg("--root").arg(&root).arg("--target-dir").arg(&target);
        run_ok(&mut command, Duration::from_secs(900))?;
        // A cache that is not used again.
        let _kept = fs::remove_dir_all(&target);
    }
    Ok(program)
}

fn veth(lab: Lab) -> Result<Topology> {
    let via = [format!("via {}", lab.host(2).address()), format!("via {}", lab.host(1).address())];
    Topology::routed(lab, [&via[0], &via[1]], 1500)
}

fn vxlan(lab: Lab) -> Result<Topology> {
    for (host, other) in pairs(&lab) {
        let remote = other.address();
        host.ns().ip(&format!("link add tun0 type vxlan id 77 remote {remote} dstport 4789 dev eth0"))?;
    }
    Topology::bridged(lab, "tun0", VXLAN_MTU)
}

fn weave(lab: Lab) -> Result<Topology> {
    lab.start_all(&[])?;
    let token = lab.host(1).up(&[])?;
    lab.host(2).join(&token)?;
    lab.wait_complete()?;
    let (one, two) = (lab.host(1).attached()?, lab.host(2).attached()?);
    Topology::attached(lab, &one, &two)
}

/// WireGuard in user space; the programs differ in nothing but their name and arguments.
fn wireguard(lab: Lab, programs: &Programs, program: &Path, args: &[&str]) -> Result<Topology> {
    // The sockets of all namespaces share a folder, so device names must not repeat. Linux allows 15 bytes.
    let devices = [format!("{}a", lab.run()), format!("{}b", lab.run())];
    let keys = [Keys::new(programs)?, Keys::new(programs)?];
    for (index, (host, other)) in pairs(&lab).into_iter().enumerate() {
        let device = &devices[index];
        start_wireguard(host, program, args, device)?;
        let private = host.write_file("wg.key", &keys[index].private)?;
        let line = format!(
            "set {device} private-key {} listen-port 51820 peer {} endpoint {}:51820 allowed-ips 10.78.0.0/16",
            private.display(),
            keys[1 - index].public,
            other.address()
        );
        host.ns().tool(&programs.wg.to_string_lossy(), &line)?;
        host.ns().ip(&format!("link set {device} mtu {WIREGUARD_MTU} up"))?;
    }
    let via = [format!("dev {}", devices[0]), format!("dev {}", devices[1])];
    Topology::routed(lab, [&via[0], &via[1]], WIREGUARD_MTU)
}

/// Starts one end in the foreground; it ends when its namespace is removed.
fn start_wireguard(host: &Host, program: &Path, args: &[&str], device: &str) -> Result<()> {
    fs::create_dir_all(WIREGUARD_SOCKETS).with_context(|| format!("cannot make `{WIREGUARD_SOCKETS}`"))?;
    let mut command = Command::new(program);
    command.arg("-f").args(args).arg(device).env("WG_PROCESS_FOREGROUND", "1").env("LOG_LEVEL", "error");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = host.ns().spawn(&mut command)?;
    let socket = Path::new(WIREGUARD_SOCKETS).join(format!("{device}.sock"));
    let (up, _) = until(DEVICE_LIMIT, &format!("`{}` is up", program.display()), || {
        let ended = child.try_wait().ok().flatten().map(|status| status.to_string());
        let there = socket.exists() && host.ns().ip(&format!("link show {device}")).is_ok();
        ended.map(Err).or_else(|| there.then_some(Ok(())))
    })?;
    if let Err(status) = up {
        bail!("`{}` ended at once ({status})", program.display());
    }
    // A child that nobody waits for stays a zombie until this program ends, which is soon.
    std::thread::spawn(move || child.wait());
    Ok(())
}

struct Keys {
    private: String,
    public: String,
}

impl Keys {
    fn new(programs: &Programs) -> Result<Self> {
        let private = run_ok(Command::new(&programs.wg).arg("genkey"), TOOL_LIMIT)?.stdout;
        let public = run(Command::new(&programs.wg).arg("pubkey"), private.as_bytes(), TOOL_LIMIT)?.stdout;
        Ok(Self { private, public: public.trim().to_owned() })
    }
}

/// Each host with the other one.
fn pairs(lab: &Lab) -> [(&Host, &Host); 2] {
    [(lab.host(1), lab.host(2)), (lab.host(2), lab.host(1))]
}
