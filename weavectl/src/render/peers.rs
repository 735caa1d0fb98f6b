//! `weavectl status peers`.

use std::collections::BTreeMap;

use control::api::Peer;

use super::paint::{Paint, Tone};
use super::table::{Cell, cell, table, toned};
use super::units::short;

/// Members, one a line.
pub(crate) fn peers(peers: &[Peer], paint: Paint) -> String {
    let names: BTreeMap<&str, &str> =
        peers.iter().map(|peer| (peer.id.as_str(), peer.nickname.as_str())).collect();
    let rows: Vec<Vec<Cell>> = peers.iter().map(|peer| row(peer, &names)).collect();
    let headings = ["NAME", "STATE", "ADDRESSES", "CONTAINERS", "VERSION", "GOSSIPS WITH", "DETAIL"];
    table(&headings, &rows, "no peers: this router belongs to no fabric", paint)
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
