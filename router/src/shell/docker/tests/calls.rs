//! One call after the other.

use expect_test::expect;
use serde_json::{Value, json};

use super::super::{Outcome, Scope};
use super::world::{World, about, address, call, done, endpoint, pool, refused, release};

#[tokio::test]
async fn container_lives_and_leaves_nothing() {
    let world = World::new();
    let driver = world.driver(Scope::Local).await;
    let pool = pool(&driver, "10.40.5.0/24", false).await;
    let gateway = json!({ "PoolID": pool, "Address": "", "Options": { "RequestAddressType": "com.docker.network.gateway" } });
    let gateway = done(call(&driver, "IpamDriver.RequestAddress", gateway).await);
    assert_eq!(gateway, json!({ "Address": "10.40.5.0/24", "Data": {} }));
    let network = json!({
        "NetworkID": "net",
        "Options": { "com.docker.network.enable_ipv6": false, "com.docker.network.generic": {} },
        "IPv4Data": [{ "AddressSpace": "weave-local", "Gateway": "10.40.5.0/24", "Pool": "10.40.5.0/24" }],
        "IPv6Data": null,
    });
    assert_eq!(done(call(&driver, "NetworkDriver.CreateNetwork", network).await), json!({}));
    // The subnet's own address is kept from containers.
    assert_eq!(done(address(&driver, &pool, "").await), json!({ "Address": "10.40.5.1/24", "Data": {} }));
    let created = done(endpoint(&driver, "ep", "10.40.5.1/24", "").await);
    assert_eq!(created, json!({ "Interface": { "MacAddress": "0a:77:0a:28:05:01" } }));
    let joined = done(about(&driver, "Join", "ep").await);
    expect![[r#"{"DisableGatewayService":false,"InterfaceName":{"DstPrefix":"ethwe","SrcName":"vdep"},"StaticRoutes":[{"Destination":"224.0.0.0/4","NextHop":"","RouteType":1},{"Destination":"169.254.67.83/32","NextHop":"","RouteType":1}]}"#]]
        .assert_eq(&joined.to_string());
    assert_eq!(done(about(&driver, "EndpointOperInfo", "ep").await), json!({ "Value": {} }));
    assert_eq!(world.things().plugs.len(), 1);
    for method in ["Leave", "DeleteEndpoint"] {
        assert_eq!(done(about(&driver, method, "ep").await), json!({}));
    }
    assert_eq!(done(release(&driver, &pool, "10.40.5.1").await), json!({}));
    done(call(&driver, "IpamDriver.ReleasePool", json!({ "PoolID": pool })).await);
    done(call(&driver, "NetworkDriver.DeleteNetwork", json!({ "NetworkID": "net" })).await);
    assert!(world.things().leases.is_empty() && world.things().plugs.is_empty());
    assert_eq!(*driver.book.lock().await.page(), Default::default());
}

#[tokio::test]
async fn promises_outlive_the_process() {
    let world = World::new();
    let driver = world.driver(Scope::Local).await;
    let local = pool(&driver, "10.40.5.0/24", false).await;
    let network = json!({
        "NetworkID": "net",
        "Options": { "com.docker.network.generic": { "weave.multicast": "off" } },
        "IPv4Data": [{ "AddressSpace": "weave-local", "Pool": "10.40.5.0/24" }],
    });
    done(call(&driver, "NetworkDriver.CreateNetwork", network).await);
    done(address(&driver, &local, "10.40.5.9").await);
    done(endpoint(&driver, "ep", "10.40.5.9/24", "").await);
    drop(driver);
    let driver = world.driver(Scope::Local).await;
    let joined = done(about(&driver, "Join", "ep").await);
    let to_names = json!([{ "Destination": "169.254.67.83/32", "RouteType": 1, "NextHop": "" }]);
    assert_eq!(joined["StaticRoutes"], to_names, "multicast goes elsewhere, questions for names do not");
    assert!(refused(address(&driver, &local, "10.40.5.9").await).contains("in use by another container"));
    done(about(&driver, "DeleteEndpoint", "ep").await);
    done(release(&driver, &local, "10.40.5.9").await);
    assert!(world.things().leases.is_empty());
}

#[tokio::test]
async fn one_lease_serves_both_families() {
    let world = World::new();
    let driver = world.driver(Scope::Local).await;
    let (v4, v6) = (pool(&driver, "10.40.5.0/24", false).await, pool(&driver, "", true).await);
    let one = done(address(&driver, &v4, "").await);
    let both = done(address(&driver, &v6, "").await);
    assert_eq!((&one["Address"], &both["Address"]), (&json!("10.40.5.1/24"), &json!("fd01:2:3::a28:501/64")));
    done(endpoint(&driver, "ep", "10.40.5.1/24", "fd01:2:3::a28:501/64").await);
    let leases = || world.things().leases.keys().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(leases(), ["10.40.5.0", "10.40.5.1"]);
    // Without an IPv4 address to go with, it has a lease of its own.
    let lone = done(address(&driver, &v6, "").await);
    assert_eq!(lone["Address"], "fd01:2:3::a28:1/64");
    let named = done(address(&driver, &v6, "fd01:2:3::a28:707").await);
    assert_eq!(named["Address"], "fd01:2:3::a28:707/64");
    for (pool, address) in [(&v6, "fd01:2:3::a28:1"), (&v6, "fd01:2:3::a28:707")] {
        done(release(&driver, pool, address).await);
    }
    done(about(&driver, "DeleteEndpoint", "ep").await);
    done(release(&driver, &v4, "10.40.5.1").await);
    assert_eq!(leases(), ["10.40.5.0", "10.40.5.1"]);
    done(release(&driver, &v6, "fd01:2:3::a28:501").await);
    assert_eq!(leases(), ["10.40.5.0"]);
    done(call(&driver, "IpamDriver.ReleasePool", json!({ "PoolID": v4 })).await);
    assert_eq!(leases(), Vec::<String>::new());
}

#[tokio::test]
async fn same_pool_twice_is_counted() {
    let world = World::new();
    let driver = world.driver(Scope::Local).await;
    let one = pool(&driver, "10.40.5.0/24", false).await;
    assert_eq!(one, pool(&driver, "10.40.5.0/24", false).await);
    let uses = async || driver.book.lock().await.page().pools.get(&one).copied();
    assert_eq!(uses().await, Some(2));
    for left in [Some(1), None, None] {
        done(call(&driver, "IpamDriver.ReleasePool", json!({ "PoolID": one })).await);
        assert_eq!(uses().await, left);
    }
}

#[tokio::test]
async fn unknown_things_are_gone_and_unknown_methods_unknown() {
    let world = World::new();
    let driver = world.driver(Scope::Local).await;
    for method in ["Leave", "DeleteEndpoint", "DeleteNetwork", "ProgramExternalConnectivity", "DiscoverNew"] {
        assert_eq!(done(about(&driver, method, "nobody").await), json!({}), "{method}");
    }
    for pool in ["weave-local,10.40.5.0/24", "no pool", ""] {
        assert_eq!(done(release(&driver, pool, "10.40.5.7").await), json!({}));
        assert_eq!(done(call(&driver, "IpamDriver.ReleasePool", json!({ "PoolID": pool })).await), json!({}));
    }
    assert_eq!(driver.run("NetworkDriver.NoSuchMethod", b"{}").await, Outcome::Unknown);
    assert!(matches!(driver.run("NetworkDriver.Join", b"{").await, Outcome::Unreadable(_)));
    assert!(refused(about(&driver, "Join", "nobody").await).contains("start the container again"));
    for method in ["Plugin.Activate", "NetworkDriver.GetCapabilities", "IpamDriver.GetCapabilities"] {
        assert!(matches!(driver.run(method, b"").await, Outcome::Done(_)), "{method}");
    }
}

#[tokio::test]
async fn refusals_say_what_to_type() {
    let world = World::new();
    let driver = world.driver(Scope::Local).await;
    let network = json!({
        "NetworkID": "net",
        "Options": null,
        "IPv4Data": [{ "AddressSpace": "LocalDefault", "Pool": "172.19.0.0/16", "Gateway": "172.19.0.1/16" }],
    });
    expect!["subnet 172.19.0.0/16 is not part of the fabric's range 10.40.0.0/16; type --subnet 10.40.5.0/24, or another part of the range; and Docker's own IPAM knows nothing of other hosts: type --ipam-driver weave as well as --driver weave"]
        .assert_eq(&refused(call(&driver, "NetworkDriver.CreateNetwork", network).await));
    let outside = json!({ "AddressSpace": "weave-local", "Pool": "192.168.7.0/24", "V6": false });
    expect!["subnet 192.168.7.0/24 is not part of the fabric's range 10.40.0.0/16; type --subnet 10.40.5.0/24, or another part of the range"]
        .assert_eq(&refused(call(&driver, "IpamDriver.RequestPool", outside).await));
    let local = pool(&driver, "10.40.5.0/24", false).await;
    expect![
        "10.40.6.1 is not an address of subnet 10.40.5.0/24; weavectl status ipam shows the fabric's range"
    ]
    .assert_eq(&refused(address(&driver, &local, "10.40.6.1").await));
    expect!["172.19.0.2/16 is not an address of the fabric's range 10.40.0.0/16; the network is of another fabric: docker network rm it, and make it anew"]
        .assert_eq(&refused(endpoint(&driver, "ep", "172.19.0.2/16", "").await));
}

#[tokio::test]
async fn docker_is_not_left_to_ask_for_ever() {
    let world = World::new();
    let driver = world.driver(Scope::Local).await;
    let ask = async || {
        call(&driver, "IpamDriver.RequestPool", json!({ "AddressSpace": "weave-local", "Pool": "" })).await
    };
    let mut asked = 0;
    let text = loop {
        asked += 1;
        match ask().await {
            Outcome::Failed(answer) => break answer["Error"].to_string(),
            other => assert_eq!(done(other)["Pool"], "10.40.0.0/16"),
        }
        assert!(asked < 10);
    };
    assert!(text.contains("type --subnet 10.40.0.0/16"), "{text}");
    done(ask().await);
}

#[tokio::test]
async fn address_of_another_ipam_has_one_user() {
    let world = World::new();
    let driver = world.driver(Scope::Local).await;
    done(endpoint(&driver, "ep", "10.40.5.7/24", "").await);
    assert!(world.things().leases.contains_key(&"10.40.5.7".parse().expect("v4")));
    assert!(refused(endpoint(&driver, "other", "10.40.5.7/24", "").await).contains("in use"));
    done(about(&driver, "DeleteEndpoint", "ep").await);
    assert!(world.things().leases.is_empty());
    world.things().leases.insert("10.40.5.8".parse().expect("v4"), "container:elsewhere/eth0".to_owned());
    refused(endpoint(&driver, "ep", "10.40.5.8/24", "").await);
}

#[tokio::test]
async fn swarm_nodes_use_what_their_manager_leased() {
    let world = World::new();
    let driver = world.driver(Scope::Global).await;
    let body = json!({ "AddressSpace": "weave-global", "Pool": "10.40.5.0/24", "SubPool": "", "V6": false });
    let global = done(call(&driver, "IpamDriver.RequestPool", body).await)["PoolID"].clone();
    let global = global.as_str().expect("an id");
    done(address(&driver, global, "").await);
    let local = pool(&driver, "10.40.5.0/24", false).await;
    assert_ne!(global, local);
    // The manager's own node, and one whose router finds the address leased elsewhere.
    world.things().leases.insert("10.40.5.7".parse().expect("v4"), "docker:of another router".to_owned());
    for wish in ["10.40.5.1", "10.40.5.7"] {
        assert_eq!(done(address(&driver, &local, wish).await)["Address"], format!("{wish}/24"));
        done(endpoint(&driver, &format!("ep-{}", wish.replace('.', "-")), &format!("{wish}/24"), "").await);
    }
    done(about(&driver, "DeleteEndpoint", "ep-10-40-5-1").await);
    done(release(&driver, &local, "10.40.5.1").await);
    assert!(world.things().leases.contains_key(&"10.40.5.1".parse().expect("v4")), "the task still has it");
    // The manager was restarted and says what it had chosen.
    assert_eq!(done(address(&driver, global, "10.40.5.1").await)["Address"], "10.40.5.1/24");
    done(release(&driver, global, "10.40.5.1").await);
    assert!(!world.things().leases.contains_key(&"10.40.5.1".parse().expect("v4")));
    // A network that is removed while its tasks end: the manager gives back the pool alone.
    done(address(&driver, global, "10.40.5.2").await);
    done(endpoint(&driver, "last", "10.40.5.2/24", "").await);
    done(call(&driver, "IpamDriver.ReleasePool", json!({ "PoolID": global })).await);
    done(about(&driver, "DeleteEndpoint", "last").await);
    let ours = world.things().leases.values().filter(|holder| *holder != "docker:of another router").count();
    assert_eq!(ours, 0);
}

#[tokio::test]
async fn damaged_book_costs_no_running_container_its_address() {
    let world = World::new();
    let driver = world.driver(Scope::Local).await;
    let local = pool(&driver, "10.40.5.0/24", false).await;
    done(address(&driver, &local, "10.40.5.9").await);
    done(endpoint(&driver, "ep", "10.40.5.9/24", "").await);
    done(about(&driver, "Join", "ep").await);
    drop(driver);
    std::fs::write(world.dir.join(super::super::book::FILE), "nonsense").expect("write");
    let driver = world.driver(Scope::Local).await;
    driver.sweep(std::time::Instant::now()).await.expect("sweep");
    driver.sweep(std::time::Instant::now() + 2 * super::super::sweep::ORPHAN_AFTER).await.expect("sweep");
    assert_eq!(world.things().leases.len(), 1);
    done(about(&driver, "Leave", "ep").await);
    done(about(&driver, "DeleteEndpoint", "ep").await);
    done(release(&driver, &local, "10.40.5.9").await);
    assert!(world.things().leases.is_empty());
}

#[tokio::test]
async fn mac_address_that_was_asked_for_is_not_repeated() {
    let world = World::new();
    let driver = world.driver(Scope::Local).await;
    let body = |mac: &str| {
        let interface = json!({ "Address": "10.40.5.9/24", "AddressIPv6": "", "MacAddress": mac });
        json!({ "NetworkID": "net", "EndpointID": "ep", "Interface": interface })
    };
    let created = done(call(&driver, "NetworkDriver.CreateEndpoint", body("02:00:00:00:00:77")).await);
    assert_eq!(created, json!({ "Interface": {} }));
    // Said twice, for the answer was lost.
    done(call(&driver, "NetworkDriver.CreateEndpoint", body("02:00:00:00:00:77")).await);
    refused(call(&driver, "NetworkDriver.CreateEndpoint", body("02:00:00:00:00:78")).await);
    refused(call(&driver, "NetworkDriver.CreateEndpoint", body("01:00:00:00:00:78")).await);
    let _: Value = created;
}
