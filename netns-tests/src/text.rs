//! Bytes that can be recognised, and the ends of log files.

use std::fs;
use std::path::Path;

/// Deterministic bytes that do not repeat and do not compress; the same seed gives the same bytes.
pub fn payload(seed: u64, len: usize) -> Vec<u8> {
    // xorshift64*, whose state must not be 0.
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// The last lines of a file, or why there are none.
pub fn tail(path: &Path, lines: usize) -> String {
    match fs::read_to_string(path) {
        Ok(text) => {
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(error) => format!("({}: {error})", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::payload;

    #[test]
    fn payload_is_reproducible_and_has_its_length() {
        assert_eq!(payload(7, 1001), payload(7, 1001));
        assert_ne!(payload(7, 64), payload(9, 64));
        assert_eq!(payload(1, 3).len(), 3);
    }
}
