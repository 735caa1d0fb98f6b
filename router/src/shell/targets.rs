//! Addresses that this router was told to dial: as they were given, what they resolve to, and when to ask again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::config::DEFAULT_PORT;

/// Names are asked for again this often while their session is missing; resolvers cache, so this is cheap.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);
/// Targets of one router; ten times what anybody lists by hand.
pub const MAX_TARGETS: usize = 128;
/// Longest wait for a resolver.
const RESOLVE_DEADLINE: Duration = Duration::from_secs(2);

/// The list.
#[derive(Debug, Default)]
pub struct Targets {
    by_name: BTreeMap<String, Resolution>,
}

#[derive(Debug, Default)]
struct Resolution {
    addresses: BTreeSet<SocketAddr>,
    asked: Option<Instant>,
    error: Option<String>,
}

/// Text that is not an address to dial.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Not `host`, `host:port`, `ip`, `ip:port` or `[ip6]:port`.
    #[error("`{0}` is not an address such as 192.0.2.7, host-b, host-b:6783 or [2001:db8::7]:6783")]
    NotAnAddress(String),
    /// The list is full.
    #[error("there are {MAX_TARGETS} targets already; peers find each other, a few targets are enough")]
    TooMany,
}

impl Targets {
    /// Adds addresses as given, all of them or none.
    pub fn add(&mut self, texts: &[String]) -> Result<(), TargetError> {
        texts.iter().try_for_each(|text| split(text).map(drop))?;
        let fresh: BTreeSet<&String> =
            texts.iter().filter(|text| !self.by_name.contains_key(*text)).collect();
        if self.by_name.len() + fresh.len() > MAX_TARGETS {
            return Err(TargetError::TooMany);
        }
        self.by_name.extend(fresh.into_iter().map(|text| (text.clone(), Resolution::default())));
        Ok(())
    }

    /// Drops an address. Answers what it had resolved to and is no other target's.
    pub fn remove(&mut self, text: &str) -> Vec<SocketAddr> {
        let Some(gone) = self.by_name.remove(text) else { return Vec::new() };
        let used = |address: &SocketAddr| self.by_name.values().any(|r| r.addresses.contains(address));
        gone.addresses.into_iter().filter(|address| !used(address)).collect()
    }

    /// The list as given.
    pub fn names(&self) -> Vec<String> {
        self.by_name.keys().cloned().collect()
    }

    /// Each target with what it resolved to and why not.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Vec<SocketAddr>, Option<&str>)> {
        self.by_name
            .iter()
            .map(|(name, r)| (name.as_str(), r.addresses.iter().copied().collect(), r.error.as_deref()))
    }

    /// What is due: addresses that are new at once, and names that have to be looked up.
    pub fn due(&mut self, now: Instant) -> (Vec<SocketAddr>, Vec<String>) {
        let (mut fresh, mut names) = (Vec::new(), Vec::new());
        for (name, resolution) in &mut self.by_name {
            if resolution.asked.is_some_and(|asked| now < asked + RESOLVE_EVERY) {
                continue;
            }
            resolution.asked = Some(now);
            match literal(name) {
                Some(address) if resolution.addresses.insert(address) => fresh.push(address),
                Some(_) => {}
                None => names.push(name.clone()),
            }
        }
        (fresh, names)
    }

    /// A name was looked up. Answers addresses that are new.
    pub fn resolved(&mut self, name: &str, result: Resolved) -> Vec<SocketAddr> {
        // It may have been forgotten meanwhile.
        let Some(resolution) = self.by_name.get_mut(name) else { return Vec::new() };
        match result {
            Ok(addresses) => {
                let fresh = addresses.difference(&resolution.addresses).copied().collect();
                resolution.addresses.extend(addresses);
                resolution.error = None;
                fresh
            }
            Err(error) => {
                resolution.error = Some(error);
                Vec::new()
            }
        }
    }
}

/// What a look-up brought.
pub type Resolved = Result<BTreeSet<SocketAddr>, String>;

fn literal(name: &str) -> Option<SocketAddr> {
    let (host, port) = split(name).ok()?;
    Some(SocketAddr::new(host.parse().ok()?, port))
}

