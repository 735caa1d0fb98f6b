//! The datagrams before a session: HELLO, its reply, and REJECT. Parses and emits; knows neither who dials whom nor when.
//!
//! A HELLO proves membership (HMAC-SHA256 with the fabric's hello key over the whole datagram) and identity (Ed25519 over the content).
//! The request is padded, so that no reply is longer than it. The first 36 bytes mean the same in all versions:
//! kind, version, two reserved, fabric id, nonce.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use aws_lc_rs::hmac;

use super::fabric::{FabricId, FabricKeys};
use super::identity::{Identity, PublicIdentity};
use super::sealed::SealedDatagram;

/// First byte of a HELLO request.
pub const HELLO: u8 = 0x10;
/// First byte of a HELLO reply.
pub const HELLO_REPLY: u8 = 0x11;
/// First byte of a REJECT.
pub const REJECT: u8 = 0x12;
/// The version of everything between two routers below gossip: HELLO, control channel, lanes.
pub const VERSION: u8 = 1;
/// The oldest version that this router can still speak.
pub const OLDEST_VERSION: u8 = 1;

/// A nonce: echoed by the reply, so that a replayed reply answers nothing.
pub type Nonce = [u8; 16];

const FABRIC: usize = 4;
const NONCE: usize = 20;
const ECHO: usize = 36;
const BOOT: usize = 52;
const UPTIME: usize = 68;
const CAPABILITIES: usize = 76;
const PUBLIC: usize = 80;
const ADDRESS: usize = 144;
const SIGNATURE: usize = 162;
const CONTENT: usize = SIGNATURE;
const PADDING: usize = SIGNATURE + 64;
const MAC: usize = 32;
/// Length of a request: 30 bytes of padding more than a reply, room for the reply to grow.
pub const REQUEST_LENGTH: usize = 288;
/// Length of a reply.
pub const REPLY_LENGTH: usize = PADDING + MAC;
/// Length of a REJECT.
pub const REJECT_LENGTH: usize = 54;
/// Longest note behind a REJECT, so that it stays shorter than the request.
const MAX_NOTE: usize = REQUEST_LENGTH - REJECT_LENGTH;
const PREFIX: usize = ECHO;
const SIGNATURE_LABEL: &[u8] = b"weave hello v1";

const _: () = assert!(REPLY_LENGTH <= REQUEST_LENGTH && REJECT_LENGTH <= REQUEST_LENGTH);

/// What the sender can do, as bits; unknown bits are kept and ignored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capabilities(pub u32);

impl Capabilities {
    /// The processor has AES instructions, so that AES-256-GCM is the faster cipher.
    pub const AES: Self = Self(1);

    /// Whether all bits of `other` are set.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Which of the two HELLO datagrams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HelloKind {
    /// Asks.
    Request,
    /// Answers; `echo` is the nonce of the request.
    Reply,
}

/// The content of a HELLO or its reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// Request or reply.
    pub kind: HelloKind,
    /// Fresh for each datagram.
    pub nonce: Nonce,
    /// In a reply, the nonce of the request; zero in a request.
    pub echo: Nonce,
    /// Drawn at each start of a router: tells a restart, and a clone.
    pub boot: Nonce,
    /// Milliseconds since the sender started: tells which of two clones is the newer.
    pub uptime: u64,
    /// What the sender can do.
    pub capabilities: Capabilities,
    /// Who the sender is.
    pub public: PublicIdentity,
    /// In a request, the address that it was sent to; in a reply, the address that the request came from.
    pub address: SocketAddr,
}

/// Why a datagram that starts like a HELLO is none. In a healthy fabric only `OtherVersion` (during an upgrade) happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HelloError {
    /// Not the length that the version has.
    Malformed,
    /// A version that is not spoken here.
    OtherVersion {
        /// Theirs.
        got: u8,
    },
    /// Another fabric.
    ForeignFabric {
        /// Theirs.
        got: FabricId,
    },
    /// Our fabric id, and not our secret (or range); a damaged datagram looks the same.
    WrongSecret,
    /// A member that claims keys which it does not have.
    BadSignature,
}

