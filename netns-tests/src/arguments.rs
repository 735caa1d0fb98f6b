//! Arguments of the measurements in `examples`: a few numbers, each of which may be left out.

use std::env;

use anyhow::{Context, Result};

/// The numbers that the program was started with; those that are missing as in `defaults`.
///
/// # Errors
/// When an argument is no number.
pub fn numbers<const N: usize>(defaults: [u64; N]) -> Result<[u64; N]> {
    let mut numbers = defaults;
    for (number, word) in numbers.iter_mut().zip(env::args().skip(1)) {
        *number = word.parse().with_context(|| format!("not a number: `{word}`"))?;
    }
    Ok(numbers)
}
