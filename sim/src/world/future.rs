//! A router of a later version among those of today: it says what nobody here has words for. Records must be carried on unharmed to
//! everybody; messages that are not understood must harm nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use gossip::{Kind, MAX_MESSAGE, MAX_NAME, MAX_VALUE, PeerId, RecordKey, codec};

use super::trouble::Undo;
use super::{What, World};
use crate::dice::Dice;
use crate::history::Subject;
use crate::host::Host;
use crate::model::{Check, Failure, Fate};

/// Kinds from here on are of later versions.
const FIRST_KIND: u8 = 100;
/// Different keys at most, so that some are said again with another content.
const KEYS: u64 = 6;
/// Longest time until it says something else.
const PAUSE: Duration = Duration::from_secs(6);

impl World {
    /// It says something, or says it no longer, now and `left` times more.
    pub(super) fn speak_of_future(&mut self, host: u16, how: u64, left: u32) -> Result<(), Failure> {
        let mut dice = self.dice_of(how ^ u64::from(left) << 32);
        if left > 0 {
            let at = self.now + dice.between(Duration::ZERO, PAUSE);
            self.queue.push(at, What::Undo(Undo::Future { host, how, left: left - 1 }));
        }
        if !self.runs(host) || self.model.fate(host) != Fate::Member {
            return Ok(());
        }
        let key = draw_key(&mut Dice::new(dice.below(KEYS), 6));
        let mut value = vec![0; dice.index(MAX_VALUE + 1)];
        dice.fill(&mut value);
        let nonsense = nonsense(&mut dice);
        let here = &mut self.hosts[usize::from(host)];
        let now = here.clock.read(self.now);
        if dice.happens(250) {
            here.future.remove(&key);
            here.with(now, |node, now| node.withdraw_strange(&key, now));
        } else {
            here.future.insert(key.clone(), value.clone());
            here.with(now, |node, now| node.publish_strange(key, value, now));
        }
        here.with(now, |node, now| {
            let neighbours: Vec<PeerId> = node.neighbours().collect();
            neighbours.into_iter().for_each(|to| node.send_strange(to, nonsense.clone(), now));
        });
        self.turn(host)
    }

    /// Every member holds exactly what the members of a later version say.
    pub(super) fn check_future(&self, members: &[u16]) -> Result<(), Failure> {
        let said = |host: &Host| {
            let origin = host.id;
            let entries = host.future.iter().map(move |(key, value)| ((origin, key.clone()), value.clone()));
            entries.collect::<Vec<_>>()
        };
        let wanted: BTreeMap<(PeerId, RecordKey), Vec<u8>> =
            members.iter().flat_map(|host| said(&self.hosts[usize::from(*host)])).collect();
        for host in members {
            let Some(router) = &self.hosts[usize::from(*host)].router else { continue };
            let records = router.node.records().filter(|record| record.key.kind.0 >= FIRST_KIND);
            let live = records.filter_map(|r| Some(((r.origin, r.key.clone()), r.value.clone()?)));
            let held: BTreeMap<(PeerId, RecordKey), Vec<u8>> = live.collect();
            if held != wanted {
                let missing = wanted.keys().find(|key| held.get(*key) != wanted.get(*key));
                let odd = held.keys().find(|key| !wanted.contains_key(*key));
                let text =
                    format!("host {host} has not, or has otherwise, {missing:?}; and has {odd:?} too much");
                return Err(Failure { check: Check::CarriedOn, text, subject: Subject::All });
            }
        }
        Ok(())
    }
}

fn draw_key(dice: &mut Dice) -> RecordKey {
    let kind = Kind(FIRST_KIND + dice.index(usize::from(u8::MAX - FIRST_KIND)) as u8);
    let mut name = vec![0; dice.index(MAX_NAME + 1)];
    dice.fill(&mut name);
    RecordKey::new(kind, name)
}

/// A message of another encoding, or of a kind that is not known.
fn nonsense(dice: &mut Dice) -> Vec<u8> {
    let mut bytes = vec![0; 2 + dice.index(MAX_MESSAGE - 1)];
    dice.fill(&mut bytes);
    match dice.below(2) {
        0 => bytes[0] = codec::VERSION + 1,
        _ => (bytes[0], bytes[1]) = (codec::VERSION, 200 + dice.below(50) as u8),
    }
    bytes
}

#[cfg(test)]
mod tests {
    use gossip::wire::Message;

    use super::*;

    #[test]
    fn nobody_understands_the_nonsense() {
        let mut dice = Dice::new(1, 0);
        for _ in 0..200 {
            assert!(Message::parse(&nonsense(&mut dice)).is_err());
        }
    }
}
