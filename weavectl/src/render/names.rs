//! `weavectl status dns` and `weavectl dns lookup`.

use control::dns::{Dns, DnsEntry, DnsLookup};

use super::paint::Paint;
use super::status;
use super::table::{Cell, cell, cut_table, labelled, table};
use super::units::short;

/// The service, then all names.
pub(crate) fn dns(dns: &Dns, shown: usize, paint: Paint) -> String {
    let mut text = status::dns(&dns.summary, paint);
    if let Some(reason) = &dns.reason {
        text.push_str(&labelled("Reason", reason, paint));
    }
    text.push_str(&labelled("TTL", &format!("{} s", dns.ttl_s), paint));
    let upstreams: Vec<String> = dns.upstreams.iter().map(ToString::to_string).collect();
    let upstreams = if upstreams.is_empty() { "none".to_owned() } else { upstreams.join(", ") };
    text.push_str(&labelled("Upstream", &format!("{upstreams}; {} answers kept", dns.summary.cached), paint));
    let questions = &dns.summary.questions;
    let questions: Vec<String> =
        questions.iter().map(|one| format!("{} {}", one.count, one.reason)).collect();
    let questions = if questions.is_empty() { "none yet".to_owned() } else { questions.join(", ") };
    text.push_str(&labelled("Questions", &questions, paint));
    text.push('\n');
    let rows: Vec<Vec<Cell>> = dns.entries.iter().map(row).collect();
    let empty = "no names; containers bring theirs, and `weavectl dns add` adds others";
    text.push_str(&cut_table(&["NAME", "ADDRESSES", "HOST"], &rows, shown, empty, paint));
    if dns.more > 0 {
        text.push_str(&format!("and {} more that `weaved` does not list\n", dns.more));
    }
    text
}

/// Who says what of a name.
pub(crate) fn lookup(answer: &DnsLookup, paint: Paint) -> String {
    let rows: Vec<Vec<Cell>> = answer.entries.iter().map(row).collect();
    table(&["NAME", "ADDRESSES", "HOST"], &rows, "no such name", paint)
}

fn row(entry: &DnsEntry) -> Vec<Cell> {
    let addresses: Vec<String> = entry.addresses.iter().map(ToString::to_string).collect();
    vec![
        cell(entry.name.clone()),
        cell(addresses.join(" ")),
        cell(format!("{}({})", entry.nickname, short(&entry.peer))),
    ]
}
