//! What a router announces about names: the value of a `NAMES` record.
//!
//! A kind of its own, so that endpoint records stay as they are and routers that know nothing of names carry these on.

use std::net::IpAddr;

use gossip::codec::{self, DecodeError};
use serde::{Deserialize, Serialize};

use super::name::{DnsName, NotAName};
use crate::core::mac::Mac;

/// Names of one endpoint or addresses' owner. A container has its own, its short id and a few aliases; the bytes are bounded as well.
pub const MAX_NAMES: usize = 8;
/// Addresses behind one record: a container has two, and what is added by hand is a service of a few.
pub const MAX_ADDRESSES: usize = 16;
/// Longest value. Gossip takes 920 bytes; sixteen IPv6 addresses leave room for some 600 bytes of names.
const MAX_VALUE: usize = gossip::MAX_VALUE;

/// Whom names belong to; they go with it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum NameOwner {
    /// An endpoint of the host.
    Endpoint(Mac),
    /// Nobody but the host on which somebody added the name.
    Operator(DnsName),
}

impl NameOwner {
    /// The name of its record: a tag, and what tells it from others.
    pub fn record_name(&self) -> Vec<u8> {
        match self {
            NameOwner::Endpoint(mac) => [&[1][..], &mac.0].concat(),
            // A name can be longer than a record's may be.
            NameOwner::Operator(name) => {
                let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, name.as_str().as_bytes());
                [&[2][..], &digest.as_ref()[..16]].concat()
            }
        }
    }
}

/// Names and the addresses that each of them stands for, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    names: Vec<DnsName>,
    addresses: Vec<IpAddr>,
}

impl Said {
    /// Without what is there twice. Refuses what would not fit a record.
    pub fn new(
        names: impl IntoIterator<Item = DnsName>,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Result<Said, NamesError> {
        let said = Said { names: once(names), addresses: once(addresses) };
        said.check()?;
        match said.emit().len() {
            length if length > MAX_VALUE => Err(NamesError::TooLong(length)),
            _ => Ok(said),
        }
    }

    /// As many of these names as fit, the first ones; `None` when that is none.
    pub fn fitting(names: Vec<DnsName>, addresses: Vec<IpAddr>) -> Option<Said> {
        let mut names: Vec<DnsName> = once(names).into_iter().take(MAX_NAMES).collect();
        loop {
            match Said::new(names.clone(), addresses.clone()) {
                Ok(said) => return Some(said),
                Err(_) if names.len() > 1 => drop(names.pop()),
                Err(_) => return None,
            }
        }
    }

    /// The names.
    pub fn names(&self) -> &[DnsName] {
        &self.names
    }

    /// The addresses.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Writes the record's value.
    pub fn emit(&self) -> Vec<u8> {
        let names = self.names.iter().map(|name| name.as_str().to_owned()).collect();
        codec::encode(&NamesAdvert { names, addresses: self.addresses.clone() })
    }

    /// Reads a record's value.
    pub fn parse(value: &[u8]) -> Result<Said, NamesError> {
        let advert: NamesAdvert = codec::decode(value, MAX_VALUE)?;
        let names = advert.names.iter().map(|name| name.parse()).collect::<Result<Vec<_>, _>>()?;
        let said = Said { names: once(names), addresses: once(advert.addresses) };
        said.check()?;
        Ok(said)
    }

    fn check(&self) -> Result<(), NamesError> {
        match (self.names.len(), self.addresses.len()) {
            (0, _) | (_, 0) => Err(NamesError::Nothing),
            (names, _) if names > MAX_NAMES => Err(NamesError::TooManyNames(names)),
            (_, addresses) if addresses > MAX_ADDRESSES => Err(NamesError::TooManyAddresses(addresses)),
            _ => match self.addresses.iter().find(|address| !is_somebodys(**address)) {
                Some(wrong) => Err(NamesError::NotAHost(*wrong)),
                None => Ok(()),
            },
        }
    }
}

/// The record's value as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamesAdvert {
    /// Without the domain.
    pub names: Vec<String>,
    /// What each of them stands for.
    pub addresses: Vec<IpAddr>,
}

