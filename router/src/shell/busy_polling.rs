//! What `weaved` is told about busy polling, and what that means on this machine.

use std::fs;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

use crate::datapath::busy_poll::{DEFAULT_LOOK, MAX_LOOK};

/// Where the kernel shows batteries and mains.
const POWER_SUPPLIES: &str = "/sys/class/power_supply";

/// How long the data path looks on after a frame before it sleeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BusyPollingWord")]
pub enum BusyPolling {
    /// As long as is good for the machine.
    #[default]
    Auto,
    /// Not at all.
    Off,
    /// So long.
    For(Duration),
}

/// As it stands in the file.
#[derive(Deserialize)]
#[serde(untagged)]
enum BusyPollingWord {
    Number(u64),
    Word(String),
}

impl TryFrom<BusyPollingWord> for BusyPolling {
    type Error = String;

    fn try_from(word: BusyPollingWord) -> Result<Self, String> {
        match word {
            BusyPollingWord::Number(number) => number.to_string().parse(),
            BusyPollingWord::Word(word) => word.parse(),
        }
    }
}

impl FromStr for BusyPolling {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match (word, word.parse().map(Duration::from_micros)) {
            ("auto", _) => Ok(Self::Auto),
            ("off" | "0", _) => Ok(Self::Off),
            (_, Ok(time)) if time <= MAX_LOOK => Ok(Self::For(time)),
            (_, Ok(_) | Err(_)) => {
                Err(format!("want `auto`, `off`, or microseconds up to {}", MAX_LOOK.as_micros()))
            }
        }
    }
}

impl BusyPolling {
    /// The time to look on after a frame. `Auto` looks at the machine.
    pub fn look(self) -> Duration {
        match self {
            Self::Auto if discharges(Path::new(POWER_SUPPLIES)) => Duration::ZERO,
            Self::Auto => DEFAULT_LOOK,
            Self::Off => Duration::ZERO,
            Self::For(time) => time,
        }
    }
}

/// Whether a battery is being used up (`Documentation/ABI/testing/sysfs-class-power`).
fn discharges(supplies: &Path) -> bool {
    let Ok(entries) = fs::read_dir(supplies) else { return false };
    let is = |path: &Path, wanted: &str| fs::read_to_string(path).is_ok_and(|text| text.trim() == wanted);
    entries.flatten().map(|entry| entry.path()).any(|supply| {
        // A mouse has a battery too, but it does not power the machine.
        is(&supply.join("type"), "Battery")
            && is(&supply.join("status"), "Discharging")
            && !is(&supply.join("scope"), "Device")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct File {
        busy: BusyPolling,
    }

    #[test]
    fn a_word_or_a_bounded_number_of_microseconds() {
        let file = |text: &str| toml::from_str::<File>(&format!("busy = {text}")).map(|file| file.busy);
        for (word, expected) in [
            ("auto", BusyPolling::Auto),
            ("off", BusyPolling::Off),
            ("0", BusyPolling::Off),
            ("80", BusyPolling::For(Duration::from_micros(80))),
        ] {
            assert_eq!(word.parse(), Ok(expected));
            assert_eq!(file(&format!("\"{word}\"")).expect("in quotes"), expected);
        }
        assert_eq!(file("80").expect("a number"), BusyPolling::For(Duration::from_micros(80)));
        for word in ["1001", "-1", "always", ""] {
            word.parse::<BusyPolling>().expect_err(word);
            file(&format!("\"{word}\"")).expect_err(word);
        }
    }

    #[test]
    fn a_battery_that_discharges_switches_auto_off() {
        let folder = std::env::temp_dir().join(format!("weaved-power-{}", std::process::id()));
        let supply = |name: &str, files: &[(&str, &str)]| {
            fs::create_dir_all(folder.join(name)).expect("folder");
            for (file, text) in files {
                fs::write(folder.join(name).join(file), format!("{text}\n")).expect("file");
            }
        };
        assert!(!discharges(&folder), "no folder, no battery");
        supply("AC", &[("type", "Mains")]);
        supply("mouse", &[("type", "Battery"), ("status", "Discharging"), ("scope", "Device")]);
        supply("BAT0", &[("type", "Battery"), ("status", "Charging")]);
        assert!(!discharges(&folder));
        supply("BAT0", &[("status", "Discharging")]);
        assert!(discharges(&folder));
        fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn what_was_asked_for_is_done() {
        assert_eq!(BusyPolling::Off.look(), Duration::ZERO);
        assert_eq!(BusyPolling::For(Duration::from_micros(7)).look(), Duration::from_micros(7));
    }
}
