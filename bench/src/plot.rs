//! Plots of a report, as SVG that is written by hand: no fonts of its own, no dependencies, legible on light and dark pages.

use std::{fmt::Write as _, path::Path};

use crate::{
    BoxError,
    report::Report,
    rounds::{Measured, Side},
};

const OURS: &str = "#2463c4";
const ETCD: &str = "#d9822b";
const INK: &str = "#24292f";
const PALE: &str = "#d8dee4";

/// Size of a picture, and the margins of what is drawn in it, in pixels.
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 72.0;

/// What is wanted of 64 and 256 clients; the axis of `ratios.svg` goes there at least.
const RATIO_BAR: f64 = 1.5;

/// Quantiles on the axis of `latency.svg`, with their labels.
const QUANTILES: [(f64, &str); 5] = [(0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9"), (0.9999, "p99.99")];

/// Writes `throughput.svg`, `latency.svg` and `ratios.svg`, each if there is something to show.
pub(crate) fn write(report: &Report, directory: &Path) -> Result<(), BoxError> {
    std::fs::create_dir_all(directory)?;
    let puts: Vec<_> = report.workloads.iter().filter(|measured| measured.workload.starts_with("put-")).collect();
    for (name, picture) in [
        ("throughput.svg", throughput(&puts, report)),
        ("latency.svg", latency(&puts, report)),
        ("ratios.svg", ratios(report)),
    ] {
        if let Some(picture) = picture {
            std::fs::write(directory.join(name), picture)?;
        }
    }
    Ok(())
}

/// Bars side by side for each number of clients; a whisker from the least round to the most.
fn throughput(puts: &[&Measured], report: &Report) -> Option<String> {
    let sides = puts.iter().flat_map(|put| [&put.ours, &put.etcd]).flatten();
    let top = nice_above(sides.map(|side| side.operations_per_s.most).reduce(f64::max)?);
    let mut canvas = Canvas::new("Acknowledged durable writes a second, by clients", &subtitle(report), HEIGHT);
    canvas.legend(report);
    let y = |value: f64| HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM);
    for step in 0..=4 {
        let value = top * f64::from(step) / 4.0;
        canvas.grid_line(y(value), &thousands(value));
    }
    let room = (WIDTH - LEFT - RIGHT) / puts.len() as f64;
    for (index, put) in puts.iter().enumerate() {
        let middle = LEFT + room * (index as f64 + 0.5);
        let bar = (room * 0.3).min(60.0);
        for (side, left, colour) in [(&put.ours, middle - bar - 2.0, OURS), (&put.etcd, middle + 2.0, ETCD)] {
            let Some(side) = side else { continue };
            let rate = side.operations_per_s;
            canvas.rectangle(left, y(rate.median), bar, HEIGHT - BOTTOM - y(rate.median), colour);
            canvas.line((left + bar / 2.0, y(rate.least)), (left + bar / 2.0, y(rate.most)), INK, 1.5);
            canvas.text(left + bar / 2.0, y(rate.most) - 6.0, "middle", 12.0, &thousands(rate.median));
        }
        let clients = if put.clients == 1 { "1 client".to_owned() } else { format!("{} clients", put.clients) };
        canvas.text(middle, HEIGHT - BOTTOM + 20.0, "middle", 13.0, &clients);
        if let Some(ratio) = &put.ratio {
            let ratio = format!("{:.2} ×", ratio.throughput.median);
            canvas.text(middle, HEIGHT - BOTTOM + 38.0, "middle", 12.0, &ratio);
        }
    }
    Some(canvas.end())
}

/// Latency by percentile, on logarithmic axes; a pair of lines for each number of clients.
fn latency(puts: &[&Measured], report: &Report) -> Option<String> {
    let points = |side: &Side| -> Vec<(f64, f64)> {
        let shown = side.latency.curve.iter().filter(|(quantile, _)| (0.5..1.0).contains(quantile));
        shown.map(|(quantile, micros)| (-(1.0 - quantile).log10(), micros / 1000.0)).collect()
    };
    let sides: Vec<_> = puts.iter().flat_map(|put| [&put.ours, &put.etcd]).flatten().collect();
    let all: Vec<_> = sides.iter().flat_map(|side| points(side)).map(|(_, ms)| ms).collect();
    let low = all.iter().copied().reduce(f64::min)?.log10().floor();
    let high = all.iter().copied().reduce(f64::max)?.log10().ceil().max(low + 1.0);
    let mut canvas = Canvas::new("Latency of durable writes by percentile, in milliseconds", &subtitle(report), HEIGHT);
    canvas.legend(report);
    let room = WIDTH - LEFT - RIGHT - 80.0;
    let x = |nines: f64| LEFT + (nines - 0.3) / 3.7 * room;
    let y = |ms: f64| HEIGHT - BOTTOM - (ms.log10() - low) / (high - low) * (HEIGHT - TOP - BOTTOM);
    let mut decade = low;
    while decade <= high {
        canvas.grid_line(y(10f64.powf(decade)), &format!("{}", 10f64.powf(decade)));
        decade += 1.0;
    }
    for (quantile, label) in QUANTILES {
        canvas.text(x(-(1.0 - quantile).log10()), HEIGHT - BOTTOM + 20.0, "middle", 13.0, label);
    }
    let mut labels: Vec<(f64, String)> = Vec::new();
    for (index, put) in puts.iter().enumerate() {
        let width = 1.0 + index as f64 * 0.7;
        for (side, colour, who) in [(&put.ours, OURS, "ours"), (&put.etcd, ETCD, "etcd")] {
            let Some(side) = side else { continue };
            let line: Vec<_> = points(side).into_iter().map(|(nines, ms)| (x(nines), y(ms))).collect();
            canvas.polyline(&line, colour, width);
            if let Some(&(_, end)) = line.last() {
                labels.push((end, format!("{who} {}", put.clients)));
            }
        }
    }
    labels.sort_by(|(left, _), (right, _)| left.total_cmp(right));
    let mut free = TOP;
    for (end, label) in labels {
        let at = end.max(free);
        canvas.text(x(4.0) + 8.0, at + 4.0, "start", 12.0, &label);
        free = at + 14.0;
    }
    Some(canvas.end())
}

/// Throughput of ours by etcd's, one bar for each workload.
fn ratios(report: &Report) -> Option<String> {
    let rows: Vec<_> =
        report.workloads.iter().filter_map(|measured| Some((measured, measured.ratio.as_ref()?))).collect();
    let most = rows.iter().map(|(_, ratio)| ratio.throughput.most).reduce(f64::max)?;
    let right = (most.max(RATIO_BAR) * 1.1 * 4.0).ceil() / 4.0;
    let row_height = 30.0;
    let height = TOP + BOTTOM + rows.len() as f64 * row_height;
    let mut canvas = Canvas::new("Throughput: ours divided by etcd’s, median of the rounds", &subtitle(report), height);
    let x = |ratio: f64| LEFT + 20.0 + ratio / right * (WIDTH - LEFT - RIGHT - 60.0);
    let mut tick = 0.0;
    while tick <= right {
        canvas.line((x(tick), TOP), (x(tick), height - BOTTOM), PALE, 1.0);
        canvas.text(x(tick), height - BOTTOM + 18.0, "middle", 12.0, &format!("{tick:.1}"));
        tick += 0.5;
    }
    for (bar, words) in [(1.0, "as etcd"), (RATIO_BAR, "wanted of put-64, put-256")] {
        canvas.line((x(bar), TOP), (x(bar), height - BOTTOM), INK, 1.5);
        canvas.text(x(bar), height - BOTTOM + 36.0, "middle", 12.0, words);
    }
    for (index, (measured, ratio)) in rows.iter().enumerate() {
        let (middle, ratio) = (TOP + row_height * (index as f64 + 0.5), ratio.throughput);
        canvas.text(LEFT + 10.0, middle + 4.0, "end", 13.0, &measured.workload);
        canvas.rectangle(x(0.0), middle - 9.0, x(ratio.median) - x(0.0), 18.0, OURS);
        canvas.line((x(ratio.least), middle), (x(ratio.most), middle), INK, 1.5);
        canvas.text(x(ratio.most) + 6.0, middle + 4.0, "start", 12.0, &format!("{:.2}", ratio.median));
    }
    Some(canvas.end())
}

fn subtitle(report: &Report) -> String {
    let machine = &report.machine;
    let (settings, began) = (&report.settings, report.began_at.get(..10).unwrap_or_default());
    format!(
        "{} CPUs shared with the clients, {}, {} rounds of {} s in turns; {began}",
        machine.cpus, machine.filesystem, settings.rounds, settings.seconds
    )
}

/// The next of 1, 2, 4, 5 or 8 times a power of ten.
fn nice_above(value: f64) -> f64 {
    let power = 10f64.powf(value.max(1.0).log10().floor());
    [1.0, 2.0, 4.0, 5.0, 8.0, 10.0].into_iter().map(|step| step * power).find(|nice| *nice >= value).unwrap_or(value)
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// An SVG that is being drawn.
struct Canvas(String);

impl Canvas {
    fn new(title: &str, subtitle: &str, height: f64) -> Self {
        let mut canvas = Self(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
             font-family=\"system-ui, sans-serif\" role=\"img\" aria-label=\"{title}\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        ));
        canvas.text(LEFT - 60.0, 26.0, "start", 17.0, title);
        canvas.text(LEFT - 60.0, 46.0, "start", 12.0, subtitle);
        canvas
    }

    fn legend(&mut self, report: &Report) {
        let both = [("Config API", OURS), ("etcd", ETCD)];
        let shown = if report.versions.etcd.is_some() { &both[..] } else { &both[..1] };
        for (index, (who, colour)) in shown.iter().enumerate() {
            let left = WIDTH - RIGHT - 170.0 + index as f64 * 100.0;
            self.rectangle(left, 14.0, 14.0, 14.0, colour);
            self.text(left + 20.0, 26.0, "start", 13.0, who);
        }
    }

    fn grid_line(&mut self, y: f64, label: &str) {
        self.line((LEFT, y), (WIDTH - RIGHT, y), PALE, 1.0);
        self.text(LEFT - 8.0, y + 4.0, "end", 12.0, label);
    }

    fn rectangle(&mut self, x: f64, y: f64, width: f64, height: f64, colour: &str) {
        let _infallible = writeln!(
            self.0,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>"
        );
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str, width: f64) {
        self.polyline(&[from, to], colour, width);
    }

    fn polyline(&mut self, points: &[(f64, f64)], colour: &str, width: f64) {
        let points: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let points = points.join(" ");
        let _infallible = writeln!(
            self.0,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width:.1}\"/>"
        );
    }

    /// The text is ours: it has no characters that XML reserves.
    fn text(&mut self, x: f64, y: f64, anchor: &str, size: f64, text: &str) {
        let _infallible = writeln!(
            self.0,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\" fill=\"{INK}\">{text}</text>"
        );
    }

    fn end(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers_and_numbers_are_grouped() {
        assert_eq!([nice_above(1.0), nice_above(31_000.0), nice_above(81_000.0)], [1.0, 40_000.0, 100_000.0]);
        assert_eq!([thousands(7.0), thousands(1_234.0), thousands(1_234_567.0)], ["7", "1,234", "1,234,567"]);
    }
}
