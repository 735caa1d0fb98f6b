//! A Docker daemon of a host: Debian's, with a folder of its own for everything that it would otherwise share with the machine's.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::command::Output;
use crate::host::Host;
use crate::image::busybox_tar;
use crate::leftovers;
use crate::programs::require_tools;
use crate::wait::until;

/// The client that comes with Debian's daemon; another one in `PATH` may be too new for it.
const CLIENT: &str = "/usr/bin/docker";
/// A daemon is up in a second; several at once on two busy cores take longer.
const START_LIMIT: Duration = Duration::from_secs(60);
/// It ends its containers first.
const STOP_LIMIT: Duration = Duration::from_secs(40);
/// Docker waits 30 s for a plugin, and goes on after that.
const CLIENT_LIMIT: Duration = Duration::from_secs(90);
/// Longest wait for processes after SIGKILL.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// Lines of its log in an error.
const LOG_LINES: usize = 25;
/// Below the daemon's folder: the pid files of its containers.
const TASKS: &str = "exec/containerd/daemon/io.containerd.runtime.v2.task/moby";

/// The image that every daemon has.
pub const IMAGE: &str = "bb:1";

/// A daemon. Dropping it ends it and its containers.
#[derive(Debug)]
pub struct Dockerd {
    host: Host,
    dir: PathBuf,
    daemon: Mutex<Option<Child>>,
}

impl Dockerd {
    /// Prepares a daemon for this host and lets the host's router serve it; starts neither.
    ///
    /// # Errors
    /// When Docker is not installed or a folder cannot be made.
    pub fn prepare(host: &Host) -> Result<Self> {
        require_tools(&["dockerd", "containerd", "runc", "iptables", "busybox"])?;
        if !Path::new(CLIENT).is_file() {
            bail!("there is no `{CLIENT}`; type `cargo xtask setup`");
        }
        let dir = host.dir().join("docker");
        for folder in ["data", "exec", "run/plugins", "etc", "containerd"] {
            let path = dir.join(folder);
            fs::create_dir_all(&path).with_context(|| format!("cannot make `{}`", path.display()))?;
        }
        let dockerd = Self { host: host.clone(), dir, daemon: Mutex::default() };
        host.serve_docker_on(&dockerd.plugin("weave"));
        fs::write(dockerd.dir.join("daemon.json"), "{}")
            .context("cannot write the daemon's configuration")?;
        Ok(dockerd)
    }

    /// Prepares and starts one, with the image.
    ///
    /// # Errors
    /// See [`Dockerd::prepare`] and [`Dockerd::start`].
    pub fn new(host: &Host) -> Result<Self> {
        let dockerd = Self::prepare(host)?;
        dockerd.start()?;
        dockerd.import()?;
        Ok(dockerd)
    }

    /// Where the plugin of this name has its socket.
    pub fn plugin(&self, name: &str) -> PathBuf {
        self.dir.join("run/plugins").join(format!("{name}.sock"))
    }

    /// Its host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The engine's API.
    pub fn socket(&self) -> PathBuf {
        self.host.engine_socket()
    }

