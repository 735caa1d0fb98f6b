//! A container: a namespace that the CNI plugin is run for, exactly as a runtime would run it.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::host::Host;
use crate::netns::NetNs;

/// Runtimes give a plugin far longer; one that takes so long has failed here.
const CNI_LIMIT: Duration = Duration::from_secs(30);

/// Version that the tests speak unless they try others.
const CNI_VERSION: &str = "1.1.0";

/// A container.
#[derive(Debug, Clone)]
pub struct Container {
    host: Host,
    ns: NetNs,
    id: String,
    address: Option<Ipv4Addr>,
    address6: Option<Ipv6Addr>,
}

/// One run of the plugin: what a runtime sets in environment and standard input. A field of `None` is left out.
#[derive(Debug, Clone)]
pub struct CniCall {
    /// `CNI_COMMAND`.
    pub command: Option<String>,
    /// `CNI_CONTAINERID`.
    pub container: Option<String>,
    /// `CNI_NETNS`.
    pub netns: Option<String>,
    /// `CNI_IFNAME`.
    pub ifname: Option<String>,
    /// `CNI_ARGS`.
    pub args: Option<String>,
    /// Standard input.
    pub config: String,
}

/// What the plugin answered.
#[derive(Debug, Clone)]
pub struct CniOutcome {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output as JSON, `Null` when there was none.
    pub answer: Value,
    /// Standard error.
    pub stderr: String,
    /// Time from start to end, as the runtime sees it.
    pub elapsed: Duration,
}

impl Container {
    pub(crate) fn new(host: Host, number: u32, ns: NetNs) -> Self {
        let id = format!("{}-container-{number}", host.nickname());
        Self { host, ns, id, address: None, address6: None }
    }

    /// The host that it runs on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its namespace.
    pub fn ns(&self) -> &NetNs {
        &self.ns
    }

    /// Its id, as the runtime would name it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its IPv4 address.
    ///
    /// # Errors
    /// When it is not attached.
    pub fn ipv4(&self) -> Result<Ipv4Addr> {
        self.address.with_context(|| format!("{} has no IPv4 address", self.id))
    }

    /// Its IPv6 address.
    ///
    /// # Errors
    /// When it is not attached.
    pub fn ipv6(&self) -> Result<Ipv6Addr> {
        self.address6.with_context(|| format!("{} has no IPv6 address", self.id))
    }

    /// Both addresses.
    ///
    /// # Errors
    /// When it is not attached.
    pub fn addresses(&self) -> Result<[IpAddr; 2]> {
        Ok([IpAddr::V4(self.ipv4()?), IpAddr::V6(self.ipv6()?)])
    }

    /// A call for its first interface, to be changed before it is run.
    pub fn call(&self, command: &str) -> CniCall {
        CniCall {
            command: Some(command.to_owned()),
            container: Some(self.id.clone()),
            netns: Some(self.ns.path().to_string_lossy().into_owned()),
            ifname: Some("eth0".to_owned()),
            args: None,
            config: self.config().to_string(),
        }
    }

    /// The network configuration that a runtime would pass.
    pub fn config(&self) -> Value {
        json!({
            "cniVersion": CNI_VERSION,
            "name": "lab",
            "type": "weave-cni",
            "socket": self.host.socket().to_string_lossy(),
            "stateDir": self.host.state_dir().to_string_lossy(),
        })
    }

    /// ADD, and remembers the addresses.
    ///
    /// # Errors
    /// When it fails or the answer holds no addresses.
    pub fn cni_add(&mut self) -> Result<CniOutcome> {
        self.add(self.call("ADD"))
    }

    /// The same with `CNI_ARGS`, in which runtimes say what a pod is called.
    ///
    /// # Errors
    /// See above.
    pub fn cni_add_with(&mut self, args: &str) -> Result<CniOutcome> {
        self.add(CniCall { args: Some(args.to_owned()), ..self.call("ADD") })
    }

