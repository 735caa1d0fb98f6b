//! The join token: one line that carries all that a host needs to join a fabric. Knows the text format only, not how a join is done.
//!
//! `weave1.` and then, in lower-case base32 (RFC 4648, no padding): key kind, fabric id, range, addresses, secret if it is carried, and
//! the first four bytes of SHA-256 over a label and all before.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use aws_lc_rs::digest;
use data_encoding::{BASE32_NOPAD, BASE32_NOPAD_NOCASE};
use ipnet::Ipv4Net;
use thiserror::Error;
use zeroize::Zeroizing;

use super::fabric::{FabricId, Secret};

/// What every token of this version starts with.
const PREFIX: &str = "weave1.";
/// Keeps the checksum apart from other hashes.
const CHECKSUM_LABEL: &[u8] = b"weave token v1";
const CHECKSUM: usize = 4;
/// Most bootstrap addresses in one token: more would not fit a line and help nobody.
pub const MAX_ADDRESSES: usize = 16;

const KIND_SECRET: u8 = 0;
const KIND_PASSWORD: u8 = 1;

/// A parsed token. Its text form is a secret when it carries one, so there is no `Debug`.
#[derive(Clone)]
pub struct Token {
    /// The fabric to join.
    pub fabric: FabricId,
    /// The fabric's range, which the keys are bound to.
    pub range: Ipv4Net,
    /// Where members listen.
    pub addresses: Vec<SocketAddr>,
    /// What proves membership.
    pub key: TokenKey,
}

/// What a token carries to prove membership with.
#[derive(Clone)]
pub enum TokenKey {
    /// The fabric's secret itself: whoever has the token is a member.
    Secret(Secret),
    /// Nothing: the password has to be given apart from the token.
    Password,
}

/// Why a text is not a token. The text is not repeated in messages, since it may hold a secret.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TokenError {
    /// It does not start like a token.
    #[error("not a join token (want `weave1.…`)")]
    NotAToken,
    /// It is a token of a later release.
    #[error("join token of unknown version `{got}` (want `weave1`): upgrade this host")]
    UnknownVersion {
        /// What stands before the dot.
        got: String,
    },
    /// A character that base32 does not have.
    #[error("character {position} of the join token is not base32")]
    BadCharacter {
        /// Counted from 1, over the whole text.
        position: usize,
    },
    /// It ends too early: the end was not copied.
    #[error("the join token is cut off (got {got} bytes, want at least {want})")]
    Truncated {
        /// Decoded length.
        got: usize,
        /// What its own fields ask for.
        want: usize,
    },
    /// There is more than its fields ask for.
    #[error("the join token goes on after its end ({extra} bytes too many)")]
    TrailingBytes {
        /// Number of bytes too many.
        extra: usize,
    },
    /// It was mistyped or altered.
    #[error("the join token does not match its checksum: a character is wrong")]
    BadChecksum,
    /// The checksum is right and the content makes no sense: made by a faulty program.
    #[error("the join token has an impossible {field}")]
    BadField {
        /// Which part.
        field: &'static str,
    },
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Zeroizing::new(Vec::with_capacity(128));
        bytes.push(match self.key {
            TokenKey::Secret(_) => KIND_SECRET,
            TokenKey::Password => KIND_PASSWORD,
        });
        bytes.extend_from_slice(&self.fabric.0);
        bytes.extend_from_slice(&self.range.network().octets());
        bytes.push(self.range.prefix_len());
        let addresses = &self.addresses[..self.addresses.len().min(MAX_ADDRESSES)];
        bytes.push(u8::try_from(addresses.len()).expect("at most MAX_ADDRESSES"));
        for address in addresses {
            match address.ip() {
                IpAddr::V4(ip) => {
                    bytes.push(4);
                    bytes.extend_from_slice(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    bytes.push(6);
                    bytes.extend_from_slice(&ip.octets());
                }
            }
            bytes.extend_from_slice(&address.port().to_be_bytes());
        }
        match &self.key {
            TokenKey::Secret(secret) => bytes.extend_from_slice(secret.expose()),
            TokenKey::Password => {}
        }
        let sum = checksum(&bytes);
        bytes.extend_from_slice(&sum);
        let text = Zeroizing::new(BASE32_NOPAD.encode(&bytes).to_lowercase());
        write!(f, "{PREFIX}{}", text.as_str())
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let bytes = Zeroizing::new(decode(text)?);
        let mut reader = Reader { bytes: &bytes, at: 0 };
        let kind = reader.take::<1>()?[0];
        let fabric = FabricId(reader.take()?);
        let network = Ipv4Addr::from(reader.take::<4>()?);
        let prefix = reader.take::<1>()?[0];
        let count = usize::from(reader.take::<1>()?[0]);
        let mut addresses = Vec::with_capacity(count.min(MAX_ADDRESSES));
        let mut bad_family = false;
        for _ in 0..count {
            let ip = match reader.take::<1>()?[0] {
                4 => IpAddr::V4(Ipv4Addr::from(reader.take::<4>()?)),
                6 => IpAddr::V6(Ipv6Addr::from(reader.take::<16>()?)),
                _ => {
                    bad_family = true;
                    break;
                }
            };
            addresses.push(SocketAddr::new(ip, u16::from_be_bytes(reader.take()?)));
        }
        let key = match kind {
            KIND_SECRET if !bad_family => TokenKey::Secret(Secret::from_bytes(reader.take()?)),
            _ => TokenKey::Password,
        };
        if !bad_family && kind <= KIND_PASSWORD {
            reader.finish()?;
        }
        // The checksum comes after the lengths, so that a line cut off in copying is called that, and before every other field.
        let (content, sum) = bytes.split_at(bytes.len() - CHECKSUM);
        if checksum(content) != sum {
            return Err(TokenError::BadChecksum);
        }
        if kind > KIND_PASSWORD {
            return Err(TokenError::BadField { field: "kind of key" });
        }
        if bad_family {
            return Err(TokenError::BadField { field: "address family" });
        }
        if count > MAX_ADDRESSES {
            return Err(TokenError::BadField { field: "number of addresses" });
        }
        let range = Ipv4Net::new(network, prefix).map_err(|_| TokenError::BadField { field: "range" })?;
        Ok(Self { fabric, range, addresses, key })
    }
}

