//! What an operator may choose about names.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

use super::PORT;
use crate::core::names::{DnsName, MAX_DOMAIN, NotAName};

/// Address on the bridge of every host where its containers find names. Link-local, so that it is routed nowhere and means the nearest one
/// everywhere; the last bytes are the fabric's port, 6783.
pub const DEFAULT_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 67, 83);
/// The domain of Weave Net.
pub const DEFAULT_DOMAIN: &str = "weave.local";
/// Seconds for which an answer may be kept by whoever asked: names are gone within seconds of their container.
pub const DEFAULT_TTL: u32 = 1;
/// Longest that an operator may choose. Beyond it a container that is gone would be asked for an hour.
pub const MAX_TTL: u32 = 3600;
/// Resolvers that are asked; glibc takes three.
pub const MAX_UPSTREAMS: usize = 3;
/// Where clouds keep what a machine knows of itself: nobody may take it.
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Where names are served, or nowhere.
    pub address: Address,
    /// What stands behind the names of the fabric.
    pub domain: Domain,
    /// Seconds for which answers may be kept.
    pub ttl: u32,
    /// Who is asked for all other names.
    pub upstream: Upstream,
}

/// Where names are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// Nowhere.
    Off,
    /// Here, on the bridge.
    At(Ipv4Addr),
}

/// The fabric's domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain(DnsName);

/// Who knows the names that are not the fabric's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Upstream {
    /// Whom this host asks, by its `/etc/resolv.conf`.
    #[default]
    Host,
    /// Nobody: containers resolve names of the fabric alone.
    Nobody,
    /// These.
    These(Vec<SocketAddr>),
}

/// A word that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAnOption {
    /// Of `dns-address`.
    #[error("`{0}` is neither `off` nor a link-local IPv4 address such as {DEFAULT_ADDRESS}")]
    Address(String),
    /// Of `dns-domain`.
    #[error("{0}; for instance `{DEFAULT_DOMAIN}`")]
    Domain(#[from] NotAName),
    /// Of `dns-domain`.
    #[error("domain `{0}` has more than {MAX_DOMAIN} bytes")]
    DomainTooLong(DnsName),
    /// Of `dns-ttl`.
    #[error("dns-ttl {0} is outside 0 to {MAX_TTL} seconds")]
    Ttl(u32),
    /// Of `dns-upstream`.
    #[error(
        "`{0}` is none of `auto`, `off`, and at most {MAX_UPSTREAMS} addresses with commas between them, such as 192.0.2.53,[2001:db8::1]:5353"
    )]
    Upstream(String),
}

impl Address {
    /// The address, if names are served.
    pub fn ip(self) -> Option<Ipv4Addr> {
        match self {
            Address::Off => None,
            Address::At(ip) => Some(ip),
        }
    }
}

impl Default for Address {
    fn default() -> Address {
        Address::At(DEFAULT_ADDRESS)
    }
}

impl Domain {
    /// As a name without a dot at its end.
    pub fn name(&self) -> &DnsName {
        &self.0
    }
}

impl Default for Domain {
    fn default() -> Domain {
        // A test parses it.
        DEFAULT_DOMAIN.parse().unwrap_or_else(|error: NotAnOption| panic!("{error}"))
    }
}

impl FromStr for Address {
    type Err = NotAnOption;

    fn from_str(text: &str) -> Result<Address, NotAnOption> {
        match text.parse() {
            _ if text == "off" => Ok(Address::Off),
            // RFC 3927 section 2.1 keeps the first and the last 256 addresses for later use.
            Ok(ip)
                if Ipv4Addr::is_link_local(&ip) && !matches!(ip.octets()[2], 0 | 255) && ip != METADATA =>
            {
                Ok(Address::At(ip))
            }
            Ok(_) | Err(_) => Err(NotAnOption::Address(text.to_owned())),
        }
    }
}

impl FromStr for Domain {
    type Err = NotAnOption;

    fn from_str(text: &str) -> Result<Domain, NotAnOption> {
        let name: DnsName = text.strip_suffix('.').unwrap_or(text).parse()?;
        if name.as_str().len() > MAX_DOMAIN {
            return Err(NotAnOption::DomainTooLong(name));
        }
        Ok(Domain(name))
    }
}

impl FromStr for Upstream {
    type Err = NotAnOption;

    fn from_str(text: &str) -> Result<Upstream, NotAnOption> {
        let wrong = || NotAnOption::Upstream(text.to_owned());
        match text {
            "auto" => return Ok(Upstream::Host),
            "off" => return Ok(Upstream::Nobody),
            _ => {}
        }
        let one = |part: &str| {
            let ip = || part.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT));
            part.parse::<SocketAddr>().or_else(|_| ip()).map_err(|_| wrong())
        };
        let all = text.split(',').map(|part| one(part.trim())).collect::<Result<Vec<_>, _>>()?;
        let usable = |at: &SocketAddr| at.port() != 0 && !at.ip().is_unspecified() && !at.ip().is_multicast();
        if all.len() > MAX_UPSTREAMS || !all.iter().all(usable) {
            return Err(wrong());
        }
        Ok(Upstream::These(all))
    }
}

/// Checks what an operator gave.
pub fn ttl(seconds: u32) -> Result<u32, NotAnOption> {
    if seconds <= MAX_TTL { Ok(seconds) } else { Err(NotAnOption::Ttl(seconds)) }
}

macro_rules! deserialize_from_text {
    ($($kind:ty),*) => {$(
        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

deserialize_from_text!(Address, Domain, Upstream);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_understood_or_refused_with_the_way_out() {
        assert_eq!("off".parse(), Ok(Address::Off));
        assert_eq!("169.254.67.83".parse(), Ok(Address::default()));
        for wrong in ["", "10.0.0.1", "169.254.0.1", "169.254.255.1", "169.254.169.254", "fe80::1", "on"] {
            let error = wrong.parse::<Address>().expect_err(wrong).to_string();
            assert!(error.contains("169.254.67.83"), "{error}");
        }
        assert_eq!(Domain::default().name().as_str(), "weave.local");
        assert_eq!("Lab.Example.".parse::<Domain>().expect("domain").name().as_str(), "lab.example");
        ".".parse::<Domain>().expect_err("the root");
        "a.".repeat(40).parse::<Domain>().expect_err("long");
        assert_eq!("auto".parse(), Ok(Upstream::Host));
        let two = "192.0.2.53, [2001:db8::1]:5353".parse();
        let expected = ["192.0.2.53:53", "[2001:db8::1]:5353"].map(|text| text.parse().expect("address"));
        assert_eq!(two, Ok(Upstream::These(expected.to_vec())));
        for wrong in ["", "a", "192.0.2.1,", "0.0.0.0", "1.1.1.1:0", "1.1.1.1,1.1.1.2,1.1.1.3,1.1.1.4"] {
            wrong.parse::<Upstream>().expect_err(wrong);
        }
        assert_eq!(ttl(3601), Err(NotAnOption::Ttl(3601)));
    }
}