    fn add(&mut self, call: CniCall) -> Result<CniOutcome> {
        let outcome = call.run(&self.host)?.success("ADD")?;
        let found: Vec<IpAddr> = outcome.addresses();
        self.address = found.iter().find_map(|ip| if let IpAddr::V4(v4) = ip { Some(*v4) } else { None });
        self.address6 = found.iter().find_map(|ip| if let IpAddr::V6(v6) = ip { Some(*v6) } else { None });
        if self.address.is_none() || self.address6.is_none() {
            bail!("ADD did not answer an address of each family: {}", outcome.answer);
        }
        Ok(outcome)
    }

    /// DEL, and forgets the addresses.
    ///
    /// # Errors
    /// When it fails.
    pub fn cni_del(&mut self) -> Result<CniOutcome> {
        let outcome = self.call("DEL").run(&self.host)?.success("DEL")?;
        (self.address, self.address6) = (None, None);
        Ok(outcome)
    }

    /// CHECK against the result of the ADD.
    ///
    /// # Errors
    /// When the plugin cannot be run; what it finds is in the outcome.
    pub fn cni_check(&self, added: &CniOutcome) -> Result<CniOutcome> {
        let mut config = self.config();
        config["prevResult"] = added.answer.clone();
        CniCall { config: config.to_string(), ..self.call("CHECK") }.run(&self.host)
    }

    /// Removes the namespace, as a runtime does after DEL (or before, when it is in a hurry).
    ///
    /// # Errors
    /// When something inside cannot be ended.
    pub fn remove(self) -> Result<()> {
        let name = self.ns.name().to_owned();
        drop(self.ns);
        NetNs::remove(&name)
    }
}

impl CniCall {
    /// Runs the plugin in the host's namespace.
    ///
    /// # Errors
    /// When it cannot be run, hangs, or writes something else than JSON.
    pub fn run(&self, host: &Host) -> Result<CniOutcome> {
        let output = host.ns().run(&mut self.command(host), self.config.as_bytes(), CNI_LIMIT)?;
        let text = output.stdout.trim();
        let answer = if text.is_empty() { Ok(Value::Null) } else { serde_json::from_str(text) };
        let answer =
            answer.with_context(|| format!("weave-cni answered something else than JSON: {text}"))?;
        Ok(CniOutcome { code: output.code, answer, stderr: output.stderr, elapsed: output.elapsed })
    }

    /// Runs the plugin and kills it after a while, as a runtime that dies or loses its patience does.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn cut(&self, host: &Host, after: Duration) -> Result<()> {
        let mut command = self.command(host);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = host.ns().spawn(&mut command)?;
        // It may have ended already without reading all of it.
        let _closed = child.stdin.take().map(|mut stdin| stdin.write_all(self.config.as_bytes()));
        thread::sleep(after);
        child.kill().and_then(|()| child.wait()).context("cannot kill the plugin").map(drop)
    }

    fn command(&self, host: &Host) -> Command {
        let program = &host.programs().weave_cni;
        let folder = program.parent().unwrap_or(program);
        let mut command = Command::new(program);
        command.env_clear().env("CNI_PATH", folder).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let variables = [
            ("CNI_COMMAND", &self.command),
            ("CNI_CONTAINERID", &self.container),
            ("CNI_NETNS", &self.netns),
            ("CNI_IFNAME", &self.ifname),
            ("CNI_ARGS", &self.args),
        ];
        for (name, value) in variables {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        command
    }
}

impl CniOutcome {
    /// Itself, when the plugin exited with 0.
    ///
    /// # Errors
    /// What the plugin said otherwise.
    pub fn success(self, command: &str) -> Result<Self> {
        if self.code == Some(0) {
            return Ok(self);
        }
        bail!("CNI {command} failed (exit code {:?}): {} {}", self.code, self.answer, self.stderr.trim())
    }

    /// The error code of the CNI specification, when it failed with one.
    pub fn error_code(&self) -> Option<u64> {
        if self.code == Some(0) { None } else { self.answer["code"].as_u64() }
    }

    /// The addresses of the result.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let ips = self.answer["ips"].as_array().into_iter().flatten();
        ips.filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok()).collect()
    }
}
