//! Podman of a host: Debian's, with the CNI backend, our plugin installed as an administrator does it, and folders of its own.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command::Output;
use crate::host::Host;
use crate::image::busybox_tar;
use crate::leftovers;
use crate::plugins::install;
use crate::programs::require_tools;
use crate::wait::until;

/// A container takes less than a second; several at once on two busy cores take longer.
const LIMIT: Duration = Duration::from_secs(60);

/// The image that it has.
pub const PODMAN_IMAGE: &str = "localhost/bb:1";

/// Podman. Dropping it removes its containers.
#[derive(Debug)]
pub struct Podman {
    host: Host,
    dir: PathBuf,
    /// The service that speaks Docker's API, once it is asked for.
    service: Mutex<Option<Child>>,
}

impl Podman {
    /// Sets it up on a host whose router runs, with a network of ours.
    ///
    /// # Errors
    /// When Podman is not installed, or a step fails.
    pub fn new(host: &Host) -> Result<Self> {
        require_tools(&["podman", "conmon", "runc", "busybox"])?;
        let podman = Self { host: host.clone(), dir: host.dir().join("podman"), service: Mutex::default() };
        let (plugins, networks) = install(host, &podman.dir)?;
        // nofile: nobody may raise the hard limit in a sandbox, and Podman tries by default.
        let configuration = format!(
            "[containers]\ndefault_ulimits=[\"nofile=1024:4096\",\"nproc=1024:4096\"]\nlog_driver=\"k8s-file\"\n\
             [network]\nnetwork_backend=\"cni\"\ncni_plugin_dirs=[\"{plugins}\"]\nnetwork_config_dir=\"{networks}\"\n\
             default_network=\"weave\"\n\
             [engine]\ncgroup_manager=\"cgroupfs\"\nruntime=\"runc\"\nevents_logger=\"file\"\n",
        );
        fs::write(podman.dir.join("containers.conf"), configuration).context("cannot configure Podman")?;
        let tar = busybox_tar(&podman.dir)?;
        podman.run(&["import", "-c", "CMD [\"/bin/sh\"]", &tar.display().to_string(), "bb:1"])?;
        Ok(podman)
    }

    /// Its host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Runs a command and expects success; answers what it printed, without the end of the line.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        let output = self.attempt(args)?;
        if output.success() {
            return Ok(output.stdout.trim_end().to_owned());
        }
        bail!("`podman {}` on {} failed: {}", args.join(" "), self.host.nickname(), output.text().trim())
    }

    /// Runs a command; a failure is in the output.
    ///
    /// # Errors
    /// When it cannot be run or hangs.
    pub fn attempt(&self, args: &[&str]) -> Result<Output> {
        self.host.ns().run(self.command().args(args), &[], LIMIT)
    }

    /// Serves Docker's API where the host's router looks for it.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn serve(&self) -> Result<()> {
        let socket = self.host.engine_socket();
        let folder = socket.parent().context("a socket has a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
        let mut command = self.command();
        command.args(["system", "service", "--time", "0"]).arg(format!("unix://{}", socket.display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        *self.service() = Some(self.host.ns().spawn(&mut command)?);
        until(LIMIT, "Podman serves Docker's API", || UnixStream::connect(&socket).is_ok().then_some(()))
            .map(drop)
    }

    fn service(&self) -> MutexGuard<'_, Option<Child>> {
        self.service.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("podman");
        command.env("CONTAINERS_CONF", self.dir.join("containers.conf"));
        for (option, folder) in [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            command.arg(option).arg(self.dir.join(folder));
        }
        // Copies instead of mounts: nothing stays mounted if a test dies.
        command.args(["--storage-driver", "vfs"]);
        command
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        if let Some(mut service) = self.service().take() {
            let _ended_already = service.kill();
            let _reaped = service.wait();
        }
        if let Err(error) = self.run(&["rm", "--all", "--force", "--time", "0"]) {
            eprintln!("{error:#}");
        }
    }
}

/// Kills the containers of a folder.
pub(crate) fn end_containers(dir: &Path) {
    leftovers::end_containers(&dir.join("run/vfs-containers"), &["userdata/conmon.pid", "userdata/pidfile"]);
}
