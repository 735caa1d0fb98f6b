//! The one table of what the machine must offer, and for what.

use std::env;
use std::path::{Path, PathBuf};

/// What a tool is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// To build at all.
    Build,
    /// For hosts and containers made of namespaces.
    Lab,
    /// For the rivals of the benchmark, as far as they are packages.
    Rivals,
}

/// How to see that it is there.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Probe {
    /// A program in `PATH`.
    Program(&'static str),
    /// A file.
    File(&'static str),
}

/// A tool and the Debian package that has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool {
    pub(crate) probe: Probe,
    pub(crate) package: &'static str,
    pub(crate) need: Need,
}

/// Every tool. A rival that cannot be installed is reported as absent and stops nothing.
pub(crate) const TOOLS: [Tool; 16] = [
    Tool { probe: Probe::Program("cc"), package: "gcc", need: Need::Build },
    Tool { probe: Probe::File("/usr/include/stdio.h"), package: "libc6-dev", need: Need::Build },
    Tool { probe: Probe::Program("ip"), package: "iproute2", need: Need::Lab },
    Tool { probe: Probe::Program("nft"), package: "nftables", need: Need::Lab },
    Tool { probe: Probe::Program("ping"), package: "iputils-ping", need: Need::Lab },
    Tool { probe: Probe::Program("iperf3"), package: "iperf3", need: Need::Lab },
    Tool { probe: Probe::Program("ethtool"), package: "ethtool", need: Need::Lab },
    Tool {
        probe: Probe::File("/usr/lib/cni/host-local"),
        package: "containernetworking-plugins",
        need: Need::Lab,
    },
    Tool { probe: Probe::File("/usr/bin/docker"), package: "docker.io", need: Need::Lab },
    Tool { probe: Probe::Program("runc"), package: "runc", need: Need::Lab },
    Tool { probe: Probe::Program("iptables"), package: "iptables", need: Need::Lab },
    Tool { probe: Probe::Program("ctr"), package: "containerd", need: Need::Lab },
    Tool { probe: Probe::Program("podman"), package: "podman", need: Need::Lab },
    Tool { probe: Probe::Program("busybox"), package: "busybox-static", need: Need::Lab },
    Tool { probe: Probe::Program("wg"), package: "wireguard-tools", need: Need::Rivals },
    Tool { probe: Probe::Program("tincd"), package: "tinc", need: Need::Rivals },
];

impl Tool {
    /// Whether it is there.
    pub(crate) fn present(&self) -> bool {
        match self.probe {
            Probe::Program(name) => find_program(name).is_some(),
            Probe::File(path) => Path::new(path).exists(),
        }
    }

    /// Its name for people.
    pub(crate) fn name(&self) -> &'static str {
        match self.probe {
            Probe::Program(name) | Probe::File(name) => name,
        }
    }
}

/// What is missing for these needs.
pub(crate) fn missing(needs: &[Need]) -> Vec<Tool> {
    TOOLS.iter().filter(|tool| needs.contains(&tool.need) && !tool.present()).copied().collect()
}

/// A program in `PATH`, or in the folders of root's programs, which sudo may have left out.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::TOOLS;

    #[test]
    fn no_tool_is_listed_twice() {
        let mut names: Vec<_> = TOOLS.iter().map(super::Tool::name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TOOLS.len());
    }
}
