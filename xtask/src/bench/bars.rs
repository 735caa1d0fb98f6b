//! The bars: what this fabric must reach, beside what was measured.

use crate::bench::datapath::Datapath::{self, Vxlan, WeaveAes, WeaveChacha, WireguardGo2023};
use crate::bench::figures::{Better, Figure};
use crate::bench::report::Report;
use crate::bench::table::number;
use crate::bench::wire::Wire::{self, LossyLittle, LossyMuch, Nic, Passthrough};

/// Something that must hold over one wire.
#[derive(Debug, Clone, Copy)]
struct Bar {
    wire: Wire,
    datapath: Datapath,
    /// Against this one, as a ratio; the figure itself where there is none.
    base: Option<Datapath>,
    figure: Figure,
    must: f64,
}

/// How a bar was taken.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Verdict {
    /// The line for people.
    pub(crate) text: String,
    /// Whether it holds.
    pub(crate) holds: Holds,
}

/// Whether a bar holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holds {
    /// It does.
    Yes,
    /// It does not.
    No,
}

const fn bar(wire: Wire, datapath: Datapath, base: Option<Datapath>, figure: Figure, must: f64) -> Bar {
    Bar { wire, datapath, base, figure, must }
}

/// All of them. Bars that name no wire hold on both that lose nothing.
const BARS: [Bar; 20] = [
    bar(Passthrough, WeaveAes, Some(Vxlan), Figure::Tcp1, 0.60),
    bar(Passthrough, WeaveAes, Some(Vxlan), Figure::Tcp4, 0.28),
    bar(Nic, WeaveAes, Some(Vxlan), Figure::Tcp1, 0.85),
    bar(Nic, WeaveAes, Some(Vxlan), Figure::Tcp4, 0.65),
    bar(Passthrough, WeaveAes, Some(WireguardGo2023), Figure::Tcp1, 2.8),
    bar(Nic, WeaveAes, Some(WireguardGo2023), Figure::Tcp1, 2.2),
    bar(Passthrough, WeaveChacha, Some(WireguardGo2023), Figure::Tcp1, 1.9),
    bar(Nic, WeaveChacha, Some(WireguardGo2023), Figure::Tcp1, 1.6),
    bar(LossyLittle, WeaveAes, Some(Vxlan), Figure::Tcp1, 0.9),
    bar(LossyMuch, WeaveAes, Some(Vxlan), Figure::Tcp1, 1.3),
    bar(LossyLittle, WeaveAes, Some(WireguardGo2023), Figure::Tcp1, 2.0),
    bar(LossyMuch, WeaveAes, Some(WireguardGo2023), Figure::Tcp1, 2.0),
    bar(Passthrough, WeaveAes, Some(Vxlan), Figure::Udp64, 0.95),
    bar(Nic, WeaveAes, Some(Vxlan), Figure::Udp64, 0.95),
    bar(Passthrough, WeaveAes, Some(Vxlan), Figure::ReplyMedian, 1.5),
    bar(Nic, WeaveAes, Some(Vxlan), Figure::ReplyMedian, 1.5),
    bar(Passthrough, WeaveAes, None, Figure::LoadedMedian, 1100.0),
    bar(Nic, WeaveAes, None, Figure::LoadedMedian, 1100.0),
    bar(Passthrough, WeaveAes, None, Figure::CpuPerGigabyte, 1.4),
    bar(Nic, WeaveAes, None, Figure::CpuPerGigabyte, 2.0),
];

/// The bars of which everything needed was measured.
pub(crate) fn verdicts(reports: &[Report]) -> Vec<Verdict> {
    BARS.iter().filter_map(|bar| reports.iter().find_map(|report| bar.verdict(report))).collect()
}

impl Bar {
    fn verdict(&self, report: &Report) -> Option<Verdict> {
        if report.wire != self.wire {
            return None;
        }
        let measured = match self.base {
            Some(base) => report.ratio(self.datapath, base, self.figure)?,
            None => report.median(self.datapath, self.figure)?,
        };
        let (holds, sign) = match self.figure.better() {
            Better::More => (measured >= self.must, ">="),
            Better::Less => (measured <= self.must, "<="),
        };
        let base = self.base.map_or_else(String::new, |base| format!(" / {}", base.name()));
        let what = format!("{}, {}{base}", self.wire.name(), self.datapath.name());
        let (must, measured) = (number(self.must), number(measured));
        let text = format!("{what:<46} {:<36} {sign} {must:<6} measured {measured}", self.figure.text());
        Some(Verdict { text, holds: if holds { Holds::Yes } else { Holds::No } })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Holds, verdicts};
    use crate::bench::datapath::Datapath;
    use crate::bench::figures::Figure;
    use crate::bench::report::Report;
    use crate::bench::wire::Wire;

    #[test]
    fn only_what_was_measured_is_judged_and_by_its_own_sense() {
        let mut report = Report::new(Wire::Nic, 1, 1, BTreeMap::new());
        report.sample(Datapath::Vxlan, vec![(Figure::Tcp1, 10.0), (Figure::ReplyMedian, 100.0)]);
        report.sample(
            Datapath::WeaveAes,
            vec![(Figure::Tcp1, 9.0), (Figure::ReplyMedian, 200.0), (Figure::CpuPerGigabyte, 1.9)],
        );
        let verdicts = verdicts(&[report]);
        let holds: Vec<Holds> = verdicts.iter().map(|verdict| verdict.holds).collect();
        assert_eq!(holds, [Holds::Yes, Holds::No, Holds::Yes], "{verdicts:#?}");
        assert!(verdicts[0].text.contains(">= 0.85   measured 0.90"), "{}", verdicts[0].text);
    }
}
