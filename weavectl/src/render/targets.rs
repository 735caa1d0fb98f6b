//! `weavectl status targets`.

use control::api::Target;

use super::paint::{Paint, Tone};
use super::table::{Cell, cell, table, toned};

/// Addresses to dial, one a line.
pub(crate) fn targets(targets: &[Target], paint: Paint) -> String {
    let rows: Vec<Vec<Cell>> = targets.iter().map(row).collect();
    let empty = "no targets; peers of a fabric find each other once one is connected";
    table(&["TARGET", "RESOLVED", "STATE", "DETAIL"], &rows, empty, paint)
}

fn row(target: &Target) -> Vec<Cell> {
    let tone = match target.state.as_str() {
        "connected" => Tone::Good,
        "failed" => Tone::Bad,
        "self" => Tone::Normal,
        _ => Tone::Warn,
    };
    let resolved: Vec<String> = target.resolved.iter().map(ToString::to_string).collect();
    vec![
        cell(target.address.clone()),
        cell(if resolved.is_empty() { "-".to_owned() } else { resolved.join(", ") }),
        toned(tone, target.state.clone()),
        cell(target.reason.clone().unwrap_or_default()),
    ]
}
