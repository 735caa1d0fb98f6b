//! Medians, ratios within rounds, and how they are shown.

use std::collections::BTreeMap;

use lab::Segments;
use serde::Serialize;

use crate::bench::columns::Column;
use crate::bench::figures::Figure;
use crate::ui::Ui;

/// Figures of one column in one round.
pub(crate) type Sample = Vec<(Figure, Option<f64>)>;

/// Everything that was measured.
#[derive(Debug)]
pub(crate) struct Report {
    wire: &'static str,
    runs: u32,
    seconds: u32,
    cores: usize,
    /// One entry a round; `None` when the round failed, so that rounds of different columns stay beside each other.
    samples: BTreeMap<Column, Vec<Option<Sample>>>,
    absent: BTreeMap<Column, String>,
}

/// The report as JSON.
#[derive(Debug, Serialize)]
struct Json<'a> {
    wire: &'a str,
    runs: u32,
    seconds: u32,
    cores: usize,
    columns: Vec<JsonColumn<'a>>,
}

#[derive(Debug, Serialize)]
struct JsonColumn<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    absent: Option<&'a str>,
    medians: BTreeMap<&'a str, f64>,
    rounds: BTreeMap<&'a str, Vec<Option<f64>>>,
    /// By the column that it is compared with, then by figure.
    ratios: BTreeMap<&'a str, BTreeMap<&'a str, f64>>,
}

impl Report {
    pub(crate) fn new(segments: Segments, runs: u32, seconds: u32, cores: usize) -> Self {
        let wire = match segments {
            Segments::Whole => "whole",
            Segments::Cut => "cut",
        };
        Self { wire, runs, seconds, cores, samples: BTreeMap::new(), absent: BTreeMap::new() }
    }

    /// Adds a round.
    pub(crate) fn sample(&mut self, column: Column, sample: Sample) {
        self.samples.entry(column).or_default().push(Some(sample));
    }

    /// A round that failed.
    pub(crate) fn fail(&mut self, column: Column, error: &anyhow::Error, ui: &Ui) {
        ui.bad(format!("{}: {error:#}", column.name()));
        self.samples.entry(column).or_default().push(None);
    }

    /// A column that cannot be measured here.
    pub(crate) fn absent(&mut self, column: Column, error: &anyhow::Error, ui: &Ui) {
        ui.say(format!("{} is absent: {error:#}", column.name()));
        self.absent.insert(column, format!("{error:#}"));
    }

    /// Whether every column that could be measured has a figure.
    pub(crate) fn has_figures(&self, columns: &[Column]) -> bool {
        let present = columns.iter().filter(|column| !self.absent.contains_key(column));
        present.clone().count() > 0 && present.into_iter().all(|c| self.median(*c, Figure::Tcp).is_some())
    }

    /// The table.
    pub(crate) fn print(&self, ui: &Ui) {
        ui.chapter(format!(
            "medians of {} rounds of {} s, {} cores, wire: {}",
            self.runs, self.seconds, self.cores, self.wire
        ));
        let mut head = format!("{:<14}", "");
        Figure::ALL.iter().for_each(|figure| head.push_str(&format!("{:>12}", figure.name())));
        ui.line(format!("{head}{:>12}{:>16}{:>13}", "tcp/vxlan", "tcp/wg-go", "tcp/btun"));
        for column in self.columns() {
            let mut line = format!("{:<14}", column.name());
            if self.absent.contains_key(&column) {
                ui.line(format!("{line}{:>12}", "absent"));
                continue;
            }
            for figure in Figure::ALL {
                let text =
                    self.median(column, figure).map_or("failed".to_owned(), |value| format!("{value:.2}"));
                line.push_str(&format!("{text:>12}"));
            }
            for (base, width) in [(Column::Vxlan, 12), (Column::WireguardGo, 16), (Column::Boringtun, 13)] {
                let ratio = self.ratio(column, base, Figure::Tcp);
                let text = ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
                line.push_str(&format!("{text:>width$}"));
            }
            ui.line(line);
        }
    }

    /// All of it for programs.
    pub(crate) fn json(&self) -> String {
        let columns = self.columns().into_iter().map(|column| self.json_column(column)).collect();
        let Self { wire, runs, seconds, cores, .. } = *self;
        let json = Json { wire, runs, seconds, cores, columns };
        serde_json::to_string_pretty(&json).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
    }

    fn json_column(&self, column: Column) -> JsonColumn<'_> {
        let medians = Figure::ALL.iter().filter_map(|f| Some((f.name(), self.median(column, *f)?))).collect();
        let rounds = Figure::ALL.iter().map(|f| (f.name(), self.values(column, *f))).collect();
        let mut ratios = BTreeMap::new();
        for base in self.columns().into_iter().filter(|base| *base != column) {
            let of: BTreeMap<&str, f64> =
                Figure::ALL.iter().filter_map(|f| Some((f.name(), self.ratio(column, base, *f)?))).collect();
            if !of.is_empty() {
                ratios.insert(base.name(), of);
            }
        }
        let absent = self.absent.get(&column).map(String::as_str);
        JsonColumn { name: column.name(), absent, medians, rounds, ratios }
    }

    fn columns(&self) -> Vec<Column> {
        let known = |column: &Column| self.samples.contains_key(column) || self.absent.contains_key(column);
        Column::ALL.into_iter().filter(known).collect()
    }

    fn values(&self, column: Column, figure: Figure) -> Vec<Option<f64>> {
        let samples = self.samples.get(&column).map(Vec::as_slice).unwrap_or_default();
        let value = |sample: &Sample| sample.iter().find(|(f, _)| *f == figure).and_then(|(_, value)| *value);
        samples.iter().map(|sample| sample.as_ref().and_then(value)).collect()
    }

    fn median(&self, column: Column, figure: Figure) -> Option<f64> {
        median(self.values(column, figure).into_iter().flatten().collect())
    }

    /// Median of the ratios of the rounds in which both were measured.
    fn ratio(&self, column: Column, base: Column, figure: Figure) -> Option<f64> {
        let (ours, theirs) = (self.values(column, figure), self.values(base, figure));
        let pairs = ours.into_iter().zip(theirs);
        median(pairs.filter_map(|(a, b)| Some(a? / b.filter(|b| *b > 0.0)?)).collect())
    }
}

/// The middle one, or the mean of the middle two.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

#[cfg(test)]
mod tests {
    use lab::Segments;

    use super::{Report, median};
    use crate::bench::columns::Column;
    use crate::bench::figures::Figure;
    use crate::ui::Ui;

    #[test]
    fn median_of_odd_and_even_counts() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }

    #[test]
    fn ratios_are_taken_within_rounds_and_failed_rounds_fall_out() {
        let mut report = Report::new(Segments::Whole, 3, 1, 2);
        let gbps = |value| vec![(Figure::Tcp, Some(value))];
        report.sample(Column::Vxlan, gbps(10.0));
        report.sample(Column::Weave, gbps(5.0));
        report.sample(Column::Vxlan, gbps(1.0));
        report.fail(Column::Weave, &anyhow::anyhow!("broken"), &Ui::new());
        report.sample(Column::Vxlan, gbps(20.0));
        report.sample(Column::Weave, gbps(16.0));
        assert_eq!(report.ratio(Column::Weave, Column::Vxlan, Figure::Tcp), Some(0.65));
        assert_eq!(report.median(Column::Vxlan, Figure::Tcp), Some(10.0));
    }
}
