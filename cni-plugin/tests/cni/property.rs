//! Whatever is in the environment and on standard input: no panic, and always an answer that a runtime can parse.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use cni_plugin::{Outcome, Role};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use crate::call::config_at;
use crate::fake::scratch;

fn well_formed(outcome: &Outcome) {
    match outcome {
        Outcome::Done(text) if text.is_empty() => {}
        Outcome::Done(text) => {
            let value: Value = serde_json::from_str(text).expect("a result is JSON");
            assert!(value["cniVersion"].is_string(), "{text}");
        }
        Outcome::Failed(text) => {
            let value: Value = serde_json::from_str(text).expect("an error is JSON");
            assert!(value["cniVersion"].is_string() && value["code"].as_u64().is_some(), "{text}");
            assert!(value["msg"].as_str().is_some_and(|message| !message.is_empty()), "{text}");
        }
    }
}

fn run(variables: &[(&str, OsString)], stdin: &[u8]) {
    let variables: BTreeMap<String, OsString> =
        variables.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    for role in [Role::Main, Role::Ipam] {
        well_formed(&cni_plugin::run(role, &variables, || Ok(stdin.to_vec()), &mut std::io::sink()));
    }
}

/// Something JSON, small and of any type.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        select(vec![
            "10.32.0.1",
            "10.32.0.1/12",
            "fd00::1/64",
            "1.1.0",
            "0.2.0",
            "eth0",
            "02:00:00:00:00:01"
        ])
        .prop_map(Value::from),
    ];
    let keys = [
        "ips",
        "mac",
        "cni",
        "subnet",
        "routes",
        "dst",
        "gw",
        "interfaces",
        "interface",
        "address",
        "ip4",
        "ip6",
        "ip",
        "gateway",
        "dns",
        "name",
        "sandbox",
        "cniVersion",
        "containerID",
        "ifname",
        "type",
    ];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((select(keys.to_vec()), inner), 0..4).prop_map(|pairs| {
                Value::Object(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
            }),
        ]
    })
}

fn command() -> impl Strategy<Value = OsString> {
    prop_oneof![
        8 => select(vec!["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"]).prop_map(OsString::from),
        1 => any_text(),
    ]
}

fn any_text() -> impl Strategy<Value = OsString> {
    vec(1..=255u8, 0..24).prop_map(OsString::from_vec)
}

fn name() -> impl Strategy<Value = OsString> {
    prop_oneof![4 => "[a-z][a-z0-9_.-]{0,14}".prop_map(OsString::from), 1 => any_text()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes(command in command(), id in name(), ifname in name(), stdin in vec(any::<u8>(), 0..200)) {
        run(&[("CNI_COMMAND", command), ("CNI_CONTAINERID", id), ("CNI_IFNAME", ifname), ("CNI_NETNS", "/n".into())], &stdin);
    }

    #[test]
    fn arbitrary_variables(values in vec(any_text(), 6)) {
        let names = ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS", "CNI_ARGS", "CNI_NETNS_OVERRIDE"];
        let variables: Vec<(&str, OsString)> = names.into_iter().zip(values).collect();
        run(&variables, b"{}");
    }

    #[test]
    fn arbitrary_values_of_the_keys_that_we_read(
        command in command(),
        id in name(),
        args in "([A-Z0-9_]{0,8}=?[a-z0-9.:]{0,8};?){0,4}",
        changes in vec((select(vec!["cniVersion", "name", "mtu", "ipam", "args", "runtimeConfig", "prevResult", "dns",
                                    "cni.dev/valid-attachments", "cni.dev/attachments"]), any_json()), 0..3),
        version in select(crate::call::VERSIONS.to_vec()),
    ) {
        // Nobody listens there, and what a DEL writes down goes with it.
        let directory = scratch();
        let mut config = config_at(version, &directory.join("weaved.sock"));
        for (key, value) in changes {
            config[key] = value;
        }
        let variables = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", id),
            ("CNI_IFNAME", "eth0".into()),
            ("CNI_NETNS", "/proc/self/ns/net".into()),
            ("CNI_NETNS_OVERRIDE", "1".into()),
            ("CNI_ARGS", args.into()),
        ];
        run(&variables, config.to_string().as_bytes());
        std::fs::remove_dir_all(directory).expect("the directory is ours");
    }

    #[test]
    fn names_that_pass_stay_inside_the_journal(id in name(), ifname in name()) {
        let directory = scratch();
        let config = config_at("1.0.0", &directory.join("weaved.sock"));
        run(&[("CNI_COMMAND", "DEL".into()), ("CNI_CONTAINERID", id), ("CNI_IFNAME", ifname)], config.to_string().as_bytes());
        let entries: Vec<_> = std::fs::read_dir(&directory).expect("it is there").flatten().map(|entry| entry.file_name()).collect();
        assert!(entries.iter().all(|name| name == "state"), "{entries:?}");
        let inside = control::pending::read_all(Path::new(&directory.join("state"))).expect("it can be read");
        assert!(inside.rejected.is_empty(), "{inside:?}");
        std::fs::remove_dir_all(directory).expect("the directory is ours");
    }
}

#[test]
fn empty_object_is_an_error_of_each_command() {
    for command in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
        let variables =
            [("CNI_COMMAND", command.into()), ("CNI_CONTAINERID", "c".into()), ("CNI_IFNAME", "e".into())];
        run(&variables, json!({}).to_string().as_bytes());
    }
}
