//! Starting `weaved` where it is not running: by systemd where that has a unit for it, otherwise as a process of its own.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use control::api::{DEFAULT_SOCKET, DEFAULT_STATE_DIR};
use control::{Client, ClientError};

use crate::args::DaemonArgs;
use crate::failure::{Failure, NOT_STARTED};
use crate::program;
use crate::ui::Ui;

/// First argument by which this program leaves the terminal's session before it becomes `weaved`.
pub(crate) const DETACHED: &str = "detached-exec";

/// How long `weaved` may take until its socket answers: it adopts what the last one left, one device after the other.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// How often the socket is tried meanwhile.
const POLL: Duration = Duration::from_millis(25);

/// When to say that it takes long.
const PATIENCE: Duration = Duration::from_secs(3);

/// How much of a log is shown when `weaved` dies.
const TAIL_LINES: usize = 12;

/// How much of a log is read for that.
const TAIL_BYTES: u64 = 16 * 1024;

/// A log that is longer at the start of `weaved` is set aside as `weaved.log.1`.
const MAX_LOG_BYTES: u64 = 16 * 1024 * 1024;

/// Make sure that `weaved` answers on the client's socket.
pub(crate) fn ensure(client: &Client, args: &DaemonArgs, ui: &mut Ui) -> Result<(), Failure> {
    match client.version() {
        Ok(_) => {
            if *args != DaemonArgs::default() {
                ui.note("weaved is running already; the options for its start have no effect");
            }
            return Ok(());
        }
        Err(ClientError::SocketMissing { .. } | ClientError::NotRunning { .. }) => {}
        Err(error) => return Err(Failure::of_call("talk to `weaved`", &error)),
    }
    if systemd_has_it() {
        if *args == DaemonArgs::default() && client.socket() == Path::new(DEFAULT_SOCKET) {
            return by_systemd(client, ui);
        }
        ui.note("the unit weaved.service takes no options from here; starting a process of its own");
    }
    as_process(client, args, ui)
}

/// What [`DETACHED`] does: leave the session, then become `command`. Returns only if that fails.
pub(crate) fn exec_detached(command: &[OsString]) -> Failure {
    // Fails only for the leader of a group, which this child of `weavectl` is not.
    if let Err(error) = rustix::process::setsid() {
        return Failure::of_io("cannot leave the terminal's session", &error.into());
    }
    let Some((program, args)) = command.split_first() else {
        return Failure::new(NOT_STARTED, "no program to start");
    };
    // Not to keep a mount busy that the user happened to stand in.
    let error = Command::new(program).args(args).current_dir("/").exec();
    Failure::of_io(format!("cannot start `{}`", Path::new(program).display()), &error)
}

/// `sd_booted(3)`: this directory exists where systemd is PID 1.
fn systemd_has_it() -> bool {
    Path::new("/run/systemd/system").is_dir()
        && Command::new("systemctl")
            .args(["cat", "weaved.service"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
}

fn by_systemd(client: &Client, ui: &mut Ui) -> Result<(), Failure> {
    ui.note("starting weaved.service");
    let started = Command::new("systemctl").args(["start", "weaved.service"]).stdin(Stdio::null()).output();
    let failed = |cause: String| {
        Failure::new(NOT_STARTED, "cannot start weaved.service")
            .because(cause)
            .hint("`journalctl -u weaved -n 50`")
    };
    let output = started.map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    let began = Instant::now();
    while began.elapsed() < START_DEADLINE {
        if answers(client)? {
            return Ok(());
        }
        thread::sleep(POLL);
    }
    Err(failed(format!("`{}` does not answer", client.socket().display())))
}

fn as_process(client: &Client, args: &DaemonArgs, ui: &mut Ui) -> Result<(), Failure> {
    let program = find_weaved()?;
    let state_dir = args.state_dir.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_STATE_DIR));
    let (log, log_path) = open_log(&state_dir)?;
    let log_start = log.metadata().map_or(0, |metadata| metadata.len());
    ui.note(&format!("starting {} (log: {})", program.display(), log_path.display()));
    let mut child = spawn(&program, client.socket(), args, log)?;
    let began = Instant::now();
    let mut patient = true;
    loop {
        if answers(client)? {
            return Ok(());
        }
        if let Ok(Some(status)) = child.try_wait() {
            // Another `weavectl` may have been faster, and ours has given way to its `weaved`.
            if answers(client)? {
                return Ok(());
            }
            let log = tail(&log_path, log_start);
            return Err(died(&format!("it ended with {status}"), &log, &log_path));
        }
        if began.elapsed() > START_DEADLINE {
            let waited = format!(
                "`{}` does not answer after {} s",
                client.socket().display(),
                START_DEADLINE.as_secs()
            );
            return Err(died(&waited, &tail(&log_path, log_start), &log_path));
        }
        if patient && began.elapsed() > PATIENCE {
            patient = false;
            ui.note("still waiting for weaved to answer");
        }
        thread::sleep(POLL);
    }
}

