//! Kernel state for real: each test makes network namespaces of its own, and removes them whatever happens. Needs root.
//!
//! Run with `cargo test -p router --features root-tests --test kernel`. Other programs (`ip`, `nft`, `ping`) look from outside at what
//! the code did; the code itself starts none.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Read,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use router::datapath::{Queues, TapDevice};
use router::shell::kernel::{
    AttachSpec, BridgeSpec, Detached, Exposure, FirewallSpec, Kernel, KernelError, KernelEvent, MAX_ROUTES,
    NameserverSpec, Netns, Outcome, PeerEnd, Side,
};

/// Name of the bridge in every test.
const BRIDGE: &str = "weave0";
/// MTU in every test.
const MTU: u32 = 1410;
/// What precedes each frame on a TAP device of ours (`struct virtio_net_hdr`).
const VIRTIO_HEADER: usize = 10;
/// No test may take longer.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Seconds that a program started by a test may take.
const COMMAND_TIMEOUT: &str = "10";

#[test]
fn bridge_is_adopted_without_a_change() {
    lab(async |lab| {
        let kernel = lab.kernel();
        let first = kernel.ensure_bridge(bridge_spec()).await.expect("bridge");
        assert_eq!(first.outcome, Outcome::Created);
        assert_eq!(first.warnings, []);
        let before = lab.bridge();
        assert!(before.contains("mtu 1410"), "{before}");
        assert!(before.contains("stp_state 0") && before.contains("mcast_snooping 0"), "{before}");
        assert!(before.contains("0a:77:00:00:00:01"), "{before}");
        assert_eq!(lab.host("cat", &["/proc/sys/net/ipv6/conf/weave0/accept_ra"]).trim(), "0");

        let again = lab.kernel().ensure_bridge(bridge_spec()).await.expect("bridge");
        assert_eq!((again.outcome, again.ifindex), (Outcome::AsWanted, first.ifindex));
        assert_eq!(lab.bridge(), before);

        lab.host("ip", &["link", "set", BRIDGE, "mtu", "1300", "type", "bridge", "mcast_snooping", "1"]);
        assert_eq!(kernel.ensure_bridge(bridge_spec()).await.expect("bridge").outcome, Outcome::Adjusted);
        assert_eq!(lab.bridge(), before);
    });
}

#[test]
fn foreign_device_of_our_name_is_left_alone() {
    lab(async |lab| {
        lab.host("ip", &["link", "add", BRIDGE, "type", "veth", "peer", "other"]);
        let error = lab.kernel().ensure_bridge(bridge_spec()).await.expect_err("not a bridge");
        assert!(matches!(error, KernelError::WrongKind { .. }), "{error}");
        assert_eq!(lab.kernel().reset().await.len(), 1);
        lab.host("ip", &["link", "show", BRIDGE]);
    });
}

#[test]
fn attached_containers_reach_each_other() {
    lab(async |lab| {
        let kernel = lab.bridged().await;
        let (a, b) = (lab.container(), lab.container());
        let (spec_a, spec_b) = (spec(1, &a), spec(2, &b));
        let attached = kernel.attach(spec_a.clone()).await.expect("attach");
        assert_eq!(attached.warnings, []);
        kernel.attach(spec_b.clone()).await.expect("attach");
        lab.ping(&a, "10.32.0.2");
        lab.ping(&a, "fd00:1:2::a20:2");
        assert_eq!(kernel.check(spec_a.clone()).await.expect("check"), []);

        let inside = lab.inside(&a, "ip", &["-d", "addr", "show", "eth0"]);
        for expected in [
            "0a:77:0a:20:00:01",
            "mtu 1410",
            "gso_max_size 63000",
            "gso_ipv4_max_size 63000",
            "fd00:1:2::a20:1/64",
        ] {
            // Older `ip` does not print the IPv4 limit.
            if expected.starts_with("gso_ipv4") && !inside.contains("gso_ipv4") {
                continue;
            }
            assert!(inside.contains(expected), "want {expected} in {inside}");
        }
        assert!(!inside.contains("tentative"), "{inside}");
        let routes = lab.inside(&a, "ip", &["route"]);
        assert!(routes.contains("default via 10.32.0.254 dev eth0"), "{routes}");
        let port = lab.host("bridge", &["-d", "link", "show", "dev", "vw00000000001"]);
        assert!(port.contains("learning on flood off") && port.contains("mcast_flood on"), "{port}");
        assert!(port.contains("hairpin off") && port.contains("bcast_flood on"), "{port}");

        assert_eq!(
            lab.host("ip", &["-6", "addr", "show", "dev", "vw00000000001"]),
            "",
            "a port must not speak for itself"
        );

        let ports = lab.kernel().list_ports().await.expect("ports");
        let names: Vec<_> = ports.iter().map(|port| (port.ifname.as_str(), port.peer)).collect();
        assert_eq!(names, [("vw00000000001", PeerEnd::Up), ("vw00000000002", PeerEnd::Up)]);
        assert_eq!((ports[0].mac, ports[0].ifindex), (attached.host_mac, attached.host_ifindex));
    });
}

