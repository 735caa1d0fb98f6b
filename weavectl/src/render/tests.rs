//! Snapshots of what a person reads.

use control::api::{Attachment, Connections, Ipam, Peer, Status, Target};
use expect_test::expect;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::paint::Paint;
use super::{attachments, connections, ipam, peers, status, targets};

const PEER_A: &str = "aaaaaaaaaabbbbbbbbbbccccccc";
/// As without a terminal.
const ALL: usize = usize::MAX;
const PEER_B: &str = "bbbbbbbbbbccccccccccddddddd";

/// From JSON, so that a test also is one of the API's shape.
fn from<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("the shape of the API")
}

fn page(changes: &[(&str, Value)]) -> Value {
    let mut value = json!({
        "version": "0.1.0", "peer": PEER_A, "nickname": "host-a", "fabric": "ffffffffffgggggggggghhhhhh",
        "listen": "[::]:6783", "uptime_s": 7321, "bridge": "weave0", "mtu": 1390,
        "connections": { "established": 2, "connecting": 0, "failed": 0 },
        "peers": { "alive": 3, "suspect": 0, "dead": 0 },
        "ipam": { "range": "10.32.0.0/12", "range6": "fd12:3456:789a::/48", "state": "ready", "owned": 524_288,
                  "used": 3, "resting": 1, "unreachable": 0, "unknown": 0 },
        "attachments": 2, "exposed": "10.32.0.1/12",
        "traffic": { "tx_frames": 1, "tx_bytes": 1023, "rx_frames": 40, "rx_bytes": 3_500_000, "drops": [] },
        "problems": [],
    });
    for (key, change) in changes {
        value[*key] = change.clone();
    }
    value
}

fn rendered(changes: &[(&str, Value)]) -> String {
    status::status(&from::<Status>(page(changes)), Paint::Plain)
}

/// From the line of the verdict on.
fn verdict(changes: &[(&str, Value)]) -> String {
    let text = rendered(changes);
    let start = text.find("\nOK:").or_else(|| text.find("\nNOT OK:")).expect("a verdict");
    text[start..].to_owned()
}

