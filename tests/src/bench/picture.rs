//! The figures as a picture: throughput and latency against connections, readable on light and
//! on dark paper.

use super::{
    report::{Latency, Load, Report, Sync},
    text::{count, figure},
};

/// Size of the whole, in pixels.
const WIDTH: f64 = 920.0;
const HEIGHT: f64 = 400.0;
/// A panel's left edges, and what its axes span.
const LEFT: [f64; 2] = [64.0, 524.0];
const SPAN: (f64, f64) = (370.0, 260.0);
const TOP: f64 = 64.0;
/// About how wide a letter is in the legend.
const LETTER: f64 = 6.4;

/// A line in both panels.
struct Series {
    name: &'static str,
    /// Its colour, see [`STYLE`].
    class: &'static str,
    /// Connections, orders per second, latency.
    points: Vec<(f64, f64, Latency)>,
}

/// Both axes are logarithmic.
struct Axis {
    from: f64,
    to: f64,
}

const STYLE: &str = "
    text { font: 12px system-ui, sans-serif; fill: #333 }
    .title { font-weight: 600; font-size: 14px }
    .grid { stroke: #8886; stroke-width: .5 }
    .a { stroke: #0969da } .b { stroke: #cf222e } .c { stroke: #0969da; stroke-dasharray: 2 4 }
    .d { stroke: #6e7781 } .e { stroke: #bf8700 }
    polyline { fill: none; stroke-width: 2.2 } .thin { stroke-width: 1; opacity: .75 }
    @media (prefers-color-scheme: dark) {
      text { fill: #ddd }
      .a { stroke: #58a6ff } .b { stroke: #ff7b72 } .c { stroke: #58a6ff } .d { stroke: #9aa4ae } .e { stroke: #e3b341 }
    }
";

/// An SVG; nothing when there is no series of at least two points.
pub fn picture(report: &Report) -> Option<String> {
    let series = series(report);
    let points = || series.iter().flat_map(|series| &series.points);
    let connections = Axis::around(points().map(|point| point.0))?;
    let rates = Axis::around(points().map(|point| point.1))?;
    let times = Axis::around(points().flat_map(|(_, _, latency)| [latency.p50_ms, latency.p99_ms]))?;

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n<title>Confirmed \
         orders per second, and how long an order takes, against connections</title>\n<style>{STYLE}</style>\n"
    );
    for (panel, (title, axis)) in
        [("confirmed orders per second", &rates), ("milliseconds: p50, and thin p99", &times)].into_iter().enumerate()
    {
        svg += &frame(LEFT[panel], title, &connections, axis);
    }
    for series in &series {
        let line = |panel: usize, class: &str, axis: &Axis, value: fn(&(f64, f64, Latency)) -> f64| {
            let points = series.points.iter().map(|point| {
                let (x, y) = (LEFT[panel] + connections.at(point.0) * SPAN.0, y_of(axis, value(point)));
                format!("{x:.1},{y:.1}")
            });
            format!("<polyline class=\"{class}\" points=\"{}\"/>\n", points.collect::<Vec<_>>().join(" "))
        };
        svg += &line(0, series.class, &rates, |point| point.1);
        svg += &line(1, series.class, &times, |point| point.2.p50_ms);
        svg += &line(1, &format!("{} thin", series.class), &times, |point| point.2.p99_ms);
    }
    Some(svg + &legend(&series) + "</svg>\n")
}

fn series(report: &Report) -> Vec<Series> {
    let shop = |name, class, sync, load| {
        let runs = report.orders.iter().filter(|run| run.sync == sync && run.load == load);
        let points = runs.map(|run| (f64::from(run.connections), run.per_second, run.latency));
        Series { name, class, points: points.collect() }
    };
    let postgres = |name, class, script| {
        let runs = report.postgres.iter().filter(|run| run.script == script);
        let points = runs.map(|run| (f64::from(run.connections), run.per_second, run.latency));
        Series { name, class, points: points.collect() }
    };
    let mut series = vec![
        shop("shop, uniform", "a", Sync::Always, Load::Uniform),
        shop("shop, one hot product", "b", Sync::Always, Load::Hot),
        shop("shop, uniform, default sync", "c", Sync::Default, Load::Uniform),
        postgres("PostgreSQL, uniform", "d", "uniform"),
        postgres("PostgreSQL, hot", "e", "hot"),
    ];
    series.retain(|series| series.points.len() > 1);
    series
}

impl Axis {
    /// What holds all these values, which must differ; they must be above zero.
    fn around(values: impl Iterator<Item = f64>) -> Option<Self> {
        let (from, to) = values.fold((f64::INFINITY, 0.0_f64), |(from, to), value| (from.min(value), to.max(value)));
        (from > 0.0 && from < to).then_some(Self { from, to })
    }

    /// Where a value lies, from 0 to 1.
    fn at(&self, value: f64) -> f64 {
        (value / self.from).ln() / (self.to / self.from).ln()
    }

    /// 1, 2 and 5 of every power of ten between the ends.
    fn ticks(&self) -> impl Iterator<Item = f64> {
        let powers = self.from.log10().floor() as i32..=self.to.log10().ceil() as i32;
        let ticks = powers.flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powi(power)));
        ticks.filter(|tick| (self.from..=self.to).contains(tick))
    }
}

/// A panel without its lines.
fn frame(left: f64, title: &str, connections: &Axis, axis: &Axis) -> String {
    let (width, bottom) = (SPAN.0, TOP + SPAN.1);
    let mut svg = format!("<text class=\"title\" x=\"{left}\" y=\"{:.0}\">{title}</text>\n", TOP - 14.0);
    for tick in axis.ticks() {
        let (y, label) = (y_of(axis, tick), figure(tick));
        let label = label.trim_end_matches('0').trim_end_matches('.').to_owned();
        let label = if tick >= 10.0 { count(tick as u64) } else { label };
        svg += &format!("<path class=\"grid\" d=\"M{left} {y:.1}h{width}\"/>");
        svg += &format!("<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>\n", left - 8.0, y + 4.0);
    }
    let mut power = 1.0;
    while power <= connections.to {
        let x = left + connections.at(power) * width;
        if power >= connections.from {
            svg += &format!("<path class=\"grid\" d=\"M{x:.1} {TOP}v{}\"/>", SPAN.1);
            let label = count(power as u64);
            svg += &format!("<text x=\"{x:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{label}</text>\n", bottom + 18.0);
        }
        power *= 4.0;
    }
    let (x, y) = (left + width / 2.0, bottom + 36.0);
    svg + &format!("<text x=\"{x:.0}\" y=\"{y:.0}\" text-anchor=\"middle\">connections</text>\n")
}

fn legend(series: &[Series]) -> String {
    let (mut svg, mut x, y) = (String::new(), LEFT[0], HEIGHT - 14.0);
    for Series { name, class, .. } in series {
        let (line, text) = (x + 20.0, x + 26.0);
        svg += &format!("<polyline class=\"{class}\" points=\"{x:.0},{y} {line:.0},{y}\"/>");
        svg += &format!("<text x=\"{text:.0}\" y=\"{}\">{name}</text>\n", y + 4.0);
        x = text + name.len() as f64 * LETTER + 18.0;
    }
    svg
}

fn y_of(axis: &Axis, value: f64) -> f64 {
    TOP + SPAN.1 * (1.0 - axis.at(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::Postgres;

    fn run(connections: u32, per_second: f64) -> Postgres {
        let latency = Latency { p50_ms: 1.0, p99_ms: 10.0, p999_ms: 20.0, max_ms: 30.0 };
        Postgres { script: "uniform", connections, per_second, latency }
    }

    #[test]
    fn a_line_goes_from_the_least_to_the_most_of_both_axes() {
        let report = Report { postgres: vec![run(1, 100.0), run(100, 10_000.0)], ..Report::default() };
        let svg = picture(&report).unwrap();
        assert!(svg.contains("<polyline class=\"d\" points=\"64.0,324.0 434.0,64.0\"/>"), "{svg}");
        assert!(svg.contains("PostgreSQL, uniform") && !svg.contains("hot"), "{svg}");
        assert!(svg.contains(">1,000</text>") && svg.contains(">16</text>"), "{svg}");
    }

    #[test]
    fn there_is_no_picture_of_a_single_point() {
        assert_eq!(picture(&Report { postgres: vec![run(1, 100.0)], ..Report::default() }), None);
        assert_eq!(picture(&Report::default()), None);
    }
}