#[test]
fn bridge_knows_a_container_before_it_has_said_a_word() {
    lab(async |lab| {
        let kernel = lab.bridged().await;
        kernel.attach(spec(1, &lab.container())).await.expect("attach");
        let known = |lab: &Lab| {
            let table = lab.host("bridge", &["fdb", "show", "dev", &port(1)]);
            let resident = table.lines().find(|line| line.starts_with("0a:77:0a:20:00:01"));
            let told = resident.is_some_and(|line| line.contains("static") && line.contains("sticky"));
            assert!(told, "{table}");
        };
        known(lab);
        lab.host("ip", &["link", "set", &port(1), "nomaster"]);
        kernel.ensure_ports(vec![port(1)]).await.expect("ports");
        known(lab);
    });
}

#[test]
fn second_attachment_under_a_name_is_refused_and_harmless() {
    lab(async |lab| {
        let kernel = lab.bridged().await;
        let (a, b) = (lab.container(), lab.container());
        kernel.attach(spec(1, &a)).await.expect("attach");
        let error = kernel.attach(spec(1, &a)).await.expect_err("host name taken");
        assert!(matches!(&error, KernelError::NameTaken { side: Side::Host, .. }), "{error}");
        let error = kernel.attach(spec(2, &a)).await.expect_err("container name taken");
        assert!(matches!(&error, KernelError::NameTaken { side: Side::Container, .. }), "{error}");
        kernel.attach(spec(3, &b)).await.expect("attach");
        lab.ping(&a, "10.32.0.3");
        assert_eq!(kernel.list_ports().await.expect("ports").len(), 2);
    });
}

#[test]
fn wrong_namespaces_are_told_apart() {
    lab(async |lab| {
        let kernel = lab.bridged().await;
        let refused = async |path: PathBuf| {
            let mut spec = spec(1, &path);
            spec.netns = Netns::Path(path);
            kernel.attach(spec).await.expect_err("wrong namespace")
        };
        assert!(matches!(refused("/run/netns/wvk-none".into()).await, KernelError::NetnsMissing { .. }));
        assert!(matches!(refused("/etc/passwd".into()).await, KernelError::NotANetns { .. }));
        assert!(matches!(refused("/proc/self/ns/mnt".into()).await, KernelError::NotANetns { .. }));
        assert!(matches!(refused(lab.host_path()).await, KernelError::HostNetns { .. }));
        assert!(kernel.list_ports().await.expect("ports").is_empty());
    });
}

