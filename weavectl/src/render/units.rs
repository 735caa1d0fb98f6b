//! Numbers as people read them.

use std::time::Duration;

/// `1.4 GiB`
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `2h 5m`; the two largest units.
pub(crate) fn seconds(count: u64) -> String {
    let (days, hours, minutes, seconds) = (count / 86_400, count / 3600 % 24, count / 60 % 60, count % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {seconds}s"),
        (0, _, _) => format!("{hours}h {minutes}m"),
        (_, _, _) => format!("{days}d {hours}h"),
    }
}

/// `0.412 ms`
pub(crate) fn round_trip(micros: u64) -> String {
    format!("{:.3} ms", Duration::from_micros(micros).as_secs_f64() * 1000.0)
}

/// `12.5%` of a total.
pub(crate) fn percent(part: u64, total: u64) -> String {
    if total == 0 {
        return "0.0%".to_owned();
    }
    format!("{:.1}%", part as f64 * 100.0 / total as f64)
}

/// `1 peer`, `2 peers`.
pub(crate) fn plural(count: u64, one: &str, many: &str) -> String {
    if count == 1 { format!("{count} {one}") } else { format!("{count} {many}") }
}

/// The beginning of a peer id, enough to tell peers apart in a table.
pub(crate) fn short(peer: &str) -> String {
    peer.chars().take(10).collect()
}
