//! Calls of real runtimes, as they were recorded, and of those that are known from their sources.
//!
//! `fixtures/*.jsonl` has one call a line: `env` and `stdin`. The namespace is replaced by one that a test may open.

use std::path::Path;

use serde_json::{Value, json};

use crate::call::{Call, OWN_NETNS, Output, healthy};
use crate::fake::Fake;

#[test]
fn recorded_calls() {
    let mut replayed = 0;
    for runtime in ["cnitool-1.1", "containerd-1.6", "containerd-2.2", "cri-o-1.29", "nomad-0.12"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/cni/fixtures/{runtime}.jsonl"));
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let fake = healthy();
        for (number, line) in text.lines().enumerate() {
            let recorded: Value = serde_json::from_str(line).expect("fixtures are JSON");
            replay(&fake, &recorded, &format!("{runtime}, line {}", number + 1));
            replayed += 1;
        }
    }
    assert_eq!(replayed, 29, "every recorded call has been replayed");
}

fn replay(fake: &Fake, recorded: &Value, place: &str) {
    let env = |key: &str| recorded["env"][key].as_str().unwrap_or_default();
    let (command, netns) = (env("CNI_COMMAND"), env("CNI_NETNS"));
    // A namespace is opened by ADD and CHECK alone; DEL keeps the path of one that is long gone.
    let opened = matches!(command, "ADD" | "CHECK");
    let mut config = at(fake, recorded["stdin"].clone());
    if opened && let Some(interfaces) = config["prevResult"]["interfaces"].as_array_mut() {
        for interface in interfaces {
            if interface["sandbox"] == netns {
                interface["sandbox"] = json!(OWN_NETNS);
            }
        }
    }
    let mut call = Call::new(command, &config).without("CNI_PATH");
    for (key, value) in recorded["env"].as_object().expect("env is an object") {
        call = call.with(key, value.as_str().expect("variables are strings"));
    }
    if opened {
        call = call.with("CNI_NETNS", OWN_NETNS);
    }
    let output = call.run();
    match command {
        "ADD" => check_add(fake, &output, &config, env("CNI_ARGS"), place),
        "VERSION" => assert_eq!(output.result()["cniVersion"], config["cniVersion"], "{place}"),
        _ => assert_eq!((output.code, output.stdout.as_str()), (0, ""), "{place}: {output:?}"),
    }
}

fn check_add(fake: &Fake, output: &Output, config: &Value, args: &str, place: &str) {
    let result = output.result();
    assert_eq!(result["cniVersion"], config["cniVersion"], "{place}");
    assert_eq!(result["interfaces"][2]["sandbox"], OWN_NETNS, "{place}");
    let request: Value =
        serde_json::from_str(&fake.asked().last().expect("ADD asks").body).expect("requests are JSON");
    assert_eq!(request["mtu"], config["mtu"], "{place}");
    // Kubernetes' runtimes give the variables in any order.
    let value = |key: &str| args.split(';').find_map(|pair| pair.strip_prefix(key));
    let name =
        value("K8S_POD_NAME=").zip(value("K8S_POD_NAMESPACE=")).map(|(pod, space)| format!("{space}/{pod}"));
    assert_eq!(request["name"].as_str(), name.as_deref(), "{place}");
}

/// The configuration with a fake's socket.
fn at(fake: &Fake, mut config: Value) -> Value {
    config["socket"] = json!(fake.socket());
    config["stateDir"] = json!(fake.socket().with_file_name("state"));
    config
}

fn last_request(fake: &Fake) -> Value {
    serde_json::from_str(&fake.asked().last().expect("something was asked").body).expect("requests are JSON")
}

#[test]
fn podman_gives_a_map_of_aliases_and_the_same_address_twice() {
    let fake = healthy();
    let config = at(
        &fake,
        json!({ "cniVersion": "1.0.0", "name": "net", "type": "weave-cni",
                "runtimeConfig": { "aliases": { "net": ["web", "0123456789ab"] }, "ips": ["10.32.0.99", "10.32.0.99"],
                                   "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }] } }),
    );
    let args = "IgnoreUnknown=1;K8S_POD_NAME=web;MAC=0a:00:00:00:00:05;IP=10.32.0.98";
    Call::new("ADD", &config).with("CNI_ARGS", args).run().result();
    let request = last_request(&fake);
    let got = (request["address"].as_str(), request["mac"].as_str(), request["name"].as_str());
    assert_eq!(got, (Some("10.32.0.99"), Some("0a:00:00:00:00:05"), Some("web")));
}

#[test]
fn mesos_reads_the_oldest_result_and_sets_the_fewest_variables() {
    let fake = healthy();
    let config = at(
        &fake,
        json!({ "name": "net", "type": "weave-cni",
                "args": { "org.apache.mesos": { "network_info": { "name": "net", "labels": { "labels": [] },
                          "port_mappings": [{ "host_port": 31000, "container_port": 80, "protocol": "tcp" }] } } } }),
    );
    let id = "2c2f5e3a-9b3c-4f77-8a3e-0d3a5a1b6a01.7d0e2f86-4f9d-4c3e-bb0f-3f8f1f2f3a02";
    let add = Call::new("ADD", &config).with("CNI_CONTAINERID", id).without("CNI_ARGS");
    assert_eq!(add.run().result()["ip4"]["ip"], "10.32.0.2/12");
    let del = Call::new("DEL", &config).with("CNI_CONTAINERID", id).without("CNI_NETNS");
    del.run().silent_success();
}

#[test]
fn rkt_names_its_version_in_the_environment() {
    let fake = healthy();
    let config = at(&fake, json!({ "cniVersion": "0.2.0", "name": "net", "type": "weave-cni" }));
    let call = Call::new("ADD", &config).with("CNI_VERSION", "0.1.0").with("CNI_ARGS", "IP=10.32.0.7");
    assert_eq!(call.run().result()["ip4"]["gateway"], "10.32.0.1");
    assert_eq!(last_request(&fake)["address"], "10.32.0.7");
}

#[test]
fn old_kubelets_clean_up_with_empty_names() {
    let fake = healthy();
    let config = at(&fake, json!({ "cniVersion": "0.4.0", "name": "net", "type": "weave-cni" }));
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=;K8S_POD_NAME=;K8S_POD_INFRA_CONTAINER_ID=c1";
    Call::new("DEL", &config).with("CNI_NETNS", "").with("CNI_ARGS", args).run().silent_success();
    Call::new("ADD", &config).with("CNI_ARGS", args).run().result();
    assert_eq!(last_request(&fake)["name"], Value::Null);
}

#[test]
fn newer_nomad_tries_an_add_again_without_a_del() {
    let fake = healthy();
    let config = at(&fake, json!({ "cniVersion": "1.0.0", "name": "net", "type": "weave-cni" }));
    let args = "IgnoreUnknown=true;NOMAD_REGION=global;NOMAD_NAMESPACE=default;NOMAD_ALLOC_ID=16cfb2b8";
    let lost = at(&fake, json!({ "cniVersion": "1.0.0", "name": "net", "socket": "/nonexistent" }));
    assert_eq!(
        Call::new("ADD", &lost).with("CNI_NETNS", "/nonexistent").with("CNI_ARGS", args).run().error().0,
        3
    );
    Call::new("ADD", &config).with("CNI_ARGS", args).run().result();
}
