//! The table that people read: one a wire, in blocks that fit 160 columns.

use crate::bench::datapath::Datapath;
use crate::bench::figures::Figure;
use crate::bench::report::Report;

/// Names of data paths, and a space.
const NAME_WIDTH: usize = 18;

/// A value, and in parentheses its ratio to VXLAN.
const CELL_WIDTH: usize = 15;

/// Where a rate is shown with a mark, more than this part was lost: it is not a rate without loss.
const LOST_PERCENT: f64 = 0.1;

/// What the ratios are taken to.
const BASE: Datapath = Datapath::Vxlan;

/// Figures that stand beside each other.
const BLOCKS: [&[Figure]; 2] = [
    &[
        Figure::Tcp1,
        Figure::Tcp1Reverse,
        Figure::Tcp1Both,
        Figure::Tcp4,
        Figure::Tcp4Reverse,
        Figure::Tcp4Both,
        Figure::Short,
        Figure::CpuPerGigabyte,
        Figure::Memory,
    ],
    &[
        Figure::Udp64,
        Figure::Udp1400,
        Figure::ReplyMedian,
        Figure::ReplyTail,
        Figure::PingMedian,
        Figure::PingTail,
        Figure::LoadedMedian,
        Figure::LoadedTail,
        Figure::Others,
    ],
];

/// All lines.
pub(crate) fn lines(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    for block in BLOCKS {
        let figures: Vec<Figure> = block.iter().copied().filter(|figure| report.has(*figure)).collect();
        if figures.is_empty() {
            continue;
        }
        for row in 0..2 {
            let heads = figures.iter().map(|figure| format!("{:>CELL_WIDTH$}", figure.head()[row]));
            lines.push(format!("{:<NAME_WIDTH$}{}", "", heads.collect::<String>()));
        }
        for datapath in report.datapaths().into_iter().filter(|d| report.absent(*d).is_none()) {
            let cells =
                figures.iter().map(|figure| format!("{:>CELL_WIDTH$}", cell(report, datapath, *figure)));
            lines.push(format!("{:<NAME_WIDTH$}{}", datapath.name(), cells.collect::<String>()));
        }
        lines.push(String::new());
    }
    for datapath in report.datapaths() {
        if let Some(reason) = report.absent(datapath) {
            lines.push(format!("{:<NAME_WIDTH$}absent: {reason}", datapath.name()));
        }
        if let Some(reason) = report.failure(datapath) {
            lines.push(format!("{:<NAME_WIDTH$}failed in a round: {reason}", datapath.name()));
        }
    }
    lines
}

/// `6.31 (0.92)`; the ratio is to VXLAN and only there when that was measured too.
fn cell(report: &Report, datapath: Datapath, figure: Figure) -> String {
    let Some(value) = report.median(datapath, figure) else { return "-".to_owned() };
    let mark = match lost(figure).and_then(|lost| report.median(datapath, lost)) {
        Some(lost) if lost > LOST_PERCENT => "!",
        Some(_) | None => "",
    };
    let value = format!("{}{mark}", number(value));
    match (figure, report.ratio(datapath, BASE, figure)) {
        (Figure::Others, _) | (_, None) => value,
        (_, Some(ratio)) => format!("{value} ({})", number(ratio)),
    }
}

/// The share that was lost, for a rate that must be without.
fn lost(rate: Figure) -> Option<Figure> {
    match rate {
        Figure::Udp64 => Some(Figure::Udp64Lost),
        Figure::Udp1400 => Some(Figure::Udp1400Lost),
        _ => None,
    }
}

/// Three digits that count.
pub(crate) fn number(value: f64) -> String {
    match value {
        large if large >= 99.95 => format!("{large:.0}"),
        middle if middle >= 9.995 => format!("{middle:.1}"),
        small if small >= 0.0995 || small == 0.0 => format!("{small:.2}"),
        tiny => format!("{tiny:.3}"),
    }
}
