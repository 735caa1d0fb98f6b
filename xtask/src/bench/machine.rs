//! What the figures were measured on.

use std::fs;
use std::process::Command;
use std::time::Duration;

use lab::run_ok;
use serde::Serialize;

use crate::ui;

/// The machine, for people who compare.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    pub(crate) memory_gib: u64,
    /// Day of the measurement, in UTC.
    pub(crate) date: String,
    /// Commit of the sources, with a `+` when they were changed since.
    pub(crate) commit: String,
}

impl Machine {
    /// This one, now. What cannot be found out is `unknown`: no figure depends on it.
    pub(crate) fn this() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self {
            cpu: cpu_of(&read("/proc/cpuinfo")).unwrap_or_else(|| "unknown".to_owned()),
            cores: ui::cores(),
            kernel: said(&["uname", "-r"]),
            memory_gib: memory_of(&read("/proc/meminfo")).unwrap_or(0),
            date: said(&["date", "-u", "+%Y-%m-%d"]),
            commit: commit(),
        }
    }

    /// One line.
    pub(crate) fn text(&self) -> String {
        let Self { cpu, cores, kernel, memory_gib, date, commit } = self;
        format!("{cpu}, {cores} cores, {memory_gib} GiB, Linux {kernel}, {date}, commit {commit}")
    }
}

fn commit() -> String {
    let hash = said(&["git", "rev-parse", "--short", "HEAD"]);
    match said(&["git", "status", "--porcelain", "--untracked-files=no"]).as_str() {
        "" | "unknown" => hash,
        _ => format!("{hash}+"),
    }
}

fn said(line: &[&str]) -> String {
    let mut command = Command::new(line[0]);
    command.args(&line[1..]).current_dir(crate::cargo::root());
    let output = run_ok(&mut command, Duration::from_secs(10));
    output.map_or_else(|_| "unknown".to_owned(), |output| output.stdout.trim().to_owned())
}

fn cpu_of(cpuinfo: &str) -> Option<String> {
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    field("model name").or_else(|| field("CPU part"))
}

fn memory_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    // Rounded, since the kernel keeps a little for itself.
    Some((kibibytes + (1 << 19)) >> 20)
}

#[cfg(test)]
mod tests {
    use super::{cpu_of, memory_of};

    #[test]
    fn model_and_memory_are_read() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2.00GHz\nmodel name\t: other\n";
        assert_eq!(cpu_of(text).as_deref(), Some("Some CPU @ 2.00GHz"));
        assert_eq!(memory_of("MemTotal:       24683980 kB\nMemFree: 1 kB\n"), Some(24));
    }
}
