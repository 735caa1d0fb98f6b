//! What upstreams said, for as long as they said that it may be kept. Pure: time is an argument.
//!
//! Bounded in entries and bytes; the oldest entry gives way. Failures are not kept: a container that starts before its network must not
//! wait for a cache.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::message::{Question, Reply};

/// Entries; a host with hundreds of containers asks for some hundred names.
pub(super) const MAX_ENTRIES: usize = 4096;
/// Bytes of all entries as they came over the wire; in memory they take some three times as much.
pub(super) const MAX_BYTES: usize = 2 << 20;
/// Longest that an answer is kept: whoever changes a record with a longer time waits an hour for us, not a day.
const MAX_TTL: Duration = Duration::from_secs(3600);
/// Longest that the absence of a name is kept (RFC 2308 section 5 wants hours at most): a name that is missed is soon made.
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(60);

/// What makes two questions the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    name: Name,
    kind: RecordType,
    dnssec_ok: bool,
    checking_disabled: bool,
}

impl Key {
    /// Of a question of class IN.
    pub(super) fn of(question: &Question) -> Key {
        Key {
            name: question.query.name.to_lowercase(),
            kind: question.query.query_type,
            dnssec_ok: question.dnssec_ok,
            checking_disabled: question.checking_disabled,
        }
    }
}

struct Entry {
    reply: Reply,
    bytes: usize,
    from: Instant,
    until: Instant,
    /// Which of several entries of one key, one after the other, this is.
    number: u64,
}

/// See the module's text.
#[derive(Default)]
pub(super) struct Cache {
    entries: HashMap<Key, Entry>,
    /// In order of their making; those that were replaced since are skipped.
    order: VecDeque<(Key, u64)>,
    bytes: usize,
    made: u64,
}

impl Cache {
    /// What was said, with what is left of its time.
    pub(super) fn get(&mut self, key: &Key, now: Instant) -> Option<Reply> {
        let entry = self.entries.get(key)?;
        if entry.until <= now {
            self.remove(key);
            return None;
        }
        let age = u32::try_from(now.saturating_duration_since(entry.from).as_secs()).unwrap_or(u32::MAX);
        let mut reply = entry.reply.clone();
        for record in reply.answers.iter_mut().chain(&mut reply.authorities) {
            record.ttl = record.ttl.saturating_sub(age);
        }
        Some(reply)
    }

    /// Keeps what an upstream said in so many bytes, if it may be kept.
    pub(super) fn keep(&mut self, key: Key, reply: &Reply, bytes: usize, now: Instant) {
        let Some(time) = keep_for(reply) else { return };
        self.remove(&key);
        let mut reply = reply.clone();
        let cap = time.as_secs() as u32;
        for record in reply.answers.iter_mut().chain(&mut reply.authorities) {
            record.ttl = record.ttl.min(cap);
        }
        self.made += 1;
        self.bytes += bytes;
        self.order.push_back((key.clone(), self.made));
        self.entries.insert(key, Entry { reply, bytes, from: now, until: now + time, number: self.made });
        while self.entries.len() > MAX_ENTRIES || self.bytes > MAX_BYTES {
            let Some((oldest, number)) = self.order.pop_front() else { break };
            if self.entries.get(&oldest).is_some_and(|entry| entry.number == number) {
                self.remove(&oldest);
            }
        }
        // Entries that were replaced or ran out leave their places in the order behind.
        if self.order.len() > 2 * MAX_ENTRIES {
            let entries = &self.entries;
            self.order.retain(|(key, number)| entries.get(key).is_some_and(|entry| entry.number == *number));
        }
    }

    /// Entries, those that ran out included.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= entry.bytes;
        }
    }
}