/// Looks a name up. Takes up to two seconds, so never on the engine's own task.
pub async fn resolve(name: &str) -> Resolved {
    let (host, port) = split(name).map_err(|error| error.to_string())?;
    match tokio::time::timeout(RESOLVE_DEADLINE, tokio::net::lookup_host((host, port))).await {
        Ok(Ok(found)) => Ok(found.collect()),
        Ok(Err(error)) => Err(format!("cannot resolve `{host}`: {error}")),
        Err(_) => Err(format!("cannot resolve `{host}`: no answer within {} s", RESOLVE_DEADLINE.as_secs())),
    }
}

/// Host and port of a target; the port may be missing.
fn split(text: &str) -> Result<(&str, u16), TargetError> {
    let wrong = || TargetError::NotAnAddress(text.to_owned());
    if text.parse::<IpAddr>().is_ok() {
        return Ok((text, DEFAULT_PORT));
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(wrong)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
            match rest.strip_prefix(':') {
                Some(port) => (host, port.parse().map_err(|_| wrong())?),
                None if rest.is_empty() => (host, DEFAULT_PORT),
                None => return Err(wrong()),
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| wrong())?),
            None => (text, DEFAULT_PORT),
        },
    };
    let host_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    let fits = !host.is_empty() && host.len() <= 253 && host.chars().all(host_char) && port != 0;
    if fits { Ok((host, port)) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_an_address_is_read() {
        for (text, want) in [
            ("192.0.2.7", ("192.0.2.7", 6783)),
            ("192.0.2.7:99", ("192.0.2.7", 99)),
            ("host-b", ("host-b", 6783)),
            ("host-b.example:1", ("host-b.example", 1)),
            ("2001:db8::7", ("2001:db8::7", 6783)),
            ("[2001:db8::7]", ("2001:db8::7", 6783)),
            ("[2001:db8::7]:8", ("2001:db8::7", 8)),
        ] {
            assert_eq!(split(text), Ok(want), "{text}");
        }
        for text in ["", ":1", "a:b", "a:0", "[host]:1", "[::1]x", "a b", "a/b", "host:65536"] {
            assert!(split(text).is_err(), "{text}");
        }
    }

    #[test]
    fn literals_are_dialled_at_once_and_names_looked_up() {
        let (mut targets, now) = (Targets::default(), Instant::now());
        targets.add(&["192.0.2.7".to_owned(), "host-b".to_owned()]).expect("added");
        let address: SocketAddr = "192.0.2.7:6783".parse().expect("address");
        assert_eq!(targets.due(now), (vec![address], vec!["host-b".to_owned()]));
        assert_eq!(targets.due(now), (vec![], vec![]));
        assert_eq!(targets.due(now + RESOLVE_EVERY), (vec![], vec!["host-b".to_owned()]));
        assert!(targets.resolved("forgotten", Ok(BTreeSet::from([address]))).is_empty());
    }

    #[test]
    fn removal_keeps_what_another_target_needs() {
        let mut targets = Targets::default();
        let address: SocketAddr = "192.0.2.7:6783".parse().expect("address");
        for name in ["192.0.2.7", "192.0.2.7:6783"] {
            targets.add(&[name.to_owned()]).expect("added");
            assert_eq!(targets.resolved(name, Ok(BTreeSet::from([address]))), [address]);
        }
        assert!(targets.remove("192.0.2.7").is_empty());
        assert_eq!(targets.remove("192.0.2.7:6783"), vec![address]);
        assert!(targets.remove("192.0.2.7:6783").is_empty());
    }

    #[test]
    fn one_wrong_address_adds_none() {
        let mut targets = Targets::default();
        let wrong = targets.add(&["host-a".to_owned(), "host b".to_owned()]);
        assert_eq!(wrong, Err(TargetError::NotAnAddress("host b".to_owned())));
        let many: Vec<String> = (0..=MAX_TARGETS).map(|n| format!("host-{n}")).collect();
        assert_eq!(targets.add(&many), Err(TargetError::TooMany));
        assert!(targets.names().is_empty());
        assert_eq!(targets.add(&many[1..]), Ok(()));
        assert_eq!(targets.add(&many[1..]), Ok(()), "the same again needs no room");
    }
}