#[test]
fn namespace_that_ends_takes_its_port_along() {
    lab(async |lab| {
        let kernel = lab.bridged().await;
        let a = lab.container();
        let mut by_fd = spec(1, &a);
        by_fd.netns = Netns::Fd(Arc::new(File::open(&a).expect("open").into()), a.clone());
        kernel.attach(by_fd).await.expect("attach");
        lab.remove(&a);
        let deadline = Instant::now() + Duration::from_secs(10);
        while !kernel.list_ports().await.expect("ports").is_empty() {
            assert!(Instant::now() < deadline, "the port outlived its namespace");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(kernel.detach("vw00000000001").await.expect("detach"), Detached::Absent);
    });
}

#[test]
fn names_at_their_limit_work_and_longer_ones_do_not() {
    lab(async |lab| {
        let kernel = lab.bridged().await;
        let a = lab.container();
        let mut long = spec(1, &a);
        long.host_ifname = "vw0123456789abc".to_owned();
        long.container_ifname = "interface-15-ch".to_owned();
        kernel.attach(long.clone()).await.expect("attach");
        assert_eq!(kernel.check(long.clone()).await.expect("check"), []);
        long.container_ifname.push('x');
        assert!(matches!(kernel.attach(long.clone()).await, Err(KernelError::BadSpec { .. })));
        assert_eq!(kernel.detach(&long.host_ifname).await.expect("detach"), Detached::Removed);
        for bad in ["", "eth0", "vw/../x", "vw 1", "vw0123456789abcd", "vw%d"] {
            assert!(matches!(kernel.detach(bad).await, Err(KernelError::BadSpec { .. })), "{bad}");
        }
    });
}

#[test]
fn failed_attachment_leaves_nothing() {
    lab(async |lab| {
        let kernel = lab.bridged().await;
        let a = lab.container();
        let mut bad = spec(1, &a);
        // The gateway cannot be reached, which only the kernel knows.
        bad.routes =
            vec![("192.0.2.0/24".parse().expect("net"), Some("198.51.100.1".parse().expect("address")))];
        let error = kernel.attach(bad).await.expect_err("unreachable gateway");
        assert_eq!(error.errno(), Some(101), "{error}");
        assert!(error.to_string().contains("192.0.2.0/24 via 198.51.100.1"), "{error}");
        assert!(kernel.list_ports().await.expect("ports").is_empty());
        assert!(!lab.inside(&a, "ip", &["link"]).contains("eth0"));
        kernel.attach(spec(1, &a)).await.expect("attach");
    });
}

#[test]
fn deleted_bridge_gets_its_ports_back() {
    lab(async |lab| {
        let kernel = lab.bridged().await;
        let (a, b) = (lab.container(), lab.container());
        kernel.attach(spec(1, &a)).await.expect("attach");
        kernel.attach(spec(2, &b)).await.expect("attach");
        let names = vec![port(1), port(2), port(3)];
        let ports = kernel.ensure_ports(names.clone()).await.expect("ports");
        assert_eq!((ports.restored, ports.missing), (vec![], vec![port(3)]));
        lab.host("ip", &["link", "del", BRIDGE]);
        lab.host("ip", &["link", "set", &port(2), "down"]);
        assert_eq!(kernel.ensure_bridge(bridge_spec()).await.expect("bridge").outcome, Outcome::Created);
        let ports = kernel.ensure_ports(names).await.expect("ports");
        assert_eq!((ports.restored, ports.missing), (vec![port(1), port(2)], vec![port(3)]));
        lab.ping(&a, "10.32.0.2");
        assert_eq!(kernel.check(spec(2, &b)).await.expect("check"), []);
        // Also ports without a bridge are ours to remove.
        lab.host("ip", &["link", "del", BRIDGE]);
        assert!(kernel.reset().await.is_empty());
        assert!(!lab.host("ip", &["-o", "link"]).contains("vw"));
    });
}

#[test]
fn as_many_routes_as_allowed_fit() {
    lab(async |lab| {
        let kernel = lab.bridged().await;
        let a = lab.container();
        let mut spec = spec(1, &a);
        let gateway = Some("10.32.0.254".parse().expect("address"));
        spec.routes =
            (0..MAX_ROUTES).map(|n| (format!("172.16.{n}.0/24").parse().expect("net"), gateway)).collect();
        kernel.attach(spec.clone()).await.expect("attach");
        assert_eq!(kernel.check(spec).await.expect("check"), []);
    });
}

#[test]
fn check_names_every_difference() {
    lab(async |lab| {
        let kernel = lab.bridged().await;
        let a = lab.container();
        kernel.attach(spec(1, &a)).await.expect("attach");
        lab.inside(&a, "ip", &["addr", "del", "10.32.0.1/12", "dev", "eth0"]);
        lab.inside(&a, "ip", &["link", "set", "eth0", "address", "0a:77:00:00:00:99"]);
        lab.host("ip", &["link", "set", "vw00000000001", "nomaster"]);
        let found: Vec<_> =
            kernel.check(spec(1, &a)).await.expect("check").into_iter().map(|m| m.what).collect();
        for part in
            ["mac of eth0", "address 10.32.0.1/12", "route 0.0.0.0/0", "bridge (as ifindex) of vw00000000001"]
        {
            assert!(found.iter().any(|what| what.contains(part)), "want {part} in {found:?}");
        }
        kernel.detach("vw00000000001").await.expect("detach");
        assert_eq!(kernel.check(spec(1, &a)).await.expect("check").len(), 2);
    });
}

#[test]
fn container_with_ipv6_off_gets_it_back_on_our_interface() {
    lab(async |lab| {
        let kernel = lab.bridged().await;
        let (a, b) = (lab.container(), lab.container());
        for key in ["all", "default"] {
            lab.inside(&a, "sh", &["-c", &format!("echo 1 > /proc/sys/net/ipv6/conf/{key}/disable_ipv6")]);
        }
        assert_eq!(kernel.attach(spec(1, &a)).await.expect("attach").warnings, []);
        kernel.attach(spec(2, &b)).await.expect("attach");
        lab.ping(&a, "fd00:1:2::a20:2");
    });
}

#[test]
fn fifty_attachments_come_and_go_without_a_trace() {
    lab(async |lab| {
        let kernel = lab.bridged().await;
        let a = lab.container();
        let before = (lab.traces(&lab.host_path()), lab.traces(&a));
        let mut times = Vec::new();
        for number in 1..=50 {
            let started = Instant::now();
            kernel.attach(spec(number, &a)).await.expect("attach");
            times.push(started.elapsed());
            assert_eq!(kernel.detach(&port(number)).await.expect("detach"), Detached::Removed);
        }
        assert_eq!(kernel.detach(&port(1)).await.expect("detach"), Detached::Absent);
        assert_eq!((lab.traces(&lab.host_path()), lab.traces(&a)), before);
        times.sort();
        eprintln!("attach of 50: p50 {:?}, p99 {:?}", times[24], times[49]);
    });
}

#[test]
fn attachments_run_in_parallel() {
    lab(async |lab| {
        let kernel = lab.bridged().await;
        let namespaces: Vec<_> = (0..100).map(|_| lab.container()).collect();
        let mut times = Vec::new();
        for (number, netns) in (51..).zip(&namespaces[50..]) {
            let started = Instant::now();
            kernel.attach(spec(number, netns)).await.expect("attach");
            times.push(started.elapsed());
        }
        times.sort();
        eprintln!("50 attachments in a row: p50 {:?}, p99 {:?}", times[24], times[49]);
        let started = Instant::now();
        let jobs: Vec<_> = (1u8..)
            .zip(&namespaces[..50])
            .map(|(number, netns)| {
                let (kernel, spec) = (kernel.clone(), spec(number, netns));
                tokio::spawn(async move { kernel.attach(spec).await })
            })
            .collect();
        for job in jobs {
            job.await.expect("task").expect("attach");
        }
        eprintln!("50 attachments in parallel: {:?}", started.elapsed());
        lab.ping(&namespaces[0], "10.32.0.50");
        assert_eq!(kernel.list_ports().await.expect("ports").len(), 100);
        assert!(kernel.reset().await.is_empty());
        assert!(!lab.host("ip", &["-o", "link"]).contains("vw"));
    });
}

#[test]
fn attachment_that_nobody_waits_for_is_undone() {
    lab(async |lab| {
        let kernel = lab.bridged().await;
        let a = lab.container();
        let spec = spec(1, &a);
        {
            let attach = kernel.attach(spec);
            tokio::pin!(attach);
            // One poll starts the thread; then the caller goes away.
            let started = futures_util::poll!(attach.as_mut());
            assert!(started.is_pending());
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut quiet = 0;
        while quiet < 20 {
            assert!(Instant::now() < deadline, "the abandoned attachment stays");
            tokio::time::sleep(Duration::from_millis(10)).await;
            quiet = if kernel.list_ports().await.expect("ports").is_empty() { quiet + 1 } else { 0 };
        }
    });
}

#[test]
fn tap_becomes_a_port_once() {
    lab(async |lab| {
        let kernel = lab.bridged().await;
        lab.host("ip", &["tuntap", "add", "weavetap", "mode", "tap"]);
        assert_eq!(kernel.ensure_tap_port("weavetap", MTU, 1000).await.expect("tap"), Outcome::Adjusted);
        assert_eq!(kernel.ensure_tap_port("weavetap", MTU, 1000).await.expect("tap"), Outcome::AsWanted);
        assert_eq!(kernel.ensure_tap_port("weavetap", MTU, 5000).await.expect("tap"), Outcome::Adjusted);
        let port = lab.host("bridge", &["-d", "link", "show", "dev", "weavetap"]);
        assert!(port.contains("flood on") && port.contains("hairpin off"), "{port}");
        assert!(kernel.list_ports().await.expect("ports").is_empty());
        let error = kernel.ensure_tap_port("nothing", MTU, 1000).await.expect_err("missing");
        assert!(matches!(error, KernelError::DeviceMissing { .. }), "{error}");
    });
}

#[test]
fn tap_keeps_a_flow_in_one_queue_and_flows_apart() {
    lab(async |lab| {
        let queues = Queues::Several { count: 8, seed: 1 };
        let tap = TapDevice::open("steered", queues).expect("several queues and a program that steers");
        let queues = tap.into_queues();
        assert_eq!(queues.len(), 8, "the kernel took the program");
        lab.host("ip", &["link", "set", "steered", "up"]);
        for address in ["10.99.0.1/24", "fd99::1/64"] {
            lab.host("ip", &["addr", "add", address, "dev", "steered", "nodad"]);
        }
        for there in ["10.99.0.2", "fd99::2"] {
            let neighbour = ["neigh", "add", there, "lladdr", "02:00:00:00:00:02", "dev", "steered"];
            lab.host("ip", &neighbour);
        }
        for there in ["10.99.0.2", "fd99::2"] {
            let udp = std::net::UdpSocket::bind(if there.contains(':') { "[::]:0" } else { "0.0.0.0:0" });
            let udp = udp.expect("socket");
            for port in 2000..2020 {
                // Whole datagrams and fragments of one flow must not overtake each other, so ports do not count.
                for length in [10, 5000] {
                    udp.send_to(&vec![0; length], (there, port)).expect("sent");
                }
            }
            for port in 3000..3020_u16 {
                let to = std::net::SocketAddr::new(there.parse().expect("address"), port);
                // Nobody answers; what was sent is all that matters.
                let _ = std::net::TcpStream::connect_timeout(&to, Duration::from_millis(20));
            }
        }
        let frames = waiting_frames(queues);
        for (ethertype, protocol_at) in [([0x08, 0x00], 14 + 9), ([0x86, 0xdd], 14 + 6)] {
            let (mut of_udp, mut of_tcp) = (BTreeSet::new(), BTreeMap::new());
            for (queue, frame) in frames.iter().filter(|(_, frame)| frame[12..14] == ethertype) {
                match frame[protocol_at] {
                    // UDP, and what the IPv6 fragment header is for here.
                    17 | 44 => drop(of_udp.insert(*queue)),
                    6 => {
                        let ports = if ethertype == [0x08, 0x00] { 34 } else { 54 };
                        let port = u16::from_be_bytes([frame[ports + 2], frame[ports + 3]]);
                        assert_eq!(*of_tcp.entry(port).or_insert(*queue), *queue, "port {port}");
                    }
                    _ => {}
                }
            }
            assert_eq!(of_udp.len(), 1, "one pair of hosts, one queue: {of_udp:?}");
            let used: BTreeSet<usize> = of_tcp.values().copied().collect();
            assert!(of_tcp.len() == 20 && used.len() >= 4, "20 connections in queues {used:?}");
        }
    });
}

/// All frames that wait in the queues of a TAP device, with the queue's number.
fn waiting_frames(queues: Vec<File>) -> Vec<(usize, Vec<u8>)> {
    let (mut frames, mut buffer) = (Vec::new(), vec![0; 70_000]);
    for (number, mut queue) in queues.into_iter().enumerate() {
        while let Ok(length) = queue.read(&mut buffer) {
            frames.push((number, buffer[VIRTIO_HEADER..length].to_vec()));
        }
    }
    frames
}

#[test]
fn exposed_host_masquerades_and_hidden_host_is_not_reached() {
    lab(async |lab| {
        let kernel = lab.bridged().await;
        let (a, outside) = (lab.container(), lab.outside());
        kernel.attach(spec(1, &a)).await.expect("attach");
        expose(&kernel).await;
        lab.ping(&a, "10.32.0.254");
        lab.ping(&a, "192.0.2.2");
        lab.ping(&a, "fd00:9::2");
        // Outside knows no route to the range, so the answers above prove the masquerade; and with a route, it still may not in.
        lab.inside(&outside, "ip", &["route", "add", "10.32.0.0/12", "via", "192.0.2.1"]);
        lab.no_ping(&outside, "10.32.0.1");
        assert_eq!(expose(&kernel).await, (Outcome::AsWanted, Outcome::AsWanted, Outcome::AsWanted));

        let ruleset = lab.host("nft", &["list", "table", "inet", "weave"]);
        for rule in [
            r#"iifname "weave0" oifname "weave0" accept"#,
            r#"ip saddr 10.32.0.0/12 ip daddr != 10.32.0.0/12 oifname != "weave0" masquerade fully-random"#,
            r#"ip6 saddr fd00:1:2::/64 ip6 daddr != fd00:1:2::/64 oifname != "weave0" masquerade fully-random"#,
            r#"oifname "weave0" ct state established,related accept"#,
            r#"oifname "weave0" ct status dnat accept"#,
        ] {
            assert!(ruleset.contains(rule), "want {rule} in {ruleset}");
        }

        kernel.set_host_address(None).await.expect("hide");
        kernel
            .ensure_firewall(FirewallSpec { bridge: BRIDGE.to_owned(), masquerade: None, nameserver: None })
            .await
            .expect("firewall");
        lab.no_ping(&a, "10.32.0.254");
        lab.no_ping(&a, "192.0.2.2");
        assert!(!lab.host("ip", &["addr", "show", BRIDGE]).contains("10.32.0.254"));
        assert_eq!(kernel.remove_firewall().await.expect("remove"), Outcome::Adjusted);
        assert_eq!(kernel.remove_firewall().await.expect("remove"), Outcome::AsWanted);
        assert!(!lab.host("nft", &["list", "ruleset"]).contains("weave"));
    });
}

#[test]
fn nameserver_is_found_and_leaves_the_host_apart() {
    lab(async |lab| {
        let kernel = lab.bridged().await;
        let a = lab.container();
        kernel.attach(spec(1, &a)).await.expect("attach");
        let address = std::net::Ipv4Addr::new(169, 254, 67, 83);
        let wanted =
            |address| Some(NameserverSpec { address, range: "10.32.0.0/12".parse().expect("range") });
        assert_eq!(kernel.ensure_nameserver(wanted(address)).await.expect("made"), Outcome::Adjusted);
        assert_eq!(kernel.ensure_nameserver(wanted(address)).await.expect("is"), Outcome::AsWanted);
        let firewall =
            || FirewallSpec { bridge: BRIDGE.to_owned(), masquerade: None, nameserver: Some(address) };
        assert_eq!(kernel.ensure_firewall(firewall()).await.expect("firewall"), Outcome::Created);
        assert_eq!(kernel.ensure_firewall(firewall()).await.expect("firewall"), Outcome::AsWanted);
        // Its answers go to the bridge, what the host says otherwise does not.
        assert!(lab.host("ip", &["route", "get", "10.32.0.1", "from", "169.254.67.83"]).contains(BRIDGE));
        assert!(!lab.host("ip", &["route", "show"]).contains("10.32.0.0/12"));
        // No address of the fabric goes because of it, and it goes for none.
        expose(&kernel).await;
        assert_eq!(kernel.ensure_nameserver(wanted(address)).await.expect("is"), Outcome::AsWanted);
        let shown = lab.host("ip", &["address", "show", BRIDGE]);
        assert!(shown.contains("10.32.0.254/12") && shown.contains("169.254.67.83/32 scope link"), "{shown}");
        // Another one takes its place, and nothing of it stays.
        let other = std::net::Ipv4Addr::new(169, 254, 67, 84);
        assert_eq!(kernel.ensure_nameserver(wanted(other)).await.expect("changed"), Outcome::Adjusted);
        assert!(!lab.host("ip", &["rule"]).contains("169.254.67.83"));
        assert_eq!(kernel.ensure_nameserver(None).await.expect("gone"), Outcome::Adjusted);
        assert_eq!(kernel.ensure_nameserver(None).await.expect("is gone"), Outcome::AsWanted);
        let shown = lab.host("ip", &["address", "show", BRIDGE]);
        assert!(shown.contains("10.32.0.254/12") && !shown.contains("169.254"), "{shown}");
        kernel.ensure_nameserver(wanted(address)).await.expect("made");
        assert_eq!(kernel.reset().await.len(), 0);
        assert!(!lab.host("ip", &["rule"]).contains("6783"));
    });
}

#[test]
fn flushed_table_is_noticed_and_restored() {
    lab(async |lab| {
        let kernel = lab.bridged().await;
        expose(&kernel).await;
        let before = lab.host("nft", &["list", "table", "inet", "weave"]);
        let mut watch = kernel.watch().expect("watch");
        for damage in [
            vec!["flush", "ruleset"],
            vec!["flush", "chain", "inet", "weave", "forward"],
            vec!["add", "rule", "inet", "weave", "forward", "drop"],
        ] {
            lab.host("nft", &damage);
            let event = tokio::time::timeout(Duration::from_secs(5), watch.next()).await.expect("an event");
            assert_eq!(event, Some(KernelEvent::Nftables));
            expose(&kernel).await;
            assert_eq!(lab.host("nft", &["list", "table", "inet", "weave"]), before);
        }
        // Our own changes made no event.
        assert!(tokio::time::timeout(Duration::from_millis(200), watch.next()).await.is_err());
        lab.host("ip", &["link", "del", BRIDGE]);
        let event = tokio::time::timeout(Duration::from_secs(5), async {
            loop {
                if let Some(KernelEvent::LinkGone { ifname }) = watch.next().await {
                    break ifname;
                }
            }
        });
        assert_eq!(event.await.expect("an event"), BRIDGE);
    });
}

#[test]
fn containers_talk_although_docker_drops_forwarding() {
    lab(async |lab| {
        let kernel = lab.bridged().await;
        let (a, b, outside) = (lab.container(), lab.container(), lab.outside());
        kernel.attach(spec(1, &a)).await.expect("attach");
        kernel.attach(spec(2, &b)).await.expect("attach");
        kernel
            .ensure_firewall(FirewallSpec { bridge: BRIDGE.to_owned(), masquerade: None, nameserver: None })
            .await
            .expect("firewall");
        assert_eq!(
            kernel.ensure_forward_accept(Exposure::Hidden).await.expect("no chain yet"),
            Outcome::AsWanted
        );
        lab.docker_rules();
        lab.no_ping(&a, "10.32.0.2");
        lab.no_ping(&a, "fd00:1:2::a20:2");
        assert_eq!(kernel.ensure_forward_accept(Exposure::Hidden).await.expect("accept"), Outcome::Adjusted);
        lab.ping(&a, "10.32.0.2");
        lab.ping(&a, "fd00:1:2::a20:2");
        assert_eq!(kernel.ensure_forward_accept(Exposure::Hidden).await.expect("accept"), Outcome::AsWanted);
        assert_eq!(lab.ours("ip"), 1);

        // Somebody flushes, somebody doubles, somebody puts his own above: we come back, once, and leave the order alone.
        lab.host("nft", &["flush", "chain", "ip", "filter", "FORWARD"]);
        lab.no_ping(&a, "10.32.0.2");
        kernel.ensure_forward_accept(Exposure::Hidden).await.expect("accept");
        lab.ping(&a, "10.32.0.2");
        lab.host("nft", &["insert", "rule", "ip", "filter", "FORWARD", "iifname", "docker0", "accept"]);
        assert_eq!(kernel.ensure_forward_accept(Exposure::Hidden).await.expect("accept"), Outcome::AsWanted);

        kernel.ensure_forward_accept(Exposure::Exposed).await.expect("accept");
        expose(&kernel).await;
        assert_eq!((lab.ours("ip"), lab.ours("ip6")), (3, 3));
        lab.ping(&a, "192.0.2.2");
        lab.ping(&a, "fd00:9::2");
        // Accepting there opens nothing: our own table says what may enter. A published port may.
        lab.inside(&outside, "ip", &["route", "add", "default", "via", "192.0.2.1"]);
        lab.no_ping(&outside, "10.32.0.1");
        lab.no_ping(&outside, "203.0.113.1");
        lab.host("nft", &["add", "table", "ip", "published"]);
        let chain = "{ type nat hook prerouting priority -100; }";
        lab.host("nft", &["add", "chain", "ip", "published", "prerouting", chain]);
        let publish = ["ip", "daddr", "203.0.113.1", "dnat", "to", "10.32.0.1"];
        lab.host("nft", &[&["add", "rule", "ip", "published", "prerouting"][..], &publish].concat());
        lab.ping(&outside, "203.0.113.1");

        assert!(kernel.reset().await.is_empty());
        let ruleset = lab.host("nft", &["list", "ruleset"]);
        assert!(!ruleset.contains("weave"), "{ruleset}");
        assert!(ruleset.contains("docker0"), "{ruleset}");
        assert!(kernel.reset().await.is_empty());
    });
}

#[test]
fn firewalls_out_of_reach_are_named() {
    lab(async |lab| {
        let kernel = lab.bridged().await;
        lab.docker_rules();
        assert_eq!(kernel.forward_obstacles().await.expect("obstacles"), Vec::<String>::new());
        lab.host("nft", &["add", "table", "inet", "mine"]);
        lab.host(
            "nft",
            &["add", "chain", "inet", "mine", "fw", "{ type filter hook forward priority 5; policy drop; }"],
        );
        lab.host(
            "nft",
            &["add", "chain", "inet", "mine", "in", "{ type filter hook input priority 5; policy drop; }"],
        );
        let found = kernel.forward_obstacles().await.expect("obstacles");
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].contains("`nft insert rule inet mine fw iifname weave0 oifname weave0 accept`"),
            "{found:?}"
        );
    });
}

