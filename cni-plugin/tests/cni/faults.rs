//! All that can be wrong with a call, crossed with commands and versions: the right code, in words, and nothing done.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use control::pending::{self, PendingDetach};
use serde_json::{Value, json};

use crate::call::{Call, VERSIONS, config, config_at, healthy, healthy_answer, refusal};
use crate::fake::{Fake, Reply, scratch};

/// A change that breaks a call.
type Break = fn(Call) -> Call;

/// A change that breaks a configuration.
type Spoil = fn(&mut Value);

#[test]
fn bad_environment_is_code_4_and_names_the_variable() {
    let breaks: [(&str, &str, Break); 13] = [
        ("ADD CHECK DEL", "CNI_CONTAINERID", |call| call.without("CNI_CONTAINERID")),
        ("ADD CHECK DEL", "CNI_CONTAINERID", |call| call.with("CNI_CONTAINERID", "")),
        ("ADD CHECK DEL", "CNI_CONTAINERID", |call| call.with("CNI_CONTAINERID", "_x")),
        ("ADD CHECK DEL", "CNI_CONTAINERID", |call| call.with("CNI_CONTAINERID", "a/../b")),
        ("ADD CHECK DEL", "CNI_CONTAINERID", |call| call.with("CNI_CONTAINERID", &"c".repeat(201))),
        ("ADD CHECK DEL", "CNI_IFNAME", |call| call.without("CNI_IFNAME")),
        ("ADD CHECK DEL", "CNI_IFNAME", |call| call.with("CNI_IFNAME", "sixteen-letters-")),
        ("ADD CHECK DEL", "CNI_IFNAME", |call| call.with("CNI_IFNAME", "..")),
        ("ADD CHECK DEL", "CNI_IFNAME", |call| call.with("CNI_IFNAME", "a/b")),
        ("ADD CHECK DEL", "CNI_IFNAME", |call| call.with("CNI_IFNAME", "a b")),
        ("ADD CHECK DEL", "CNI_IFNAME", |call| call.with("CNI_IFNAME", "eth0:1")),
        ("ADD CHECK", "CNI_NETNS", |call| call.without("CNI_NETNS")),
        ("ADD", "CNI_ARGS", |call| call.with("CNI_ARGS", "FOO=1")),
    ];
    let fake = healthy();
    for (commands, variable, spoil) in breaks {
        for command in commands.split(' ') {
            for version in VERSIONS {
                let (code, message) = spoil(Call::new(command, &config(version, &fake))).run().error();
                // CHECK of an old version is refused for its version when the environment is read well enough to see it.
                assert_eq!(code, 4, "{command} {version}: {message}");
                assert!(message.contains(variable), "{command}: {message}");
            }
        }
    }
    let (code, message) =
        Call::new("ADD", &config("1.0.0", &fake)).without("CNI_NETNS").without("CNI_IFNAME").run().error();
    assert_eq!((code, message.as_str()), (4, "required variables are missing: CNI_NETNS, CNI_IFNAME"));
    for command in ["add", "PATCH", ""] {
        assert_eq!(Call::new(command, &config("1.0.0", &fake)).run().error().0, 4, "{command}");
    }
    assert!(fake.asked().is_empty());
}

#[test]
fn names_at_their_limits_pass() {
    let fake = healthy();
    let call = Call::new("ADD", &config("1.0.0", &fake));
    call.clone().with("CNI_IFNAME", "fifteen-letters").run().result();
    call.clone().with("CNI_CONTAINERID", &"c".repeat(200)).run().result();
    call.with("CNI_CONTAINERID", "a.b-c_D.9").run().result();
}

#[test]
fn bad_configuration_has_the_code_of_its_kind() {
    let cases: [(u64, Spoil); 14] = [
        (1, |config| config["cniVersion"] = json!("2.0.0")),
        (1, |config| config["cniVersion"] = json!("0.3")),
        (6, |config| config["cniVersion"] = json!(1)),
        (7, |config| config["name"] = json!("")),
        (7, |config| config["name"] = json!("a network")),
        (7, |config| drop(config.as_object_mut().unwrap().remove("name"))),
        (6, |config| config["name"] = json!(["net"])),
        (6, |config| config["mtu"] = json!("1400")),
        (6, |config| config["mtu"] = json!(-1)),
        (6, |config| config["ipam"] = json!({ "subnet": "10.32.0.0" })),
        (6, |config| config["ipam"] = json!({ "routes": [{ "gw": "10.32.0.1" }] })),
        (6, |config| config["runtimeConfig"] = json!("x")),
        (7, |config| config["socket"] = json!("weaved.sock")),
        (7, |config| config["stateDir"] = json!("../state")),
    ];
    let fake = healthy();
    for (number, (want, spoil)) in cases.into_iter().enumerate() {
        for command in ["ADD", "DEL", "CHECK"] {
            let mut config = config("1.0.0", &fake);
            spoil(&mut config);
            let (code, message) = Call::new(command, &config).run().error();
            assert_eq!(code, want, "case {number}, {command}: {message}");
        }
    }
    assert!(fake.asked().is_empty());
}

