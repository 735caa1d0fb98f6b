//! What `weaved` is told about taking over from dead peers by itself.

use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

/// Shorter than this a reboot would cost a host its addresses. What is sensible is days.
const SHORTEST: Duration = Duration::from_secs(60);

/// Longer than this is as good as never.
const LONGEST: Duration = Duration::from_secs(400 * 86_400);

/// After how long a dead peer is removed by the living majority; never unless it is said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ReclaimAfter(pub Option<Duration>);

impl TryFrom<String> for ReclaimAfter {
    type Error = String;

    fn try_from(word: String) -> Result<Self, String> {
        word.parse()
    }
}

impl FromStr for ReclaimAfter {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let want = || "want `off`, or a time from `1m` to `400d` such as `90m`, `36h` or `7d`".to_owned();
        if word == "off" {
            return Ok(ReclaimAfter(None));
        }
        let unit = word.chars().next_back().ok_or_else(want)?;
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return Err(want()),
        };
        let number: u64 = word[..word.len() - 1].parse().map_err(|_| want())?;
        let time = number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(want)?;
        if (SHORTEST..=LONGEST).contains(&time) { Ok(ReclaimAfter(Some(time))) } else { Err(want()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit_and_bounds() {
        let read = |word: &str| word.parse::<ReclaimAfter>().map(|after| after.0.map(|time| time.as_secs()));
        assert_eq!(read("off"), Ok(None));
        assert_eq!(read("7d"), Ok(Some(604_800)));
        assert_eq!(read("90m"), Ok(Some(5_400)));
        for wrong in ["", "7", "d", "59s", "401d", "7 d", "-1d", "1w", "99999999999999999999d", "7ä"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
