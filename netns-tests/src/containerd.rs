//! containerd of a host: Debian's, with our plugin installed as an administrator does it, and folders of its own.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command::{Output, run_ok};
use crate::host::Host;
use crate::image::busybox_tar;
use crate::leftovers;
use crate::plugins::install;
use crate::programs::require_tools;
use crate::text::tail;
use crate::wait::until;

/// It is up in a second; several at once on two busy cores take longer.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Longest time for a command of its client.
const CLIENT_LIMIT: Duration = Duration::from_secs(60);

/// Lines of its log in an error.
const LOG_LINES: usize = 25;

/// Name of the image that pods start with, and that `ctr` runs.
const IMAGE: &str = "registry.k8s.io/pause:3.6";

/// Where the state of containers is, for each of its namespaces.
const TASKS: &str = "state/io.containerd.runtime.v2.task";

/// containerd. Dropping it ends it and its containers.
#[derive(Debug)]
pub struct Containerd {
    host: Host,
    dir: PathBuf,
    daemon: Child,
}

impl Containerd {
    /// Starts it on a host whose router runs, with a network of ours and an image.
    ///
    /// # Errors
    /// When it is not installed, or does not start; with the end of its log.
    pub fn start(host: &Host) -> Result<Self> {
        let dir = host.dir().join("containerd");
        let (plugins, networks) = install(host, &dir)?;
        Self::launch(host, dir, &plugins, &networks)
    }

    /// The same with another network in the place of ours.
    ///
    /// # Errors
    /// See above.
    pub fn start_with(host: &Host, network: &Value) -> Result<Self> {
        let dir = host.dir().join("containerd");
        let (plugins, networks) = install(host, &dir)?;
        fs::write(dir.join("net.d/10-weave.conflist"), network.to_string())
            .context("cannot write the network")?;
        Self::launch(host, dir, &plugins, &networks)
    }

    fn launch(host: &Host, dir: PathBuf, plugins: &str, networks: &str) -> Result<Self> {
        require_tools(&["containerd", "ctr", "runc", "podman", "busybox"])?;
        fs::write(dir.join("config.toml"), configuration(&dir, plugins, networks))
            .context("cannot configure containerd")?;
        let log = OpenOptions::new().create(true).append(true).open(dir.join("log"))?;
        // Mounts of its own, which go with it: `ctr` has fixed folders for plugins and networks, and the names of pods' namespaces would
        // stay in the machine's.
        let script = format!(
            "mkdir -p /opt/cni/bin /etc/cni/net.d /run/netns\nmount -t tmpfs pods /run/netns\nmount --bind {plugins} /opt/cni/bin\nmount --bind {networks} /etc/cni/net.d\n\
             exec containerd --config {}/config.toml",
            dir.display()
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "slave", "sh", "-ec", &script]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let daemon = host.ns().spawn(&mut command)?;
        let started = Self { host: host.clone(), dir, daemon };
        until(START_LIMIT, "containerd takes requests", || {
            started.attempt(&["version"]).is_ok_and(|output| output.success()).then_some(())
        })
        .with_context(|| started.log_tail())?;
        started.import()?;
        Ok(started)
    }

    /// Its host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The image that it has.
    pub fn image(&self) -> &'static str {
        IMAGE
    }

    /// Where it takes requests: its own and those of the Kubernetes Container Runtime Interface.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("containerd.sock")
    }

    /// Runs its client and expects success; answers what it printed, without the end of the line.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn ctr(&self, args: &[&str]) -> Result<String> {
        let output = self.attempt(args)?;
        if output.success() {
            return Ok(output.stdout.trim_end().to_owned());
        }
        bail!("`ctr {}` on {} failed: {}", args.join(" "), self.host.nickname(), output.text().trim())
    }

    /// Runs its client among the daemon's mounts; a failure is in the output.
    ///
    /// # Errors
    /// When it cannot be run or hangs.
    pub fn attempt(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.daemon.id())).arg("ctr").arg("--address");
        command.arg(self.socket()).args(args);
        self.host.ns().run(&mut command, &[], CLIENT_LIMIT)
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        let name = self.host.nickname();
        format!("--- end of the log of containerd of {name} ---\n{}", tail(&self.dir.join("log"), LOG_LINES))
    }

    /// Podman makes an archive of the image, since containerd's client takes nothing less.
    fn import(&self) -> Result<()> {
        let tar = busybox_tar(&self.dir)?;
        let archive = self.dir.join("archive.tar");
        let podman = |args: &[&str]| {
            let mut command = Command::new("podman");
            for (option, folder) in [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
                command.arg(option).arg(self.dir.join("podman").join(folder));
            }
            run_ok(command.args(["--storage-driver", "vfs"]).args(args), CLIENT_LIMIT)
        };
        let (tar, archive) = (tar.display().to_string(), archive.display().to_string());
        let entry = "ENTRYPOINT [\"/bin/sleep\",\"2147483647\"]";
        podman(&["import", "-c", entry, "-c", "ENV PATH=/bin", &tar, IMAGE])?;
        podman(&["save", "-o", &archive, IMAGE])?;
        for namespace in ["default", "k8s.io"] {
            self.ctr(&["--namespace", namespace, "images", "import", &archive])?;
        }
        Ok(())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
        let _ended_already = self.daemon.kill();
        let _reaped = self.daemon.wait();
        end_containers(&self.dir);
    }
}

/// Kills the containers of a daemon whose folder this is.
pub(crate) fn end_containers(dir: &Path) {
    for namespace in ["default", "k8s.io"] {
        leftovers::end_containers(&dir.join(TASKS).join(namespace), &["init.pid"]);
    }
}

fn configuration(dir: &Path, plugins: &str, networks: &str) -> String {
    let dir = dir.display();
    format!(
        "version = 2\nroot = \"{dir}/root\"\nstate = \"{dir}/state\"\n\
         [grpc]\naddress = \"{dir}/containerd.sock\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"{IMAGE}\"\nrestrict_oom_score_adj = true\n\
         disable_hugetlb_controller = true\nstream_server_address = \"127.0.0.1\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"{plugins}\"\nconf_dir = \"{networks}\"\n"
    )
}
