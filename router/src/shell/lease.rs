//! Names of leases that have no interface: apart from containers, whose leases end with their interfaces.

use control::api::{ApiError, ErrorCode};
use control::lease::OWNER_PREFIX;

use super::engine::call::refusal;

/// Longest name: with its prefix well below what the journal takes, and long enough for a network, a container id and an interface.
const MAX_NAME: usize = 300;

/// What the books call the holder of the lease `name`.
pub fn holder(name: &str) -> Result<String, ApiError> {
    let plain = |c: char| !c.is_whitespace() && !c.is_control();
    if (1..=MAX_NAME).contains(&name.len()) && name.chars().all(plain) {
        return Ok(format!("{OWNER_PREFIX}{name}"));
    }
    Err(refusal(
        ErrorCode::BadRequest,
        format!("name `{name}` is not 1 to {MAX_NAME} printable characters without spaces"),
    ))
}