#[test]
fn underlay_is_described() {
    lab(async |lab| {
        let kernel = lab.bridged().await;
        let _outside = lab.outside();
        let any = IpAddr::from([0, 0, 0, 0]);
        lab.host("ip", &["link", "set", "eth0", "mtu", "1450"]);
        assert_eq!(kernel.underlay_mtu(any).await.expect("mtu"), 1450);
        lab.host("ip", &["route", "add", "default", "via", "192.0.2.2"]);
        lab.host("ip", &["link", "add", "docker0", "type", "bridge"]);
        lab.host("ip", &["addr", "add", "172.17.0.1/16", "dev", "docker0"]);
        lab.host("ip", &["link", "set", "docker0", "up", "mtu", "1300"]);
        expose(&kernel).await;
        assert_eq!(kernel.underlay_mtu(any).await.expect("mtu"), 1450);
        assert_eq!(kernel.underlay_mtu("192.0.2.1".parse().expect("address")).await.expect("mtu"), 1450);
        let addresses = kernel.underlay_addresses().await.expect("addresses");
        let expected: Vec<IpAddr> = vec!["192.0.2.1".parse().expect("v4"), "fd00:9::1".parse().expect("v6")];
        assert_eq!(addresses, expected);
        let overlap =
            async |range: &str| kernel.routes_overlap(range.parse().expect("range")).await.expect("routes");
        assert_eq!(overlap("10.32.0.0/12").await, Vec::<String>::new());
        assert_eq!(overlap("172.16.0.0/12").await, ["172.17.0.0/16 dev docker0"]);
        assert_eq!(overlap("192.0.2.128/25").await, ["192.0.2.0/24 dev eth0"]);
    });
}

