//! The CNI plugin as runtimes use and misuse it: <https://www.cni.dev/docs/spec/>, version 1.1.0.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use lab::{CniCall, CniOutcome, Container, Host, Ping};
use serde_json::{Value, json};

use crate::support::{answers, attached, expected, fabric, ports, reaches, same};

/// Codes of the specification ("Error").
const INCOMPATIBLE_VERSION: u64 = 1;
const INVALID_ENVIRONMENT: u64 = 4;
const DECODING_FAILURE: u64 = 6;

#[test]
fn config_that_is_no_json_is_a_decoding_failure() {
    fabric(1, |lab| {
        let container = lab.host(1).container()?;
        for config in ["", "{", "nonsense", "[1, 2]", "\u{0}\u{1}"] {
            let call = CniCall { config: config.to_owned(), ..container.call("ADD") };
            refused(&call, lab.host(1), DECODING_FAILURE).with_context(|| format!("config {config:?}"))?;
        }
        nothing_attached(lab.host(1))
    });
}

#[test]
fn missing_environment_is_named() {
    fabric(1, |lab| {
        let container = lab.host(1).container()?;
        let call = container.call("ADD");
        let without = [
            ("CNI_CONTAINERID", CniCall { container: None, ..call.clone() }),
            ("CNI_NETNS", CniCall { netns: None, ..call.clone() }),
            ("CNI_IFNAME", CniCall { ifname: None, ..call.clone() }),
            ("CNI_COMMAND", CniCall { command: Some("DANCE".to_owned()), ..call }),
        ];
        for (name, call) in without {
            let outcome = refused(&call, lab.host(1), INVALID_ENVIRONMENT).context(name)?;
            same("the variable is named", &outcome.answer.to_string().contains(name), &true)
                .with_context(|| outcome.answer.to_string())?;
        }
        nothing_attached(lab.host(1))
    });
}

/// A person started it: like the reference plugins, it then says what it is.
#[test]
fn without_a_command_it_says_what_it_is() {
    fabric(1, |lab| {
        let call = CniCall { command: None, ..lab.host(1).container()?.call("ADD") };
        let outcome = call.run(lab.host(1))?.success("nothing")?;
        same("standard output", &outcome.answer, &Value::Null)?;
        same("says what it is", &outcome.stderr.contains("CNI plugin"), &true)
            .with_context(|| outcome.stderr.clone())?;
        nothing_attached(lab.host(1))
    });
}

#[test]
fn unknown_version_is_refused_and_known_ones_are_listed() {
    fabric(1, |lab| {
        let (host, container) = (lab.host(1), lab.host(1).container()?);
        for version in ["0.0.9", "2.0.0", "latest"] {
            let call = with(&container, "ADD", |config| config["cniVersion"] = version.into());
            refused(&call, host, INCOMPATIBLE_VERSION).context(version)?;
        }
        let call = CniCall { container: None, netns: None, ifname: None, ..container.call("VERSION") };
        let known = call.run(host)?.success("VERSION")?.answer;
        let want = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
        let listed = known["supportedVersions"].as_array().context("no list of versions")?;
        same("versions", &want.iter().all(|version| listed.contains(&json!(version))), &true)?;
        nothing_attached(host)
    });
}

#[test]
fn every_version_gets_a_result_of_its_own_shape() {
    fabric(1, |lab| {
        for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            let container = lab.host(1).container()?;
            let call = with(&container, "ADD", |config| config["cniVersion"] = version.into());
            let answer = call.run(lab.host(1))?.success("ADD")?.answer;
            same("version of the result", &answer["cniVersion"], &version.into())?;
            well_shaped(version, &answer).with_context(|| format!("{version}: {answer}"))?;
            let call = with(&container, "DEL", |config| config["cniVersion"] = version.into());
            call.run(lab.host(1))?.success("DEL")?;
        }
        nothing_attached(lab.host(1))
    });
}

/// What the specification of that version prescribes.
fn well_shaped(version: &str, answer: &Value) -> Result<()> {
    if version < "0.3.0" {
        same(
            "ip4 and ip6",
            &(answer["ip4"]["ip"].is_string(), answer["ip6"]["ip"].is_string()),
            &(true, true),
        )?;
        return same("no list of addresses", &answer["ips"].is_null(), &true);
    }
    let ips = answer["ips"].as_array().context("no list of addresses")?;
    same("an address of each family", &ips.len(), &2)?;
    let versioned = ips.iter().all(|ip| ip["version"] == "4" || ip["version"] == "6");
    same("addresses tell their family before 1.0.0", &versioned, &(version < "1.0.0"))?;
    let interfaces = answer["interfaces"].as_array().context("no list of interfaces")?;
    let inside: Vec<&Value> = interfaces.iter().filter(|one| one["sandbox"].is_string()).collect();
    same("interfaces inside", &inside.len(), &1)?;
    for ip in ips {
        let index = usize::try_from(ip["interface"].as_u64().context("address without interface")?)?;
        same("the address is on the interface inside", &interfaces.get(index), &Some(inside[0]))?;
    }
    Ok(())
}