#[test]
fn status_of_a_fabric_that_works() {
    expect![[r#"
                Version: 0.1.0

                Service: router
                   Name: aaaaaaaaaabbbbbbbbbbccccccc (host-a)
                 Fabric: ffffffffffgggggggggghhhhhh
                 Listen: udp [::]:6783
                 Bridge: weave0, containers' MTU 1390
                 Uptime: 2h 2m

                Service: connections
            Connections: 2 (2 established)
                   Sent: 1023 B in 1 frame
               Received: 3.3 MiB in 40 frames

                Service: peers
                  Peers: 3 (3 alive with this one)

                Service: ipam
                 Status: ready
                  Range: 10.32.0.0/12, fd12:3456:789a::/48
              Addresses: 524288 owned, 3 in use, 1 resting

                Service: containers
               Attached: 2
                   Host: 10.32.0.1/12

        OK: fabric ffffffffff works with 2 other peers, 2 containers attached here
    "#]]
    .assert_eq(&rendered(&[]));
}

#[test]
fn status_of_a_fabric_that_does_not() {
    let changes = [
        ("connections", json!({ "established": 1, "connecting": 1, "failed": 1 })),
        ("peers", json!({ "alive": 2, "suspect": 1, "dead": 1 })),
        (
            "ipam",
            json!({ "range": "10.32.0.0/12", "range6": "fd12:3456:789a::/48", "state": "unreachable", "owned": 0,
                  "used": 3, "resting": 0, "unreachable": 65_536, "unknown": 8 }),
        ),
        ("exposed", Value::Null),
        (
            "traffic",
            json!({ "tx_frames": 0, "tx_bytes": 0, "rx_frames": 0, "rx_bytes": 0,
                  "drops": [{ "reason": "unknown-peer", "count": 4 }, { "reason": "replayed", "count": 1 }] }),
        ),
        (
            "problems",
            json!([
                { "code": "peer-unreachable", "severity": "error", "message": "no session with host-c: no answer",
                  "hint": "weavectl status connections" },
                { "code": "clock", "severity": "warning", "message": "the clock jumped", "hint": "" },
                { "code": "space", "severity": "error", "message": "no address can be allocated",
                  "hint": "if host-c is gone for good, `weavectl rmpeer host-c`" },
            ]),
        ),
    ];
    expect![[r#"
                Version: 0.1.0

                Service: router
                   Name: aaaaaaaaaabbbbbbbbbbccccccc (host-a)
                 Fabric: ffffffffffgggggggggghhhhhh
                 Listen: udp [::]:6783
                 Bridge: weave0, containers' MTU 1390
                 Uptime: 2h 2m

                Service: connections
            Connections: 3 (1 established, 1 connecting, 1 failed)
                   Sent: 0 B in 0 frames
               Received: 0 B in 0 frames
                Dropped: 4 unknown-peer, 1 replayed

                Service: peers
                  Peers: 4 (2 alive with this one, 1 suspect, 1 dead)

                Service: ipam
                 Status: all free addresses are owned by unreachable peers
                  Range: 10.32.0.0/12, fd12:3456:789a::/48
              Addresses: 0 owned, 3 in use, 0 resting
           Out of reach: 65536 with unreachable peers, 8 without known owner

                Service: containers
               Attached: 2
                   Host: no address

        NOT OK: no session with host-c: no answer
             fix: `weavectl status connections`
          also: no address can be allocated
             fix: if host-c is gone for good, `weavectl rmpeer host-c`
        warning: the clock jumped
    "#]]
    .assert_eq(&rendered(&changes));
}

#[test]
fn verdict_without_a_fabric_says_how_to_get_one() {
    expect![[r#"

        NOT OK: this router belongs to no fabric
             fix: `weavectl up` to create one, `weavectl join TOKEN` to enter one
    "#]]
    .assert_eq(&verdict(&[("fabric", Value::Null), ("ipam", Value::Null)]));
}

#[test]
fn verdict_alone_and_with_a_warning() {
    let alone = ("peers", json!({ "alive": 1, "suspect": 0, "dead": 0 }));
    let warning = json!([{ "code": "w", "severity": "warning", "message": "no AES instructions", "hint": "weavectl report" }]);
    expect![[r#"

        OK: fabric ffffffffff works on this host alone, 2 containers attached; let others in with `weavectl token`
        warning: no AES instructions
             fix: `weavectl report`
    "#]].assert_eq(&verdict(&[alone, ("problems", warning)]));
}

#[test]
fn severity_of_a_later_version_is_taken_for_the_worse() {
    let problems = json!([{ "code": "x", "severity": "catastrophe", "message": "all is lost" }]);
    assert!(verdict(&[("problems", problems)]).starts_with("\nNOT OK: all is lost\n"));
}

#[test]
fn colour_repeats_what_the_words_say() {
    let status = from::<Status>(page(&[]));
    let coloured = status::status(&status, Paint::Colour);
    assert!(coloured.contains("\x1b[32mOK:\x1b[0m"));
    let stripped = coloured.replace("\x1b[32m", "").replace("\x1b[1m", "").replace("\x1b[0m", "");
    assert_eq!(stripped, status::status(&status, Paint::Plain));
}

#[test]
fn nickname_cannot_draw_on_the_terminal() {
    assert!(!rendered(&[("nickname", json!("evil\x1b[2J\nOK: all is well"))]).contains("\x1b"));
    assert_eq!(rendered(&[("nickname", json!("evil\nOK: all is well"))]).matches("\nOK:").count(), 1);
}

#[test]
fn connections_with_reasons_and_refusals() {
    let value = json!({
        "connections": [
            { "direction": "->", "address": "10.77.0.2:6783", "state": "established", "peer": PEER_B, "nickname": "host-b",
              "cipher": "AES-256-GCM", "rtt_us": 412, "since_s": 61, "tx_bytes": 5_000_000_000u64, "rx_bytes": 12,
              "uses": ["gossip", "traffic"] },
            { "direction": "->", "address": "10.77.0.9:6783", "state": "failed", "reason": "no answer", "since_s": 9,
              "retry_s": 3, "tx_bytes": 0, "rx_bytes": 0, "uses": ["target"] },
            { "direction": "<-", "state": "handshaking", "peer": PEER_A, "since_s": 90_061, "tx_bytes": 0, "rx_bytes": 0,
              "uses": [] },
        ],
        "refused": [{ "address": "10.77.0.66:6783", "reason": "fabric xyz is not ours (abc)", "count": 7, "last_s": 2 }],
        "drops": [{ "reason": "unknown-kind", "count": 3 }],
    });
    expect![[r#"
            ADDRESS         STATE        PEER                CIPHER       RTT       FOR             SENT     RECEIVED  DETAIL
        ->  10.77.0.9:6783  failed       -                   -            -         target          0 B      0 B       no answer, since 9s, retry in 3s
        <-  -               handshaking  aaaaaaaaaa          -            -         -               0 B      0 B       since 1d 1h
        ->  10.77.0.2:6783  established  host-b(bbbbbbbbbb)  AES-256-GCM  0.412 ms  gossip,traffic  4.7 GiB  12 B      since 1m 1s

        REFUSED          TIMES  LAST    REASON
        10.77.0.66:6783  7      2s ago  fabric xyz is not ours (abc)

        DATAGRAMS DROPPED  TIMES
        unknown-kind       3
    "#]].assert_eq(&connections::connections(&from::<Connections>(value), ALL, Paint::Plain));
    let nothing = json!({ "connections": [], "refused": [], "drops": [] });
    assert_eq!(
        connections::connections(&from::<Connections>(nothing), ALL, Paint::Plain),
        "no connections\n"
    );
}

#[test]
fn peers_name_whom_they_gossip_with() {
    let value = json!([
        { "id": PEER_A, "nickname": "host-a", "state": "self", "addresses": ["10.77.0.1:6783"], "version": "0.1.0",
          "links": [PEER_B, "zzzzzzzzzzyyyyyyyyyy"], "endpoints": 2 },
        { "id": PEER_B, "nickname": "host-b", "state": "suspect", "addresses": [], "version": "0.1.0", "links": [],
          "endpoints": 0, "unreachable": "no answer from 10.77.0.2:6783" },
    ]);
    expect![[r#"
        NAME                STATE    ADDRESSES       CONTAINERS  VERSION  GOSSIPS WITH        DETAIL
        host-a(aaaaaaaaaa)  self     10.77.0.1:6783  2           0.1.0    host-b, zzzzzzzzzz
        host-b(bbbbbbbbbb)  suspect  -               0           0.1.0    -                   unreachable: no answer from 10.77.0.2:6783
    "#]].assert_eq(&peers::peers(&from::<Vec<Peer>>(value), ALL, Paint::Plain));
}

#[test]
fn of_many_peers_those_in_trouble_are_shown_first() {
    let peer = |n: u32, state: &str| {
        json!({ "id": format!("{n:026}"), "nickname": format!("host-{n:04}"), "state": state, "addresses": [], "version": "0.1.0",
                "links": [], "endpoints": 0 })
    };
    let mut all: Vec<Value> = (0..1000).map(|n| peer(n, "alive")).collect();
    (all[998], all[999]) = (peer(998, "self"), peer(999, "dead"));
    expect![[r#"
        NAME                   STATE  ADDRESSES  CONTAINERS  VERSION  GOSSIPS WITH  DETAIL
        host-0998(0000000000)  self   -          0           0.1.0    -
        host-0999(0000000000)  dead   -          0           0.1.0    -
        host-0000(0000000000)  alive  -          0           0.1.0    -
        and 997 more: pipe this to `cat` or `grep` to see them
    "#]]
    .assert_eq(&peers::peers(&from::<Vec<Peer>>(Value::Array(all)), 3, Paint::Plain));
}

#[test]
fn ipam_by_owner_and_by_use() {
    let block = |prefix: &str| json!({ "prefix": prefix, "epoch": 1 });
    let value = json!({
        "summary": { "range": "10.32.0.0/12", "range6": "fd12:3456:789a::/48", "state": "ready", "owned": 786_432,
                     "used": 2, "resting": 1, "unreachable": 262_144, "unknown": 0 },
        "owners": [
            { "peer": PEER_A, "nickname": "host-a", "state": "self", "addresses": 786_432,
              "blocks": [block("10.32.0.0/13"), block("10.40.0.0/14")] },
            { "peer": PEER_B, "nickname": "host-b", "state": "unreachable", "addresses": 262_144,
              "blocks": [block("10.44.0.0/17"), block("10.45.0.0/17"), block("10.46.0.0/17"), block("10.47.0.0/18"),
                         block("10.47.64.0/18")] },
        ],
        "leases": [{ "address": "10.32.0.1", "owner": "weave:expose" }, { "address": "10.32.0.2", "owner": "container:c1/eth0" }],
        "quarantined": [{ "reason": "two records of one epoch", "count": 1 }],
    });
    expect![[r#"
        10.32.0.0/12 and fd12:3456:789a::/48: 1048576 addresses

        [###########################################################AA..AAA..AAA..AAA..]
        10.32.0.0                                                          10.47.255.255

        BAR  OWNER               ADDRESSES  SHARE  BLOCKS                                                          DETAIL
        #    host-a(aaaaaaaaaa)  786432     75.0%  10.32.0.0/13, 10.40.0.0/14                                      this router: 2 in use, 1 resting
        A    host-b(bbbbbbbbbb)  262144     25.0%  10.44.0.0/17, 10.45.0.0/17, 10.46.0.0/17, 10.47.0.0/18, 1 more  unreachable!

        IN USE HERE  BY
        10.32.0.1    weave:expose
        10.32.0.2    container:c1/eth0

        RECORDS QUARANTINED       TIMES
        two records of one epoch  1
    "#]].assert_eq(&ipam::ipam(&from::<Ipam>(value), 80, ALL, Paint::Plain));
}

#[test]
fn whole_address_space_has_a_size() {
    let value = json!({
        "summary": { "range": "0.0.0.0/0", "range6": "fd00::/48", "state": "waiting", "owned": 0, "used": 0, "resting": 0,
                     "unreachable": 0, "unknown": 0 },
        "owners": [], "leases": [], "quarantined": [],
    });
    assert!(ipam::ipam(&from::<Ipam>(value), 80, ALL, Paint::Plain).contains("4294967296 addresses"));
}

#[test]
fn targets_with_reasons() {
    let value = json!([
        { "address": "host-b", "resolved": ["10.77.0.2:6783"], "state": "connected" },
        { "address": "host-x.example:7000", "resolved": [], "state": "failed", "reason": "no such host" },
    ]);
    expect![[r#"
        TARGET               RESOLVED        STATE      DETAIL
        host-b               10.77.0.2:6783  connected
        host-x.example:7000  -               failed     no such host
    "#]]
    .assert_eq(&targets::targets(&from::<Vec<Target>>(value), Paint::Plain));
}

#[test]
fn containers_with_long_and_short_ids() {
    let attachment = |container: &str, name: Value| {
        json!({ "container": container, "ifname": "eth0", "host_ifname": "vw0123456789a", "mac": "0a:77:0a:20:00:02",
                "host_mac": "02:00:00:00:00:01", "bridge": "weave0", "bridge_mac": "02:00:00:00:00:02", "address": "10.32.0.2/12",
                "address6": "fd12::a20:2/64", "routes": [], "mtu": 1390, "netns": "/n", "name": name })
    };
    let value = json!([
        attachment(&"0123456789abcdef".repeat(4), json!("default/web")),
        attachment("netns-4026532567", Value::Null)
    ]);
    let list = from::<Vec<Attachment>>(value);
    expect![[r#"
        CONTAINER         NAME         INTERFACE  ADDRESS       IPV6 ADDRESS    MAC                HOST INTERFACE
        0123456789ab      default/web  eth0       10.32.0.2/12  fd12::a20:2/64  0a:77:0a:20:00:02  vw0123456789a
        netns-4026532567  -            eth0       10.32.0.2/12  fd12::a20:2/64  0a:77:0a:20:00:02  vw0123456789a
    "#]].assert_eq(&attachments::ps(&list, Paint::Plain));
    expect![[r#"
        10.32.0.2/12 fd12::a20:2/64 on eth0 of netns-4026532567
    "#]]
    .assert_eq(&attachments::attached(&list[1], Paint::Plain));
}
