//! `weavectl status peers`.

use std::collections::BTreeMap;

use control::api::Peer;

use super::paint::{Paint, Tone};
use super::table::{Cell, cell, cut_table, toned};
use super::units::short;

/// Members, one a line: this router, then those with whom something is wrong, then the others by name.
pub(crate) fn peers(peers: &[Peer], shown: usize, paint: Paint) -> String {
    let names: BTreeMap<&str, &str> =
        peers.iter().map(|peer| (peer.id.as_str(), peer.nickname.as_str())).collect();
    let mut order: Vec<&Peer> = peers.iter().collect();
    order.sort_by_key(|peer| (rank(peer), &peer.nickname, &peer.id));
    let rows: Vec<Vec<Cell>> = order.into_iter().map(|peer| row(peer, &names)).collect();
    let headings = ["NAME", "STATE", "ADDRESSES", "CONTAINERS", "VERSION", "GOSSIPS WITH", "DETAIL"];
    cut_table(&headings, &rows, shown, "no peers: this router belongs to no fabric", paint)
}

fn rank(peer: &Peer) -> u8 {
    match peer.state.as_str() {
        "self" => 0,
        "alive" if peer.unreachable.is_none() => 2,
        _ => 1,
    }
}

fn row(peer: &Peer, names: &BTreeMap<&str, &str>) -> Vec<Cell> {
    let tone = match peer.state.as_str() {
        "self" | "alive" => Tone::Good,
        "suspect" | "left" => Tone::Warn,
        _ => Tone::Bad,
    };
    let links: Vec<String> = peer
        .links
        .iter()
        .map(|id| names.get(id.as_str()).map_or_else(|| short(id), |name| (*name).to_owned()))
        .collect();
    vec![
        cell(format!("{}({})", peer.nickname, short(&peer.id))),
        toned(tone, peer.state.clone()),
        cell(joined(peer.addresses.iter().map(ToString::to_string))),
        cell(peer.endpoints.to_string()),
        cell(peer.version.clone()),
        cell(joined(links.into_iter())),
        toned(
            Tone::Bad,
            peer.unreachable.as_ref().map(|why| format!("unreachable: {why}")).unwrap_or_default(),
        ),
    ]
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    let text = parts.collect::<Vec<_>>().join(", ");
    if text.is_empty() { "-".to_owned() } else { text }
}
