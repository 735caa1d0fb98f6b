//! A named network namespace, entered by threads of its own so that the caller stays where it is.
//!
//! `ip netns exec` is not used: it mounts a new `/sys` and hides the control groups from what it starts.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::command::{self, Output, run_ok};
use crate::wait::until;

/// Where `ip netns` keeps its mounts.
pub(crate) const FOLDER: &str = "/run/netns";

/// Long enough for any `ip` or `nft` on a busy machine.
const TOOL_LIMIT: Duration = Duration::from_secs(20);

/// How long processes get to end after SIGKILL.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// A named network namespace. Cloning gives another handle of the same one.
#[derive(Debug, Clone)]
pub struct NetNs {
    name: String,
    file: Arc<File>,
}

impl NetNs {
    /// Makes it, with the loopback device up.
    ///
    /// # Errors
    /// When the name is taken or the kernel refuses.
    pub fn create(name: &str) -> Result<Self> {
        run_ok(Command::new("ip").args(["netns", "add", name]), TOOL_LIMIT)?;
        let ns = Self::open(name)?;
        ns.ip("link set lo up")?;
        Ok(ns)
    }

    /// Opens one that exists.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn open(name: &str) -> Result<Self> {
        let path = format!("{FOLDER}/{name}");
        let file = File::open(&path).with_context(|| format!("cannot open the namespace `{path}`"))?;
        Ok(Self { name: name.to_owned(), file: Arc::new(file) })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path that a container runtime would hand out.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("{FOLDER}/{}", self.name))
    }

    /// Runs a closure on a thread inside. Sockets opened there stay inside wherever they are used later.
    ///
    /// # Errors
    /// When the kernel refuses to enter.
    ///
    /// # Panics
    /// When the closure does.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let work = scope.spawn(|| {
                move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
                    .with_context(|| format!("cannot enter the namespace `{}`", self.name))?;
                Ok(inside())
            });
            match work.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Starts a program inside; its streams are as the caller set them.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        let name = command::describe(command);
        self.enter(|| command.spawn())?.with_context(|| format!("cannot start `{name}` in `{}`", self.name))
    }

    /// Runs a program inside to its end, within the limit.
    ///
    /// # Errors
    /// When it cannot be started or does not end in time.
    pub fn run(&self, command: &mut Command, stdin: &[u8], limit: Duration) -> Result<Output> {
        let name = command::describe(command);
        let start = Instant::now();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command::finish(self.spawn(command)?, &name, stdin, start, limit)
    }

    /// Runs a line of words inside; an exit code other than 0 is an error.
    ///
    /// # Errors
    /// See above.
    pub fn tool(&self, program: &str, line: &str) -> Result<Output> {
        self.tool_with_input(program, line, &[])
    }

    /// `ip` inside.
    ///
    /// # Errors
    /// When it fails.
    pub fn ip(&self, line: &str) -> Result<Output> {
        self.tool("ip", line)
    }

    /// Feeds rules to `nft` inside.
    ///
    /// # Errors
    /// When it refuses them.
    pub fn nft(&self, rules: &str) -> Result<()> {
        self.tool_with_input("nft", "-f -", rules.as_bytes()).map(drop)
    }

    /// Packets counted by a named nftables counter inside.
    ///
    /// # Errors
    /// When there is no such counter.
    pub fn counter(&self, name: &str) -> Result<u64> {
        let listed: serde_json::Value = serde_json::from_str(&self.tool("nft", "-j list counters")?.stdout)?;
        let found =
            listed["nftables"].as_array().into_iter().flatten().find(|o| o["counter"]["name"] == name);
        let packets = found.and_then(|object| object["counter"]["packets"].as_u64());
        packets.ok_or_else(|| anyhow!("no nftables counter `{name}` in `{}`", self.name))
    }

    /// Sets `/proc/sys/net/KEY` inside.
    ///
    /// # Errors
    /// When the kernel has no such key.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{key}");
        self.enter(|| fs::write(&path, value))?
            .with_context(|| format!("cannot set `{path}` in `{}`", self.name))
    }

    /// Kills what runs inside and removes the namespace; nothing to do is success.
    ///
    /// # Errors
    /// When something inside cannot be ended or the mount cannot be removed.
    pub fn remove(name: &str) -> Result<()> {
        if !PathBuf::from(format!("{FOLDER}/{name}")).exists() {
            return Ok(());
        }
        let ended = until(KILL_LIMIT, &format!("the processes in `{name}` ended"), || {
            let inside = processes_inside(name);
            for pid in &inside {
                // It may have ended meanwhile.
                let _gone = kill_process(*pid, Signal::KILL);
            }
            inside.is_empty().then_some(())
        });
        run_ok(Command::new("ip").args(["netns", "del", name]), TOOL_LIMIT)?;
        ended.map(drop)
    }

    fn tool_with_input(&self, program: &str, line: &str, input: &[u8]) -> Result<Output> {
        let output = self.run(Command::new(program).args(line.split_whitespace()), input, TOOL_LIMIT)?;
        if !output.success() {
            bail!(
                "`{program} {line}` in `{}` failed (got exit code {:?}, want 0): {}",
                self.name,
                output.code,
                output.text().trim()
            );
        }
        Ok(output)
    }
}

/// Processes whose main thread is inside.
fn processes_inside(name: &str) -> Vec<Pid> {
    let listed = run_ok(Command::new("ip").args(["netns", "pids", name]), TOOL_LIMIT);
    let text = listed.map(|output| output.stdout).unwrap_or_default();
    text.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)).collect()
}