#[test]
fn what_is_no_json_is_code_6() {
    let fake = healthy();
    for command in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
        for text in ["", "{", "null", "[]", "7", "{\"cniVersion\":\"1.1.0\",}", "\u{0}"] {
            let mut call = Call::new(command, &config("1.1.0", &fake));
            call.stdin = text.into();
            let (code, message) = call.run().error();
            assert_eq!(code, 6, "{command} of `{text}`: {message}");
        }
        let mut call = Call::new(command, &config("1.1.0", &fake));
        call.stdin = vec![b' '; 4 * 1024 * 1024 + 1];
        assert_eq!(call.run().error().0, 6);
    }
}

#[test]
fn commands_that_a_version_does_not_have_are_code_1() {
    let fake = healthy();
    let cases = [("CHECK", "0.4.0"), ("GC", "1.1.0"), ("STATUS", "1.1.0")];
    for (command, first) in cases {
        for version in VERSIONS.into_iter().filter(|version| *version < first) {
            let output = Call::new(command, &config(version, &fake)).run();
            assert_eq!(output.error().0, 1, "{command} {version}");
            assert!(output.stdout.contains(&format!("\"cniVersion\":\"{version}\"")), "{output:?}");
        }
    }
    assert!(fake.asked().is_empty());
}

#[test]
fn bad_namespaces_are_told_apart() {
    let fake = healthy();
    for version in VERSIONS {
        let call = Call::new("ADD", &config(version, &fake));
        assert_eq!(call.clone().with("CNI_NETNS", "/nonexistent/ns").run().error().0, 3);
        assert_eq!(call.clone().with("CNI_NETNS", "/proc/4194305/ns/net").run().error().0, 3);
        assert_eq!(call.clone().with("CNI_NETNS", "/etc/passwd").run().error().0, 8);
        assert_eq!(call.clone().with("CNI_NETNS", "/etc/passwd/x").run().error().0, 3);
        assert_eq!(call.without("CNI_NETNS_OVERRIDE").run().error().0, 8);
    }
    assert!(fake.asked().is_empty());
}

#[test]
fn check_and_chained_add_need_a_result_that_makes_sense() {
    let results = [
        json!([]),
        json!({ "interfaces": {} }),
        json!({ "interfaces": [7] }),
        json!({ "ips": [{ "address": "10.0.0.1" }] }),
        json!({ "ips": [{ "address": "10.0.0.1/8", "interface": 1 }], "interfaces": [{ "name": "x" }] }),
        json!({ "dns": [] }),
        json!({ "ip4": { "gateway": "10.0.0.1" } }),
    ];
    let fake = healthy();
    for result in results {
        for command in ["ADD", "CHECK"] {
            let mut config = config("1.0.0", &fake);
            config["prevResult"] = result.clone();
            let (code, message) = Call::new(command, &config).run().error();
            assert_eq!(code, 7, "{command} {result}: {message}");
        }
    }
    assert_eq!(Call::new("CHECK", &config("1.0.0", &fake)).run().error().0, 7);
    let mut other = config("1.0.0", &fake);
    other["prevResult"] = json!({ "interfaces": [{ "name": "eth0", "sandbox": "/elsewhere" }] });
    assert!(Call::new("CHECK", &other).run().error().1.contains("has no interface `eth0`"));
    assert!(fake.asked().is_empty());
}

#[test]
fn refusals_of_the_daemon_keep_their_meaning() {
    let cases = [
        ("bad-request", 7),
        ("forbidden", 101),
        ("not-found", 3),
        ("conflict", 100),
        ("no-fabric", 11),
        ("exhausted", 11),
        ("timeout", 11),
        ("unreachable", 11),
        ("bad-netns", 8),
        ("unknown-container", 3),
        ("state-not-durable", 5),
        ("kernel", 102),
        ("internal", 999),
        ("of-a-later-version", 999),
    ];
    for (code, want) in cases {
        let fake = Fake::start(move |_| Reply::Json(500, refusal(code, "no and no")));
        let output = Call::new("ADD", &config("1.0.0", &fake)).run();
        assert_eq!(output.error(), (want, "cannot attach the container: no and no".to_owned()));
        assert!(output.stdout.contains("\"details\":\"weavectl status\""), "{output:?}");
        assert_eq!(fake.asked().len(), 1, "a refused ADD has nothing to undo");
    }
}