/// Whether the socket answers; errors are those that waiting does not cure.
fn answers(client: &Client) -> Result<bool, Failure> {
    match client.version() {
        Ok(_) => Ok(true),
        Err(
            error @ (ClientError::PermissionDenied { .. }
            | ClientError::Io { .. }
            | ClientError::Protocol { .. }),
        ) => Err(Failure::of_call("talk to `weaved`", &error)),
        Err(
            ClientError::SocketMissing { .. }
            | ClientError::NotRunning { .. }
            | ClientError::ConnectTimeout { .. }
            | ClientError::Timeout { .. }
            | ClientError::Closed { .. }
            | ClientError::Api(_),
        ) => Ok(false),
    }
}

fn died(cause: &str, log: &[String], path: &Path) -> Failure {
    let mut failure = Failure::new(NOT_STARTED, "`weaved` did not start").because(cause);
    if !log.is_empty() {
        failure = failure.because(format!("the last it wrote:\n  {}", log.join("\n  ")));
    }
    failure.hint(format!("the whole log is `{}`", path.display()))
}

/// Beside this program first, so that a build tree or an unpacked archive uses its own.
fn find_weaved() -> Result<PathBuf, Failure> {
    program::find("weaved").ok_or_else(|| {
        Failure::new(NOT_STARTED, "`weaved` is not installed")
            .because("it is neither beside `weavectl` nor in PATH")
            .hint("install `weaved`, or start it yourself and run the command again")
    })
}

fn open_log(state_dir: &Path) -> Result<(File, PathBuf), Failure> {
    let path = state_dir.join("weaved.log");
    let cannot = |error: std::io::Error| {
        Failure::of_io(format!("cannot write `{}`", path.display()), &error)
            .hint("run it as root, or choose another place with `--state-dir DIR`")
    };
    DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(cannot)?;
    if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > MAX_LOG_BYTES) {
        fs::rename(&path, state_dir.join("weaved.log.1")).map_err(cannot)?;
    }
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(cannot)?;
    Ok((log, path))
}

fn spawn(program: &Path, socket: &Path, args: &DaemonArgs, log: File) -> Result<Child, Failure> {
    let cannot =
        |error: std::io::Error| Failure::of_io(format!("cannot start `{}`", program.display()), &error);
    let own = std::env::current_exe().map_err(cannot)?;
    let second = log.try_clone().map_err(cannot)?;
    Command::new(own)
        .arg(DETACHED)
        .arg(program)
        .args(command_line(socket, args))
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(second)
        .env_remove("WEAVE_SOCKET")
        .spawn()
        .map_err(cannot)
}

/// The options of `weaved` have the names of ours. Relative paths become absolute, since a daemon may change its directory.
fn command_line(socket: &Path, args: &DaemonArgs) -> Vec<OsString> {
    let DaemonArgs { listen, nickname, state_dir, bridge, mtu, metrics, log } = args;
    let path = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).into_os_string();
    let options: [(&str, Option<OsString>); 8] = [
        ("--socket", Some(path(socket))),
        ("--listen", listen.map(|value| value.to_string().into())),
        ("--nickname", nickname.clone().map(Into::into)),
        ("--state-dir", state_dir.as_deref().map(path)),
        ("--bridge", bridge.clone().map(Into::into)),
        ("--mtu", mtu.map(|value| value.to_string().into())),
        ("--metrics", metrics.map(|value| value.to_string().into())),
        ("--log", log.clone().map(Into::into)),
    ];
    let given = options.into_iter().filter_map(|(name, value)| Some([OsStr::new(name).to_owned(), value?]));
    given.flatten().collect()
}

/// The last lines that were written since `start`.
fn tail(path: &Path, start: u64) -> Vec<String> {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(start.max(length.saturating_sub(TAIL_BYTES))))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    // Without a log there is still the exit status to show.
    let text = read().unwrap_or_default();
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_passed_on_under_their_own_names() {
        let args = DaemonArgs {
            listen: Some("[::1]:7000".parse().unwrap()),
            nickname: Some("a".into()),
            state_dir: Some("/s".into()),
            bridge: Some("b0".into()),
            mtu: Some(1400),
            metrics: Some("127.0.0.1:1".parse().unwrap()),
            log: Some("debug".into()),
        };
        let line: Vec<String> = command_line(Path::new("/w.sock"), &args)
            .into_iter()
            .map(|word| word.into_string().unwrap())
            .collect();
        let want = "--socket /w.sock --listen [::1]:7000 --nickname a --state-dir /s --bridge b0 --mtu 1400 \
                    --metrics 127.0.0.1:1 --log debug";
        assert_eq!(line.join(" "), want);
        assert_eq!(command_line(Path::new("/w.sock"), &DaemonArgs::default()).len(), 2);
    }
}