fn decode(text: &str) -> Result<Vec<u8>, TokenError> {
    let Some((version, body)) = text.split_once('.') else {
        return Err(TokenError::NotAToken);
    };
    if !PREFIX.trim_end_matches('.').eq_ignore_ascii_case(version) {
        let number = version.strip_prefix("weave").unwrap_or_default();
        let is_version = !number.is_empty() && number.len() < 4 && number.bytes().all(|b| b.is_ascii_digit());
        return Err(match is_version {
            true => TokenError::UnknownVersion { got: version.to_owned() },
            false => TokenError::NotAToken,
        });
    }
    let start = version.len() + 1;
    BASE32_NOPAD_NOCASE.decode(body.as_bytes()).map_err(|error| match error.kind {
        data_encoding::DecodeKind::Symbol => {
            TokenError::BadCharacter { position: start + error.position + 1 }
        }
        // These speak of a last group that is not whole, or holds bits that no encoder writes.
        data_encoding::DecodeKind::Length
        | data_encoding::DecodeKind::Trailing
        | data_encoding::DecodeKind::Padding => {
            TokenError::Truncated { got: body.len() * 5 / 8, want: body.len() * 5 / 8 + 1 }
        }
    })
}

/// Takes fields from the front; the checksum at the end is not for taking.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], TokenError> {
        let end = self.at + N;
        let want = end + CHECKSUM;
        if self.bytes.len() < want {
            return Err(TokenError::Truncated { got: self.bytes.len(), want });
        }
        let mut field = [0; N];
        field.copy_from_slice(&self.bytes[self.at..end]);
        self.at = end;
        Ok(field)
    }

    fn finish(&self) -> Result<(), TokenError> {
        match self.bytes.len() - CHECKSUM - self.at {
            0 => Ok(()),
            extra => Err(TokenError::TrailingBytes { extra }),
        }
    }
}

