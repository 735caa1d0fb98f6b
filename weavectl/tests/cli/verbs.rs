//! Commands that ask a running `weaved`: words, streams, exit codes.

use std::path::Path;
use std::time::Duration;

use expect_test::expect;
use serde_json::Value;

use crate::fake::{Fake, Reply};
use crate::run::{daemon, on, refusal, run, weavectl};

const INFO: &str = r#"{"fabric":"ffffffffffgggggggggghhhhhh","peer":"aaaaaaaaaabbbbbbbbbbcccccc","nickname":"host-a",
    "range":"10.32.0.0/12","range6":"fd12:3456:789a::/48","token":"weave1.abc","changed":true}"#;
const VERSION: &str = r#"{"version":"0.1.0","api":1,"wire":1}"#;
const NOBODY: &str = r#"{"connections":[],"refused":[],"drops":[]}"#;
const REACHED: &str = r#"{"connections":[{"direction":"->","address":"10.77.0.1:6783","state":"established","peer":"p",
    "nickname":"host-b","since_s":0,"tx_bytes":0,"rx_bytes":0,"uses":[]}],"refused":[],"drops":[]}"#;
const UNREACHED: &str = r#"{"connections":[{"direction":"->","address":"10.77.0.9:6783","state":"failed",
    "reason":"no answer","retry_s":2,"since_s":0,"tx_bytes":0,"rx_bytes":0,"uses":[]}],"refused":[],"drops":[]}"#;
const STATUS: &str = r#"{"version":"0.1.0","peer":"p","nickname":"n","listen":"[::]:6783","uptime_s":1,"bridge":"weave0",
    "mtu":1390,"connections":{"established":0,"connecting":0,"failed":0},"peers":{"alive":1,"suspect":0,"dead":0},
    "attachments":0,"traffic":{"tx_frames":0,"tx_bytes":0,"rx_frames":0,"rx_bytes":0,"drops":[]},"problems":[]}"#;
const ATTACHMENT: &str = r#"{"container":"blue","ifname":"ethwe","host_ifname":"vw0123456789a","mac":"0a:77:0a:20:00:02",
    "host_mac":"02:00:00:00:00:01","bridge":"weave0","bridge_mac":"02:00:00:00:00:02","address":"10.32.0.2/12",
    "address6":"fd12::a20:2/64","routes":[],"mtu":1390,"netns":"/n"}"#;

#[test]
fn nothing_runs_says_how_to_start_it() {
    for command in
        [&["status"][..], &["ps"], &["token"], &["rmpeer", "x"], &["report"], &["expose"], &["ping", "x"]]
    {
        let mut words = vec!["--socket", "/nonexistent/weaved.sock"];
        words.extend_from_slice(command);
        let text = weavectl(&words).failure(3).to_owned();
        let want = "caused by: there is no socket at `/nonexistent/weaved.sock`\n\
                    hint: start it with `weavectl up`, or enter a fabric with `weavectl join TOKEN`\n";
        assert!(text.starts_with("error: cannot ") && text.ends_with(want), "{text}");
    }
}

#[test]
fn errors_as_json_stay_on_standard_error() {
    let output = weavectl(&["--socket", "/nonexistent/weaved.sock", "--json", "status"]);
    let error: Value = serde_json::from_str(output.failure(3)).unwrap();
    assert_eq!(error["error"]["exit"], 3);
    assert_eq!(error["error"]["causes"][0], "there is no socket at `/nonexistent/weaved.sock`");
}

#[test]
fn every_refusal_has_its_exit_code() {
    let cases = [
        ("bad-request", 2),
        ("forbidden", 4),
        ("not-found", 7),
        ("conflict", 8),
        ("no-fabric", 6),
        ("exhausted", 9),
        ("timeout", 5),
        ("unreachable", 9),
        ("bad-netns", 7),
        ("unknown-container", 7),
        ("state-not-durable", 1),
        ("kernel", 1),
        ("internal", 1),
        ("a code of a later version", 1),
    ];
    for (code, exit) in cases {
        let fake = Fake::start(move |_| Reply::Json(400, refusal(code, "no and no")));
        let text = on(&fake, &["rmpeer", "x"]).failure(exit).to_owned();
        assert_eq!(
            text, "error: cannot remove peer `x`\ncaused by: no and no\nhint: `weavectl status`\n",
            "{code}"
        );
    }
}

