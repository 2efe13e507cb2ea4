//! The table on standard output.

use std::{fmt::Write as _, io::Write as _};

use super::Report;
use crate::rounds::{Measured, Side};

/// Before the first round: what is being compared, and on what.
pub(crate) fn print_head(report: &Report) {
    show(&head(report));
}

/// After the last one.
pub(crate) fn print(report: &Report) {
    show(&format!("\n{}\n{}{}", speeds(report), costs(report), errors(report)));
}

fn show(text: &str) {
    // Who closed it does not want to know.
    let _unread = std::io::stdout().write_all(text.as_bytes());
}

fn head(report: &Report) -> String {
    let (machine, versions, settings) = (&report.machine, &report.versions, &report.settings);
    let connections = match settings.etcd_connections {
        0 => "one HTTP/2 connection for each client".to_owned(),
        most => format!("{most} HTTP/2 connections at most, shared by its clients"),
    };
    let etcd = versions.etcd.as_ref().map_or("none".to_owned(), |etcd| format!("{etcd}, its defaults; {connections}"));
    format!(
        "machine   {} CPUs ({}), {}\n\
         disk      {} on {}; 8 KiB with fdatasync: p50 {:.0} µs, p99 {:.0} µs\n\
         ours      {}, {}; fsync, full_page_writes and synchronous_commit on; its log into a file, level info\n\
         etcd      {etcd}\n\
         rounds    {} of {} s each after {} s of warm-up, in turns; the clients share the CPUs with the servers\n",
        machine.cpus,
        machine.cpu,
        machine.kernel,
        machine.filesystem,
        machine.device,
        machine.fdatasync_p50_us,
        machine.fdatasync_p99_us,
        versions.config_api,
        versions.postgres,
        settings.rounds,
        settings.seconds,
        settings.warm_up_seconds,
    )
}

fn speeds(report: &Report) -> String {
    let mut text = String::from(
        "               acknowledged/s (median)   ratio (least to most)    ours: p50    p99    max   etcd: p50    p99    max   p99 ratio\n\
         workload             ours       etcd                                   milliseconds                milliseconds\n",
    );
    for measured in &report.workloads {
        let rate = |side: &Option<Side>, absent| {
            side.as_ref().map_or(absent, |side| format!("{:.0}", side.operations_per_s.median))
        };
        let ratio = measured.ratio.as_ref().map_or(String::new(), |ratio| {
            let of = ratio.throughput;
            format!("{:.2} ({:.2} to {:.2})", of.median, of.least, of.most)
        });
        let p99 = measured.ratio.as_ref().map_or(String::new(), |ratio| format!("{:.2}", ratio.p99.median));
        let _infallible = writeln!(
            text,
            "{:<14} {:>10} {:>10}   {ratio:<22}   {}     {}       {p99:>5}",
            measured.workload,
            rate(&measured.ours, "404".to_owned()),
            rate(&measured.etcd, "-".to_owned()),
            latency(measured.ours.as_ref()),
            latency(measured.etcd.as_ref()),
        );
    }
    for measured in &report.workloads {
        text.push_str(&notes(measured));
    }
    text
}

fn latency(side: Option<&Side>) -> String {
    side.map_or(" ".repeat(22), |side| {
        let ms = |micros: f64| micros / 1000.0;
        let latency = &side.latency;
        format!("{:>8.2} {:>6.2} {:>6.1}", ms(latency.p50_us), ms(latency.p99_us), ms(latency.max_us))
    })
}

/// What the columns cannot say.
fn notes(measured: &Measured) -> String {
    let mut text = String::new();
    let name = &measured.workload;
    if measured.ours.is_none() {
        let _infallible = writeln!(text, "{name}: ours is not there (404)");
    }
    for (who, side) in [("ours", &measured.ours), ("etcd", &measured.etcd)] {
        let Some(side) = side else { continue };
        if measured.events_per_operation > 1 {
            let _infallible = writeln!(text, "{name}: {who}: {:.0} events/s", side.events_per_s);
        }
        if side.refused > 0 {
            let seconds_of_wins = side.operations_per_s.median;
            let _infallible = writeln!(
                text,
                "{name}: {who}: {} attempts lost to other clients, at {seconds_of_wins:.0} increments/s",
                side.refused
            );
        }
    }
    text
}

fn costs(report: &Report) -> String {
    let mut text = String::from(
        "\n               CPU µs per operation, ours:                    etcd:\n\
         workload           client    service   Postgres        client       etcd\n",
    );
    for measured in &report.workloads {
        let cost = |micros: Option<f64>| micros.map_or("-".to_owned(), |micros| format!("{micros:.1}"));
        let ours = measured.ours.as_ref().map(|side| &side.cpu_us);
        let etcd = measured.etcd.as_ref().map(|side| &side.cpu_us);
        let _infallible = writeln!(
            text,
            "{:<14} {:>10} {:>10} {:>10}    {:>10} {:>10}",
            measured.workload,
            cost(ours.map(|cpu| cpu.client)),
            cost(ours.and_then(|cpu| cpu.server)),
            cost(ours.and_then(|cpu| cpu.postgres)),
            cost(etcd.map(|cpu| cpu.client)),
            cost(etcd.and_then(|cpu| cpu.server)),
        );
    }
    text
}

fn errors(report: &Report) -> String {
    let mut text = String::new();
    for measured in &report.workloads {
        for (who, side) in [("ours", &measured.ours), ("etcd", &measured.etcd)] {
            for (error, times) in side.iter().flat_map(|side| &side.errors) {
                let _infallible = writeln!(text, "{}: {who}: {times} × {error}", measured.workload);
            }
        }
    }
    if text.is_empty() { "\nno errors\n".to_owned() } else { format!("\nerrors, warm-up included:\n{text}") }
}
