//! The laboratory: hosts, a switch between them, one folder and one prefix, and their removal.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::command::run_ok;
use crate::host::Host;
use crate::netns::{self, NetNs};
use crate::programs::{Programs, require_root, require_tools};
use crate::wait::until;
use crate::wire::{Segments, Wire};
use crate::{containerd, dockerd, podman};

/// All namespaces of all runs begin so.
const PREFIX: &str = "wv";

/// A file of this name in a run's folder says that the run outlives its process.
const KEEP: &str = "keep";

/// A fabric of a few hosts on two cores is complete much sooner.
const FORM_LIMIT: Duration = Duration::from_secs(30);

/// Unmounting lazily does not wait for anybody.
const UMOUNT_LIMIT: Duration = Duration::from_secs(10);

/// Where user-space WireGuard puts its control sockets; `wg` knows no other place.
pub const WIREGUARD_SOCKETS: &str = "/var/run/wireguard";

/// What is done once a process, before its first lab.
static PREPARED: Once = Once::new();

/// Labs of this process so far.
static LABS: AtomicU32 = AtomicU32::new(0);

/// Whether this process was told to end: nothing new is made then that would have to be removed again.
static ENDING: AtomicBool = AtomicBool::new(false);

/// How the hosts are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Underlay {
    /// By a switch, which is also their default router.
    Switched,
    /// By a router, each host in a network of its own. For many hosts: the kernel keeps about a thousand neighbours in all namespaces
    /// together, and 32 hosts on a switch that all talk to each other use them up.
    Routed,
    /// Two hosts by one cable, with nothing between that could cost time.
    Cable,
}

/// What to build.
#[derive(Debug, Clone, Copy)]
pub struct LabConfig {
    /// Number of hosts.
    pub hosts: usize,
    /// MTU of the underlay.
    pub mtu: u32,
    /// Its kind.
    pub underlay: Underlay,
    /// What happens to packets longer than the MTU.
    pub segments: Segments,
}

impl LabConfig {
    /// So many hosts on a switch with MTU 1500 that passes super-packets whole.
    pub fn hosts(hosts: usize) -> Self {
        Self { hosts, mtu: 1500, underlay: Underlay::Switched, segments: Segments::Whole }
    }
}

/// Hosts on an underlay of their own. Dropping it removes everything.
#[derive(Debug)]
pub struct Lab {
    run: String,
    dir: PathBuf,
    hosts: Vec<Host>,
    wire: Option<Wire>,
    kept: bool,
}

impl Lab {
    /// So many hosts on a switch, without routers.
    ///
    /// # Errors
    /// Without root, tools or programs, or when the kernel refuses.
    pub fn new(hosts: usize) -> Result<Self> {
        Self::with(LabConfig::hosts(hosts))
    }

    /// As the configuration says, without routers.
    ///
    /// # Errors
    /// See above.
    pub fn with(config: LabConfig) -> Result<Self> {
        Self::with_programs(config, &Programs::find()?)
    }