/// Why names are refused. Of a peer: it misbehaved, and nothing of ours changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NamesError {
    /// The value does not decode.
    #[error("value does not decode: {0}")]
    Malformed(#[from] DecodeError),
    /// One of them cannot be a name.
    #[error(transparent)]
    NotAName(#[from] NotAName),
    /// No name, or no address.
    #[error("a name needs an address")]
    Nothing,
    /// More names than one owner may have.
    #[error("{0} names, want at most {MAX_NAMES}")]
    TooManyNames(usize),
    /// More addresses than one owner may have.
    #[error("{0} addresses, want at most {MAX_ADDRESSES}; more go under other names or on other hosts")]
    TooManyAddresses(usize),
    /// Nobody can be at such an address.
    #[error("{0} is not the address of a host")]
    NotAHost(IpAddr),
    /// Too many bytes for a record.
    #[error("{0} bytes, want at most {MAX_VALUE}; shorten the names")]
    TooLong(usize),
}

fn once<T: PartialEq>(all: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut kept = Vec::new();
    for one in all {
        if !kept.contains(&one) {
            kept.push(one);
        }
    }
    kept
}

/// An answer with the address of everybody, or of whoever asks, leads a client astray.
fn is_somebodys(address: IpAddr) -> bool {
    let broadcast = IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
    !(address.is_unspecified() || address.is_multicast() || address.is_loopback() || address == broadcast)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> DnsName {
        text.parse().expect("name")
    }

    fn address(last: u8) -> IpAddr {
        [10, 32, 0, last].into()
    }

    #[test]
    fn record_round_trip_and_limits() {
        let said =
            Said::new([name("web"), name("WEB"), name("a.b")], [address(1), address(1)]).expect("fits");
        assert_eq!(said.names(), [name("web"), name("a.b")]);
        assert_eq!(Said::parse(&said.emit()), Ok(said));
        assert_eq!(Said::new([], [address(1)]), Err(NamesError::Nothing));
        assert_eq!(Said::new([name("a")], []), Err(NamesError::Nothing));
        let many = (0..=16).map(address);
        assert_eq!(Said::new([name("a")], many), Err(NamesError::TooManyAddresses(17)));
        let loopback = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(Said::new([name("a")], [loopback]), Err(NamesError::NotAHost(loopback)));
    }

    #[test]
    fn what_does_not_fit_is_cut_from_the_end() {
        let long = |n: usize| name(&format!("{n}.{}", vec!["abcdefgh"; 20].join(".")));
        let said = Said::fitting((0..8).map(long).collect(), vec![address(1)]).expect("some fit");
        assert!(said.emit().len() <= MAX_VALUE);
        assert_eq!(said.names()[0], long(0));
        assert!((2..8).contains(&said.names().len()), "{}", said.names().len());
        let short = (0..20).map(|n| name(&format!("n{n}"))).collect();
        assert_eq!(Said::fitting(short, vec![address(1)]).expect("fit").names().len(), MAX_NAMES);
        assert_eq!(Said::fitting(Vec::new(), vec![address(1)]), None);
    }

    #[test]
    fn owners_have_different_records() {
        let endpoint = NameOwner::Endpoint(Mac([2; 6])).record_name();
        let operator = NameOwner::Operator(name("web")).record_name();
        assert!(endpoint.len() <= gossip::MAX_NAME && operator.len() <= gossip::MAX_NAME);
        assert_ne!(operator, NameOwner::Operator(name("web2")).record_name());
        assert_ne!(endpoint[0], operator[0]);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(said) = Said::parse(&bytes) {
                prop_assert_eq!(Said::parse(&said.emit()), Ok(said));
            }
        }

        #[test]
        fn damaged_records_never_panic(at in 0..60usize, byte in any::<u8>()) {
            let said = Said::new([name("web"), name("a.b")], [address(1), "fd00::1".parse().expect("v6")]);
            let mut bytes = said.expect("fits").emit();
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok(said) = Said::parse(&bytes) {
                prop_assert!(!said.names().is_empty() && !said.addresses().is_empty());
            }
        }
    }
}
