//! Each command in each version, as it should go.

use control::pending::{self, PendingDetach};
use expect_test::{Expect, expect, expect_file};
use serde_json::{Value, json};

use crate::call::{Call, OWN_NETNS, VERSIONS, config, config_at, healthy, healthy_answer, refusal, status};
use crate::fake::{Fake, Reply, scratch};

fn snapshot(value: &Value, want: &Expect) {
    want.assert_eq(&serde_json::to_string_pretty(value).expect("a value can be written"));
}

#[test]
fn add_in_each_shape_of_result() {
    let fake = healthy();
    for version in VERSIONS {
        let result = Call::new("ADD", &config(version, &fake)).run().result();
        let text = serde_json::to_string_pretty(&result).expect("a value can be written");
        let path = format!("{}/tests/cni/results/add-{version}.json", env!("CARGO_MANIFEST_DIR"));
        expect_file![path].assert_eq(&format!("{text}\n"));
    }
}

#[test]
fn configuration_without_version_is_0_1_0() {
    let fake = healthy();
    let mut config = config("", &fake);
    config.as_object_mut().unwrap().remove("cniVersion");
    let result = Call::new("ADD", &config).run().result();
    assert_eq!(
        (result["cniVersion"].as_str(), result["ip4"]["ip"].as_str()),
        (Some("0.1.0"), Some("10.32.0.2/12"))
    );
}

