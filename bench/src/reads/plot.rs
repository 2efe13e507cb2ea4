//! Plots of a report of `reads`.

use std::path::Path;

use super::{report::Report, requests::Measured};
use crate::{
    BoxError,
    latency::Summary,
    plot::{BOTTOM, Canvas, ETCD, HEIGHT, INK, LEFT, OURS, PALE, RIGHT, TOP, WIDTH, nice_above, thousands},
    rounds::Side,
};

const EMPTY: &str = "#8c959f";
const LINEARIZABLE: &str = "#a4531a";
const VISIBLE: &str = "#5aa469";

/// Bars of one group, and their room in pixels.
const BAR: f64 = 56.0;

/// Quantiles on the axis of `delays.svg`, with their labels.
const QUANTILES: [(f64, &str); 4] = [(0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9")];

/// Writes `gets.svg` and `delays.svg`, each if there is something to show.
pub(super) fn write(report: &Report, directory: &Path) -> Result<(), BoxError> {
    std::fs::create_dir_all(directory)?;
    for (name, picture) in [("gets.svg", gets(report)), ("delays.svg", delays(report))] {
        if let Some(picture) = picture {
            std::fs::write(directory.join(name), picture)?;
        }
    }
    Ok(())
}

fn subtitle(report: &Report) -> String {
    let (machine, began) = (&report.machine, report.began_at.get(..10).unwrap_or_default());
    format!("{} CPUs shared with the clients, {} rounds in turns; {began}", machine.cpus, report.rounds)
}

/// Bars side by side for each number of clients; a whisker from the least round to the most.
fn gets(report: &Report) -> Option<String> {
    let gets: Vec<_> = report.requests.iter().filter(|measured| measured.request.starts_with("get-")).collect();
    let sides = |measured: &Measured| -> Vec<(Side, &'static str)> { shown(measured) };
    let top = gets.iter().flat_map(|get| sides(get)).map(|(side, _)| side.operations_per_s.most).reduce(f64::max)?;
    let top = nice_above(top);
    let mut canvas = Canvas::new("GET of one name, answers a second", &subtitle(report), HEIGHT);
    canvas.legend(&[("Config API", OURS), ("empty", EMPTY), ("etcd ser.", ETCD), ("etcd lin.", LINEARIZABLE)]);
    let y = |value: f64| HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM);
    for step in 0..=4 {
        let value = top * f64::from(step) / 4.0;
        canvas.grid_line(y(value), &thousands(value));
    }
    let room = (WIDTH - LEFT - RIGHT) / gets.len() as f64;
    for (index, get) in gets.iter().enumerate() {
        let shown = sides(get);
        let middle = LEFT + room * (index as f64 + 0.5);
        let first = middle - BAR * shown.len() as f64 / 2.0;
        for (place, (side, colour)) in shown.iter().enumerate() {
            let (left, rate) = (first + BAR * place as f64, side.operations_per_s);
            canvas.rectangle(left + 2.0, y(rate.median), BAR - 4.0, HEIGHT - BOTTOM - y(rate.median), colour);
            canvas.line((left + BAR / 2.0, y(rate.least)), (left + BAR / 2.0, y(rate.most)), INK, 1.5);
            canvas.text(left + BAR / 2.0, y(rate.most) - 6.0, "middle", 12.0, &thousands(rate.median));
        }
        canvas.text(middle, HEIGHT - BOTTOM + 20.0, "middle", 13.0, &format!("{} clients", get.clients));
        let to = |ratio: &Option<crate::rounds::Ratio>, whom: &str| {
            ratio.as_ref().map(|ratio| format!("{:.2} × {whom}", ratio.throughput.median))
        };
        let ratios = [to(&get.to_empty, "empty"), to(&get.to_serializable, "etcd")];
        let ratios: Vec<_> = ratios.into_iter().flatten().collect();
        canvas.text(middle, HEIGHT - BOTTOM + 38.0, "middle", 12.0, &ratios.join(", "));
    }
    Some(canvas.end())
}

fn shown(measured: &Measured) -> Vec<(Side, &'static str)> {
    let others = [
        (measured.empty.clone(), EMPTY),
        (measured.etcd_serializable.clone(), ETCD),
        (measured.etcd_linearizable.clone(), LINEARIZABLE),
    ];
    let others = others.into_iter().filter_map(|(side, colour)| Some((side?, colour)));
    [(measured.ours.clone(), OURS)].into_iter().chain(others).collect()
}

/// Delays by percentile, in milliseconds; thin lines for the least rate, thick ones for the most.
fn delays(report: &Report) -> Option<String> {
    let points = |summary: &Summary| -> Vec<(f64, f64)> {
        let shown = summary.curve.iter().filter(|(quantile, micros)| (0.5..=0.999).contains(quantile) && *micros > 0.0);
        shown.map(|(quantile, micros)| (-(1.0 - quantile).log10(), micros.max(10.0) / 1000.0)).collect()
    };
    let lines: Vec<_> = report
        .delays
        .iter()
        .enumerate()
        .flat_map(|(index, delays)| {
            let etcd = delays.etcd_delivered.as_ref().map(|summary| (summary, ETCD));
            let ours = [(&delays.visible, VISIBLE), (&delays.delivered, OURS)];
            ours.into_iter().chain(etcd).map(move |(summary, colour)| (index, delays.writes_per_s, summary, colour))
        })
        .collect();
    let all: Vec<_> = lines.iter().flat_map(|(_, _, summary, _)| points(summary)).map(|(_, ms)| ms).collect();
    let low = all.iter().copied().reduce(f64::min)?.log10().floor();
    let high = all.iter().copied().reduce(f64::max)?.log10().ceil().max(low + 1.0);
    let mut canvas = Canvas::new("After the acknowledgement, milliseconds", &subtitle(report), HEIGHT);
    canvas.legend(&[("visible", VISIBLE), ("delivered", OURS), ("etcd watch", ETCD)]);
    let x = |nines: f64| LEFT + (nines - 0.3) / 2.7 * (WIDTH - LEFT - RIGHT - 90.0);
    let y = |ms: f64| HEIGHT - BOTTOM - (ms.log10() - low) / (high - low) * (HEIGHT - TOP - BOTTOM);
    let mut decade = low;
    while decade <= high {
        canvas.grid_line(y(10f64.powf(decade)), &format!("{}", 10f64.powf(decade)));
        decade += 1.0;
    }
    for (bar, words) in [(3.0, "p50 wanted"), (10.0, "p99 wanted")] {
        canvas.line((LEFT, y(bar)), (WIDTH - RIGHT, y(bar)), PALE, 2.0);
        canvas.text(LEFT + 4.0, y(bar) - 4.0, "start", 11.0, words);
    }
    for (quantile, label) in QUANTILES {
        canvas.text(x(-(1.0 - quantile).log10()), HEIGHT - BOTTOM + 20.0, "middle", 13.0, label);
    }
    let mut labels = Vec::new();
    for (index, rate, summary, colour) in lines {
        let line: Vec<_> = points(summary).into_iter().map(|(nines, ms)| (x(nines), y(ms))).collect();
        canvas.polyline(&line, colour, 1.2 + index as f64 * 1.2);
        labels.extend(line.last().map(|(_, end)| (*end, format!("{} /s", thousands(rate as f64)))));
    }
    labels.sort_by(|(left, _), (right, _)| left.total_cmp(right));
    let mut free = TOP;
    for (end, label) in labels {
        let at = end.max(free);
        canvas.text(x(3.0) + 8.0, at + 4.0, "start", 12.0, &label);
        free = at + 14.0;
    }
    Some(canvas.end())
}
