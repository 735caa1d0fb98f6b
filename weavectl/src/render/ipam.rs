//! `weavectl status ipam`.

use std::cmp::Reverse;

use control::api::{Ipam, IpamOwner};

use super::bar::{Legend, bar};
use super::connections::drops;
use super::paint::{Paint, Tone};
use super::table::{Cell, cell, cut_table, toned};
use super::units::{percent, plural, seconds, short};

/// How many blocks of an owner are listed; `--json` and `report` have all that `weaved` says.
const SHOWN_BLOCKS: usize = 4;

/// The range as a bar of owners, who they are, then the addresses in use here. This router stands first, then owners that cannot be
/// reached, then the others, the largest first.
pub(crate) fn ipam(ipam: &Ipam, width: usize, shown: usize, paint: Paint) -> String {
    let summary = &ipam.summary;
    let total = 1u64 << (32 - u32::from(summary.range.prefix_len()));
    let legend = Legend::of(ipam);
    let mut order: Vec<&IpamOwner> = ipam.owners.iter().collect();
    order.sort_by_key(|owner| (rank(owner), Reverse(owner.addresses), &owner.peer));
    let rows: Vec<Vec<Cell>> =
        order.into_iter().map(|owner| owner_row(owner, ipam, &legend, total)).collect();
    let mut text =
        format!("{} and {}: {}\n\n", summary.range, summary.range6, plural(total, "address", "addresses"));
    text.push_str(&bar(ipam, &legend, width, paint));
    text.push('\n');
    text.push_str(&cut_table(
        &["BAR", "OWNER", "ADDRESSES", "SHARE", "BLOCKS", "DETAIL"],
        &rows,
        shown,
        "nobody owns anything",
        paint,
    ));
    text.push('\n');
    let rows: Vec<Vec<Cell>> = ipam
        .leases
        .iter()
        .map(|lease| vec![cell(lease.address.to_string()), cell(lease.owner.clone())])
        .collect();
    text.push_str(&cut_table(&["IN USE HERE", "BY"], &rows, shown, "no address is in use here", paint));
    if !ipam.quarantined.is_empty() {
        text.push('\n');
        text.push_str(&drops("RECORDS QUARANTINED", &ipam.quarantined, paint));
    }
    text
}

fn rank(owner: &IpamOwner) -> u8 {
    match owner.state.as_str() {
        "self" => 0,
        "alive" => 2,
        _ => 1,
    }
}

fn owner_row(owner: &IpamOwner, ipam: &Ipam, legend: &Legend<'_>, total: u64) -> Vec<Cell> {
    let summary = &ipam.summary;
    let detail = match owner.state.as_str() {
        "self" => {
            toned(Tone::Good, format!("this router: {} in use, {} resting", summary.used, summary.resting))
        }
        "alive" => cell(""),
        "unreachable" => match owner.reclaim_in_s {
            Some(time) => toned(Tone::Warn, format!("unreachable! taken over in {}", seconds(time))),
            None => toned(Tone::Warn, "unreachable!"),
        },
        other => toned(Tone::Warn, other),
    };
    let blocks: Vec<String> =
        owner.blocks.iter().take(SHOWN_BLOCKS).map(|block| block.prefix.to_string()).collect();
    let mut blocks = blocks.join(", ");
    if owner.blocks.len() > SHOWN_BLOCKS {
        blocks.push_str(&format!(", {} more", owner.blocks.len() - SHOWN_BLOCKS));
    }
    vec![
        cell(legend.letter(&owner.peer).to_string()),
        cell(format!("{}({})", owner.nickname, short(&owner.peer))),
        cell(owner.addresses.to_string()),
        cell(percent(owner.addresses, total)),
        cell(if blocks.is_empty() { "-".to_owned() } else { blocks }),
        detail,
    ]
}
