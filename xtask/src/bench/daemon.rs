//! A process of a rival on one host: started, watched, ended.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::{Host, tail, until};

/// Time for a device to appear.
const DEVICE_LIMIT: Duration = Duration::from_secs(10);

/// Lines of its log that go into an error.
const LOG_LINES: usize = 8;

/// A running process. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts it in the foreground; what it says goes into a file of the host.
    pub(crate) fn start(host: &Host, command: &mut Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let log = host.write_file("rival.log", "")?;
        let file = File::options()
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot open `{}`", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone().context("cannot share the log")?).stderr(file);
        let child = host.ns().spawn(command)?;
        Ok(Self { name, child, log })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its device.
    pub(crate) fn wait_for_device(&mut self, host: &Host, device: &str) -> Result<()> {
        self.wait(&format!("the device {device}"), || host.ns().ip(&format!("link show {device}")).is_ok())
    }

    /// Waits until something is there, and not longer than it lives.
    pub(crate) fn wait(&mut self, what: &str, there: impl Fn() -> bool) -> Result<()> {
        let what = format!("`{}` made {what}", self.name);
        let waited = until(DEVICE_LIMIT, &what, || match self.check() {
            Ok(()) => there().then_some(Ok(())),
            Err(error) => Some(Err(error)),
        });
        waited.with_context(|| tail(&self.log, LOG_LINES))?.0
    }

    /// Fails when it has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait().context("cannot look after a child")? {
            Some(status) => bail!("`{}` ended ({status}): {}", self.name, tail(&self.log, LOG_LINES)),
            None => Ok(()),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}