async fn expose(kernel: &Kernel) -> (Outcome, Outcome, Outcome) {
    let host = ("10.32.0.254/12".parse().expect("v4"), "fd00:1:2::a20:fe/64".parse().expect("v6"));
    let ranges: (Ipv4Net, Ipv6Net) =
        ("10.32.0.0/12".parse().expect("v4"), "fd00:1:2::/64".parse().expect("v6"));
    let (address, warnings) = kernel.set_host_address(Some(host)).await.expect("address");
    assert_eq!(warnings, []);
    let spec = FirewallSpec { bridge: BRIDGE.to_owned(), masquerade: Some(ranges), nameserver: None };
    let firewall = kernel.ensure_firewall(spec).await.expect("firewall");
    (address, firewall, kernel.ensure_forward_accept(Exposure::Exposed).await.expect("forward"))
}

fn bridge_spec() -> BridgeSpec {
    BridgeSpec { mtu: MTU, mac: [0x0a, 0x77, 0, 0, 0, 1], gso_max_size: 63_000 }
}

fn port(number: u8) -> String {
    format!("vw{number:011}")
}

fn spec(number: u8, netns: &Path) -> AttachSpec {
    let default4: IpNet = "0.0.0.0/0".parse().expect("net");
    let default6: IpNet = "::/0".parse().expect("net");
    AttachSpec {
        host_ifname: port(number),
        container_ifname: "eth0".to_owned(),
        netns: Netns::Path(netns.to_owned()),
        mac: [0x0a, 0x77, 0x0a, 0x20, 0, number],
        v4: format!("10.32.0.{number}/12").parse().expect("v4"),
        v6: format!("fd00:1:2::a20:{number:x}/64").parse().expect("v6"),
        mtu: MTU,
        gso_max_size: 63_000,
        routes: vec![
            (default4, Some("10.32.0.254".parse().expect("v4"))),
            (default6, Some("fd00:1:2::a20:fe".parse().expect("v6"))),
            ("198.51.100.0/24".parse().expect("net"), None),
        ],
    }
}

