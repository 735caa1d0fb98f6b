//! The chart: a panel of bars a figure, drawn as SVG by hand.

use std::fmt::Write;

use crate::bench::datapath::{Datapath, Kind};
use crate::bench::figures::{Better, Figure};
use crate::bench::machine::Machine;
use crate::bench::report::Report;
use crate::bench::table::number;

/// The figures that have a panel, two beside each other.
const PANELS: [Figure; 8] = [
    Figure::Tcp1,
    Figure::Tcp4,
    Figure::CpuPerGigabyte,
    Figure::Short,
    Figure::Udp64,
    Figure::Udp1400,
    Figure::ReplyMedian,
    Figure::LoadedMedian,
];

const WIDTH: u32 = 960;
const MARGIN: u32 = 24;
const HEAD: u32 = 84;
const FOOT: u32 = 30;
const PANEL_WIDTH: u32 = (WIDTH - 3 * MARGIN) / 2;
const PANEL_HEAD: u32 = 34;
const PANEL_GAP: u32 = 22;
const ROW: u32 = 22;
const BAR: u32 = 14;
/// Room for names left of the bars, and for values right of the longest.
const NAMES: u32 = 128;
const VALUES: u32 = 64;

const INK: &str = "#1f2933";
const SOFT: &str = "#6b7785";
const RULE: &str = "#d9dfe5";

/// The text of one wire's file.
pub(crate) fn svg(report: &Report, machine: &Machine) -> String {
    let panels: Vec<Figure> = PANELS.into_iter().filter(|figure| report.has(*figure)).collect();
    let rows = |figure: &Figure| u32::try_from(bars(report, *figure).len()).unwrap_or(u32::MAX);
    let heights: Vec<u32> = panels
        .chunks(2)
        .map(|pair| PANEL_HEAD + ROW * pair.iter().map(rows).max().unwrap_or(0) + PANEL_GAP)
        .collect();
    let height = HEAD + heights.iter().sum::<u32>() + FOOT;
    let mut svg = String::new();
    head(&mut svg, report, machine, height);
    let mut top = HEAD;
    for (pair, height) in panels.chunks(2).zip(heights) {
        for (index, figure) in pair.iter().enumerate() {
            let left = if index == 0 { MARGIN } else { 2 * MARGIN + PANEL_WIDTH };
            panel(&mut svg, report, *figure, left, top);
        }
        top += height;
    }
    text(&mut svg, MARGIN, height - 14, 11, SOFT, &foot(report));
    svg.push_str("</svg>\n");
    svg
}

fn head(svg: &mut String, report: &Report, machine: &Machine, height: u32) {
    let title = format!("Container to container across two hosts, wire: {}", report.wire.name());
    put(
        svg,
        format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
             height=\"{height}\" role=\"img\" font-family=\"Helvetica, Arial, sans-serif\">\n<title>{}</title>\n\
             <rect width=\"{WIDTH}\" height=\"{height}\" rx=\"8\" fill=\"#ffffff\"/>\n",
            escape(&title)
        ),
    );
    put(
        svg,
        format_args!(
            "<text x=\"{MARGIN}\" y=\"34\" font-size=\"19\" font-weight=\"600\" fill=\"{INK}\">{}</text>\n",
            escape(&title)
        ),
    );
    let how = format!(
        "{}; both hosts and both ends on one machine; rounds: {}, medians shown",
        report.wire.text(),
        report.runs
    );
    text(svg, MARGIN, 54, 12, SOFT, &how);
    text(svg, MARGIN, 71, 12, SOFT, &machine.text());
}

/// Colours and what was not measured.
fn foot(report: &Report) -> String {
    let absent: Vec<&str> = report
        .datapaths()
        .into_iter()
        .filter(|datapath| report.absent(*datapath).is_some())
        .map(Datapath::name)
        .collect();
    let colours =
        "Blue: this fabric, encrypted. Grey: the kernel, without encryption. Sand: others, encrypted.";
    match absent.is_empty() {
        true => colours.to_owned(),
        false => format!("{colours} Absent: {}.", absent.join(", ")),
    }
}

