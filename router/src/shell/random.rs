//! Secure random bytes from the kernel.

use aws_lc_rs::rand::{SecureRandom, SystemRandom};

/// Fills a buffer.
pub fn fill(buffer: &mut [u8]) {
    // Without randomness no key can be made, and the kernel's source does not fail once it is seeded.
    SystemRandom::new().fill(buffer).unwrap_or_else(|_| panic!("the kernel's random source failed"));
}

/// Fresh random bytes.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fill(&mut bytes);
    bytes
}

/// A seed for the cores' own generators.
pub fn seed() -> u64 {
    u64::from_ne_bytes(bytes())
}
