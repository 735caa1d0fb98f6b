//! Charts of measured fleets, as SVG: how soon a new record is everywhere, and what a router sends, against the number of routers.
//!
//! Knows nothing of how fleets are measured, nor of files.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::figures::{Figures, Phase, Spread};

/// Pixels of a chart.
const SIZE: (u32, u32) = (960, 420);
/// Numbers of routers that are measured, as far as the user wants.
const SIZES: [u16; 10] = [10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000];
/// Lines are drawn in these colours, one after the other.
const COLOURS: [RGBColor; 10] = [
    RGBColor(0x9a, 0xa5, 0xb1),
    RGBColor(0x7b, 0xb0, 0xd6),
    RGBColor(0x3f, 0x8c, 0xc9),
    RGBColor(0x1d, 0x5f, 0xa8),
    RGBColor(0x2f, 0x9e, 0x7a),
    RGBColor(0xe0, 0xa0, 0x30),
    RGBColor(0xd9, 0x6a, 0x2b),
    RGBColor(0xc0, 0x39, 0x4b),
    RGBColor(0x8e, 0x44, 0x9e),
    RGBColor(0x1f, 0x29, 0x33),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The numbers of routers to measure: those of a scale up to `most`, and `most` itself.
pub fn sizes(most: u16) -> Vec<u16> {
    SIZES.into_iter().filter(|size| *size < most).chain([most]).collect()
}

/// All charts, each with the name of its file.
pub fn draw(fleets: &[Figures]) -> Result<[(&'static str, String); 2]> {
    let (mut convergence, mut bytes) = (String::new(), String::new());
    draw_convergence(fleets, &mut convergence).map_err(|error| anyhow!("cannot draw ages: {error}"))?;
    draw_bytes(fleets, &mut bytes).map_err(|error| anyhow!("cannot draw bytes: {error}"))?;
    Ok([("convergence.svg", convergence), ("bytes.svg", bytes)])
}

type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// Which part of all routers knows a record of which age.
fn draw_convergence(fleets: &[Figures], file: &mut String) -> Drawn {
    let area = SVGBackend::with_string(file, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let (left, right) = area.split_horizontally(SIZE.0 / 2);
    draw_ages(&left, "A new record, no loss", fleets, |figures| &figures.record)?;
    draw_ages(&right, "A new record, 5 % loss", fleets, |figures| &figures.record_with_loss)?;
    area.present()
}

fn draw_ages(
    area: &Area<'_>,
    title: &str,
    fleets: &[Figures],
    spread: impl Fn(&Figures) -> &Spread,
) -> Drawn {
    let last = fleets.iter().map(|figures| spread(figures).most).fold(0.1, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(14)
        .x_label_area_size(40)
        .y_label_area_size(54)
        .build_cartesian_2d(0.0..last * 1.05, 0.0..100.0)?;
    let percent = |value: &f64| format!("{value:.0} %");
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("age of the record, seconds")
        .y_desc("routers that know it")
        .y_label_formatter(&percent)
        .draw()?;
    for (figures, colour) in fleets.iter().zip(COLOURS.iter().cycle()) {
        let ages = spread(figures).percentiles.iter().enumerate();
        let points = ages.filter(|(_, age)| age.is_finite()).map(|(percent, age)| (*age, percent as f64));
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(format!("{} routers", figures.peers))
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    legend(&mut chart)
}

/// One line of a chart against the number of routers.
struct Line {
    name: &'static str,
    phase: &'static str,
    value: fn(&Phase) -> f64,
}

/// What one router sends in a second when nothing happens.
fn draw_bytes(fleets: &[Figures], file: &mut String) -> Drawn {
    let line = |name, phase, value| Line { name, phase, value };
    let lines = [
        line("gossip", "quiet", |phase| phase.gossip_bytes),
        line("gossip, 5 % loss", "quiet, loss", |phase| phase.gossip_bytes),
        line("all of UDP", "quiet", |phase| phase.bytes),
        line("all of UDP, 5 % loss", "quiet, loss", |phase| phase.bytes),
    ];
    let points = |line: &Line| -> Vec<(f64, f64)> {
        let of =
            |figures: &Figures| Some((f64::from(figures.peers), (line.value)(figures.phase(line.phase)?)));
        fleets.iter().filter_map(of).collect()
    };
    let most = lines.iter().flat_map(points).map(|(_, bytes)| bytes).fold(1.0, f64::max);
    let peers = || fleets.iter().map(|figures| f64::from(figures.peers));
    let (fewest, largest) = (peers().fold(f64::MAX, f64::min).min(10.0), peers().fold(100.0, f64::max));
    let area = SVGBackend::with_string(file, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption("What a router sends when nothing happens", ("sans-serif", 18))
        .margin(14)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d((fewest..largest * 1.05).log_scale(), 0.0..most * 1.1)?;
    let count = |value: &f64| format!("{value:.0}");
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("routers in the fabric")
        .y_desc("bytes a second")
        .x_label_formatter(&count)
        .y_label_formatter(&count)
        .draw()?;
    for (line, colour) in lines.iter().zip(COLOURS.iter().skip(2)) {
        let points = points(line);
        let dots = points.iter().map(|point| Circle::new(*point, 3, colour.filled()));
        chart.draw_series(dots)?;
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(line.name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    legend(&mut chart)?;
    area.present()
}

fn legend<'a, 's: 'a, X: Ranged<ValueType = f64>, Y: Ranged<ValueType = f64>>(
    chart: &mut ChartContext<'a, SVGBackend<'s>, Cartesian2d<X, Y>>,
) -> Drawn {
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .draw()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(peers: u16) -> Figures {
        let phase = |name: &str| Phase {
            name: name.to_owned(),
            bytes: 900.0,
            gossip_bytes: 170.0,
            ..Phase::default()
        };
        let record = Spread::of((1..=200).map(|n| f64::from(n) * 0.002).collect(), 0);
        // Nobody saw it: nothing is drawn of it.
        let record_with_loss = Spread::of(Vec::new(), 3);
        let phases = vec![phase("quiet"), phase("quiet, loss")];
        Figures { peers, record, record_with_loss, phases, ..Figures::default() }
    }

    #[test]
    fn charts_name_every_fleet() {
        let charts = draw(&[fleet(10), fleet(100), fleet(1000)]).expect("charts");
        let texts = charts.map(|(_, text)| text);
        for text in &texts {
            assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"), "{text}");
        }
        assert!(["10 routers", "100 routers", "1000 routers"].iter().all(|name| texts[0].contains(name)));
        assert!(texts[1].contains("gossip, 5 % loss") && texts[1].contains("bytes a second"));
    }

    #[test]
    fn sizes_end_with_what_is_wanted() {
        assert_eq!(sizes(8), [8]);
        assert_eq!(sizes(100), [10, 20, 50, 100]);
        assert_eq!(sizes(300), [10, 20, 50, 100, 200, 300]);
    }
}
