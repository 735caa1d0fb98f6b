//! One function runs the command; every case goes through it.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::fake::{Asked, Fake, Reply};

/// What came of a command.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Run `weavectl` with nothing of the tests' environment.
pub(crate) fn weavectl(arguments: &[&str]) -> Output {
    run(Path::new(env!("CARGO_BIN_EXE_weavectl")), arguments, "")
}

/// The same on a socket.
pub(crate) fn on(fake: &Fake, arguments: &[&str]) -> Output {
    let socket = fake.socket();
    let mut all = vec!["--socket", socket.to_str().expect("scratch paths are UTF-8")];
    all.extend_from_slice(arguments);
    weavectl(&all)
}

/// Any program, with text on its standard input.
pub(crate) fn run(program: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("COLUMNS", "100")
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program was built");
    // It need not read it.
    let _ = child.stdin.take().expect("stdin is a pipe").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("the program ends");
    Output {
        code: output.status.code().expect("the program is not killed"),
        stdout: String::from_utf8(output.stdout).expect("UTF-8 on stdout"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8 on stderr"),
    }
}

impl Output {
    /// Standard output of a success.
    pub(crate) fn success(&self) -> &str {
        assert_eq!(self.code, 0, "{self:?}");
        &self.stdout
    }

    /// Standard error of a failure with this exit code; its standard output is empty.
    pub(crate) fn failure(&self, code: i32) -> &str {
        assert_eq!((self.code, self.stdout.as_str()), (code, ""), "{self:?}");
        &self.stderr
    }
}

/// A daemon that knows these calls and refuses all others.
pub(crate) fn daemon(answers: &'static [(&'static str, u16, &'static str)]) -> Fake {
    Fake::start(move |asked: &Asked| match answers.iter().find(|(call, _, _)| *call == asked.call) {
        Some((_, status, body)) => Reply::Json(*status, (*body).to_owned()),
        None => Reply::Json(404, refusal("not-found", &format!("no such path: {}", asked.call))),
    })
}

/// An error of the daemon.
pub(crate) fn refusal(code: &str, message: &str) -> String {
    let error: Value = json!({ "error": { "code": code, "message": message, "hint": "weavectl status" } });
    error.to_string()
}
