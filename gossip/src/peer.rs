//! The name of a peer. What the name is made of (a hash of public keys) is the caller's business.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};

/// Characters of a peer id in text: 128 bits in base32 without padding.
const TEXT_LENGTH: usize = 26;

/// Characters of the short form: 50 bits, unlikely to clash by accident in a table of ten thousand, not safe against intent.
const SHORT_LENGTH: usize = 10;

/// A peer's name: the first 16 bytes of a hash of its public keys.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerId(pub [u8; 16]);

impl PeerId {
    /// The first ten characters, for tables that people read. Never to be parsed again.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(SHORT_LENGTH);
        text
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

/// Why a text is not a peer id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParsePeerIdError {
    /// Cut short, or more than an id was pasted.
    #[error("peer id has {got} characters, want {TEXT_LENGTH}")]
    WrongLength {
        /// Characters in the text.
        got: usize,
    },
    /// A character outside of `a-z2-7`, or bits after the end.
    #[error("`{text}` is not base32")]
    NotBase32 {
        /// The text that was given.
        text: String,
    },
}

impl FromStr for PeerId {
    type Err = ParsePeerIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let got = text.chars().count();
        if got != TEXT_LENGTH {
            return Err(ParsePeerIdError::WrongLength { got });
        }
        let not_base32 = || ParsePeerIdError::NotBase32 { text: text.to_owned() };
        let bytes = BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).map_err(|_| not_base32())?;
        Ok(PeerId(bytes.try_into().map_err(|_| not_base32())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        let id = PeerId([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 250, 251, 252, 253, 254, 255]);
        let text = id.to_string();
        assert_eq!(text.len(), TEXT_LENGTH);
        assert_eq!(text, text.to_ascii_lowercase());
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(text.to_ascii_uppercase().parse(), Ok(id));
        assert!(text.starts_with(&id.short()));
    }

    #[test]
    fn foreign_text_is_refused() {
        assert_eq!("abc".parse::<PeerId>(), Err(ParsePeerIdError::WrongLength { got: 3 }));
        let text = "1".repeat(TEXT_LENGTH);
        assert_eq!(text.parse::<PeerId>(), Err(ParsePeerIdError::NotBase32 { text }));
        assert!("é".repeat(TEXT_LENGTH).parse::<PeerId>().is_err());
    }
}