impl Hello {
    /// Signs, authenticates and, if a request, pads.
    pub fn emit(&self, identity: &Identity, keys: &FabricKeys) -> SealedDatagram {
        let length = match self.kind {
            HelloKind::Request => REQUEST_LENGTH,
            HelloKind::Reply => REPLY_LENGTH,
        };
        let mut bytes = vec![0; length];
        bytes[0] = match self.kind {
            HelloKind::Request => HELLO,
            HelloKind::Reply => HELLO_REPLY,
        };
        bytes[1] = VERSION;
        bytes[FABRIC..NONCE].copy_from_slice(&keys.fabric().0);
        bytes[NONCE..ECHO].copy_from_slice(&self.nonce);
        bytes[ECHO..BOOT].copy_from_slice(&self.echo);
        bytes[BOOT..UPTIME].copy_from_slice(&self.boot);
        bytes[UPTIME..CAPABILITIES].copy_from_slice(&self.uptime.to_be_bytes());
        bytes[CAPABILITIES..PUBLIC].copy_from_slice(&self.capabilities.0.to_be_bytes());
        bytes[PUBLIC..ADDRESS].copy_from_slice(&self.public.to_bytes());
        bytes[ADDRESS..SIGNATURE].copy_from_slice(&emit_address(self.address));
        let signature = identity.sign(&signed(&bytes[..CONTENT]));
        bytes[SIGNATURE..PADDING].copy_from_slice(&signature);
        let end = length - MAC;
        let tag = hmac::sign(&mac_key(keys), &bytes[..end]);
        bytes[end..].copy_from_slice(tag.as_ref());
        SealedDatagram::new(bytes)
    }

    /// Both checks: that a member sent it, and that it is the member that it claims to be.
    pub fn parse(bytes: &[u8], keys: &FabricKeys) -> Result<Self, HelloError> {
        Self::authenticate(bytes, keys)?.verify()
    }

    /// Checks in the order of cost: length, version, fabric, authentication; all cheap. The comparison of the tag takes constant time.
    pub fn authenticate<'a>(bytes: &'a [u8], keys: &FabricKeys) -> Result<UnverifiedHello<'a>, HelloError> {
        if bytes.len() < PREFIX {
            return Err(HelloError::Malformed);
        }
        if !(OLDEST_VERSION..=VERSION).contains(&bytes[1]) {
            return Err(HelloError::OtherVersion { got: bytes[1] });
        }
        let (kind, length) = match bytes[0] {
            HELLO => (HelloKind::Request, REQUEST_LENGTH),
            HELLO_REPLY => (HelloKind::Reply, REPLY_LENGTH),
            _ => return Err(HelloError::Malformed),
        };
        if bytes.len() != length {
            return Err(HelloError::Malformed);
        }
        let fabric = FabricId(array(bytes, FABRIC));
        if fabric != keys.fabric() {
            return Err(HelloError::ForeignFabric { got: fabric });
        }
        let end = length - MAC;
        hmac::verify(&mac_key(keys), &bytes[..end], &bytes[end..]).map_err(|_| HelloError::WrongSecret)?;
        Ok(UnverifiedHello { bytes, kind })
    }
}

/// A HELLO that some member made; which one is still to be checked.
pub struct UnverifiedHello<'a> {
    bytes: &'a [u8],
    kind: HelloKind,
}

impl UnverifiedHello<'_> {
    /// Checks the signature, which costs a hundred times as much as the rest.
    pub fn verify(self) -> Result<Hello, HelloError> {
        let Self { bytes, kind } = self;
        let public = PublicIdentity::from_bytes(&array(bytes, PUBLIC));
        if !public.verify(&signed(&bytes[..CONTENT]), &array(bytes, SIGNATURE)) {
            return Err(HelloError::BadSignature);
        }
        Ok(Hello {
            kind,
            nonce: array(bytes, NONCE),
            echo: array(bytes, ECHO),
            boot: array(bytes, BOOT),
            uptime: u64::from_be_bytes(array(bytes, UPTIME)),
            capabilities: Capabilities(u32::from_be_bytes(array(bytes, CAPABILITIES))),
            public,
            address: parse_address(&array(bytes, ADDRESS)),
        })
    }
}