    /// The same with programs from elsewhere, to compare two builds.
    ///
    /// # Errors
    /// See above.
    pub fn with_programs(config: LabConfig, programs: &Programs) -> Result<Self> {
        require_root()?;
        require_tools(&[])?;
        PREPARED.call_once(prepare);
        if ENDING.load(Ordering::Relaxed) {
            bail!("this process was told to end");
        }
        let run = format!("{PREFIX}{}x{}", process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let dir = runs_folder().join(&run);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make `{}`", dir.display()))?;
        let mut lab = Self { run, dir, hosts: Vec::new(), wire: None, kept: false };
        lab.build(config, programs)?;
        Ok(lab)
    }

    /// A complete fabric: a router on every host, the first one created it, the others joined it.
    ///
    /// # Errors
    /// When a router does not start or does not join.
    pub fn fabric(hosts: usize) -> Result<Self> {
        Self::fabric_with(LabConfig::hosts(hosts), &[])
    }

    /// The same with a configuration and arguments for all routers.
    ///
    /// # Errors
    /// See above.
    pub fn fabric_with(config: LabConfig, args: &[&str]) -> Result<Self> {
        let lab = Self::with(config)?;
        lab.start_all(args)?;
        let token = lab.host(1).up(&[])?;
        for host in &lab.hosts[1..] {
            host.join(&token)?;
        }
        lab.wait_complete()?;
        Ok(lab)
    }

    /// Starts the routers of all hosts.
    ///
    /// # Errors
    /// When one does not start.
    pub fn start_all(&self, args: &[&str]) -> Result<()> {
        self.hosts.iter().try_for_each(|host| host.start_weaved(args))
    }

    /// The same at once, for many hosts.
    ///
    /// # Errors
    /// When one does not start.
    pub fn start_together(&self, args: &[&str]) -> Result<()> {
        self.hosts.iter().try_for_each(|host| host.spawn_with(args))?;
        self.hosts.iter().try_for_each(Host::wait_ready)
    }

    /// Waits until every router counts every other among the living.
    ///
    /// # Errors
    /// When that takes too long, with all counts.
    pub fn wait_complete(&self) -> Result<Duration> {
        let want = self.hosts.len() as u64;
        let mut seen = Vec::new();
        let waited = until(FORM_LIMIT, "every router counts every other among the living", || {
            seen = self.hosts.iter().map(|host| alive(host).unwrap_or(0)).collect();
            seen.iter().all(|alive| *alive == want).then_some(())
        });
        waited.map(|((), time)| time).with_context(|| format!("got {seen:?} alive, want {want} everywhere"))
    }

    /// A host by number, from 1.
    pub fn host(&self, index: usize) -> &Host {
        &self.hosts[index - 1]
    }

    /// All hosts.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// What can be done to the wire.
    ///
    /// # Errors
    /// When the hosts are connected by a cable.
    pub fn wire(&self) -> Result<&Wire> {
        self.wire.as_ref().ok_or_else(|| anyhow!("there is no switch in this lab"))
    }

    /// Prefix of all its namespaces.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Leaves everything as it is when this process ends; [`remove_kept`] removes it.
    ///
    /// # Errors
    /// When the mark cannot be written.
    pub fn keep(mut self) -> Result<()> {
        let mark = self.dir.join(KEEP);
        fs::write(&mark, "").with_context(|| format!("cannot write `{}`", mark.display()))?;
        self.hosts.iter().for_each(Host::release);
        self.kept = true;
        Ok(())
    }

    fn build(&mut self, config: LabConfig, programs: &Programs) -> Result<()> {
        let switch = match config.underlay {
            Underlay::Switched => Some(make_switch(&self.run, config.mtu)?),
            Underlay::Routed => Some(make_router(&self.run, config.mtu)?),
            Underlay::Cable if config.hosts == 2 => None,
            Underlay::Cable => bail!("a cable has two ends (got {} hosts, want 2)", config.hosts),
        };
        for index in 1..=config.hosts {
            let ns = NetNs::create(&format!("{}-h{index}", self.run))?;
            let dir = self.dir.join(format!("h{index}"));
            self.hosts.push(Host::new(index, &self.run, ns, dir, programs.clone())?);
        }
        match &switch {
            Some(switch) => self.hosts.iter().try_for_each(|host| plug(switch, host, config.mtu))?,
            None => self.hosts[0]
                .ns()
                .ip(&format!(
                    "link add eth0 mtu {0} type veth peer name eth0 mtu {0} netns {1}",
                    config.mtu,
                    self.hosts[1].ns().name()
                ))
                .map(drop)?,
        }
        self.hosts.iter().try_for_each(|host| configure(host, config))?;
        self.wire = switch.map(Wire::new);
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if thread::panicking() {
            for host in &self.hosts {
                eprintln!("{}", host.log_tail());
            }
            self.save_logs();
        }
        self.hosts.iter().for_each(Host::end);
        if let Err(error) = remove_run(&self.run) {
            eprintln!("cannot remove the lab `{}`: {error:#}", self.run);
        }
    }
}

impl Lab {
    /// Puts the logs of a failed run where they outlive it.
    fn save_logs(&self) {
        let name = thread::current().name().unwrap_or("unnamed").replace("::", "-");
        let to = runs_folder().join("failed").join(name);
        let saved = fs::create_dir_all(&to).and_then(|()| {
            self.hosts.iter().filter(|host| host.log().exists()).try_for_each(|host| {
                fs::copy(host.log(), to.join(format!("{}.log", host.nickname()))).map(drop)
            })
        });
        match saved {
            Ok(()) => eprintln!("whole logs: `{}`", to.display()),
            Err(error) => eprintln!("cannot keep the logs: {error}"),
        }
    }
}

/// Switches off what cuts packets later than in software, and merges what arrives in NAPI. The device may lack a feature, or have it
/// fixed: only the last one is needed to be what the name says.
fn without_offloads(ns: &NetNs) -> Result<()> {
    for feature in
        ["tso", "gso", "tx-udp-segmentation", "tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation"]
    {
        let _fixed = ns.tool("ethtool", &format!("-K eth0 {feature} off"));
    }
    ns.tool("ethtool", "-K eth0 gro on").map(drop)
}

/// Removes all runs that were kept; answers their names.
///
/// # Errors
/// When something cannot be removed.
pub fn remove_kept() -> Result<Vec<String>> {
    require_root()?;
    let kept: Vec<String> = runs().into_iter().filter(|run| is_kept(run)).collect();
    kept.iter().try_for_each(|run| remove_run(run))?;
    Ok(kept)
}

/// Removes stale runs, and sees to it that an interrupted process removes its own.
fn prepare() {
    remove_stale();
    let Ok(mut signals) = Signals::new([SIGHUP, SIGINT, SIGTERM]) else {
        eprintln!("an interrupted run will not be removed before the next one starts");
        return;
    };
    thread::spawn(move || {
        let Some(signal) = signals.forever().next() else { return };
        ENDING.store(true, Ordering::Relaxed);
        let mine = format!("{PREFIX}{}x", process::id());
        // Twice: what was being made while the first look was taken is there by the second.
        for _ in 0..2 {
            for run in runs().iter().filter(|run| run.starts_with(&mine) && !is_kept(run)) {
                if let Err(error) = remove_run(run) {
                    eprintln!("cannot remove the lab `{run}`: {error:#}");
                }
            }
        }
        process::exit(128 + signal);
    });
}

/// Removes what runs left behind whose process is dead. What cannot be removed is another run's trouble, not this one's.
fn remove_stale() {
    for run in runs().iter().filter(|run| !is_kept(run) && !is_alive(run)) {
        if let Err(error) = remove_run(run) {
            eprintln!("cannot remove what the run `{run}` left behind: {error:#}");
        }
    }
}

/// Processes, namespaces and folder of a run, in this order; goes on after an error.
fn remove_run(run: &str) -> Result<()> {
    let mut errors = Vec::new();
    for host in names_in(&runs_folder().join(run)) {
        let folder = runs_folder().join(run).join(host);
        dockerd::end_containers(&folder.join("docker"));
        containerd::end_containers(&folder.join("containerd"));
        podman::end_containers(&folder.join("podman"));
    }
    for name in names_in(Path::new(netns::FOLDER)).iter().filter(|name| run_of(name) == Some(run)) {
        errors.extend(NetNs::remove(name).err());
    }
    dockerd::remove_cgroups(run);
    for socket in control_sockets(run) {
        errors.extend(
            fs::remove_file(&socket).with_context(|| format!("cannot remove `{}`", socket.display())).err(),
        );
    }
    let dir = runs_folder().join(run);
    for mount in mounts_below(&dir) {
        errors.extend(run_ok(Command::new("umount").arg("--lazy").arg(mount), UMOUNT_LIMIT).err());
    }
    if dir.exists() {
        errors.extend(
            fs::remove_dir_all(&dir).with_context(|| format!("cannot remove `{}`", dir.display())).err(),
        );
    }
    match errors.is_empty() {
        true => Ok(()),
        false => bail!("{}", errors.iter().map(|e| format!("{e:#}")).collect::<Vec<_>>().join("; ")),
    }
}

/// Sockets of user-space WireGuard whose device was named after a run: a program that is killed leaves its socket behind.
fn control_sockets(run: &str) -> Vec<PathBuf> {
    let folder = Path::new(WIREGUARD_SOCKETS);
    names_in(folder).iter().filter(|name| run_of(name) == Some(run)).map(|name| folder.join(name)).collect()
}

/// Every run that has left a namespace, a socket or a folder, its own process' among them.
fn runs() -> Vec<String> {
    let mut names = names_in(Path::new(netns::FOLDER));
    names.extend(names_in(&runs_folder()));
    names.extend(names_in(Path::new(WIREGUARD_SOCKETS)));
    let mut runs: Vec<String> = names.iter().filter_map(|name| run_of(name)).map(str::to_owned).collect();
    runs.sort();
    runs.dedup();
    runs
}

/// The run that a namespace, a folder or a device belongs to: `wv` PID `x` NUMBER, then nothing, `-` and more, or the end of a control
/// socket's name.
fn run_of(name: &str) -> Option<&str> {
    let (pid, rest) = name.strip_prefix(PREFIX)?.split_once('x')?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let len = PREFIX.len() + pid.len() + 1 + digits;
    let ours = match &rest[digits..] {
        "" | "a.sock" | "b.sock" => digits > 0,
        more => digits > 0 && more.starts_with('-'),
    };
    (pid.parse::<u32>().is_ok() && ours).then(|| &name[..len])
}

fn is_alive(run: &str) -> bool {
    let pid = run.strip_prefix(PREFIX).and_then(|rest| rest.split_once('x')).map(|(pid, _)| pid);
    pid.is_some_and(|pid| Path::new("/proc").join(pid).exists())
}

fn is_kept(run: &str) -> bool {
    runs_folder().join(run).join(KEEP).exists()
}

fn runs_folder() -> PathBuf {
    std::env::temp_dir().join("weave-lab")
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Mount points of this process inside a folder; their names hold no characters that the kernel would escape.
fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    points.filter(|point| point.starts_with(dir)).collect()
}

fn alive(host: &Host) -> Option<u64> {
    host.json(&["status"]).ok()?["peers"]["alive"].as_u64()
}

/// A bridge with an address of its own, deaf to packet filters other than ours.
fn make_switch(run: &str, mtu: u32) -> Result<NetNs> {
    let switch = NetNs::create(&format!("{run}-sw"))?;
    switch.ip(&format!("link add br0 mtu {mtu} type bridge forward_delay 0 stp_state 0"))?;
    switch.ip("addr add 10.77.0.254/24 dev br0")?;
    switch.ip("-6 addr add fd77::fe/64 dev br0 nodad")?;
    switch.ip("link set br0 up")?;
    for family in ["iptables", "ip6tables", "arptables"] {
        let key = format!("bridge/bridge-nf-call-{family}");
        if Path::new("/proc/sys/net").join(&key).exists() {
            switch.sysctl(&key, "0")?;
        }
    }
    Ok(switch)
}

/// A switch that forwards between hosts which know no other neighbour.
fn make_router(run: &str, mtu: u32) -> Result<NetNs> {
    let router = make_switch(run, mtu)?;
    router.sysctl("ipv4/ip_forward", "1")?;
    router.sysctl("ipv6/conf/all/forwarding", "1")?;
    for device in ["all", "br0"] {
        router.sysctl(&format!("ipv4/conf/{device}/send_redirects"), "0")?;
    }
    Ok(router)
}

/// A cable from the host to a port of the switch that has the host's number.
fn plug(switch: &NetNs, host: &Host, mtu: u32) -> Result<()> {
    let port = format!("p{}", host.index());
    let peer = host.ns().name();
    switch.ip(&format!("link add {port} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {peer}"))?;
    switch.ip(&format!("link set {port} master br0 up")).map(drop)
}

/// Addresses and routes of a host.
fn configure(host: &Host, config: LabConfig) -> Result<()> {
    let ns = host.ns();
    let (bits4, bits6) = match config.underlay {
        Underlay::Switched | Underlay::Cable => (24, 64),
        Underlay::Routed => (32, 128),
    };
    ns.ip(&format!("addr add {}/{bits4} dev eth0", host.address()))?;
    ns.ip(&format!("-6 addr add {}/{bits6} dev eth0 nodad", host.address6()))?;
    match config.segments {
        Segments::Whole | Segments::Nic => {}
        // A super-packet of more segments than this is cut in software before it enters the device.
        Segments::Cut => ns.ip("link set eth0 gso_max_segs 1").map(drop)?,
    }
    ns.ip("link set eth0 up")?;
    match config.segments {
        Segments::Whole | Segments::Cut => {}
        Segments::Nic => without_offloads(ns)?,
    }
    match config.underlay {
        Underlay::Switched => {
            ns.ip("route add default via 10.77.0.254")?;
            ns.ip("-6 route add default via fd77::fe").map(drop)
        }
        Underlay::Routed => {
            ns.ip("route add default via 10.77.0.254 dev eth0 onlink")?;
            ns.ip("-6 route add default via fd77::fe dev eth0 onlink").map(drop)
        }
        Underlay::Cable => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::run_of;

    #[test]
    fn only_names_of_runs_are_taken_for_runs() {
        assert_eq!(run_of("wv123x0-h1c2"), Some("wv123x0"));
        assert_eq!(run_of("wv123x4"), Some("wv123x4"));
        assert_eq!(run_of("wv123x45b.sock"), Some("wv123x45"));
        assert_eq!(run_of("wv123x4more"), None);
        assert_eq!(run_of("wvx-h1"), None);
        assert_eq!(run_of("weave-h1"), None);
        assert_eq!(run_of("eco-h1"), None);
    }
}