fn checksum(content: &[u8]) -> [u8; CHECKSUM] {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(CHECKSUM_LABEL);
    hash.update(content);
    let mut sum = [0; CHECKSUM];
    sum.copy_from_slice(&hash.finish().as_ref()[..CHECKSUM]);
    sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token(key: TokenKey) -> Token {
        Token {
            fabric: FabricId([3; 16]),
            range: "10.32.0.0/12".parse().expect("a range"),
            addresses: vec![
                "192.0.2.7:6783".parse().expect("an address"),
                "[2001:db8::7]:6783".parse().expect("an address"),
            ],
            key,
        }
    }

    fn secret_token() -> String {
        token(TokenKey::Secret(Secret::from_bytes([9; 32]))).to_string()
    }

    fn error(text: &str) -> TokenError {
        text.parse::<Token>().err().expect("an error")
    }

    /// Encodes any content with a right checksum, as a faulty program would.
    fn forged(content: &[u8]) -> String {
        let mut bytes = content.to_vec();
        bytes.extend_from_slice(&checksum(content));
        format!("{PREFIX}{}", BASE32_NOPAD.encode(&bytes).to_lowercase())
    }

    #[test]
    fn tokens_round_trip() {
        for key in [TokenKey::Secret(Secret::from_bytes([9; 32])), TokenKey::Password] {
            let before = token(key);
            let Ok(after) = format!(" {before}\n").parse::<Token>() else { panic!("no token") };
            assert_eq!(after.fabric, before.fabric);
            assert_eq!(after.range, before.range);
            assert_eq!(after.addresses, before.addresses);
            match (&before.key, &after.key) {
                (TokenKey::Secret(a), TokenKey::Secret(b)) => assert_eq!(a.expose(), b.expose()),
                (TokenKey::Password, TokenKey::Password) => {}
                (TokenKey::Secret(_), TokenKey::Password) | (TokenKey::Password, TokenKey::Secret(_)) => {
                    panic!("the kind of key changed")
                }
            }
        }
    }

    #[test]
    fn every_error_is_named() {
        assert_eq!(error("hello"), TokenError::NotAToken);
        assert_eq!(error("https.example"), TokenError::NotAToken);
        assert_eq!(error("weave2.aaaa"), TokenError::UnknownVersion { got: "weave2".into() });
        assert_eq!(error("weave1.aa!a"), TokenError::BadCharacter { position: 10 });
        assert!(matches!(error("weave1."), TokenError::Truncated { got: 0, .. }));
        let mut content = vec![KIND_PASSWORD];
        content.extend_from_slice(&[3; 16]);
        content.extend_from_slice(&[10, 32, 0, 0, 12, 0]);
        assert!(forged(&content).parse::<Token>().is_ok());
        content.push(0);
        assert_eq!(error(&forged(&content)), TokenError::TrailingBytes { extra: 1 });
        content.pop();
        content[21] = 40;
        assert_eq!(error(&forged(&content)), TokenError::BadField { field: "range" });
        content[0] = 9;
        assert_eq!(error(&forged(&content)), TokenError::BadField { field: "kind of key" });
    }

    #[test]
    fn a_cut_line_is_called_truncated() {
        let text = secret_token();
        for length in PREFIX.len()..text.len() {
            assert!(matches!(error(&text[..length]), TokenError::Truncated { .. }), "at {length}");
        }
    }

    #[test]
    fn one_wrong_character_is_never_accepted() {
        let text = secret_token();
        for at in PREFIX.len()..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'a' { b'b' } else { b'a' };
            let wrong = String::from_utf8(bytes).expect("ASCII");
            assert!(wrong.parse::<Token>().is_err(), "at {at}");
        }
    }

    proptest! {
        #[test]
        fn any_text_gives_a_token_or_an_error(text in ".{0,200}", tail in "[a-z2-7]{0,200}") {
            let _ = text.parse::<Token>().is_ok();
            let _ = format!("{PREFIX}{tail}").parse::<Token>().is_ok();
        }
    }
}
