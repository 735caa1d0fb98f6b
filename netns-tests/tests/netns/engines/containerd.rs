//! containerd: by its own client, and as a kubelet uses it.

use anyhow::{Context, Result};
use lab::{Containerd, Host, Ping};

use super::cri::{Cri, PortMapping};
use crate::support::{SETTLE, attached, fabric, ports, same};

#[test]
fn container_of_its_own_client() {
    fabric(2, |lab| {
        let (containerd, other) = (Containerd::start(lab.host(1))?, lab.host(2).attached()?);
        let address = other.ipv4()?.to_string();
        let words = [
            "run",
            "--rm",
            "--cni",
            "--runc-binary",
            "/usr/sbin/runc",
            containerd.image(),
            "lone",
            "ping",
            "-c",
            "3",
            &address,
        ];
        let said = containerd.ctr(&words)?;
        same("all came back", &said.contains(" 0% packet loss"), &true).context(said)?;
        // It calls DEL without a namespace and without the earlier result.
        nothing_left(lab.host(1))
    });
}

#[test]
fn pods_of_two_nodes() {
    fabric(2, |lab| {
        let nodes = [Containerd::start(lab.host(1))?, Containerd::start(lab.host(2))?];
        let clients = [Cri::connect(&nodes[0].socket())?, Cri::connect(&nodes[1].socket())?];
        for client in &clients {
            same("network ready", &client.network_ready()?, &true)?;
        }
        let published = [PortMapping { container_port: 80, host_port: 18080 }];
        let cgroup = format!("/{}", lab.run());
        let pods =
            [clients[0].run_pod("web", &cgroup, &published)?, clients[1].run_pod("user", &cgroup, &[])?];
        let web = clients[0].addresses(&pods[0])?;
        same("one address of each family", &web.len(), &2)?;
        for address in &web {
            pings(&nodes[1], &pods[1], address)?;
        }
        let shown = lab.host(1).json(&["ps"])?.to_string();
        same("the name of the pod is shown", &shown.contains("default/web"), &true).context(shown)?;
        for (client, pod) in clients.iter().zip(&pods) {
            client.remove_pod(pod)?;
        }
        lab.hosts().iter().try_for_each(nothing_left)
    });
}

#[test]
fn pod_without_a_router_fails_and_a_later_one_starts() {
    fabric(1, |lab| {
        let (host, node) = (lab.host(1), Containerd::start(lab.host(1))?);
        let (client, cgroup) = (Cri::connect(&node.socket())?, format!("/{}", lab.run()));
        let stays = client.run_pod("stays", &cgroup, &[])?;
        let goes = client.run_pod("goes", &cgroup, &[])?;
        host.kill9()?;
        let error = client.run_pod("early", &cgroup, &[]).err().context("a pod without a router")?;
        let error = format!("{error:#}");
        same("what to do is told", &error.contains("weaved"), &true).context(error)?;
        client.remove_pod(&goes)?;
        host.start_again()?;
        let late = client.run_pod("late", &cgroup, &[])?;
        let late = client.addresses(&late)?;
        pings(&node, &stays, &late[0])?;
        same("attached", &attached(host)?.len(), &2)?;
        Ping::default().expect_all(host.ns(), late[0].parse()?).map(drop)
    });
}

fn nothing_left(host: &Host) -> Result<()> {
    same("attached", &attached(host)?.len(), &0)?;
    same("ports", &ports(host)?, &0)
}

pub(super) fn pings(node: &Containerd, pod: &str, address: &str) -> Result<()> {
    let mut number = 0;
    lab::until(SETTLE, "the other pod answers", || {
        number += 1;
        let id = format!("ping-{number}");
        let words = [
            "--namespace",
            "k8s.io",
            "task",
            "exec",
            "--exec-id",
            &id,
            pod,
            "/bin/ping",
            "-c",
            "1",
            "-W",
            "1",
            address,
        ];
        node.attempt(&words).is_ok_and(|output| output.success()).then_some(())
    })
    .map(drop)
}
