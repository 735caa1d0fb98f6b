//! The threads of a process: their time on a core and how often each was woken, as the kernel counts them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// The counters of all threads of a process at one moment.
#[derive(Debug, Clone)]
pub struct Threads {
    at: Instant,
    threads: BTreeMap<u32, ThreadUsage>,
}

/// The counters of a thread, or what they grew by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadUsage {
    /// Its name.
    pub name: String,
    /// Time on a core, of `schedstat`.
    pub run: Duration,
    /// How often it went to sleep by itself, and so was woken.
    pub sleeps: u64,
}

impl Threads {
    /// Reads the counters.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(pid: u32) -> Result<Self> {
        let tasks = format!("/proc/{pid}/task");
        let at = Instant::now();
        let mut threads = BTreeMap::new();
        for entry in fs::read_dir(&tasks).with_context(|| format!("cannot list `{tasks}`"))? {
            let path = entry?.path();
            let id = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
            // A thread that ends while we look used nothing that matters.
            if let (Some(id), Ok(thread)) = (id, ThreadUsage::of(&path)) {
                threads.insert(id, thread);
            }
        }
        Ok(Self { at, threads })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.threads.len()
    }

    /// The time since an earlier moment, and what each thread used in it, the busiest first.
    pub fn since(&self, before: &Self) -> (Duration, Vec<ThreadUsage>) {
        let used = self.threads.iter().map(|(id, now)| match before.threads.get(id) {
            Some(then) => now.less(then),
            None => now.clone(),
        });
        let mut used: Vec<ThreadUsage> = used.collect();
        used.sort_by_key(|thread| std::cmp::Reverse(thread.run));
        (self.at.duration_since(before.at), used)
    }
}

impl ThreadUsage {
    fn of(task: &Path) -> Result<Self> {
        let schedstat = read(&task.join("schedstat"))?;
        let run = schedstat.split(' ').next().and_then(|field| field.parse().ok()).unwrap_or(0);
        let status = read(&task.join("status"))?;
        Ok(Self {
            name: read(&task.join("comm"))?.trim().to_owned(),
            run: Duration::from_nanos(run),
            sleeps: number(&status, "voluntary_ctxt_switches:"),
        })
    }

    fn less(&self, before: &Self) -> Self {
        Self {
            name: self.name.clone(),
            run: self.run.saturating_sub(before.run),
            sleeps: self.sleeps.saturating_sub(before.sleeps),
        }
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))
}

/// The number behind the name at the beginning of a line.
fn number(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::Threads;

    #[test]
    fn work_of_this_process_is_seen() {
        let look = || Threads::of(std::process::id()).expect("this process exists");
        let before = look();
        while look().since(&before).1.iter().all(|thread| thread.run.is_zero()) {}
        assert!(look().since(&before).1.iter().any(|thread| !thread.name.is_empty()));
    }
}