/// For how long an answer may be kept: as long as its shortest record. `None`: not at all.
fn keep_for(reply: &Reply) -> Option<Duration> {
    let seconds = |records: &[Record]| records.iter().map(|record| u64::from(record.ttl)).min();
    let time = match reply.code {
        ResponseCode::NoError if !reply.answers.is_empty() => {
            let shortest = seconds(&reply.answers)?.min(seconds(&reply.authorities).unwrap_or(u64::MAX));
            Duration::from_secs(shortest).min(MAX_TTL)
        }
        ResponseCode::NoError | ResponseCode::NXDomain => {
            // RFC 2308 section 5: without an SOA record the absence is not kept.
            let soa = reply.authorities.iter().find_map(|record| match &record.data {
                RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
                _ => None,
            })?;
            Duration::from_secs(u64::from(soa)).min(MAX_NEGATIVE_TTL)
        }
        _ => return None,
    };
    (!time.is_zero()).then_some(time)
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::{A, SOA};

    use super::*;
    use crate::shell::dns::message::tests::question;

    fn key(name: &str) -> Key {
        Key::of(&question(name, RecordType::A))
    }

    fn reply(ttl: u32) -> Reply {
        let name = Name::from_ascii("example.com.").expect("name");
        let answers = vec![Record::from_rdata(name, ttl, RData::A(A::new(192, 0, 2, 1)))];
        Reply { answers, ..Reply::bare(ResponseCode::NoError) }
    }

    fn nothing(code: ResponseCode, ttl: u32, minimum: u32) -> Reply {
        let name = Name::from_ascii("example.com.").expect("name");
        let soa = SOA::new(name.clone(), name.clone(), 1, 1, 1, 1, minimum);
        Reply { authorities: vec![Record::from_rdata(name, ttl, RData::SOA(soa))], ..Reply::bare(code) }
    }

    fn after(seconds: u64) -> Instant {
        static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
        *START + Duration::from_secs(seconds)
    }

    #[test]
    fn answers_live_as_long_as_their_shortest_record() {
        let mut cache = Cache::default();
        cache.keep(key("example.com."), &reply(10), 50, after(0));
        assert_eq!(cache.get(&key("EXAMPLE.com."), after(4)).expect("kept").answers[0].ttl, 6);
        assert_eq!(cache.get(&key("example.com."), after(10)), None);
        assert_eq!((cache.len(), cache.bytes), (0, 0));
        cache.keep(key("example.com."), &reply(0), 50, after(0));
        assert_eq!(cache.len(), 0, "not to be kept");
        cache.keep(key("example.com."), &reply(u32::MAX), 50, after(0));
        assert_eq!(cache.get(&key("example.com."), after(1)).expect("kept").answers[0].ttl, 3599);
        assert_eq!(cache.get(&key("example.com."), after(3600)), None);
    }

    #[test]
    fn absence_is_kept_for_a_short_time_and_failure_is_not() {
        let mut cache = Cache::default();
        let mut kept = |reply: Reply, seconds| {
            cache.keep(key("a."), &reply, 50, after(0));
            let kept = cache.get(&key("a."), after(seconds)).is_some();
            cache.remove(&key("a."));
            kept
        };
        for code in [ResponseCode::NXDomain, ResponseCode::NoError] {
            assert!(kept(nothing(code, 3600, 30), 29));
            assert!(!kept(nothing(code, 3600, 30), 30), "the SOA's minimum");
            assert!(!kept(nothing(code, 86_400, 86_400), 60), "our limit");
        }
        assert!(!kept(Reply::bare(ResponseCode::NXDomain), 0), "without a time");
        assert!(!kept(Reply::bare(ResponseCode::ServFail), 0));
        assert!(!kept(nothing(ResponseCode::Refused, 10, 10), 0));
    }

    #[test]
    fn entries_and_bytes_are_bounded() {
        let mut cache = Cache::default();
        for n in 0..3 * MAX_ENTRIES {
            cache.keep(key(&format!("n{n}.example.")), &reply(1000), 50, after(0));
            cache.keep(key("again.example."), &reply(1000), 50, after(0));
        }
        assert_eq!(cache.len(), MAX_ENTRIES);
        assert!(cache.order.len() <= 2 * MAX_ENTRIES + 1, "{}", cache.order.len());
        assert!(cache.get(&key("again.example."), after(1)).is_some(), "made anew, so it is not the oldest");
        for n in 0..100 {
            cache.keep(key(&format!("big{n}.example.")), &reply(1000), MAX_BYTES / 4, after(0));
        }
        assert!(cache.bytes <= MAX_BYTES && cache.len() == 4, "{} in {}", cache.bytes, cache.len());
    }
}