#[test]
fn nobody_there_is_try_again_later() {
    let directory = scratch();
    let leftover = directory.join("left.sock");
    drop(UnixListener::bind(&leftover).unwrap());
    for socket in [Path::new("/nonexistent/w.sock"), &leftover] {
        let (code, message) = Call::new("ADD", &config_at("1.0.0", socket)).run().error();
        assert_eq!(code, 11, "{message}");
    }
    let mut down = config_at("1.0.0", &leftover);
    down["prevResult"] = json!({ "interfaces": [{ "name": "eth0", "sandbox": crate::call::OWN_NETNS }] });
    assert_eq!(Call::new("CHECK", &down).run().error().0, 11);
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn answer_that_is_lost_is_undone_at_once() {
    let fake = Fake::start(|asked| match asked.call.as_str() {
        "POST /v1/attach" => Reply::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{".to_vec()),
        _ => healthy_answer(asked),
    });
    assert_eq!(Call::new("ADD", &config("1.0.0", &fake)).run().error().0, 11);
    let asked = fake.asked();
    let attempt = |body: &str| serde_json::from_str::<Value>(body).unwrap()["attempt"].clone();
    assert_eq!(asked[1].call, "POST /v1/detach");
    assert_eq!(attempt(&asked[0].body), attempt(&asked[1].body));
    assert!(!fake.socket().with_file_name("state").exists());
}

#[test]
fn answer_that_is_lost_with_the_daemon_is_undone_by_the_journal() {
    let fake = Fake::start(|_| Reply::Silence(Duration::ZERO));
    let output = Call::new("ADD", &config("1.0.0", &fake)).run();
    assert_eq!(output.error().0, 11);
    let waiting = pending::read_all(&fake.socket().with_file_name("state")).unwrap().pending;
    assert!(waiting[0].attempt.is_some() && waiting[0].container == "c1", "{waiting:?}");
}

#[test]
fn daemon_that_dies_during_del_leaves_the_wish_on_disk() {
    let fake = Fake::start(|_| Reply::Silence(Duration::ZERO));
    assert_eq!(Call::new("DEL", &config("1.0.0", &fake)).run().error().0, 11);
    let state = fake.socket().with_file_name("state");
    assert_eq!(pending::read_all(&state).unwrap().pending, [PendingDetach::new("c1", "eth0")]);
    assert_eq!(fake.asked().len(), 2, "tried again after it was written down");
}

#[test]
fn del_that_the_daemon_refuses_is_the_runtimes_to_try_again() {
    for (code, want) in [("kernel", 102), ("state-not-durable", 5), ("timeout", 11)] {
        let fake = Fake::start(move |_| Reply::Json(500, refusal(code, "not now")));
        assert_eq!(Call::new("DEL", &config("1.0.0", &fake)).run().error().0, want);
    }
}

#[test]
fn del_that_can_neither_be_done_nor_written_down_fails() {
    let mut nowhere = config_at("1.0.0", Path::new("/nonexistent/w.sock"));
    nowhere["stateDir"] = json!("/dev/null/state");
    let (code, message) = Call::new("DEL", &nowhere).run().error();
    assert_eq!(code, 5);
    assert!(message.contains("/dev/null/state/pending-del"), "{message}");
}

#[test]
fn daemon_without_garbage_collection_is_code_104() {
    let fake = Fake::start(|_| Reply::Json(404, refusal("not-found", "no such path")));
    let mut config = config("1.1.0", &fake);
    assert_eq!(Call::new("GC", &config).run().error().0, 7);
    config["cni.dev/valid-attachments"] = json!([]);
    assert_eq!(Call::new("GC", &config).run().error().0, 104);
}

#[test]
fn two_hundred_at_once() {
    let fake = healthy();
    let config = config("1.0.0", &fake);
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let config = &config;
            scope.spawn(move || {
                for number in 0..25 {
                    let name = format!("c{worker}-{number}");
                    Call::new("ADD", config).with("CNI_CONTAINERID", &name).run().result();
                }
            });
        }
    });
    assert_eq!(fake.asked().len(), 200);
}
