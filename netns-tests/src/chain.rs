//! A list of CNI plugins run one after the other, as the reference library does for a `.conflist`: each gets the result of the one
//! before, DEL goes backwards.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use crate::container::Container;
use crate::host::Host;
use crate::plugins::REFERENCE;

/// Runtimes give a plugin far longer.
const PLUGIN_LIMIT: Duration = Duration::from_secs(30);

/// A network of several plugins.
#[derive(Debug, Clone)]
pub struct Chain {
    /// Version of the specification.
    pub version: String,
    /// Name of the network.
    pub name: String,
    /// Configurations; those of ours get socket and state directory by themselves.
    pub plugins: Vec<Value>,
    /// What the runtime knows of the container. Each plugin gets what its `capabilities` name.
    pub runtime: Map<String, Value>,
}

impl Chain {
    /// A network of these plugins.
    pub fn new(version: &str, plugins: &[Value]) -> Self {
        let (version, name) = (version.to_owned(), "chain".to_owned());
        Self { version, name, plugins: plugins.to_vec(), runtime: Map::new() }
    }

    /// ADD of all; the result of the last. When one fails, all are called with DEL, as runtimes do.
    ///
    /// # Errors
    /// What the plugin said that failed.
    pub fn add(&self, container: &Container) -> Result<Value> {
        let mut result = Value::Null;
        for plugin in &self.plugins {
            match self.call("ADD", plugin, container, &result) {
                Ok(next) => result = next,
                Err(error) => {
                    self.del(container, &Value::Null).context("DEL after a failed ADD")?;
                    return Err(error);
                }
            }
        }
        Ok(result)
    }

    /// DEL of all, backwards, with the result of the ADD when the runtime has it.
    ///
    /// # Errors
    /// What the plugin said that failed.
    pub fn del(&self, container: &Container, result: &Value) -> Result<()> {
        self.plugins.iter().rev().try_for_each(|plugin| self.call("DEL", plugin, container, result).map(drop))
    }

    /// CHECK of all against the result of the ADD.
    ///
    /// # Errors
    /// What the plugin said that failed.
    pub fn check(&self, container: &Container, result: &Value) -> Result<()> {
        self.plugins.iter().try_for_each(|plugin| self.call("CHECK", plugin, container, result).map(drop))
    }

    /// GC of all: these containers are the ones that the runtime knows, each with `eth0`.
    ///
    /// # Errors
    /// What the plugin said that failed.
    pub fn gc(&self, host: &Host, known: &[&Container]) -> Result<()> {
        let listed: Vec<Value> =
            known.iter().map(|one| json!({ "containerID": one.id(), "ifname": "eth0" })).collect();
        for plugin in &self.plugins {
            let mut config = self.config(host, plugin, &Value::Null)?;
            config["cni.dev/valid-attachments"] = listed.clone().into();
            self.run(host, "GC", &config, &[])?;
        }
        Ok(())
    }

    fn call(&self, command: &str, plugin: &Value, container: &Container, previous: &Value) -> Result<Value> {
        let host = container.host();
        let config = self.config(host, plugin, previous)?;
        let netns = container.ns().path();
        let netns = netns.to_str().context("a path that is not UTF-8")?;
        let variables = [("CNI_CONTAINERID", container.id()), ("CNI_NETNS", netns), ("CNI_IFNAME", "eth0")];
        self.run(host, command, &config, &variables)
    }

    fn config(&self, host: &Host, plugin: &Value, previous: &Value) -> Result<Value> {
        let mut config = plugin.clone();
        config["cniVersion"] = self.version.as_str().into();
        config["name"] = self.name.as_str().into();
        if !previous.is_null() {
            config["prevResult"] = previous.clone();
        }
        let wanted = plugin["capabilities"].as_object();
        let passed: Map<String, Value> = self
            .runtime
            .iter()
            .filter(|(key, _)| wanted.is_some_and(|wanted| wanted.get(*key) == Some(&true.into())))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if !passed.is_empty() {
            config["runtimeConfig"] = passed.into();
        }
        let ours = |name: &Value| name.as_str().is_some_and(|name| name.starts_with("weave-"));
        if ours(&config["type"]) || ours(&config["ipam"]["type"]) {
            config["socket"] = host.socket().to_str().context("a path that is not UTF-8")?.into();
            config["stateDir"] = host.state_dir().to_str().context("a path that is not UTF-8")?.into();
        }
        Ok(config)
    }

    fn run(&self, host: &Host, command: &str, config: &Value, variables: &[(&str, &str)]) -> Result<Value> {
        let kind = config["type"].as_str().context("a plugin without a type")?;
        let folder = own_plugins(host)?;
        let program = [folder.as_path(), Path::new(REFERENCE)].map(|folder| folder.join(kind));
        let Some(program) = program.iter().find(|program| program.is_file()) else {
            bail!("no plugin `{kind}` in `{}` or `{REFERENCE}`", folder.display());
        };
        let mut process = Command::new(program);
        process.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("CNI_COMMAND", command);
        process.env("CNI_PATH", format!("{}:{REFERENCE}", folder.display()));
        process.envs(variables.iter().copied());
        let output = host.ns().run(&mut process, config.to_string().as_bytes(), PLUGIN_LIMIT)?;
        if output.code != Some(0) {
            let (stdout, stderr) = (output.stdout.trim(), output.stderr.trim());
            bail!("{command} of `{kind}` failed (exit code {:?}): {stdout} {stderr}", output.code);
        }
        match output.stdout.trim() {
            "" => Ok(Value::Null),
            text => serde_json::from_str(text).with_context(|| format!("`{kind}` answered {text}")),
        }
    }
}

/// A folder with our plugin under both of its names.
fn own_plugins(host: &Host) -> Result<PathBuf> {
    let folder = host.dir().join("cni");
    for name in ["weave-cni", "weave-ipam"] {
        let link = folder.join(name);
        if !link.exists() {
            std::fs::create_dir_all(&folder)
                .with_context(|| format!("cannot make `{}`", folder.display()))?;
            std::os::unix::fs::symlink(&host.programs().weave_cni, &link)
                .with_context(|| format!("cannot make `{}`", link.display()))?;
        }
    }
    Ok(folder)
}
