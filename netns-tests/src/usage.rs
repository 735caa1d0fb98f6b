//! What a process has used so far: processor time and memory, from `/proc`.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// Unit of the times in `/proc/PID/stat`: 100 a second on every architecture but Alpha and IA-64 (`USER_HZ`, time(7)).
const TICK: Duration = Duration::from_millis(10);

/// Of a process with all its threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system time, with the interrupt work that was done in its context.
    pub cpu: Duration,
    /// Resident memory in bytes.
    pub resident: u64,
}

impl Usage {
    /// Of one process.
    ///
    /// # Errors
    /// When it has ended.
    pub fn of(pid: u32) -> Result<Self> {
        let read = |name: &str| {
            fs::read_to_string(format!("/proc/{pid}/{name}"))
                .with_context(|| format!("process {pid} has ended"))
        };
        let cpu = cpu_of(&read("stat")?).with_context(|| format!("`/proc/{pid}/stat` is not understood"))?;
        let resident = resident_of(&read("status")?)
            .with_context(|| format!("`/proc/{pid}/status` shows no resident memory"))?;
        Ok(Self { cpu, resident })
    }
}

/// Fields 14 and 15; the second one is a name in parentheses that may hold anything.
fn cpu_of(stat: &str) -> Option<Duration> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let ticks = rest.split(' ').skip(11).take(2).map(str::parse::<u32>);
    ticks.sum::<Result<u32, _>>().ok().map(|ticks| TICK * ticks)
}

fn resident_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes << 10)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Usage, cpu_of, resident_of};

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 31 9 9 20 0 1 0 5 6 7";
        assert_eq!(cpu_of(stat), Some(Duration::from_millis(2810)));
        assert_eq!(resident_of("Name:\tx\nVmRSS:\t    12 kB\n"), Some(12 << 10));
    }

    #[test]
    fn this_process_uses_memory() {
        assert!(Usage::of(std::process::id()).expect("alive").resident > 0);
    }
}