fn panel(svg: &mut String, report: &Report, figure: Figure, left: u32, top: u32) {
    let better = match figure.better() {
        Better::More => "more is better",
        Better::Less => "less is better",
    };
    put(
        svg,
        format_args!(
            "<text x=\"{left}\" y=\"{}\" font-size=\"13\" font-weight=\"600\" fill=\"{INK}\">{}\
             <tspan dx=\"8\" font-weight=\"400\" fill=\"{SOFT}\">{better}</tspan></text>\n",
            top + 14,
            escape(figure.text())
        ),
    );
    let (line, right) = (top + 22, left + PANEL_WIDTH);
    put(
        svg,
        format_args!("<line x1=\"{left}\" y1=\"{line}\" x2=\"{right}\" y2=\"{line}\" stroke=\"{RULE}\"/>\n"),
    );
    let bars = bars(report, figure);
    let longest = bars.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    for (row, (datapath, value)) in (0..).zip(&bars) {
        let y = top + PANEL_HEAD + ROW * row;
        let length = f64::from(PANEL_WIDTH - NAMES - VALUES) * value / longest.max(f64::MIN_POSITIVE);
        // A bar that cannot be seen would look like a missing figure.
        let length = length.max(1.0);
        let start = left + NAMES;
        put(
            svg,
            format_args!(
                "<text x=\"{}\" y=\"{}\" font-size=\"12\" text-anchor=\"end\" fill=\"{INK}\">{}</text>\n\
                 <rect x=\"{start}\" y=\"{y}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"2\" fill=\"{}\"/>\n\
                 <text x=\"{:.1}\" y=\"{}\" font-size=\"12\" fill=\"{INK}\">{}</text>\n",
                start - 8,
                y + 11,
                datapath.name(),
                colour(*datapath),
                f64::from(start) + length + 6.0,
                y + 11,
                number(*value)
            ),
        );
    }
}

/// The data paths that have the figure.
fn bars(report: &Report, figure: Figure) -> Vec<(Datapath, f64)> {
    report.datapaths().into_iter().filter_map(|d| Some((d, report.median(d, figure)?))).collect()
}

fn colour(datapath: Datapath) -> &'static str {
    match datapath.kind() {
        Kind::Kernel => "#9aa7b4",
        Kind::Ours => "#2f6fed",
        Kind::Rival => "#d9b380",
    }
}

fn text(svg: &mut String, x: u32, y: u32, size: u32, colour: &str, what: &str) {
    put(
        svg,
        format_args!(
            "<text x=\"{x}\" y=\"{y}\" font-size=\"{size}\" fill=\"{colour}\">{}</text>\n",
            escape(what)
        ),
    );
}

fn put(svg: &mut String, what: std::fmt::Arguments<'_>) {
    svg.write_fmt(what).expect("a string takes everything");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::svg;
    use crate::bench::datapath::Datapath;
    use crate::bench::figures::Figure;
    use crate::bench::machine::Machine;
    use crate::bench::report::Report;
    use crate::bench::wire::Wire;

    #[test]
    fn every_measured_datapath_has_a_bar_and_absent_ones_are_named() {
        let absent = BTreeMap::from([(Datapath::Tinc, "not here".to_owned())]);
        let mut report = Report::new(Wire::LossyMuch, 3, 5, absent);
        report.sample(Datapath::Vxlan, vec![(Figure::Tcp1, 6.2)]);
        report.sample(Datapath::WeaveAes, vec![(Figure::Tcp1, 5.5), (Figure::LoadedMedian, 900.0)]);
        let machine = Machine {
            cpu: "A & B <C>".to_owned(),
            cores: 2,
            kernel: "6.12".to_owned(),
            memory_gib: 8,
            date: "2026-01-02".to_owned(),
            commit: "abc".to_owned(),
        };
        let text = svg(&report, &machine);
        assert_eq!(text.matches("<rect").count(), 1 + 3, "background and bars");
        assert!(text.contains("A &amp; B &lt;C&gt;") && text.contains("Absent: tinc."), "{text}");
        assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"));
        assert_eq!(text.matches("<text").count(), text.matches("</text>").count());
    }
}
