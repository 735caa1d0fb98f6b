//! What was measured over one wire: samples by round, medians, ratios within rounds.

use std::collections::BTreeMap;

use crate::bench::datapath::Datapath;
use crate::bench::figures::Figure;
use crate::bench::wire::Wire;

/// Figures of one data path in one round.
pub(crate) type Sample = Vec<(Figure, f64)>;

/// Everything that was measured over one wire.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) wire: Wire,
    pub(crate) runs: u32,
    pub(crate) seconds: u32,
    /// One entry a round; `None` when the round failed, so that rounds of different data paths stay beside each other.
    samples: BTreeMap<Datapath, Vec<Option<Sample>>>,
    /// Why a data path was not measured, or not in every round.
    absent: BTreeMap<Datapath, String>,
    failures: BTreeMap<Datapath, String>,
}

impl Report {
    pub(crate) fn new(wire: Wire, runs: u32, seconds: u32, absent: BTreeMap<Datapath, String>) -> Self {
        Self { wire, runs, seconds, samples: BTreeMap::new(), absent, failures: BTreeMap::new() }
    }

    /// Adds a round.
    pub(crate) fn sample(&mut self, datapath: Datapath, sample: Sample) {
        self.samples.entry(datapath).or_default().push(Some(sample));
    }

    /// A round that failed.
    pub(crate) fn fail(&mut self, datapath: Datapath, error: &anyhow::Error) {
        self.failures.insert(datapath, format!("{error:#}"));
        self.samples.entry(datapath).or_default().push(None);
    }

    /// Why a data path was not measured at all, in one line.
    pub(crate) fn absent(&self, datapath: Datapath) -> Option<&str> {
        let reason = self.absent.get(&datapath).map(String::as_str);
        reason.map(|reason| reason.lines().next().unwrap_or_default())
    }

    /// The last failure of a data path, in one line.
    pub(crate) fn failure(&self, datapath: Datapath) -> Option<&str> {
        self.failures.get(&datapath)?.lines().next()
    }

    /// Whether every data path that is there has a figure.
    pub(crate) fn has_figures(&self) -> bool {
        let measured = |datapath: &Datapath| Figure::ALL.iter().any(|f| self.median(*datapath, *f).is_some());
        !self.samples.is_empty() && self.samples.keys().all(measured)
    }

    /// Whether a figure was measured of any data path.
    pub(crate) fn has(&self, figure: Figure) -> bool {
        self.datapaths().into_iter().any(|datapath| self.median(datapath, figure).is_some())
    }

    /// The data paths, in the order of the table.
    pub(crate) fn datapaths(&self) -> Vec<Datapath> {
        let known = |d: &Datapath| self.samples.contains_key(d) || self.absent.contains_key(d);
        Datapath::ALL.into_iter().filter(known).collect()
    }

    /// A figure of every round.
    pub(crate) fn values(&self, datapath: Datapath, figure: Figure) -> Vec<Option<f64>> {
        let samples = self.samples.get(&datapath).map(Vec::as_slice).unwrap_or_default();
        let value = |sample: &Sample| sample.iter().find(|(f, _)| *f == figure).map(|(_, value)| *value);
        samples.iter().map(|sample| sample.as_ref().and_then(value)).collect()
    }

    /// Median over the rounds.
    pub(crate) fn median(&self, datapath: Datapath, figure: Figure) -> Option<f64> {
        median(self.values(datapath, figure).into_iter().flatten().collect())
    }

    /// Median of the ratios of the rounds in which both were measured.
    pub(crate) fn ratio(&self, datapath: Datapath, base: Datapath, figure: Figure) -> Option<f64> {
        let (ours, theirs) = (self.values(datapath, figure), self.values(base, figure));
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
    use std::collections::BTreeMap;

    use super::{Report, median};
    use crate::bench::datapath::Datapath;
    use crate::bench::figures::Figure;
    use crate::bench::wire::Wire;

    #[test]
    fn median_of_odd_and_even_counts() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }

    #[test]
    fn ratios_are_taken_within_rounds_and_failed_rounds_fall_out() {
        let (ours, base) = (Datapath::WeaveAes, Datapath::Vxlan);
        let mut report = Report::new(Wire::Nic, 3, 1, BTreeMap::new());
        let gbps = |value| vec![(Figure::Tcp1, value)];
        report.sample(base, gbps(10.0));
        report.sample(ours, gbps(5.0));
        report.sample(base, gbps(1.0));
        report.fail(ours, &anyhow::anyhow!("broken"));
        report.sample(base, gbps(20.0));
        report.sample(ours, gbps(16.0));
        assert_eq!(report.ratio(ours, base, Figure::Tcp1), Some(0.65));
        assert_eq!(report.median(base, Figure::Tcp1), Some(10.0));
        assert!(report.has_figures());
        assert_eq!(report.failure(ours), Some("broken"));
    }

    #[test]
    fn a_datapath_without_any_figure_is_noticed() {
        let mut report = Report::new(Wire::Nic, 1, 1, BTreeMap::new());
        assert!(!report.has_figures());
        report.sample(Datapath::Vxlan, vec![(Figure::Tcp1, 1.0)]);
        assert!(report.has_figures());
        report.fail(Datapath::WeaveAes, &anyhow::anyhow!("broken"));
        assert!(!report.has_figures());
    }
}
