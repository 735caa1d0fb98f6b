//! A host: a namespace on the switch, with a router of its own.

use std::fs::{self, File, OpenOptions};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::command::{Output, run_ok};
use crate::container::Container;
use crate::netns::NetNs;
use crate::programs::Programs;
use crate::text::tail;
use crate::wait::until;

/// A start takes a fraction of a second; ten hosts at once on two cores take longer.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A clean end must not take longer.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// `weavectl` answers within its own deadlines, which are shorter.
const CTL_LIMIT: Duration = Duration::from_secs(60);

/// Lines of a log that go into an error.
const LOG_LINES: usize = 30;

/// A host. Cloning gives another handle of the same one.
#[derive(Debug, Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    index: usize,
    run: String,
    ns: NetNs,
    dir: PathBuf,
    programs: Programs,
    daemon: Mutex<Option<Child>>,
    args: Mutex<Vec<String>>,
    containers: AtomicU32,
    docker_socket: Mutex<Option<PathBuf>>,
}

/// How a router ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Host {
    pub(crate) fn new(index: usize, run: &str, ns: NetNs, dir: PathBuf, programs: Programs) -> Result<Self> {
        fs::create_dir_all(&dir).with_context(|| format!("cannot make `{}`", dir.display()))?;
        let (daemon, args, containers) = (Mutex::default(), Mutex::default(), AtomicU32::new(0));
        let run = run.to_owned();
        let docker_socket = Mutex::default();
        let inner = Inner { index, run, ns, dir, programs, daemon, args, containers, docker_socket };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Its number, from 1.
    pub fn index(&self) -> usize {
        self.inner.index
    }

    /// Its nickname in the fabric.
    pub fn nickname(&self) -> String {
        format!("h{}", self.inner.index)
    }

    /// Its namespace.
    pub fn ns(&self) -> &NetNs {
        &self.inner.ns
    }

    /// Its IPv4 address on the underlay.
    pub fn address(&self) -> Ipv4Addr {
        address(self.inner.index)
    }

    /// Its IPv6 address on the underlay.
    pub fn address6(&self) -> Ipv6Addr {
        address6(self.inner.index)
    }

    /// Where its router keeps its state.
    pub fn state_dir(&self) -> PathBuf {
        self.inner.dir.join("state")
    }

    /// Its router's control socket.
    pub fn socket(&self) -> PathBuf {
        self.inner.dir.join("weaved.sock")
    }

    /// Where a Docker of this host has its API.
    pub fn engine_socket(&self) -> PathBuf {
        self.inner.dir.join("docker/docker.sock")
    }

    /// What its router said.
    pub fn log(&self) -> PathBuf {
        self.inner.dir.join("weaved.log")
    }

    /// The programs under test.
    pub fn programs(&self) -> &Programs {
        &self.inner.programs
    }

    /// Prefix of all namespaces of its lab.
    pub fn run(&self) -> &str {
        &self.inner.run
    }

    /// Lets the router serve a Docker of this host here, from its next start on. Otherwise it leaves the machine's own Docker alone.
    pub fn serve_docker_on(&self, socket: &Path) {
        *lock(&self.inner.docker_socket) = Some(socket.to_owned());
    }

    /// Starts the router and waits until it takes requests. Later restarts repeat the arguments.
    ///
    /// # Errors
    /// When it ends or does not answer, with the end of its log.
    pub fn start_weaved(&self, args: &[&str]) -> Result<()> {
        self.spawn_with(args)?;
        self.wait_ready()
    }

    /// Starts the router with these arguments without waiting for it. Later restarts repeat them.
    ///
    /// # Errors
    /// When it runs already or cannot be started.
    pub fn spawn_with(&self, args: &[&str]) -> Result<()> {
        *lock(&self.inner.args) = args.iter().map(|arg| (*arg).to_owned()).collect();
        self.spawn_weaved()
    }

    /// Starts the router with the arguments of the last start.
    ///
    /// # Errors
    /// See above.
    pub fn start_again(&self) -> Result<()> {
        self.spawn_weaved()?;
        self.wait_ready()
    }

    /// Waits until a router that was started takes requests.
    ///
    /// # Errors
    /// When it ends or does not answer, with the end of its log.
    pub fn wait_ready(&self) -> Result<()> {
        let waited = until(START_LIMIT, &format!("weaved of {} takes requests", self.nickname()), || {
            if UnixStream::connect(self.socket()).is_ok() {
                return Some(None);
            }
            self.ended().map(Some)
        });
        match waited {
            Ok((None, _)) => Ok(()),
            Ok((Some(exit), _)) => {
                bail!("weaved of {} ended at once ({exit:?}):\n{}", self.nickname(), self.log_tail())
            }
            Err(error) => Err(error.context(self.log_tail())),
        }
    }

    /// Starts the router without waiting for it.
    ///
    /// # Errors
    /// When it runs already or cannot be started.
    pub fn spawn_weaved(&self) -> Result<()> {
        let mut daemon = lock(&self.inner.daemon);
        if daemon.is_some() {
            bail!("weaved of {} runs already", self.nickname());
        }
        let log = OpenOptions::new().create(true).append(true).open(self.log());
        let log = log.with_context(|| format!("cannot open `{}`", self.log().display()))?;
        let mut command = self.weaved_command();
        command.args(&*lock(&self.inner.args)).stdin(Stdio::null());
        command.stdout(log.try_clone().context("cannot share the log")?).stderr(log);
        *daemon = Some(self.inner.ns.spawn(&mut command)?);
        Ok(())
    }

    /// The command line of the router with this host's own paths, for runs that are expected to end by themselves.
    pub fn weaved_command(&self) -> Command {
        let mut command = Command::new(&self.inner.programs.weaved);
        command.arg("--state-dir").arg(self.state_dir()).arg("--socket").arg(self.socket());
        command.args(["--listen", "[::]:6783", "--nickname", &self.nickname()]);
        let docker = lock(&self.inner.docker_socket).clone().unwrap_or_else(|| PathBuf::from("off"));
        command.arg("--docker-socket").arg(docker);
        command.arg("--container-engine").arg(self.engine_socket());
        command
    }

    /// The router's process id, when it runs.
    pub fn pid(&self) -> Option<u32> {
        lock(&self.inner.daemon).as_ref().map(Child::id)
    }

    /// How the router ended, if it has ended by itself; it then counts as stopped.
    pub fn ended(&self) -> Option<Exit> {
        let mut daemon = lock(&self.inner.daemon);
        let status = daemon.as_mut().and_then(|child| child.try_wait().ok().flatten())?;
        *daemon = None;
        Some(exit_of(status))
    }

    /// Ends the router as a crash would.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill9(&self) -> Result<()> {
        self.signal(Signal::KILL).map(drop)
    }

    /// Asks the router to end and waits for it.
    ///
    /// # Errors
    /// When it does not run or does not end in time (it is killed then).
    pub fn sigterm(&self) -> Result<Exit> {
        self.signal(Signal::TERM)
    }

    /// A clean end and a new start.
    ///
    /// # Errors
    /// When either fails.
    pub fn restart(&self) -> Result<()> {
        self.sigterm()?;
        self.start_again()
    }

    /// Runs `weavectl` against this host's router.
    ///
    /// # Errors
    /// When it cannot be run or hangs; a refusal is in the output.
    pub fn weavectl(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(&self.inner.programs.weavectl);
        command.env("NO_COLOR", "1").arg("--socket").arg(self.socket()).args(args);
        self.inner.ns.run(&mut command, &[], CTL_LIMIT)
    }

    /// Runs `weavectl --json` and parses the answer. A verdict that is bad, which has an exit code of its own, is an answer too.
    ///
    /// # Errors
    /// When it answers an error or no JSON.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let mut all = vec!["--json"];
        all.extend(args);
        let output = self.weavectl(&all)?;
        let answer: Option<Value> = serde_json::from_str(&output.stdout).ok();
        match answer {
            Some(answer) if answer["error"].is_null() => Ok(answer),
            Some(_) | None => {
                bail!("`weavectl {}` on {} failed: {}", args.join(" "), self.nickname(), output.text().trim())
            }
        }
    }

    /// Creates a fabric and answers the join token.
    ///
    /// # Errors
    /// When `weavectl up` fails.
    pub fn up(&self, args: &[&str]) -> Result<String> {
        let mut all = vec!["up"];
        all.extend(args);
        let info = self.json(&all)?;
        info["token"].as_str().map(str::to_owned).with_context(|| format!("no token in {info}"))
    }

    /// Joins a fabric.
    ///
    /// # Errors
    /// When `weavectl join` fails.
    pub fn join(&self, token: &str) -> Result<Value> {
        self.json(&["join", token])
    }

    /// The ciphers of its ready connections, in the order that they are listed.
    ///
    /// # Errors
    /// When `weavectl` fails.
    pub fn ciphers(&self) -> Result<Vec<String>> {
        let status = self.json(&["status", "connections"])?;
        let all = status["connections"].as_array().into_iter().flatten();
        Ok(all.filter_map(|connection| connection["cipher"].as_str().map(str::to_owned)).collect())
    }

    /// A new container of this host: a namespace that nothing is attached to yet.
    ///
    /// # Errors
    /// When the namespace cannot be made.
    pub fn container(&self) -> Result<Container> {
        let number = self.inner.containers.fetch_add(1, Ordering::Relaxed) + 1;
        let ns = NetNs::create(&format!("{}-h{}c{number}", self.inner.run, self.inner.index))?;
        Ok(Container::new(self.clone(), number, ns))
    }

    /// A new container with the first interface attached by the CNI plugin.
    ///
    /// # Errors
    /// When ADD fails.
    pub fn attached(&self) -> Result<Container> {
        let mut container = self.container()?;
        container.cni_add()?;
        Ok(container)
    }

    /// The end of the router's log.
    pub fn log_tail(&self) -> String {
        format!("--- end of the log of {} ---\n{}", self.nickname(), tail(&self.log(), LOG_LINES))
    }

    /// Ends the router without caring how, for clean-up.
    pub(crate) fn end(&self) {
        if let Some(mut child) = lock(&self.inner.daemon).take() {
            let _ended_already = child.kill();
            let _reaped = child.wait();
        }
    }

    /// Leaves the router running after this process.
    pub(crate) fn release(&self) {
        drop(lock(&self.inner.daemon).take());
    }

    fn signal(&self, signal: Signal) -> Result<Exit> {
        let Some(mut child) = lock(&self.inner.daemon).take() else {
            bail!("weaved of {} does not run", self.nickname());
        };
        let pid = Pid::from_child(&child);
        kill_process(pid, signal).with_context(|| format!("cannot send {signal:?} to {pid:?}"))?;
        let what = format!("weaved of {} ended after {signal:?}", self.nickname());
        match until(STOP_LIMIT, &what, || child.try_wait().ok().flatten()) {
            Ok((status, _)) => Ok(exit_of(status)),
            Err(error) => {
                child.kill().and_then(|()| child.wait()).context("cannot kill it either")?;
                Err(error.context(self.log_tail()))
            }
        }
    }

    /// An address of the underlay by family.
    pub fn underlay(&self, like: IpAddr) -> IpAddr {
        match like {
            IpAddr::V4(_) => IpAddr::V4(self.address()),
            IpAddr::V6(_) => IpAddr::V6(self.address6()),
        }
    }

    /// A file of this host's folder, made anew.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.inner.dir.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write `{}`", path.display()))?;
        Ok(path)
    }

    /// Puts the state folder on a file system of this size, such as `256k`, that is empty. [`Lab`](crate::Lab) unmounts it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn small_state_disk(&self, size: &str) -> Result<()> {
        let dir = self.state_dir();
        fs::create_dir_all(&dir).with_context(|| format!("cannot make `{}`", dir.display()))?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size},mode=0700"), "weave-lab"]).arg(&dir);
        run_ok(&mut mount, CTL_LIMIT).map(drop)
    }

    /// The folder of this host's files.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// Size of the router's log, to look later at what came after.
    pub fn log_mark(&self) -> u64 {
        File::open(self.log()).and_then(|file| file.metadata()).map_or(0, |meta| meta.len())
    }
}

/// Address of a host by number. An underlay has no more than a /24 of them.
pub(crate) fn address(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, u8::try_from(index).unwrap_or(u8::MAX))
}

/// The same for IPv6.
pub(crate) fn address6(index: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::try_from(index).unwrap_or(u16::MAX))
}

/// A panic of another thread of a test does not make the child process less ours.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn exit_of(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Code(-1),
    }
}
