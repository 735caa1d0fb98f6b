//! What a process has used so far: processor time and memory, from `/proc`.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// Unit of the times in `/proc/PID/stat`: 100 a second on every architecture but Alpha and IA-64 (`USER_HZ`, time(7)).
const TICK_MILLIS: u64 = 10;

/// Of a process with all its threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system time, with the interrupt work that was done in its context.
    pub cpu: Duration,
    /// The user time of it.
    pub user: Duration,
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
        let [user, system] =
            times_of(&read("stat")?).with_context(|| format!("`/proc/{pid}/stat` is not understood"))?;
        let resident = resident_of(&read("status")?)
            .with_context(|| format!("`/proc/{pid}/status` shows no resident memory"))?;
        Ok(Self { cpu: user + system, user, resident })
    }
}

/// Processor time of the whole machine so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MachineTime {
    /// User time of all processes, and what the hypervisor gave to others.
    pub user: Duration,
    /// All of it, idle time among it.
    pub total: Duration,
    /// User time of this process and of its children that have ended.
    pub own: Duration,
}

impl MachineTime {
    /// Until now.
    ///
    /// # Errors
    /// When `/proc` is not what it should be.
    pub fn now() -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("cannot read `{path}`"));
        let stat = read("/proc/self/stat")?;
        let [own, _, children, _] = fields_of(&stat).context("`/proc/self/stat` is not understood")?;
        let machine = read("/proc/stat")?;
        let [user, nice, system, idle, waiting, interrupts, soft, stolen] =
            machine_of(&machine).context("`/proc/stat` is not understood")?;
        Ok(Self {
            user: user + nice + stolen,
            total: user + nice + stolen + system + idle + waiting + interrupts + soft,
            own: own + children,
        })
    }
}

fn times_of(stat: &str) -> Option<[Duration; 2]> {
    let [user, system, _, _] = fields_of(stat)?;
    Some([user, system])
}

/// Fields 14 to 17: user and system time, of the process and of its children that have ended. The second field is a name in
/// parentheses that may hold anything.
fn fields_of(stat: &str) -> Option<[Duration; 4]> {
    let (_, rest) = stat.rsplit_once(") ")?;
    durations(rest.split(' ').skip(11))
}

/// The first line: `cpu`, then a time for each state.
fn machine_of(stat: &str) -> Option<[Duration; 8]> {
    durations(stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace())
}

fn durations<'a, const N: usize>(words: impl Iterator<Item = &'a str>) -> Option<[Duration; N]> {
    let mut times = [Duration::ZERO; N];
    let mut words = words;
    for time in &mut times {
        let ticks: u64 = words.next()?.parse().ok()?;
        *time = Duration::from_millis(ticks.checked_mul(TICK_MILLIS)?);
    }
    Some(times)
}

fn resident_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes << 10)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{MachineTime, Usage, machine_of, resident_of, times_of};

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 31 9 9 20 0 1 0 5 6 7";
        assert_eq!(times_of(stat), Some([Duration::from_millis(2500), Duration::from_millis(310)]));
        let machine = machine_of("cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1\n").expect("understood");
        assert_eq!(machine[7], Duration::from_millis(80));
        assert_eq!(resident_of("Name:\tx\nVmRSS:\t    12 kB\n"), Some(12 << 10));
    }

    #[test]
    fn this_process_uses_memory() {
        assert!(Usage::of(std::process::id()).expect("alive").resident > 0);
        let time = MachineTime::now().expect("understood");
        assert!(time.own <= time.user && time.user <= time.total, "{time:?}");
    }
}
