//! `up --seeds`: several hosts create one fabric from one list, without talking (ADR 0009).

use control::api::{ApiError, ErrorCode};
use ipnet::Ipv4Net;

use super::call::{refusal, refusal_with};
use crate::core::fabric::FabricId;
use crate::core::seeds::{Seeds, SeedsError};
use crate::shell::state::dir::FabricFile;

/// A name with the address to dial.
pub(super) type Entry = (String, String);

/// Reads `name` and `name=address`. A name without an address is looked up.
pub(super) fn parse(entries: &[String]) -> Result<(Seeds, Vec<Entry>), ApiError> {
    let apart = |entry: &String| match entry.split_once('=') {
        Some((name, address)) => (name.to_owned(), address.to_owned()),
        None => (entry.clone(), entry.clone()),
    };
    let entries: Vec<Entry> = entries.iter().map(apart).collect();
    let seeds = Seeds::new(entries.iter().map(|(name, _)| name.clone()).collect()).map_err(bad_list)?;
    Ok((seeds, entries))
}

/// The id of the fabric that these hosts create, `nickname` among them.
pub(super) fn fabric(
    seeds: &Seeds,
    nickname: &str,
    range: Ipv4Net,
    password: Option<&str>,
) -> Result<FabricId, ApiError> {
    let Some(password) = password else {
        return Err(refusal_with(
            ErrorCode::BadRequest,
            "seeds do not talk before they have a secret in common, so they need a password",
            "weavectl up --seeds LIST --password-file FILE, with the same password on every seed",
        ));
    };
    seeds.part(nickname, range).map_err(bad_list)?;
    seeds
        .fabric(range, password.as_bytes())
        .map_err(|error| refusal(ErrorCode::BadRequest, error.to_string()))
}

/// Was the present fabric created from this list?
pub(super) fn check_same(seeds: &Seeds, present: &[String]) -> Result<(), ApiError> {
    if seeds.names() == present {
        return Ok(());
    }
    let of = match present {
        [] => "was not created by seeds".to_owned(),
        names => format!("was created by the seeds `{}`", names.join(",")),
    };
    Err(refusal_with(
        ErrorCode::Conflict,
        format!("the fabric of this router {of}, the list is `{seeds}`"),
        "give the list as it was; hosts that are not in it join by the line that weavectl token prints",
    ))
}

/// The list in the file.
pub(super) fn of_file(file: &FabricFile) -> Option<Seeds> {
    Seeds::new(file.seeds.clone()).ok()
}

fn bad_list(error: SeedsError) -> ApiError {
    let hint = match &error {
        SeedsError::NotASeed { .. } => {
            "join by the line that weavectl token prints on a seed; or is --nickname wrong?"
        }
        SeedsError::RangeTooSmall { .. } => "name fewer seeds; the other hosts join by a token",
        SeedsError::TooFew { .. }
        | SeedsError::TooMany { .. }
        | SeedsError::Twice { .. }
        | SeedsError::BadName { .. } => "weavectl up --seeds host-a,host-b,host-c=192.0.2.13",
    };
    refusal_with(ErrorCode::BadRequest, error.to_string(), hint)
}
