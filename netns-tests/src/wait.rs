//! Waiting for a condition, never for an amount of time.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at: well below what the tests measure, well above what a look costs.
pub const POLL: Duration = Duration::from_millis(10);

/// Looks until the condition gives a value, and answers it with the time that it took.
///
/// # Errors
/// When the limit passes first; `what` names the condition.
pub fn until<T>(
    limit: Duration,
    what: &str,
    mut condition: impl FnMut() -> Option<T>,
) -> Result<(T, Duration)> {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return Ok((value, start.elapsed()));
        }
        if start.elapsed() >= limit {
            bail!("not within {limit:?}: {what}");
        }
        thread::sleep(POLL);
    }
}
