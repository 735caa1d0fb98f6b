//! Podman of a host: Debian's, with the CNI backend, our plugin installed as an administrator does it, and folders of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command::Output;
use crate::host::Host;
use crate::image::busybox_tar;
use crate::leftovers;
use crate::plugins::install;
use crate::programs::require_tools;

/// A container takes less than a second; several at once on two busy cores take longer.
const LIMIT: Duration = Duration::from_secs(60);

/// The image that it has.
pub const PODMAN_IMAGE: &str = "localhost/bb:1";

/// Podman. Dropping it removes its containers.
#[derive(Debug)]
pub struct Podman {
    host: Host,
    dir: PathBuf,
}

impl Podman {
    /// Sets it up on a host whose router runs, with a network of ours.
    ///
    /// # Errors
    /// When Podman is not installed, or a step fails.
    pub fn new(host: &Host) -> Result<Self> {
        require_tools(&["podman", "conmon", "runc", "busybox"])?;
        let podman = Self { host: host.clone(), dir: host.dir().join("podman") };
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
        let mut command = Command::new("podman");
        command.env("CONTAINERS_CONF", self.dir.join("containers.conf"));
        for (option, folder) in [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            command.arg(option).arg(self.dir.join(folder));
        }
        // Copies instead of mounts: nothing stays mounted if a test dies.
        command.args(["--storage-driver", "vfs"]).args(args);
        self.host.ns().run(&mut command, &[], LIMIT)
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        if let Err(error) = self.run(&["rm", "--all", "--force", "--time", "0"]) {
            eprintln!("{error:#}");
        }
    }
}

/// Kills the containers of a folder.
pub(crate) fn end_containers(dir: &Path) {
    leftovers::end_containers(&dir.join("run/vfs-containers"), &["userdata/conmon.pid", "userdata/pidfile"]);
}
