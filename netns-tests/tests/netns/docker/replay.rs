//! Calls that real Dockers made, 20.10 and 28.5, sent again to our router as they were, headers and all.
//!
//! They were recorded with another plugin, whose pools and addresses have other names: what it answered is exchanged for what we answer.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::{Dockerd, Host, until};
use serde_json::{Value, json};

use super::support::served;
use crate::support::{SETTLE, hosts, same};

/// Longest wait for an answer; Docker's own is 30 s.
const LIMIT: Duration = Duration::from_secs(25);

#[test]
fn calls_of_docker_20_10() {
    hosts(1, |lab| {
        let host = router(lab.host(1))?;
        let left = replay(&host, include_str!("fixtures/docker-20.10.jsonl"))?;
        same("left in the end", &left, &0)
    });
}

#[test]
fn calls_of_docker_28_5() {
    hosts(1, |lab| {
        let host = router(lab.host(1))?;
        let left = replay(&host, include_str!("fixtures/docker-28.5.jsonl"))?;
        same("left in the end", &left, &0)
    });
}

#[test]
fn what_docker_does_not_know_is_answered() {
    hosts(1, |lab| {
        let socket = router(lab.host(1))?;
        let ids = json!({ "NetworkID": "nobody", "EndpointID": "nobody" }).to_string();
        let address = json!({ "PoolID": "nobody's", "Address": "10.40.0.7" }).to_string();
        for (method, body) in [
            ("NetworkDriver.Leave", &ids),
            ("NetworkDriver.DeleteEndpoint", &ids),
            ("NetworkDriver.DeleteNetwork", &ids),
            ("IpamDriver.ReleaseAddress", &address),
            ("IpamDriver.ReleasePool", &address),
        ] {
            same(method, &call(&socket, method, "Host: \r\n", body)?, &(200, json!({})))?;
        }
        same("unknown method", &call(&socket, "NetworkDriver.Fly", "Host: \r\n", "")?.0, &404)?;
        same("half a request", &call(&socket, "NetworkDriver.Join", "Host: \r\n", "{")?.0, &400)?;
        let join = call(&socket, "NetworkDriver.Join", "Host: \r\n", &ids)?;
        same("join of nobody", &(join.0, join.1["Err"].is_string()), &(200, true))
    });
}

#[test]
fn driver_is_named_after_its_socket() {
    hosts(1, |lab| {
        let docker = Dockerd::new(lab.host(1))?;
        lab.host(1).serve_docker_on(&docker.plugin("azure-vnet"));
        lab.start_all(&[])?;
        lab.host(1).up(&[])?;
        let args = [
            "network",
            "create",
            "-d",
            "azure-vnet",
            "--ipam-driver",
            "azure-vnet",
            "--subnet",
            "10.32.9.0/24",
            "sf",
        ];
        docker.docker(&args)?;
        let args = [
            "run",
            "--rm",
            "--network",
            "sf",
            "--ip",
            "10.32.9.9",
            lab::IMAGE,
            "ip",
            "addr",
            "show",
            "ethwe0",
        ];
        let said = docker.docker(&args)?;
        same("its address", &said.contains("10.32.9.9/24"), &true).context(said)?;
        let listed = docker.docker(&["network", "ls", "--quiet", "--filter", "driver=azure-vnet"])?;
        same("networks of the driver", &listed.lines().count(), &1)?;
        docker.docker(&["network", "rm", "sf"]).map(drop)
    });
}

/// Nobody has to say that Docker is there: the router sees it. In a `/run` of its own, so that the machine's Docker is left alone.
#[test]
fn docker_is_served_from_when_it_is_there() {
    hosts(1, |lab| {
        let host = lab.host(1);
        let log = host.dir().join("auto.log");
        let script = format!("mount -t tmpfs auto /run && exec \"$@\" 2>{}", log.display());
        let mut weaved = std::process::Command::new("unshare");
        weaved.args(["--mount", "--propagation", "private", "sh", "-ec", &script, "sh"]);
        weaved.arg(&host.programs().weaved).arg("--state-dir").arg(host.state_dir());
        weaved.arg("--socket").arg(host.socket());
        let mut child = host.ns().spawn(&mut weaved)?;
        let says = |what: &str| {
            let text = || std::fs::read_to_string(&log).ok().filter(|text| text.contains(what));
            until(SETTLE, &format!("the router says `{what}`"), text)
        };
        let seen = says("ready").and_then(|(text, _)| {
            same("served without Docker", &text.contains("serving Docker"), &false)?;
            let run = format!("/proc/{}/root/run", child.id());
            std::fs::create_dir(format!("{run}/docker")).context("cannot make Docker's folder")?;
            says("serving Docker")?;
            call(Path::new(&format!("{run}/docker/plugins/weave.sock")), "Plugin.Activate", "Host: \r\n", "")
        });
        child.kill().and_then(|()| child.wait()).context("cannot end the router")?;
        same("implements", &seen?.1["Implements"], &json!(["NetworkDriver", "IpamDriver"]))
    });
}

