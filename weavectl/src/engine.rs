//! Docker's Engine API, as far as it is needed: networks, over its unix socket.

use std::path::Path;
use std::time::Duration;

use control::ClientError;
use control::http::{Answer, Http, Request, Verb};
use serde_json::Value;

use crate::failure::{FAILED, Failure, NOT_FOUND, NOT_RUNNING, PERMISSION, TIMEOUT};

/// How long Docker may take: it waits up to 30 s for a plugin's answer, and asks several questions.
const DEADLINE: Duration = Duration::from_secs(90);

/// Docker on this machine.
pub(crate) struct Engine {
    http: Http,
}

impl Engine {
    /// Behind this socket; nothing is asked yet.
    pub(crate) fn new(socket: &Path) -> Result<Engine, Failure> {
        let http = Http::new(socket).map_err(|error| Failure::new(FAILED, error.to_string()))?;
        Ok(Engine { http })
    }

    /// A network by its name.
    pub(crate) fn network(&self, name: &str) -> Result<Option<Value>, Failure> {
        let answer = self.ask(Verb::Get, &format!("/networks/{name}"), Vec::new())?;
        if answer.status == 404 {
            return Ok(None);
        }
        self.json(&format!("look for network `{name}`"), &answer).map(Some)
    }

    /// Makes a network.
    pub(crate) fn create_network(&self, wish: &Value) -> Result<(), Failure> {
        let answer = self.ask(Verb::Post, "/networks/create", wish.to_string().into_bytes())?;
        self.json("make the network", &answer).map(drop)
    }

    fn ask(&self, verb: Verb, path: &str, body: Vec<u8>) -> Result<Answer, Failure> {
        let request = Request { verb, host: "docker", path, deadline: DEADLINE };
        self.http.exchange(&request, body).map_err(|error| self.unreached(&error))
    }

    /// Docker says in words why it refuses, among them those of its plugins.
    fn json(&self, what: &str, answer: &Answer) -> Result<Value, Failure> {
        let value: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        if answer.is_success() {
            return Ok(value);
        }
        let failure = Failure::new(FAILED, format!("Docker cannot {what}"));
        let text = value["message"].as_str().unwrap_or("it does not say why").to_owned();
        let failure = match text.contains("not found") {
            true => Failure { exit: NOT_FOUND, ..failure }.hint(
                "`weaved` serves Docker on /run/docker/plugins/weave.sock, unless `docker-socket` in weaved.toml says otherwise; look at its log",
            ),
            false => failure,
        };
        Err(failure.because(text))
    }

    fn unreached(&self, error: &ClientError) -> Failure {
        let socket = self.http.socket().display();
        let (exit, why, hint) = match error {
            ClientError::SocketMissing { .. } => (
                NOT_RUNNING,
                format!("there is no socket at `{socket}`"),
                "start Docker, or name its socket with `--docker-socket PATH`",
            ),
            ClientError::NotRunning { .. } => {
                (NOT_RUNNING, format!("nobody listens on `{socket}`"), "start Docker")
            }
            ClientError::PermissionDenied { .. } => (
                PERMISSION,
                format!("no permission to open `{socket}`"),
                "try again as root, for example with `sudo`",
            ),
            ClientError::ConnectTimeout { .. } | ClientError::Timeout { .. } => {
                (TIMEOUT, format!("no answer within {} s", DEADLINE.as_secs()), "look at the log of Docker")
            }
            ClientError::Closed { reason, .. } => (FAILED, reason.clone(), "look at the log of Docker"),
            ClientError::Protocol { reason, .. } => (FAILED, reason.clone(), "is it Docker's socket?"),
            ClientError::Api(error) => (FAILED, error.message.clone(), "look at the log of Docker"),
            ClientError::Io { source, .. } => {
                (FAILED, source.to_string(), "name Docker's socket with `--docker-socket PATH`")
            }
        };
        Failure::new(exit, "cannot reach Docker").because(why).hint(hint)
    }
}