/// The namespaces of one test: a host, in which the test itself runs, and others. Dropping it removes them.
struct Lab {
    prefix: String,
    made: std::cell::RefCell<Vec<String>>,
}

/// Runs a test inside a host namespace of its own, on a thread that stays there, and no longer than it may.
fn lab<F>(body: F)
where
    F: AsyncFnOnce(&Lab) + Send + 'static,
{
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let prefix = format!("wvk{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let _remover = Remover(prefix.clone());
    let (done, wait) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let lab = Lab { prefix, made: std::cell::RefCell::default() };
        let host = lab.add("host");
        let file = File::open(host).expect("open own namespace");
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), kind)
            .expect("these tests need root");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(body(&lab));
        let _ = done.send(());
    });
    match wait.recv_timeout(TEST_TIMEOUT) {
        Ok(()) => {}
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("the test took longer than {TEST_TIMEOUT:?}"),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

/// Removes all namespaces of a test when it ends, in whatever way.
struct Remover(String);

impl Drop for Remover {
    fn drop(&mut self) {
        let Ok(entries) = std::fs::read_dir("/run/netns") else { return };
        for name in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
            if name.starts_with(&format!("{}-", self.0)) {
                let _ = Command::new("ip").args(["netns", "del", &name]).status();
            }
        }
    }
}

