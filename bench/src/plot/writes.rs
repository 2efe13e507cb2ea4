//! Plots of a report of `writes`.

use std::path::Path;

use super::canvas::{BOTTOM, Canvas, ETCD, HEIGHT, INK, LEFT, OURS, PALE, RIGHT, TOP, WIDTH, nice_above, thousands};
use crate::{
    BoxError,
    report::Report,
    rounds::{Measured, Side},
};

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
    canvas.legend(&sides_of(report));
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
    canvas.legend(&sides_of(report));
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

/// Whose numbers are shown.
fn sides_of(report: &Report) -> Vec<(&'static str, &'static str)> {
    let etcd = report.versions.etcd.is_some().then_some(("etcd", ETCD));
    [("Config API", OURS)].into_iter().chain(etcd).collect()
}