#[test]
fn namespace_that_is_gone_fails_add_and_not_delete() {
    fabric(1, |lab| {
        let (host, container) = (lab.host(1), lab.host(1).container()?);
        for path in ["/run/netns/there-is-no-such-namespace", "/etc/passwd", "relative/path"] {
            let call = CniCall { netns: Some(path.to_owned()), ..container.call("ADD") };
            let outcome = call.run(host)?;
            same("ADD fails with a code", &outcome.error_code().is_some(), &true)
                .with_context(|| format!("{path}: {outcome:?}"))?;
        }
        let gone = CniCall {
            netns: Some("/run/netns/there-is-no-such-namespace".to_owned()),
            ..container.call("DEL")
        };
        gone.run(host)?.success("DEL")?;
        CniCall { netns: None, ..container.call("DEL") }.run(host)?.success("DEL")?;
        nothing_attached(host)
    });
}

#[test]
fn name_that_is_taken_in_the_container_is_refused_and_left_alone() {
    fabric(1, |lab| {
        let (host, container) = (lab.host(1), lab.host(1).container()?);
        container.ns().ip("link add eth0 type bridge")?;
        container.ns().ip("addr add 192.0.2.7/24 dev eth0")?;
        let outcome = container.call("ADD").run(host)?;
        same("ADD fails with a code", &outcome.error_code().is_some(), &true)?;
        same("the name is told", &outcome.answer.to_string().contains("eth0"), &true)?;
        let kept = container.ns().ip("-4 addr show eth0")?.stdout.contains("192.0.2.7");
        same("the interface that was there is still there", &kept, &true)?;
        nothing_attached(host)
    });
}

#[test]
fn second_add_fails_and_spoils_nothing() {
    fabric(1, |lab| {
        let host = lab.host(1);
        let (one, two) = (host.attached()?, host.attached()?);
        let again = one.call("ADD").run(host)?;
        same("second ADD fails with a code", &again.error_code().is_some(), &true)?;
        same("attached", &attached(host)?, &expected([&one, &two])?)?;
        reaches(&two, &one)?;
        // Another interface of the same container is another attachment.
        let call = CniCall { ifname: Some("eth1".to_owned()), ..one.call("ADD") };
        call.run(host)?.success("ADD")?;
        same("attachments", &host.json(&["ps"])?.as_array().map(Vec::len), &Some(3))?;
        CniCall { ifname: Some("eth1".to_owned()), ..one.call("DEL") }.run(host)?.success("DEL")?;
        reaches(&two, &one)
    });
}

#[test]
fn third_delete_succeeds_like_the_first() {
    fabric(1, |lab| {
        let (host, mut container) = (lab.host(1), lab.host(1).attached()?);
        for _ in 0..3 {
            container.cni_del()?;
        }
        let inside = container.ns().ip("-o link")?.stdout;
        same("the interface is gone", &inside.contains("eth0"), &false)?;
        nothing_attached(host)?;
        container.cni_add().map(drop)
    });
}

#[test]
fn names_at_their_limits_pass_and_beyond_are_refused() {
    fabric(1, |lab| {
        let (host, container) = (lab.host(1), lab.host(1).container()?);
        let call = |id: &str, ifname: &str, command: &str| CniCall {
            container: Some(id.to_owned()),
            ifname: Some(ifname.to_owned()),
            ..container.call(command)
        };
        // A runtime's id is 64 hexadecimal digits; an interface name has 15 bytes at most.
        for (id, ifname) in [("a".repeat(64), "e".repeat(15)), ("A0_.-z".to_owned(), "e".to_owned())] {
            call(&id, &ifname, "ADD").run(host)?.success("ADD")?;
            same(
                "the interface is there",
                &container.ns().ip(&format!("link show {ifname}")).is_ok(),
                &true,
            )?;
            call(&id, &ifname, "DEL").run(host)?.success("DEL")?;
        }
        let too_much = [
            ("good".to_owned(), "e".repeat(16)),
            ("good".to_owned(), "a/b".to_owned()),
            ("good".to_owned(), "..".to_owned()),
            ("-leading".to_owned(), "eth0".to_owned()),
            ("with space".to_owned(), "eth0".to_owned()),
            ("x".repeat(5000), "eth0".to_owned()),
        ];
        for (id, ifname) in too_much {
            refused(&call(&id, &ifname, "ADD"), host, INVALID_ENVIRONMENT)
                .with_context(|| format!("{} bytes of id, interface `{ifname}`", id.len()))?;
        }
        nothing_attached(host)
    });
}