    /// What it said.
    pub fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Starts it and waits until it takes requests.
    ///
    /// # Errors
    /// When it ends or does not answer, with the end of its log.
    pub fn start(&self) -> Result<()> {
        let mut daemon = self.daemon();
        if daemon.is_some() {
            bail!("dockerd of {} runs already", self.host.nickname());
        }
        // A daemon that was killed leaves its pid file, and refuses to start should the number be in use again.
        let _none = fs::remove_file(self.dir.join("pid"));
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log())?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "slave", "sh", "-ec", START, "dockerd"]).arg(&self.dir);
        command.arg(self.cgroup()).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        *daemon = Some(self.host.ns().spawn(&mut command)?);
        drop(daemon);
        let what = format!("dockerd of {} takes requests", self.host.nickname());
        let waited = until(START_LIMIT, &what, || {
            let ended = self.daemon().as_mut().and_then(|child| child.try_wait().ok().flatten());
            match ended {
                Some(status) => Some(Err(status)),
                None => self.is_ready().then_some(Ok(())),
            }
        });
        match waited {
            Ok((Ok(()), _)) => Ok(()),
            Ok((Err(status), _)) => {
                *self.daemon() = None;
                bail!("dockerd of {} ended at once ({status}):\n{}", self.host.nickname(), self.log_tail())
            }
            Err(error) => Err(error.context(self.log_tail())),
        }
    }

    /// Makes the image.
    ///
    /// # Errors
    /// When a tool fails.
    pub fn import(&self) -> Result<()> {
        let tar = busybox_tar(&self.dir)?;
        let tar = tar.display().to_string();
        self.docker(&["import", "-c", "CMD [\"/bin/sh\"]", "-c", "ENV PATH=/bin", &tar, IMAGE]).map(drop)
    }

    /// Runs the client and expects success; answers what it printed, without the end of the line.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn docker(&self, args: &[&str]) -> Result<String> {
        let output = self.try_docker(args)?;
        if output.success() {
            return Ok(output.stdout.trim_end().to_owned());
        }
        bail!("`docker {}` on {} failed: {}", args.join(" "), self.host.nickname(), output.text().trim())
    }

    /// Runs the client; a failure is in the output.
    ///
    /// # Errors
    /// When it cannot be run or hangs.
    pub fn try_docker(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(CLIENT);
        command.arg("-H").arg(format!("unix://{}", self.socket().display())).args(args);
        self.host.ns().run(&mut command, &[], CLIENT_LIMIT)
    }

    /// Kills it, as a crash would; its containers go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill9(&self) -> Result<()> {
        self.signal(Signal::KILL)?;
        // Its own containerd outlives it and would refuse the next one its place.
        let pid = fs::read_to_string(self.dir.join("exec/containerd/containerd.pid")).unwrap_or_default();
        if let Some(pid) = pid.trim().parse().ok().and_then(Pid::from_raw) {
            let _gone = kill_process(pid, Signal::KILL);
            let gone = || (!Path::new("/proc").join(pid.as_raw_nonzero().to_string()).exists()).then_some(());
            until(KILL_LIMIT, "containerd ended", gone)?;
        }
        Ok(())
    }

    /// Ends it and its containers.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// The end of its log, without what is only information.
    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().filter(|line| !line.contains("level=info")).collect();
        let last = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
        format!("--- end of the log of dockerd of {} ---\n{last}", self.host.nickname())
    }

    fn is_ready(&self) -> bool {
        let Ok(mut stream) = UnixStream::connect(self.socket()) else { return false };
        let request = b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n";
        let asked =
            stream.set_read_timeout(Some(Duration::from_secs(5))).and_then(|()| stream.write_all(request));
        let mut answer = String::new();
        asked.is_ok()
            && std::io::Read::read_to_string(&mut stream, &mut answer).is_ok()
            && answer.contains(" 200 ")
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let Some(mut child) = self.daemon().take() else {
            bail!("dockerd of {} does not run", self.host.nickname());
        };
        kill_process(Pid::from_child(&child), signal).with_context(|| format!("cannot send {signal:?}"))?;
        match until(STOP_LIMIT, "dockerd ended", || child.try_wait().ok().flatten()) {
            Ok(_) => Ok(()),
            Err(error) => {
                child.kill().and_then(|()| child.wait()).context("cannot kill it either")?;
                Err(error.context(self.log_tail()))
            }
        }
    }

    fn cgroup(&self) -> String {
        format!("{}-h{}", self.host.run(), self.host.index())
    }

    fn daemon(&self) -> MutexGuard<'_, Option<Child>> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The daemon's folders in the place of the machine's, so that it finds its own plugins there. Arguments: its folder, its control group.
const START: &str = "D=$1
mount -t tmpfs weave-lab /run
mkdir -p /run/docker /etc/docker /run/containerd
mount --bind $D/run /run/docker
mount --bind $D/etc /etc/docker
mount --bind $D/containerd /run/containerd
exec dockerd --config-file $D/daemon.json -H unix://$D/docker.sock --data-root $D/data --exec-root $D/exec -p $D/pid \
    --storage-driver overlay2 --cgroup-parent /$2 --default-ulimit nofile=1024:4096";

impl Drop for Dockerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
        if let Some(mut child) = self.daemon().take() {
            let _ended_already = child.kill();
            let _reaped = child.wait();
        }
        end_containers(&self.dir);
    }
}

/// Kills the containers of a daemon whose folder this is.
pub(crate) fn end_containers(dir: &Path) {
    leftovers::end_containers(&dir.join(TASKS), &["init.pid"]);
}

/// Removes the control groups of a run's containers, which stay when a daemon is killed. One that is in use by somebody stays.
pub(crate) fn remove_cgroups(run: &str) {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = folders(root).into_iter().chain([root.to_owned()]);
    for group in hierarchies.flat_map(|hierarchy| folders(&hierarchy)) {
        let name = group.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.strip_prefix(run).is_some_and(|rest| rest.starts_with("-h")) {
            remove_group(&group);
        }
    }
}

/// From the leaves: a control group with others below it cannot be removed.
fn remove_group(group: &Path) {
    folders(group).iter().for_each(|below| remove_group(below));
    let _in_use = fs::remove_dir(group);
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}
