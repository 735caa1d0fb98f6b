//! The report for programs: medians, every round, ratios, and on what it was measured.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::bench::datapath::Datapath;
use crate::bench::figures::Figure;
use crate::bench::machine::Machine;
use crate::bench::report::Report;

#[derive(Debug, Serialize)]
struct Json<'a> {
    wire: &'a str,
    wire_does: &'a str,
    runs: u32,
    seconds: u32,
    machine: &'a Machine,
    datapaths: Vec<JsonDatapath<'a>>,
}

#[derive(Debug, Serialize)]
struct JsonDatapath<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    absent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<&'a str>,
    medians: BTreeMap<&'a str, f64>,
    rounds: BTreeMap<&'a str, Vec<Option<f64>>>,
    /// By the data path that it is compared with, then by figure: medians of the ratios within a round.
    ratios: BTreeMap<&'a str, BTreeMap<&'a str, f64>>,
}

/// The text of one wire's file.
pub(crate) fn text(report: &Report, machine: &Machine, versions: &BTreeMap<Datapath, String>) -> String {
    let json = Json {
        wire: report.wire.name(),
        wire_does: report.wire.text(),
        runs: report.runs,
        seconds: report.seconds,
        machine,
        datapaths: report.datapaths().into_iter().map(|d| datapath(report, d, versions)).collect(),
    };
    serde_json::to_string_pretty(&json).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
}

fn datapath<'a>(
    report: &'a Report,
    of: Datapath,
    versions: &'a BTreeMap<Datapath, String>,
) -> JsonDatapath<'a> {
    let figures = || Figure::ALL.into_iter().filter(|figure| report.median(of, *figure).is_some());
    let rounded = |figure: Figure, value: Option<f64>| Some((figure.name(), round(value?)));
    let mut ratios = BTreeMap::new();
    for base in report.datapaths().into_iter().filter(|base| *base != of) {
        let to: BTreeMap<&str, f64> =
            figures().filter_map(|f| rounded(f, report.ratio(of, base, f))).collect();
        if !to.is_empty() {
            ratios.insert(base.name(), to);
        }
    }
    let values = |f: Figure| report.values(of, f).into_iter().map(|value| value.map(round)).collect();
    JsonDatapath {
        name: of.name(),
        version: versions.get(&of).map(String::as_str),
        absent: report.absent(of),
        failed: report.failure(of),
        medians: figures().filter_map(|f| rounded(f, report.median(of, f))).collect(),
        rounds: figures().map(|f| (f.name(), values(f))).collect(),
        ratios,
    }
}

/// More digits than can be measured only make the files differ.
fn round(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}
