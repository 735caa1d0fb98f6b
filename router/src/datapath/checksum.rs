//! The internet checksum (RFC 1071), in the parts that offloads need: a sum that is not yet complemented.

/// The ones' complement sum of `bytes` added to `start`, folded to 16 bits, not complemented.
pub fn sum(start: u16, bytes: &[u8]) -> u16 {
    // RFC 1071 section 2 (B): the order of bytes may be the machine's until the end, which lets the compiler use wide registers.
    let words = bytes.chunks_exact(4);
    let mut rest = [0; 4];
    rest[..words.remainder().len()].copy_from_slice(words.remainder());
    let native = |word: &[u8]| u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    let total = words.map(native).sum::<u64>() + native(&rest);
    fold(u64::from(start) + u64::from(u16::from_be(fold(total))))
}

/// Completes a checksum over `bytes`, whose checksum field holds the seed of the pseudo-header, as a device with checksum
/// offload would. `at` is the offset of the field.
///
/// The result is never zero, which UDP reserves for "no checksum" (RFC 768); TCP does not mind the other zero.
pub fn complete(bytes: &mut [u8], at: usize) -> Option<()> {
    let sum = !sum(0, bytes);
    let field = bytes.get_mut(at..at + 2)?;
    field.copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
    Some(())
}

fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    u16::try_from(total).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rfc_1071_example() {
        assert_eq!(sum(0, &[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    proptest! {
        #[test]
        fn adds_words_in_network_order(start: u16, bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let word = |pair: &[u8]| u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            prop_assert_eq!(sum(start, &bytes), fold(u64::from(start) + bytes.chunks(2).map(word).sum::<u64>()));
        }
    }

    #[test]
    fn odd_length_is_padded_with_zero() {
        for len in 0..40 {
            let mut bytes: Vec<u8> = (0..len).map(|i| u8::try_from(i * 7 % 251).unwrap_or(0)).collect();
            let odd = sum(3, &bytes);
            if bytes.len() % 2 == 1 {
                bytes.push(0);
            }
            assert_eq!(odd, sum(3, &bytes));
        }
    }
}
