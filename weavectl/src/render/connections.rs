//! `weavectl status connections`.

use control::api::{Connection, Connections, Count, Refused};

use super::paint::{Paint, Tone};
use super::table::{Cell, cell, cut_table, maybe, table, toned};
use super::units::{bytes, round_trip, seconds, short};

/// Sessions and tries, those that are not established first; then who was refused, then what was dropped.
pub(crate) fn connections(connections: &Connections, shown: usize, paint: Paint) -> String {
    let mut order: Vec<&Connection> = connections.connections.iter().collect();
    order.sort_by_key(|connection| connection.state == "established");
    let rows: Vec<Vec<Cell>> = order.into_iter().map(row).collect();
    let headings = ["", "ADDRESS", "STATE", "PEER", "CIPHER", "RTT", "FOR", "SENT", "RECEIVED", "DETAIL"];
    let mut text = cut_table(&headings, &rows, shown, "no connections", paint);
    if !connections.refused.is_empty() {
        let rows: Vec<Vec<Cell>> = connections.refused.iter().map(refused_row).collect();
        text.push('\n');
        text.push_str(&table(&["REFUSED", "TIMES", "LAST", "REASON"], &rows, "", paint));
    }
    if !connections.drops.is_empty() {
        text.push('\n');
        text.push_str(&drops("DATAGRAMS DROPPED", &connections.drops, paint));
    }
    text
}

/// A table of counters.
pub(crate) fn drops(heading: &str, drops: &[Count], paint: Paint) -> String {
    let rows: Vec<Vec<Cell>> =
        drops.iter().map(|drop| vec![cell(drop.reason.clone()), cell(drop.count.to_string())]).collect();
    table(&[heading, "TIMES"], &rows, "", paint)
}

fn row(connection: &Connection) -> Vec<Cell> {
    let tone = match connection.state.as_str() {
        "established" => Tone::Good,
        "failed" => Tone::Bad,
        "self" => Tone::Normal,
        _ => Tone::Warn,
    };
    vec![
        cell(connection.direction.clone()),
        maybe(connection.address.map(|address| address.to_string())),
        toned(tone, connection.state.clone()),
        maybe(peer(connection)),
        maybe(connection.cipher.clone()),
        maybe(connection.rtt_us.map(round_trip)),
        cell(if connection.uses.is_empty() { "-".to_owned() } else { connection.uses.join(",") }),
        cell(bytes(connection.tx_bytes)),
        cell(bytes(connection.rx_bytes)),
        cell(detail(connection)),
    ]
}

fn peer(connection: &Connection) -> Option<String> {
    match (&connection.nickname, &connection.peer) {
        (Some(nickname), Some(peer)) => Some(format!("{nickname}({})", short(peer))),
        (None, Some(peer)) => Some(short(peer)),
        (Some(nickname), None) => Some(nickname.clone()),
        (None, None) => None,
    }
}

fn detail(connection: &Connection) -> String {
    let mut parts = Vec::new();
    if let Some(reason) = &connection.reason {
        parts.push(reason.clone());
    }
    parts.push(format!("since {}", seconds(connection.since_s)));
    if let Some(retry) = connection.retry_s {
        parts.push(format!("retry in {}", seconds(retry)));
    }
    parts.join(", ")
}

fn refused_row(refused: &Refused) -> Vec<Cell> {
    vec![
        cell(refused.address.to_string()),
        cell(refused.count.to_string()),
        cell(format!("{} ago", seconds(refused.last_s))),
        toned(Tone::Warn, refused.reason.clone()),
    ]
}