/// Why a router refuses a HELLO. Sent without authentication: the dialler only shows it as what the far side says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RejectReason {
    /// The dialler belongs to another fabric.
    ForeignFabric,
    /// The fabric is the same, the secret (or the range) is not.
    WrongSecret,
    /// No version in common.
    Version,
    /// The dialler was removed from the fabric.
    Removed,
}

/// A refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reject {
    /// Why.
    pub reason: RejectReason,
    /// The nonce of the refused HELLO, which only those on the path know.
    pub echo: Nonce,
    /// The fabric of the router that refuses.
    pub fabric: FabricId,
    /// The fabric that the refused HELLO named.
    pub named: FabricId,
    /// Oldest version that the refusing router speaks.
    pub oldest: u8,
    /// Newest version that the refusing router speaks.
    pub newest: u8,
}

impl Reject {
    /// Answers a HELLO of any version; `None` when it is too short to name a fabric, or shorter than the answer would be.
    pub fn answer(hello: &[u8], reason: RejectReason, fabric: FabricId) -> Option<Self> {
        if hello.len() < REJECT_LENGTH || hello[0] != HELLO {
            return None;
        }
        let (echo, named) = (array(hello, NONCE), FabricId(array(hello, FABRIC)));
        Some(Self { reason, echo, fabric, named, oldest: OLDEST_VERSION, newest: VERSION })
    }

    /// The bytes; with words for whoever operates the dialler, as far as there is room: still shorter than any request.
    pub fn emit(&self, note: Option<&str>) -> SealedDatagram {
        let mut bytes = vec![0; REJECT_LENGTH];
        bytes[0] = REJECT;
        bytes[1] = VERSION;
        bytes[2] = match self.reason {
            RejectReason::ForeignFabric => 1,
            RejectReason::WrongSecret => 2,
            RejectReason::Version => 3,
            RejectReason::Removed => 4,
        };
        bytes[FABRIC..NONCE].copy_from_slice(&self.fabric.0);
        bytes[NONCE..ECHO].copy_from_slice(&self.echo);
        bytes[ECHO..52].copy_from_slice(&self.named.0);
        bytes[52] = self.oldest;
        bytes[53] = self.newest;
        bytes.extend(
            note.map(|note| &note.as_bytes()[..note.floor_char_boundary(MAX_NOTE)]).unwrap_or_default(),
        );
        SealedDatagram::new(bytes)
    }

    /// Reads a REJECT of any version, since one reason for it is the version; `None` if it is none or the reason is unknown.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < REJECT_LENGTH || bytes[0] != REJECT {
            return None;
        }
        let reason = match bytes[2] {
            1 => RejectReason::ForeignFabric,
            2 => RejectReason::WrongSecret,
            3 => RejectReason::Version,
            4 => RejectReason::Removed,
            _ => return None,
        };
        Some(Self {
            reason,
            echo: array(bytes, NONCE),
            fabric: FabricId(array(bytes, FABRIC)),
            named: FabricId(array(bytes, ECHO)),
            oldest: bytes[52],
            newest: bytes[53],
        })
    }
}

/// The words behind a REJECT, if there are any. Anybody on the path can write them: they are shown and decide nothing.
pub fn reject_note(bytes: &[u8]) -> Option<String> {
    let note = bytes.get(REJECT_LENGTH..).filter(|note| !note.is_empty() && note.len() <= MAX_NOTE)?;
    let text = std::str::from_utf8(note).ok()?;
    Some(text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect())
}

fn mac_key(keys: &FabricKeys) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, keys.hello())
}