impl Lab {
    fn kernel(&self) -> Kernel {
        Kernel::open(BRIDGE).expect("kernel")
    }

    async fn bridged(&self) -> Kernel {
        let kernel = self.kernel();
        kernel.ensure_bridge(bridge_spec()).await.expect("bridge");
        kernel
    }

    fn add(&self, role: &str) -> PathBuf {
        let name = format!("{}-{role}", self.prefix);
        run("ip", &["netns", "add", &name]).expect("these tests need root");
        self.made.borrow_mut().push(name.clone());
        PathBuf::from("/run/netns").join(name)
    }

    fn container(&self) -> PathBuf {
        let number = self.made.borrow().len();
        self.add(&format!("c{number}"))
    }

    /// A machine beside the host: 192.0.2.2 and fd00:9::2, joined to the host's `eth0` with .1 and ::1.
    fn outside(&self) -> PathBuf {
        let path = self.add("outside");
        let name = path.file_name().and_then(|name| name.to_str()).expect("name").to_owned();
        self.host("ip", &["link", "add", "eth0", "type", "veth", "peer", "eth0", "netns", &name]);
        self.host("ip", &["addr", "add", "192.0.2.1/24", "dev", "eth0"]);
        self.host("ip", &["addr", "add", "fd00:9::1/64", "dev", "eth0", "nodad"]);
        self.host("ip", &["link", "set", "eth0", "up"]);
        self.inside(&path, "ip", &["addr", "add", "192.0.2.2/24", "dev", "eth0"]);
        self.inside(&path, "ip", &["addr", "add", "fd00:9::2/64", "dev", "eth0", "nodad"]);
        self.inside(&path, "ip", &["link", "set", "eth0", "up"]);
        path
    }