/// A router without Docker, in a fabric whose range the recordings fit.
fn router(host: &Host) -> Result<std::path::PathBuf> {
    let socket = host.dir().join("docker/run/plugins/weave.sock");
    host.serve_docker_on(&socket);
    host.start_weaved(&[])?;
    host.up(&["--ipalloc-range", "10.40.0.0/16"])?;
    served(host)?;
    Ok(socket)
}

/// Sends all of a recording; answers how many endpoints are left without an end.
fn replay(socket: &Path, recording: &str) -> Result<usize> {
    let mut addresses = BTreeMap::new();
    let mut open = BTreeSet::new();
    for (number, line) in recording.lines().enumerate() {
        let recorded: Value = serde_json::from_str(line).with_context(|| format!("line {}", number + 1))?;
        let method = recorded["method"].as_str().context("no method")?;
        let body = if recorded["request"].is_null() {
            String::new()
        } else {
            exchange(&recorded["request"], &addresses).to_string()
        };
        let headers = recorded["headers"].as_object().context("no headers")?;
        let lines: String = headers
            .iter()
            .filter(|(name, _)| *name != "Content-Length")
            .map(|(name, value)| format!("{name}: {}\r\n", value.as_str().unwrap_or_default()))
            .collect();
        let (status, answer) = call(socket, method, &lines, &body)?;
        let reference = &recorded["reference_response"];
        let shape =
            |value: &Value| value.as_object().map(|object| object.keys().cloned().collect::<Vec<_>>());
        let failed = answer.get("Err").or(answer.get("Error"));
        if status != 200 || failed.is_some() {
            bail!(
                "line {}: {method} {body} was answered {status} {answer}, by the other plugin {reference}",
                number + 1
            );
        }
        match method {
            "NetworkDriver.Join" => {
                let mut routes = reference["StaticRoutes"].clone();
                let to_names = json!({ "Destination": "169.254.67.83/32", "RouteType": 1, "NextHop": "" });
                routes.as_array_mut().context("no routes")?.push(to_names);
                same("routes for multicast and names", &answer["StaticRoutes"], &routes)?
            }
            // We choose a hardware address, which the other left to Docker, and say that we can do without gateways.
            "NetworkDriver.CreateEndpoint" | "NetworkDriver.GetCapabilities" => {}
            _ => {
                same(&format!("line {}: fields of {method}", number + 1), &shape(&answer), &shape(reference))?
            }
        }
        let endpoint = recorded["request"]["EndpointID"].as_str().unwrap_or_default().to_owned();
        match method {
            "NetworkDriver.CreateEndpoint" => drop(open.insert(endpoint)),
            "NetworkDriver.DeleteEndpoint" => drop(open.remove(&endpoint)),
            "IpamDriver.RequestAddress" => {
                let bare = |value: &Value| {
                    value["Address"].as_str().and_then(|text| text.split('/').next()).map(str::to_owned)
                };
                let (theirs, ours) =
                    (bare(reference).context("no address")?, bare(&answer).context("no address")?);
                addresses.insert(theirs, ours);
            }
            _ => {}
        }
    }
    Ok(open.len())
}

/// The same request in our words: each of its strings is exchanged once.
fn exchange(request: &Value, addresses: &BTreeMap<String, String>) -> Value {
    match request {
        Value::String(text) => {
            let (bare, rest) =
                text.split_once('/').map_or((text.as_str(), None), |(bare, rest)| (bare, Some(rest)));
            let ours = match (bare, rest) {
                ("ecolocal", Some(subnet)) => format!("weave-local,{subnet}"),
                ("ecolocal", None) => "weave-local".to_owned(),
                (bare, rest) => {
                    let bare = addresses.get(bare).map_or(bare, String::as_str);
                    rest.map_or_else(|| bare.to_owned(), |rest| format!("{bare}/{rest}"))
                }
            };
            Value::String(ours)
        }
        Value::Array(all) => all.iter().map(|one| exchange(one, addresses)).collect(),
        Value::Object(all) => all
            .iter()
            .map(|(key, one)| (key.clone(), exchange(one, addresses)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        other => other.clone(),
    }
}

/// One call over a connection of its own, with these header lines.
fn call(socket: &Path, method: &str, headers: &str, body: &str) -> Result<(u16, Value)> {
    let mut stream = UnixStream::connect(socket).context("cannot connect to the plugin")?;
    stream.set_read_timeout(Some(LIMIT))?;
    let length = body.len();
    write!(
        stream,
        "POST /{method} HTTP/1.1\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text).with_context(|| format!("no answer to {method}"))?;
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("not HTTP: {text}"))?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).context("no status")?;
    Ok((status, serde_json::from_str(body).unwrap_or_default()))
}