#[test]
fn add_hands_all_wishes_to_the_daemon() {
    let fake = healthy();
    let mut config = config("1.0.0", &fake);
    config["mtu"] = json!(1300);
    config["ipam"] = json!({ "subnet": "10.32.4.0/24", "routes": [{ "dst": "10.0.0.0/8" }, { "dst": "::/0", "gw": "fd00::1" }] });
    config["runtimeConfig"] = json!({ "IPs": ["10.32.4.7/24"], "mac": "02:00:00:00:00:09" });
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-1;FOO=BAR;IP=10.9.9.9";
    let result = Call::new("ADD", &config).with("CNI_ARGS", args).run().result();
    assert_eq!(result["routes"], json!([{ "dst": "10.0.0.0/8" }, { "dst": "::/0", "gw": "fd00::1" }]));
    let mut request: Value = serde_json::from_str(&fake.asked()[0].body).unwrap();
    let netns = request["netns"].take();
    assert!(netns.as_str().unwrap().starts_with("/proc/"), "{netns}");
    assert!(request["attempt"].take().is_string());
    snapshot(
        &request,
        &expect![[r#"
            {
              "address": "10.32.4.7",
              "attempt": null,
              "caller": "cni",
              "container": "c1",
              "ifname": "eth0",
              "mac": "02:00:00:00:00:09",
              "mtu": 1300,
              "name": "default/web-1",
              "names": [
                "web-1",
                "web-1.default"
              ],
              "netns": null,
              "network": "net",
              "routes": [
                {
                  "dst": "10.0.0.0/8"
                },
                {
                  "dst": "::/0",
                  "gw": "fd00::1"
                }
              ],
              "sandbox": "/proc/self/ns/net",
              "subnet": "10.32.4.0/24"
            }"#]],
    );
}

#[test]
fn result_names_the_nameserver_unless_the_configuration_has_its_own() {
    let fake = Fake::start(|asked| {
        let Reply::Json(code, text) = healthy_answer(asked) else { panic!("JSON") };
        let mut answer: Value = serde_json::from_str(&text).unwrap();
        if asked.call == "POST /v1/attach" {
            answer["nameserver"] = json!({ "address": "169.254.67.83", "domain": "weave.local" });
            answer["routes"].as_array_mut().unwrap().push(json!({ "dst": "169.254.67.83/32" }));
        }
        Reply::Json(code, answer.to_string())
    });
    let mut config = config("1.1.0", &fake);
    let result = Call::new("ADD", &config).run().result();
    let ours =
        json!({ "nameservers": ["169.254.67.83"], "domain": "weave.local", "search": ["weave.local"] });
    assert_eq!(result["dns"], ours);
    assert_eq!(result["routes"][2], json!({ "dst": "169.254.67.83/32", "scope": 253 }));
    config["dns"] = json!({ "nameservers": ["198.51.100.1"] });
    assert_eq!(Call::new("ADD", &config).run().result()["dns"], config["dns"]);
    config["cniVersion"] = json!("0.2.0");
    assert_eq!(
        Call::new("ADD", &config).run().result()["ip4"]["routes"][1],
        json!({ "dst": "169.254.67.83/32" })
    );
}

#[test]
fn chained_add_extends_the_earlier_result_of_any_version() {
    let fake = healthy();
    let modern = json!({ "cniVersion": "1.0.0", "interfaces": [{ "name": "lo0", "sandbox": "/x", "socketPath": "/s" }],
        "ips": [{ "address": "192.0.2.1/24", "interface": 0 }, { "address": "192.0.2.2/24", "interface": -1 }],
        "routes": [{ "dst": "192.0.2.0/24", "mtu": 1300 }], "dns": { "nameservers": ["192.0.2.53"] } });
    let mut config = config("1.1.0", &fake);
    config["dns"] = json!({ "nameservers": ["198.51.100.1"] });
    config["prevResult"] = modern.clone();
    let result = Call::new("ADD", &config).run().result();
    assert_eq!(result["interfaces"][0], modern["interfaces"][0]);
    assert_eq!(result["interfaces"][3]["sandbox"], OWN_NETNS);
    assert_eq!(result["ips"][2]["interface"], 3);
    assert_eq!(result["routes"][0], modern["routes"][0]);
    assert_eq!(result["dns"], modern["dns"]);
    config["cniVersion"] = json!("0.4.0");
    let result = Call::new("ADD", &config).run().result();
    assert_eq!(result["interfaces"][0], json!({ "name": "lo0", "sandbox": "/x" }));
    assert_eq!(result["routes"][0], json!({ "dst": "192.0.2.0/24" }));

    config["prevResult"] = json!({ "ip4": { "ip": "192.0.2.1/24", "gateway": "192.0.2.254", "routes": [{ "dst": "0.0.0.0/0" }] } });
    let result = Call::new("ADD", &config).run().result();
    assert_eq!(
        result["ips"][0],
        json!({ "version": "4", "address": "192.0.2.1/24", "gateway": "192.0.2.254" })
    );
    assert_eq!(
        (result["ips"][1]["interface"].as_u64(), result["routes"][0]["dst"].as_str()),
        (Some(2), Some("0.0.0.0/0"))
    );
    assert_eq!(result["dns"], json!({ "nameservers": ["198.51.100.1"] }));
}

#[test]
fn second_add_is_refused_and_touches_nothing() {
    let fake = Fake::start(|asked| match asked.call.as_str() {
        "POST /v1/attach" => Reply::Json(409, refusal("conflict", "container `c1` is attached already")),
        _ => healthy_answer(asked),
    });
    let (code, message) = Call::new("ADD", &config("1.0.0", &fake)).run().error();
    assert_eq!(
        (code, message.as_str()),
        (100, "cannot attach the container: container `c1` is attached already")
    );
    assert_eq!(fake.asked().len(), 1, "nothing but the attach was asked: {:?}", fake.asked());
}

#[test]
fn del_thrice_with_and_without_namespace() {
    let fake = healthy();
    for netns in ["/proc/self/ns/net", "/nonexistent", ""] {
        Call::new("DEL", &config("1.0.0", &fake)).with("CNI_NETNS", netns).run().silent_success();
    }
    Call::new("DEL", &config("0.1.0", &fake)).without("CNI_NETNS").run().silent_success();
    assert_eq!(fake.asked()[0].body, r#"{"container":"c1","ifname":"eth0"}"#);
}

#[test]
fn del_of_what_the_daemon_does_not_know_succeeds() {
    for code in ["not-found", "unknown-container", "no-fabric"] {
        let fake = Fake::start(move |_| Reply::Json(404, refusal(code, "not here")));
        Call::new("DEL", &config("1.0.0", &fake)).run().silent_success();
    }
}

#[test]
fn del_while_the_daemon_is_down_waits_on_disk_and_the_next_add_settles_it() {
    let directory = scratch();
    let config_down = config_at("1.0.0", &directory.join("weaved.sock"));
    Call::new("DEL", &config_down).run().silent_success();
    Call::new("DEL", &config_down).run().silent_success();
    let state = directory.join("state");
    assert_eq!(pending::read_all(&state).unwrap().pending, [PendingDetach::new("c1", "eth0")]);

    let fake = healthy();
    let mut config_up = config("1.0.0", &fake);
    config_up["stateDir"] = json!(state);
    Call::new("ADD", &config_up).with("CNI_CONTAINERID", "c2").run().result();
    assert_eq!(fake.asked().len(), 1);
    Call::new("ADD", &config_up).run().result();
    let asked: Vec<String> = fake.asked().into_iter().skip(1).map(|asked| asked.call).collect();
    assert_eq!(asked, ["POST /v1/detach", "POST /v1/attach"]);
    assert!(pending::read_all(&state).unwrap().pending.is_empty());
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn check_sends_the_addresses_of_our_interface_alone() {
    let fake = healthy();
    for version in ["0.4.0", "1.0.0", "1.1.0"] {
        let mut config = config(version, &fake);
        config["prevResult"] = Call::new("ADD", &config).run().result();
        config["prevResult"]["ips"]
            .as_array_mut()
            .unwrap()
            .push(json!({ "address": "192.0.2.1/24", "interface": 0 }));
        Call::new("CHECK", &config).run().silent_success();
        let request: Value = serde_json::from_str(&fake.asked().last().unwrap().body).unwrap();
        assert_eq!(request["addresses"], json!(["10.32.0.2/12", "fd00::a20:2/64"]));
    }
}

#[test]
fn check_names_what_differs() {
    let fake = Fake::start(|asked| match asked.call.as_str() {
        "POST /v1/check" => Reply::Json(409, refusal("conflict", "mtu is 9000")),
        _ => healthy_answer(asked),
    });
    let mut config = config("1.0.0", &fake);
    config["prevResult"] = Call::new("ADD", &config).run().result();
    let (code, message) = Call::new("CHECK", &config).run().error();
    assert_eq!((code, message.as_str()), (103, "cannot confirm the attachment: mtu is 9000"));
}

#[test]
fn version_answers_to_anything() {
    let call = Call::new("VERSION", &json!({ "cniVersion": "1.0.0" }));
    let dummy = call.with("CNI_NETNS", "dummy").with("CNI_IFNAME", "dummy").with("CNI_CONTAINERID", "");
    snapshot(
        &dummy.run().result(),
        &expect![[r#"
        {
          "cniVersion": "1.0.0",
          "supportedVersions": [
            "0.1.0",
            "0.2.0",
            "0.3.0",
            "0.3.1",
            "0.4.0",
            "1.0.0",
            "1.1.0"
          ]
        }"#]],
    );
    for junk in ["", "junk", "[]", "{\"cniVersion\":7}"] {
        let mut call = dummy.clone();
        call.stdin = junk.into();
        assert_eq!(call.run().result()["cniVersion"], "1.1.0", "{junk}");
    }
}

#[test]
fn gc_lists_what_is_valid() {
    let fake = healthy();
    let mut config = config("1.1.0", &fake);
    let valid = json!([{ "containerID": "c1", "ifname": "eth0" }]);
    config["cni.dev/valid-attachments"] = valid.clone();
    config["cni.dev/attachments"] = valid;
    let call = Call::new("GC", &config).without("CNI_CONTAINERID").without("CNI_IFNAME").without("CNI_NETNS");
    let output = call.run();
    output.silent_success();
    assert!(output.stderr.contains("detached `eth0` from `gone`"), "{output:?}");
    let want = r#"{"network":"net","keep":[{"container":"c1","ifname":"eth0"}]}"#;
    assert_eq!(fake.asked()[0].body, want);
}

#[test]
fn status_is_about_the_next_add() {
    let cases = [("ready", None), ("waiting", Some(50)), ("exhausted", Some(50)), ("", Some(50))];
    for (state, want) in cases {
        let fake = Fake::start(move |_| Reply::Json(200, status(state).to_string()));
        let call = Call::new("STATUS", &config("1.1.0", &fake)).without("CNI_CONTAINERID");
        match want {
            None => call.run().silent_success(),
            Some(code) => assert_eq!(call.run().error().0, code, "{state}"),
        }
    }
    let nobody = config_at("1.1.0", "/nonexistent/weaved.sock".as_ref());
    assert_eq!(Call::new("STATUS", &nobody).run().error().0, 51);
}

#[test]
fn no_command_says_what_this_is() {
    let output = Call { env: Vec::new(), stdin: Vec::new() }.run();
    output.silent_success();
    assert!(output.stderr.contains("CNI versions 0.1.0, 0.2.0"), "{output:?}");
}