#[test]
fn up_prints_the_line_alone_on_standard_output() {
    let fake = daemon(&[("GET /v1/version", 200, VERSION), ("POST /v1/up", 200, INFO)]);
    let output = on(&fake, &["up", "--ipalloc-range", "10.40.0.0/16"]);
    assert_eq!(output.success(), "weavectl join weave1.abc\n");
    expect![[r#"
        created fabric ffffffffff as host-a with 10.32.0.0/12 and fd12:3456:789a::/48
        run this on the next host; whoever has the line can join:
    "#]]
    .assert_eq(&output.stderr);
    assert_eq!(fake.asked()[1].body, r#"{"range":"10.40.0.0/16"}"#);
    let json: Value = serde_json::from_str(on(&fake, &["up", "--json"]).success()).unwrap();
    assert_eq!(json["token"], "weave1.abc");
}

#[test]
fn options_of_the_daemon_have_no_effect_while_it_runs() {
    let fake = daemon(&[("GET /v1/version", 200, VERSION), ("POST /v1/up", 200, INFO)]);
    let output = on(&fake, &["up", "--nickname", "x"]);
    output.success();
    assert!(output.stderr.starts_with("weaved is running already"), "{output:?}");
}

#[test]
fn password_comes_from_a_file_or_standard_input() {
    let fake = daemon(&[("GET /v1/version", 200, VERSION), ("POST /v1/up", 200, INFO)]);
    let socket = fake.socket();
    let words = ["--socket", socket.to_str().unwrap(), "up", "--password-file", "-"];
    let output = run(Path::new(env!("CARGO_BIN_EXE_weavectl")), &words, "correct horse \r\n");
    output.success();
    assert_eq!(fake.asked()[1].body, r#"{"password":"correct horse "}"#);
    assert!(
        !output.stderr.contains("horse") && output.stderr.contains("same `--password-file`"),
        "{output:?}"
    );
    assert!(run(Path::new(env!("CARGO_BIN_EXE_weavectl")), &words, "\n").failure(2).contains("is empty"));
    on(&fake, &["up", "--password-file", "/nonexistent"]).failure(1);
}

#[test]
fn join_says_whom_it_reached() {
    let answers = [
        ("GET /v1/version", 200, VERSION),
        ("POST /v1/join", 200, INFO),
        ("GET /v1/connections", 200, REACHED),
    ];
    let fake = daemon(Box::leak(Box::new(answers)));
    assert_eq!(on(&fake, &["join", "weave1.abc"]).success(), "connected to host-b at 10.77.0.1:6783\n");
    let socket = fake.socket();
    let words = ["--socket", socket.to_str().unwrap(), "join", "-"];
    run(Path::new(env!("CARGO_BIN_EXE_weavectl")), &words, "weave1.abc\n").success();
    run(Path::new(env!("CARGO_BIN_EXE_weavectl")), &words, "weavectl join weave1.abc\n").success();
    let file = std::env::temp_dir().join(format!("weavectl-token-{}", std::process::id()));
    std::fs::write(&file, "weave1.abc\n").expect("the folder is ours");
    on(&fake, &["join", "--token-file", file.to_str().unwrap()]).success();
    std::fs::remove_file(&file).expect("it was just written");
    let joins = fake.asked().into_iter().filter(|asked| asked.call == "POST /v1/join");
    assert!(joins.map(|asked| asked.body).all(|body| body == r#"{"token":"weave1.abc"}"#));
    assert_eq!(fake.asked().last().map(|asked| asked.call.as_str()), Some("GET /v1/connections"));
}

#[test]
fn join_without_a_connection_says_why_and_stays_joined() {
    let answers = [
        ("GET /v1/version", 200, VERSION),
        ("POST /v1/join", 200, INFO),
        ("GET /v1/connections", 200, UNREACHED),
    ];
    let fake = daemon(Box::leak(Box::new(answers)));
    let text = on(&fake, &["join", "weave1.abc"]).failure(10).to_owned();
    expect![[r#"
        joined fabric ffffffffff as host-a with 10.32.0.0/12 and fd12:3456:789a::/48
        error: joined, but no peer was reached within 5 s
        caused by: 10.77.0.9:6783: no answer, retry in 2s
        hint: weaved goes on trying: see `weavectl status connections`; is UDP port 6783 open, and is a member running? `weavectl connect ADDR` dials another one
    "#]].assert_eq(&text);
}

#[test]
fn join_refuses_what_is_no_token_before_it_starts_anything() {
    for token in ["", "weave2.abc", "https://example.com/"] {
        let text = weavectl(&["--socket", "/nonexistent/weaved.sock", "join", token]).failure(2).to_owned();
        assert!(text.contains("`weavectl token`"), "{text}");
    }
    weavectl(&["join"]).failure(2);
    weavectl(&["join", "weave1.abc", "--token-file", "/dev/null"]).failure(2);
    assert!(weavectl(&["join", "--token-file", "/dev/null"]).failure(2).contains("not a token"));
}

#[test]
fn status_ends_in_a_verdict_that_can_be_the_exit_code() {
    let fake = daemon(&[("GET /v1/status", 200, STATUS), ("GET /v1/connections", 200, NOBODY)]);
    let text = on(&fake, &["status"]).success().to_owned();
    assert!(text.contains("\nNOT OK: this router belongs to no fabric\n"), "{text}");
    let output = on(&fake, &["status", "--exit-code"]);
    assert_eq!((output.code, output.stdout), (11, text));
    let json: Value = serde_json::from_str(on(&fake, &["status", "--json"]).success()).unwrap();
    assert_eq!(json["bridge"], "weave0");
    assert_eq!(on(&fake, &["status", "connections"]).success(), "no connections\n");
}

#[test]
fn attach_refuses_the_host_and_what_is_no_namespace() {
    let fake = daemon(&[("POST /v1/attach", 200, ATTACHMENT)]);
    let text = on(&fake, &["attach", "--netns", "/proc/self/ns/net"]).failure(2).to_owned();
    assert!(text.contains("`weavectl expose`"), "{text}");
    assert!(
        on(&fake, &["attach", "--netns", "/etc/passwd"]).failure(2).contains("is not a network namespace")
    );
    assert!(on(&fake, &["attach", "--netns", "/nonexistent"]).failure(7).contains("does not exist"));
    assert!(on(&fake, &["attach", "--pid", "4194305"]).failure(7).contains("no process has the id 4194305"));
    on(&fake, &["attach"]).failure(2);
    on(&fake, &["attach", "--pid", "1", "--netns", "/n"]).failure(2);
    on(&fake, &["attach", "--pid", "1", "--ip", "fd00::1"]).failure(2);
    assert!(fake.asked().is_empty());
}

#[test]
fn detach_by_id_is_idempotent() {
    let fake = Fake::start(|asked| match asked.body.as_str() {
        r#"{"container":"blue","ifname":"ethwe"}"# => {
            Reply::Json(200, r#"{"released":["10.32.0.2"]}"#.into())
        }
        _ => Reply::Json(200, r#"{"released":[]}"#.into()),
    });
    let output = on(&fake, &["detach", "--id", "blue", "--ifname", "ethwe"]);
    assert_eq!(output.success(), "released 10.32.0.2\n");
    assert_eq!(on(&fake, &["detach", "--id", "blue"]).success(), "nothing was attached\n");
}

#[test]
fn reset_asks_for_force_when_the_addresses_would_be_lost() {
    let peer = |state: &str| {
        format!(
            r#"{{"id":"i","nickname":"n","state":"{state}","addresses":[],"version":"","links":[],"endpoints":0}}"#
        )
    };
    let cases = [("dead", false), ("suspect", false), ("alive", true), ("left", true), ("removed", true)];
    for (state, passes) in cases {
        let peers = format!("[{},{}]", peer("self"), peer(state));
        let fake = Fake::start(move |asked| match asked.call.as_str() {
            "GET /v1/peers" => Reply::Json(200, peers.clone()),
            "POST /v1/reset" => Reply::Json(200, r#"{"heir":"host-b","detached":1}"#.into()),
            _ => Reply::Json(404, refusal("not-found", "no such path")),
        });
        let output = on(&fake, &["reset"]);
        if passes {
            assert_eq!(output.success(), "left the fabric: 1 container detached, host-b has the addresses\n");
        } else {
            assert!(output.failure(9).contains("`weavectl reset --force` leaves them behind"), "{output:?}");
            on(&fake, &["reset", "--force"]).success();
            assert_eq!(
                fake.asked().last().map(|asked| asked.body.clone()).as_deref(),
                Some(r#"{"force":true}"#)
            );
        }
    }
}

#[test]
fn ping_names_the_path() {
    let answer = r#"{"peer":"bbbbbbbbbbcc","nickname":"host-b","path":"direct","via":"10.77.0.2:6783",
        "cipher":"AES-256-GCM","rtt_us":412}"#;
    let fake = Fake::start(move |_| Reply::Json(200, answer.into()));
    expect![[r#"
        PING host-b: host-b(bbbbbbbbbb), direct via 10.77.0.2:6783, AES-256-GCM
        seq=1 time=0.412 ms
        seq=2 time=0.412 ms
        2 pings, 2 answers; round trip least 0.412 ms, mean 0.412 ms, most 0.412 ms
    "#]]
    .assert_eq(on(&fake, &["ping", "host-b", "-c", "2"]).success());
    let json: Value =
        serde_json::from_str(on(&fake, &["ping", "host-b", "-c", "1", "--json"]).success()).unwrap();
    assert_eq!((json["sent"].as_u64(), json["answers"][0]["rtt_us"].as_u64()), (Some(1), Some(412)));
}

#[test]
fn ping_without_answer_has_its_exit_code() {
    let fake = Fake::start(|_| Reply::Json(504, refusal("timeout", "no answer from host-b within 1 s")));
    let output = on(&fake, &["ping", "host-b", "-c", "1"]);
    assert_eq!(
        (output.code, output.stdout.as_str()),
        (13, "seq=1 no answer from host-b within 1 s\n1 ping, 0 answers\n")
    );
    expect![[r#"
        error: no answer from `host-b`
        caused by: no answer from host-b within 1 s
        hint: `weavectl status peers` and `weavectl status connections` say what is known of it
    "#]]
    .assert_eq(&output.stderr);
    let fake = Fake::start(|_| Reply::Json(404, refusal("not-found", "no peer is called host-x")));
    on(&fake, &["ping", "host-x"]).failure(7);
}

#[test]
fn daemon_of_another_kind_is_told_from_a_dead_one() {
    let fake = Fake::start(|_| Reply::Raw(b"SSH-2.0-OpenSSH\r\n\r\n".to_vec()));
    assert!(on(&fake, &["ps"]).failure(1).contains("hint: compare the versions with `weavectl version`"));
    let fake = Fake::start(|_| Reply::Silence(Duration::ZERO));
    assert!(on(&fake, &["ps"]).failure(1).contains("closed the connection"));
}

#[test]
fn version_works_without_a_daemon() {
    let output = weavectl(&["--socket", "/nonexistent/weaved.sock", "version"]);
    assert!(
        output.success().ends_with("weaved   unknown: there is no socket at `/nonexistent/weaved.sock`\n")
    );
    let json = weavectl(&["--socket", "/nonexistent/weaved.sock", "version", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(json.success()).unwrap()["weaved"], Value::Null);
}

const AUDIT: &str = r#"{"range":"10.32.0.0/24","verdict":"proven","steps":1,"unowned":[],"conflicts":[],"forged":[],"blocks":[
    {"prefix":"10.32.0.0/24","owner":"aaaaaaaaaabbbb","owner_name":"host-a","epoch":1,"signer":"aaaaaaaaaabbbb",
    "signer_name":"host-a","proof":"signed","link":"founded"}]}"#;
const CONFLICT: &str = r#"{"range":"10.32.0.0/24","verdict":"conflict","steps":0,"unowned":["10.32.0.0/24"],"conflicts":[],
    "forged":[],"blocks":[]}"#;
const HISTORY: &str = r#"{"address":"10.32.0.7","steps":[]}"#;

#[test]
fn audit_ends_in_a_verdict_and_a_conflict_in_a_code() {
    let fake =
        daemon(&[("GET /v1/ipam/audit", 200, AUDIT), ("GET /v1/ipam/history/10.32.0.7", 200, HISTORY)]);
    let text = on(&fake, &["ipam", "audit"]).success().to_owned();
    assert!(text.contains("\nPROVEN: "), "{text}");
    let json: Value = serde_json::from_str(on(&fake, &["ipam", "audit", "--json"]).success()).unwrap();
    assert_eq!(json["verdict"], "proven");
    assert_eq!(on(&fake, &["ipam", "history", "10.32.0.7"]).success(), "nothing is known of 10.32.0.7\n");
    on(&fake, &["ipam", "history", "not-an-address"]).failure(2);
    let fake = daemon(&[("GET /v1/ipam/audit", 200, CONFLICT)]);
    let output = on(&fake, &["ipam", "audit"]);
    assert_eq!(output.code, 14);
    assert!(output.stdout.contains("\nCONFLICT: "), "{output:?}");
}

const DNS: &str = r#"{"summary":{"state":"serving","address":"169.254.67.83","domain":"weave.local","names":2,"cached":3,
    "questions":[{"reason":"answered","count":7}]},"ttl_s":1,"upstreams":["192.0.2.53:53"],"more":0,"entries":[
    {"name":"db.weave.local","addresses":["192.0.2.7"],"peer":"aaaaaaaaaabbbb","nickname":"host-a"},
    {"name":"web.weave.local","addresses":["10.32.0.1","fd12::a20:1"],"peer":"ccccccccccdddd","nickname":"host-b"}]}"#;
const LOOKUP: &str = r#"{"names":["web.weave.local"],"addresses":["10.32.0.1"],"entries":[
    {"name":"web.weave.local","addresses":["10.32.0.1"],"peer":"ccccccccccdddd","nickname":"host-b"}]}"#;
const ADDED: &str = r#"{"name":"db.weave.local","addresses":["192.0.2.7"],"changed":true}"#;
const REMOVED: &str = r#"{"name":"db.weave.local","addresses":[],"changed":true}"#;

#[test]
fn names_are_shown_added_and_removed() {
    let fake = daemon(&[
        ("GET /v1/dns", 200, DNS),
        ("GET /v1/dns/lookup/web", 200, LOOKUP),
        ("POST /v1/dns/add", 200, ADDED),
        ("POST /v1/dns/remove", 200, REMOVED),
    ]);
    expect![[r#"
                Service: dns
                 Status: serving at 169.254.67.83
                 Domain: weave.local
                  Names: 2
                    TTL: 1 s
               Upstream: 192.0.2.53:53; 3 answers kept
              Questions: 7 answered

        NAME             ADDRESSES              HOST
        db.weave.local   192.0.2.7              host-a(aaaaaaaaaa)
        web.weave.local  10.32.0.1 fd12::a20:1  host-b(cccccccccc)
    "#]]
    .assert_eq(on(&fake, &["status", "dns"]).success());
    expect![[r#"
        NAME             ADDRESSES  HOST
        web.weave.local  10.32.0.1  host-b(cccccccccc)
    "#]]
    .assert_eq(on(&fake, &["dns", "lookup", "web"]).success());
    assert_eq!(on(&fake, &["dns", "add", "db", "192.0.2.7"]).success(), "db.weave.local 192.0.2.7\n");
    assert_eq!(on(&fake, &["dns", "remove", "db"]).success(), "db.weave.local is removed here\n");
    for wrong in [&["dns", "add", "db"][..], &["dns", "add", "a/b", "192.0.2.7"], &["dns", "add", "db", "x"]]
    {
        on(&fake, wrong).failure(2);
    }
}
