//! MAC addresses of the fabric.
//!
//! A container's MAC address is derived from its IPv4 address, so that a neighbour cache entry stays true when the address is
//! given to another container, here or on another host.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use gossip::PeerId;

/// First two bytes of a container's MAC address: locally administered, unicast.
const CONTAINER_PREFIX: [u8; 2] = [0x0a, 0x77];
/// First byte of a host bridge's MAC address: locally administered, unicast, apart from containers'.
const HOST_PREFIX: u8 = 0x0e;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The address of the container that holds `address`.
    pub fn of_container(address: Ipv4Addr) -> Mac {
        let [a, b, c, d] = address.octets();
        Mac([CONTAINER_PREFIX[0], CONTAINER_PREFIX[1], a, b, c, d])
    }

    /// The address of a peer's bridge.
    pub fn of_host(peer: PeerId) -> Mac {
        let id = peer.0;
        Mac([HOST_PREFIX, id[0], id[1], id[2], id[3], id[4]])
    }

    /// The IPv4 address that a derived container address stands for.
    pub fn container_address(self) -> Option<Ipv4Addr> {
        let [p, q, a, b, c, d] = self.0;
        ([p, q] == CONTAINER_PREFIX).then(|| Ipv4Addr::new(a, b, c, d))
    }

    /// Is this one interface's own address, neither multicast nor zero?
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Text that is not six hexadecimal bytes with colons.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a MAC address such as 0a:77:0a:20:00:01")]
pub struct NotAMac(pub String);

impl FromStr for Mac {
    type Err = NotAMac;

    fn from_str(text: &str) -> Result<Mac, NotAMac> {
        let wrong = || NotAMac(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let two_digits = |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
            let part = parts.next().filter(two_digits).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        match parts.next() {
            None => Ok(Mac(bytes)),
            Some(_) => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_mac_embeds_the_address_and_reads_back() {
        let address = Ipv4Addr::new(10, 32, 0, 7);
        let mac = Mac::of_container(address);
        assert_eq!(mac.to_string(), "0a:77:0a:20:00:07");
        assert_eq!(mac.container_address(), Some(address));
        assert_eq!(mac.to_string().parse(), Ok(mac));
        assert!(mac.is_unicast());
    }

    #[test]
    fn wrong_text_is_refused() {
        for text in ["", "0a:77:0a:20:00", "0a:77:0a:20:00:07:01", "0a-77-0a-20-00-07", "+a:77:0a:20:00:07"] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }
}