    /// What dockerd leaves behind, reduced to what hurts.
    fn docker_rules(&self) {
        for key in ["iptables", "ip6tables"] {
            self.host("sh", &["-c", &format!("echo 1 > /proc/sys/net/bridge/bridge-nf-call-{key}")]);
        }
        for family in ["ip", "ip6"] {
            self.host("nft", &["add", "table", family, "filter"]);
            let chain = "{ type filter hook forward priority 0; policy drop; }";
            self.host("nft", &["add", "chain", family, "filter", "FORWARD", chain]);
        }
    }

    /// How many rules in the foreign chain are ours.
    fn ours(&self, family: &str) -> usize {
        self.host("nft", &["list", "chain", family, "filter", "FORWARD"]).matches("weave-fabric:").count()
    }

    fn host_path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(format!("{}-host", self.prefix))
    }

    fn remove(&self, path: &Path) {
        let name = path.file_name().and_then(|name| name.to_str()).expect("name");
        run("ip", &["netns", "del", name]).expect("remove namespace");
    }

    /// What an attachment might leave in a namespace: devices, routes, open netlink sockets.
    fn traces(&self, netns: &Path) -> (Vec<String>, String, usize) {
        let first = |line: &str| line.split_whitespace().next().unwrap_or_default().to_owned();
        let links = self.inside(netns, "ip", &["-br", "link"]).lines().map(first).collect();
        let routes = self.inside(netns, "ip", &["-o", "route"]);
        (links, routes, self.inside(netns, "cat", &["/proc/net/netlink"]).lines().count())
    }

    /// The bridge in detail, without its running timers.
    fn bridge(&self) -> String {
        let text = self.host("ip", &["-d", "addr", "show", BRIDGE]);
        let mut timer = false;
        let settled =
            text.split_whitespace().filter(|word| !std::mem::replace(&mut timer, word.ends_with("_timer")));
        settled.collect::<Vec<_>>().join(" ")
    }

    fn host(&self, program: &str, arguments: &[&str]) -> String {
        self.inside(&self.host_path(), program, arguments)
    }

    fn inside(&self, netns: &Path, program: &str, arguments: &[&str]) -> String {
        try_inside(netns, program, arguments).unwrap_or_else(|failure| panic!("{failure}"))
    }

    fn ping(&self, from: &Path, to: &str) {
        if let Err(failure) = try_inside(from, "ping", &["-c1", "-W3", to]) {
            let state =
                ["addr", "route", "neigh"].map(|what| try_inside(from, "ip", &[what]).unwrap_or_default());
            panic!("{failure}\n{}\n{}", state.join("\n"), self.host("nft", &["list", "ruleset"]));
        }
    }

    fn no_ping(&self, from: &Path, to: &str) {
        assert!(try_inside(from, "ping", &["-c1", "-W1", to]).is_err(), "{to} was reached");
    }
}

fn try_inside(netns: &Path, program: &str, arguments: &[&str]) -> Result<String, String> {
    let net = format!("--net={}", netns.display());
    run("nsenter", &[&[net.as_str(), program], arguments].concat())
}

fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("timeout").arg(COMMAND_TIMEOUT).arg(program).args(arguments).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        Ok(text)
    } else {
        Err(format!(
            "{program} {arguments:?}: {}\n{text}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        ))
    }
}