#[test]
fn check_finds_what_is_not_as_it_was() {
    fabric(1, |lab| {
        let mut container = lab.host(1).container()?;
        let added = container.cni_add()?;
        container.cni_check(&added)?.success("CHECK")?;
        container.ns().ip(&format!("addr del {}/12 dev eth0", container.ipv4()?))?;
        let found = container.cni_check(&added)?;
        same("CHECK without the address fails with a code", &found.error_code().is_some(), &true)?;
        container.ns().ip("link del eth0")?;
        let found = container.cni_check(&added)?;
        same("CHECK without the interface fails with a code", &found.error_code().is_some(), &true)?;
        container.cni_del()?;
        nothing_attached(lab.host(1))
    });
}

#[test]
fn delete_while_weaved_is_down_is_carried_out_later() {
    fabric(1, |lab| {
        let (host, stays, mut goes) = (lab.host(1), lab.host(1).attached()?, lab.host(1).attached()?);
        host.kill9()?;
        let failed = host.container()?.call("ADD").run(host)?;
        same("ADD fails with a code while weaved is down", &failed.error_code().is_some(), &true)?;
        goes.cni_del()?;
        host.start_again()?;
        lab::until(crate::support::SETTLE, "the detachment is carried out", || {
            (attached(host).ok()? == expected([&stays]).ok()?).then_some(())
        })?;
        same("ports", &ports(host)?, &1)
    });
}

#[test]
fn mtu_subnet_and_routes_of_the_config_are_obeyed() {
    fabric(1, |lab| {
        let (host, container) = (lab.host(1), lab.host(1).container()?);
        let call = with(&container, "ADD", |config| {
            config["mtu"] = 1300.into();
            config["ipam"] = json!({"subnet": "10.40.8.0/24", "routes": [{"dst": "198.51.100.0/24"}]});
        });
        let added = call.run(host)?.success("ADD")?;
        let address = added.addresses().into_iter().find(IpAddr::is_ipv4).context("no IPv4 address")?;
        same("within the subnet", &address.to_string().starts_with("10.40.8."), &true)?;
        let link = container.ns().ip("link show eth0")?.stdout;
        same("the MTU", &link.contains("mtu 1300 "), &true).with_context(|| link.clone())?;
        let routes = container.ns().ip("route")?.stdout;
        same("the route", &routes.contains("198.51.100.0/24"), &true).with_context(|| routes.clone())?;
        same("no default route", &routes.contains("default"), &false).with_context(|| routes.clone())?;
        let other = host.attached()?;
        same("reaches others", &answers(&other, address), &true)
    });
}

#[test]
fn containers_get_the_mtu_of_the_fabric_and_a_default_route() {
    fabric(1, |lab| {
        let container = lab.host(1).attached()?;
        let mtu = lab.host(1).json(&["status"])?["mtu"].as_u64().context("no MTU in the status")?;
        // ADR: what sealing and headers take from 1500 bytes; the listener takes both families.
        same("MTU of the status", &mtu, &1390)?;
        let link = container.ns().ip("link show eth0")?.stdout;
        same("MTU of the container", &link.contains(&format!("mtu {mtu} ")), &true)?;
        for family in ["-4", "-6"] {
            let routes = container.ns().ip(&format!("{family} route"))?.stdout;
            same("default route", &routes.contains("default via"), &true).with_context(|| routes.clone())?;
        }
        // The switch has no way back to containers: only masqueraded packets return.
        Ping::default().expect_all(container.ns(), IpAddr::from([10, 77, 0, 254])).map(drop)
    });
}

/// A call whose configuration is changed.
fn with(container: &Container, command: &str, change: impl FnOnce(&mut Value)) -> CniCall {
    let mut config = container.config();
    change(&mut config);
    CniCall { config: config.to_string(), ..container.call(command) }
}

/// Runs a call that must fail with this code, an error in JSON, and nothing else on standard output.
fn refused(call: &CniCall, host: &Host, code: u64) -> Result<CniOutcome> {
    let outcome = call.run(host)?;
    let message = outcome.answer["msg"].as_str().unwrap_or_default();
    if outcome.error_code() != Some(code) || message.is_empty() || outcome.answer["cniVersion"].is_null() {
        bail!("got {outcome:?}, want an error with the code {code}");
    }
    Ok(outcome)
}

fn nothing_attached(host: &Host) -> Result<()> {
    same("attached", &attached(host)?.len(), &0)?;
    same("ports of the bridge", &ports(host)?, &0)
}
