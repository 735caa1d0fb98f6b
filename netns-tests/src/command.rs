//! External programs with a deadline: nothing that a test starts can hang it.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// What a program left behind.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// From the start to the end of both streams.
    pub elapsed: Duration,
}

impl Output {
    /// Whether it exited with 0.
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// Both streams, for searching in messages.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Runs a program to its end, kills it at the limit.
///
/// # Errors
/// When it cannot be started or does not end in time; an exit code other than 0 is no error here.
pub fn run(command: &mut Command, stdin: &[u8], limit: Duration) -> Result<Output> {
    let name = describe(command);
    let start = Instant::now();
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.with_context(|| format!("cannot start `{name}`"))?;
    finish(child, &name, stdin, start, limit)
}

/// Like [`run`], and an exit code other than 0 is an error that shows what the program said.
///
/// # Errors
/// See above.
pub fn run_ok(command: &mut Command, limit: Duration) -> Result<Output> {
    let name = describe(command);
    let output = run(command, &[], limit)?;
    if !output.success() {
        bail!("`{name}` failed (got exit code {:?}, want 0): {}", output.code, output.text().trim());
    }
    Ok(output)
}

/// Feeds, drains and reaps a child whose three streams are pipes.
pub(crate) fn finish(
    mut child: Child,
    name: &str,
    stdin: &[u8],
    start: Instant,
    limit: Duration,
) -> Result<Output> {
    let mut input = child.stdin.take();
    let (stdout, stderr) = (drain(child.stdout.take()), drain(child.stderr.take()));
    if let Some(mut pipe) = input.take() {
        // A program that does not read its input closes the pipe early; that is its right.
        let _closed_early = pipe.write_all(stdin);
    }
    let deadline = start + limit;
    let mut streams = Vec::new();
    for stream in [stdout, stderr] {
        match stream.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(bytes) => streams.push(String::from_utf8_lossy(&bytes).into_owned()),
            Err(_) => {
                child.kill().and_then(|()| child.wait()).context("cannot end a program that hangs")?;
                bail!("`{name}` did not end within {limit:?}");
            }
        }
    }
    let elapsed = start.elapsed();
    let status = child.wait().with_context(|| format!("cannot wait for `{name}`"))?;
    let stderr = streams.pop().unwrap_or_default();
    let stdout = streams.pop().unwrap_or_default();
    Ok(Output { code: status.code(), stdout, stderr, elapsed })
}

/// Reads a stream to its end on a thread of its own.
fn drain(stream: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // What came before an error is still worth showing.
            let _read = stream.read_to_end(&mut bytes);
        }
        let _reader_gave_up = send.send(bytes);
    });
    receive
}

/// The command line as one would type it.
pub(crate) fn describe(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}
