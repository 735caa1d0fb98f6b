//! A name below the fabric's domain.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest name in bytes. With the longest domain behind it and a dot between them it stays within the 253 of RFC 1035.
pub const MAX_NAME: usize = 190;
/// Longest domain in bytes.
pub const MAX_DOMAIN: usize = 62;
/// Longest label in bytes (RFC 1035 section 2.3.4).
const MAX_LABEL: usize = 63;

/// A name without the domain and without a dot at its end, such as `web` or `web.team`; lower case, since names are compared without it
/// (RFC 4343).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DnsName(String);

/// A text that cannot be a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a name: want labels of 1 to 63 letters, digits, `-` and `_` with dots between them, none with `-` at an end, at most {MAX_NAME} bytes"
)]
pub struct NotAName {
    /// As it came, cut to what a person reads.
    pub text: String,
}

impl DnsName {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is one label alone.
    pub fn is_single(&self) -> bool {
        !self.0.contains('.')
    }

    /// Labels from the right: everything below a name has the name's reverse and a dot in front.
    pub(super) fn reversed(&self) -> String {
        self.0.rsplit('.').collect::<Vec<_>>().join(".")
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for DnsName {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<DnsName, NotAName> {
        let letter = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let label = |label: &str| {
            (1..=MAX_LABEL).contains(&label.len())
                && label.chars().all(letter)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if text.len() <= MAX_NAME && text.split('.').all(label) {
            return Ok(DnsName(text.to_ascii_lowercase()));
        }
        Err(NotAName { text: text.chars().take(MAX_NAME).filter(|c| !c.is_control()).collect() })
    }
}

impl TryFrom<String> for DnsName {
    type Error = NotAName;

    fn try_from(text: String) -> Result<DnsName, NotAName> {
        text.parse()
    }
}

impl From<DnsName> for String {
    fn from(name: DnsName) -> String {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_without_case_and_checked() {
        let name: DnsName = "Web_1.Team-A".parse().expect("name");
        assert_eq!(name.as_str(), "web_1.team-a");
        assert_eq!(name.reversed(), "team-a.web_1");
        let long = "a".repeat(64);
        for wrong in ["", ".", "a.", ".a", "a..b", "-a", "a-", "a b", "ä", "a/b", long.as_str()] {
            wrong.parse::<DnsName>().expect_err(wrong);
        }
        "a".repeat(63).parse::<DnsName>().expect("longest label");
        vec!["abcdefghi"; 20].join(".").parse::<DnsName>().expect_err("199 bytes");
    }
}
