//! One container of each engine, each on a host of its own, all on one fabric: they find each other by name.

use anyhow::{Context, Result};
use lab::{Containerd, Dockerd, Lab, PODMAN_IMAGE, Podman, until};

use super::containerd::pings as pod_pings;
use super::cri::Cri;
use crate::docker::support::{explained, fabric_with, network, reaches, start};
use crate::support::{SETTLE, hosts};

#[test]
fn docker_containerd_and_podman_find_each_other() {
    hosts(3, |lab| {
        let docker = Dockerd::new(lab.host(1))?;
        let result = meet(lab, &docker);
        explained(&[docker], result)
    });
}

fn meet(lab: &Lab, docker: &Dockerd) -> Result<()> {
    fabric_with(lab, &lab.hosts()[..1])?;
    network(docker, "fabric", &[])?;
    start(docker, "whale", "fabric", &["--dns", "169.254.67.83", "--dns-search", "weave.local"])?;
    let node = Containerd::start(lab.host(2))?;
    let client = Cri::connect(&node.socket())?;
    let pod = client.run_pod("pod", &format!("/{}", lab.run()), &[])?;
    let podman = Podman::new(lab.host(3))?;
    podman.run(&["run", "--detach", "--name", "seal", PODMAN_IMAGE, "sleep", "600"])?;
    for name in ["pod", "pod.default.weave.local", "seal", "seal.weave.local"] {
        reaches(docker, "whale", name)?;
    }
    for name in ["whale.weave.local", "whale", "seal"] {
        pod_pings(&node, &pod, name).with_context(|| format!("the pod to {name}"))?;
    }
    for name in ["whale", "pod.default", "pod"] {
        let mut said = String::new();
        let pinged = until(SETTLE, "Podman's container is answered", || {
            let output = podman.attempt(&["exec", "seal", "ping", "-c", "1", "-W", "1", name]);
            said = output.as_ref().map_or_else(|error| format!("{error:#}"), lab::Output::text);
            output.is_ok_and(|output| output.success()).then_some(())
        });
        pinged.map(drop).with_context(|| format!("Podman's to {name}: {said}"))?;
    }
    client.remove_pod(&pod)
}
