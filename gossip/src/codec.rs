//! The only place that knows how values become bytes (ADR 0001: bincode 2.0.1, replaceable in this file).
//!
//! A version byte leads, so that the format can change under running peers. Types with elements of no size
//! (`Vec<()>`) must not be passed here: their length costs nothing on the wire and everything in the loop.

use bincode::config::{Config, standard};
use bincode::serde::{borrow_decode_from_slice, encode_to_vec};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version that is written. One version is read: the one that is written.
pub const VERSION: u8 = 1;

/// Bytes that one value may claim while it is decoded, whatever its caller's limit: more than any journal entry or message needs.
const DECODE_LIMIT: usize = 1 << 20;

/// Why bytes are not a value. All of them can be caused by a peer, or by a disk; none changes any state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Longer than the caller takes.
    #[error("{got} bytes are too many, want at most {limit}")]
    TooLarge {
        /// Bytes that came.
        got: usize,
        /// Bytes that are taken.
        limit: usize,
    },
    /// Written by a version that is not spoken here. Happens in a healthy fabric of mixed versions.
    #[error("encoding version {got} is not known, want {want}")]
    UnknownVersion {
        /// Version found.
        got: u8,
        /// Version known.
        want: u8,
    },
    /// Cut short, mangled, or another type.
    #[error("malformed value: {reason}")]
    Malformed {
        /// What the decoder said.
        reason: String,
    },
    /// A value, and then something else.
    #[error("{left} bytes are left over after the value")]
    TrailingBytes {
        /// Bytes that were not read.
        left: usize,
    },
}

/// Encodes `value`: the version byte, then bincode's standard configuration.
///
/// # Panics
///
/// When the type cannot be encoded at all (a sequence of unknown length): a mistake in our types, never in a peer's data.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let body = encode_to_vec(value, config()).expect("our own types can be encoded");
    let mut bytes = Vec::with_capacity(body.len() + 1);
    bytes.push(VERSION);
    bytes.extend_from_slice(&body);
    bytes
}

/// Decodes what [`encode`] wrote, from at most `limit` bytes, all of which must belong to the value.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, DecodeError> {
    if bytes.len() > limit {
        return Err(DecodeError::TooLarge { got: bytes.len(), limit });
    }
    let Some((&version, body)) = bytes.split_first() else {
        return Err(DecodeError::Malformed { reason: "no bytes at all".to_owned() });
    };
    if version != VERSION {
        return Err(DecodeError::UnknownVersion { got: version, want: VERSION });
    }
    let (value, read) = borrow_decode_from_slice(body, config())
        .map_err(|error| DecodeError::Malformed { reason: error.to_string() })?;
    match body.len() - read {
        0 => Ok(value),
        left => Err(DecodeError::TrailingBytes { left }),
    }
}

fn config() -> impl Config {
    standard().with_limit::<DECODE_LIMIT>()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Sample = (u64, Option<Vec<u8>>, String, [u8; 16], Vec<(u8, i64)>);

    proptest! {
        #[test]
        fn values_round_trip(value: Sample) {
            let bytes = encode(&value);
            prop_assert_eq!(decode::<Sample>(&bytes, bytes.len()), Ok(value));
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes: Vec<u8>, version in 0..3u8) {
            let _ = decode::<Sample>(&bytes, 1 << 16);
            bytes.insert(0, version);
            let _ = decode::<Sample>(&bytes, 1 << 16);
        }

        #[test]
        fn a_cut_value_is_refused(value: Sample, at: prop::sample::Index) {
            let bytes = encode(&value);
            prop_assert!(decode::<Sample>(&bytes[..at.index(bytes.len())], bytes.len()).is_err());
        }
    }

    #[test]
    fn each_error_says_what_was_wrong() {
        let bytes = encode(&7u32);
        assert_eq!(decode::<u32>(&bytes, 1), Err(DecodeError::TooLarge { got: 2, limit: 1 }));
        assert_eq!(decode::<u32>(&[9, 7], 9), Err(DecodeError::UnknownVersion { got: 9, want: VERSION }));
        assert_eq!(decode::<u32>(&[VERSION, 7, 7], 9), Err(DecodeError::TrailingBytes { left: 1 }));
        assert!(matches!(decode::<u32>(&[], 9), Err(DecodeError::Malformed { .. })));
    }

    #[test]
    fn a_huge_length_allocates_nothing() {
        let lie = [VERSION, 253, 255, 255, 255, 255, 255, 255, 255, 127];
        assert!(decode::<Vec<u64>>(&lie, 64).is_err());
        assert!(decode::<String>(&lie, 64).is_err());
    }
}
