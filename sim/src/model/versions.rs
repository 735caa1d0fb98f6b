//! No host goes back to an older version of a record that it held, as long as its router runs.

use std::collections::BTreeMap;

use gossip::{PeerId, RecordKey};

use super::{Check, Failure};
use crate::history::Subject;
use crate::host::Host;

/// Larger fabrics are not watched so closely: all records are walked whenever one is new somewhere.
const MAX_HOSTS: usize = 64;

/// What one host held when it was last looked at.
#[derive(Debug, Default)]
struct Seen {
    life: u32,
    accepted: u64,
    versions: BTreeMap<PeerId, BTreeMap<RecordKey, u64>>,
}

/// See the top of the file.
#[derive(Debug, Default)]
pub(super) struct Versions {
    hosts: BTreeMap<u16, Seen>,
}

impl Versions {
    /// Compares what a host holds with what it held before.
    pub(super) fn check(&mut self, host: &Host, hosts: usize) -> Result<(), Failure> {
        let Some(router) = host.router.as_ref().filter(|_| hosts <= MAX_HOSTS) else { return Ok(()) };
        let accepted = router.node.gossip_stats().records_accepted;
        let seen = self.hosts.entry(host.number).or_default();
        if seen.life != router.life {
            *seen = Seen { life: router.life, ..Seen::default() };
        } else if seen.accepted == accepted {
            return Ok(());
        }
        seen.accepted = accepted;
        for record in router.node.records() {
            let versions = seen.versions.entry(record.origin).or_default();
            match versions.get_mut(&record.key) {
                Some(before) => note(before, record.version, || format!("{record:?}"), host.number)?,
                None => drop(versions.insert(record.key.clone(), record.version)),
            }
        }
        Ok(())
    }
}

fn note(before: &mut u64, now: u64, record: impl Fn() -> String, host: u16) -> Result<(), Failure> {
    if now < *before {
        let text =
            format!("host {host} had {}.{} and went back to {}", *before >> 32, *before as u32, record());
        return Err(Failure { check: Check::NeverBack, text, subject: Subject::All });
    }
    *before = now;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_version_is_noticed() {
        let mut before = 7;
        assert!(note(&mut before, 9, String::new, 0).is_ok());
        assert!(note(&mut before, 9, String::new, 0).is_ok());
        let failure = note(&mut before, 8, String::new, 0).expect_err("it went back");
        assert_eq!(failure.check, Check::NeverBack);
    }
}