fn signed(content: &[u8]) -> Vec<u8> {
    [SIGNATURE_LABEL, content].concat()
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

/// An address is 16 bytes of IPv6 (IPv4 as mapped) and the port.
fn emit_address(address: SocketAddr) -> [u8; 18] {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut bytes = [0; 18];
    bytes[..16].copy_from_slice(&ip.octets());
    bytes[16..].copy_from_slice(&address.port().to_be_bytes());
    bytes
}

fn parse_address(bytes: &[u8; 18]) -> SocketAddr {
    let ip = Ipv6Addr::from(array::<16>(bytes, 0)).to_canonical();
    SocketAddr::new(ip, u16::from_be_bytes(array(bytes, 16)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::fabric::Secret;

    fn keys(fabric: u8, secret: u8) -> FabricKeys {
        let range = "10.32.0.0/12".parse().expect("a range");
        FabricKeys::derive(FabricId([fabric; 16]), range, &Secret::from_bytes([secret; 32]))
    }

    fn hello(kind: HelloKind) -> (Hello, Vec<u8>) {
        let identity = Identity::from_seed([5; 64]);
        let hello = Hello {
            kind,
            nonce: [1; 16],
            echo: [2; 16],
            boot: [3; 16],
            uptime: 77,
            capabilities: Capabilities::AES,
            public: identity.public(),
            address: "192.0.2.1:6783".parse().expect("an address"),
        };
        let bytes = hello.emit(&identity, &keys(1, 1)).as_bytes().to_vec();
        (hello, bytes)
    }

    #[test]
    fn hello_round_trips() {
        for kind in [HelloKind::Request, HelloKind::Reply] {
            let (before, bytes) = hello(kind);
            assert_eq!(Hello::parse(&bytes, &keys(1, 1)), Ok(before));
        }
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        for kind in [HelloKind::Request, HelloKind::Reply] {
            let (_, bytes) = hello(kind);
            for bit in 0..bytes.len() * 8 {
                let mut bad = bytes.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(Hello::parse(&bad, &keys(1, 1)).is_err(), "bit {bit}");
            }
        }
    }

    #[test]
    fn each_refusal_has_its_name() {
        let (_, bytes) = hello(HelloKind::Request);
        let foreign = HelloError::ForeignFabric { got: FabricId([1; 16]) };
        assert_eq!(Hello::parse(&bytes, &keys(2, 1)), Err(foreign));
        assert_eq!(Hello::parse(&bytes, &keys(1, 2)), Err(HelloError::WrongSecret));
        let mut newer = bytes.clone();
        newer[1] = 9;
        assert_eq!(Hello::parse(&newer, &keys(1, 1)), Err(HelloError::OtherVersion { got: 9 }));
        assert_eq!(Hello::parse(&bytes[..100], &keys(1, 1)), Err(HelloError::Malformed));
    }

    #[test]
    fn a_member_cannot_speak_for_another() {
        let (mut forged, _) = hello(HelloKind::Request);
        forged.public = Identity::from_seed([6; 64]).public();
        let bytes = forged.emit(&Identity::from_seed([5; 64]), &keys(1, 1));
        assert_eq!(Hello::parse(bytes.as_bytes(), &keys(1, 1)), Err(HelloError::BadSignature));
    }

    #[test]
    fn reject_round_trips_and_names_both_fabrics() {
        let (_, bytes) = hello(HelloKind::Request);
        let reject =
            Reject::answer(&bytes, RejectReason::ForeignFabric, FabricId([2; 16])).expect("an answer");
        assert_eq!((reject.fabric, reject.named), (FabricId([2; 16]), FabricId([1; 16])));
        assert_eq!(Reject::parse(reject.emit(None).as_bytes()), Some(reject));
        assert_eq!(reject_note(reject.emit(None).as_bytes()), None);
        let noted = reject.emit(Some(&"ä".repeat(300)));
        assert_eq!(Reject::parse(noted.as_bytes()), Some(reject));
        assert_eq!(reject_note(noted.as_bytes()), Some("ä".repeat(MAX_NOTE / 2)));
        assert!(noted.as_bytes().len() <= REQUEST_LENGTH);
        assert_eq!(reject_note(reject.emit(Some("a\x1b[2Jb")).as_bytes()), Some("a\u{fffd}[2Jb".to_owned()));
        assert_eq!(Reject::answer(&bytes[..40], RejectReason::Version, FabricId([2; 16])), None);
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..320)) {
            let _ = Hello::parse(&bytes, &keys(1, 1)).is_ok();
            let _ = Reject::parse(&bytes);
            let _ = Reject::answer(&bytes, RejectReason::Version, FabricId([1; 16]));
        }
    }
}
