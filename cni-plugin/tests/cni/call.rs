//! One function runs the plugin; every case goes through it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::fake::{Asked, Fake, Reply};

/// A namespace that every test may open. It is the tests' own, so most calls set the override.
pub(crate) const OWN_NETNS: &str = "/proc/self/ns/net";

/// Every version of the specification.
pub(crate) const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// One call of the plugin, to be varied.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) env: Vec<(String, String)>,
    pub(crate) stdin: Vec<u8>,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Call {
    /// A call that lacks nothing.
    pub(crate) fn new(command: &str, config: &Value) -> Call {
        let env = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_NETNS", OWN_NETNS),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/opt/cni/bin"),
            ("CNI_NETNS_OVERRIDE", "1"),
        ];
        let env = env.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
        Call { env, stdin: config.to_string().into_bytes() }
    }

    /// The same with a variable set.
    pub(crate) fn with(mut self, key: &str, value: &str) -> Call {
        self = self.without(key);
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// The same without a variable.
    pub(crate) fn without(mut self, key: &str) -> Call {
        self.env.retain(|(name, _)| name != key);
        self
    }

    /// Run it.
    pub(crate) fn run(&self) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_weave-cni"))
            .env_clear()
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the plugin was built");
        // The plugin need not read it all.
        let _ = child.stdin.take().expect("stdin is a pipe").write_all(&self.stdin);
        let output = child.wait_with_output().expect("the plugin ends");
        Output {
            code: output.status.code().expect("the plugin is not killed"),
            stdout: String::from_utf8(output.stdout).expect("UTF-8 on stdout"),
            stderr: String::from_utf8(output.stderr).expect("UTF-8 on stderr"),
        }
    }
}

impl Output {
    /// The result; anything else is a failed test.
    pub(crate) fn result(&self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Success without a word.
    pub(crate) fn silent_success(&self) {
        assert_eq!((self.code, self.stdout.as_str()), (0, ""), "{self:?}");
    }

    /// The error's code and message; anything that is no proper error is a failed test.
    pub(crate) fn error(&self) -> (u64, String) {
        assert_eq!(self.code, 1, "{self:?}");
        let error: Value =
            serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        assert!(error["cniVersion"].is_string(), "{self:?}");
        let message = error["msg"].as_str().unwrap_or_else(|| panic!("no msg: {self:?}"));
        assert!(!message.is_empty() && self.stderr.contains(message), "{self:?}");
        (error["code"].as_u64().unwrap_or_else(|| panic!("no code: {self:?}")), message.to_owned())
    }
}

/// A configuration for a fake daemon.
pub(crate) fn config(version: &str, fake: &Fake) -> Value {
    config_at(version, &fake.socket())
}

/// A configuration for a socket; its state is kept beside it.
pub(crate) fn config_at(version: &str, socket: &Path) -> Value {
    let state: PathBuf = socket.with_file_name("state");
    json!({ "cniVersion": version, "name": "net", "type": "weave-cni", "socket": socket, "stateDir": state })
}

/// A daemon on which everything succeeds.
pub(crate) fn healthy() -> Fake {
    Fake::start(healthy_answer)
}

/// Its answers.
pub(crate) fn healthy_answer(asked: &Asked) -> Reply {
    match asked.call.as_str() {
        "POST /v1/attach" => {
            let request: Value = serde_json::from_str(&asked.body).expect("requests are JSON");
            Reply::Json(200, attachment(&request).to_string())
        }
        "POST /v1/detach" => Reply::Json(200, r#"{"released":["10.32.0.2"]}"#.into()),
        "POST /v1/check" => Reply::Json(200, "null".into()),
        "POST /v1/gc" => Reply::Json(200, r#"{"detached":[{"container":"gone","ifname":"eth0"}]}"#.into()),
        "GET /v1/status" => Reply::Json(200, status("ready").to_string()),
        other => Reply::Json(404, refusal("not-found", &format!("no such path {other}"))),
    }
}

/// An error of the daemon.
pub(crate) fn refusal(code: &str, message: &str) -> String {
    json!({ "error": { "code": code, "message": message, "hint": "weavectl status" } }).to_string()
}

fn attachment(request: &Value) -> Value {
    let routes = match &request["routes"] {
        Value::Null => {
            json!([{ "dst": "0.0.0.0/0", "gw": "10.32.0.1" }, { "dst": "::/0", "gw": "fd00::a20:1" }])
        }
        given => given.clone(),
    };
    json!({
        "container": request["container"], "ifname": request["ifname"], "host_ifname": "vw0123456789a",
        "mac": "0a:77:0a:20:00:02", "host_mac": "02:00:00:00:00:01", "bridge": "weave0", "bridge_mac": "02:00:00:00:00:02",
        "address": "10.32.0.2/12", "address6": "fd00::a20:2/64", "gateway": "10.32.0.1", "gateway6": "fd00::a20:1",
        "routes": routes, "mtu": request["mtu"].as_u64().unwrap_or(1410), "netns": request["netns"],
    })
}

/// A status with this state of address allocation.
pub(crate) fn status(ipam: &str) -> Value {
    let ipam = match ipam {
        "" => Value::Null,
        state => {
            json!({ "range": "10.32.0.0/12", "range6": "fd00::/48", "state": state, "owned": 0, "used": 0,
                         "resting": 0, "unreachable": 0, "unknown": 0 })
        }
    };
    json!({
        "version": "0.1.0", "peer": "p", "nickname": "n", "listen": "[::]:6783", "uptime_s": 1, "bridge": "weave0",
        "mtu": 1410, "connections": { "established": 0, "connecting": 0, "failed": 0 },
        "peers": { "alive": 1, "suspect": 0, "dead": 0 }, "ipam": ipam, "attachments": 0,
        "traffic": { "tx_frames": 0, "tx_bytes": 0, "rx_frames": 0, "rx_bytes": 0, "drops": [] }, "problems": [],
    })
}
