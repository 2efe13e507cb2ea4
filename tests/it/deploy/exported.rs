//! What services export, read from their `/metrics`.

use std::collections::{BTreeMap, BTreeSet};

use super::promql::{Asked, Selector};

/// Labels that Prometheus gives to what it scrapes, and to alerts.
const GIVEN: [&str; 4] = ["job", "instance", "alertname", "severity"];

/// Series that Prometheus makes itself.
const MADE: [&str; 2] = ["up", "ALERTS"];

/// Metrics, with their labels and the values of each.
#[derive(Debug, Default)]
pub(super) struct Exported(BTreeMap<String, BTreeMap<String, BTreeSet<String>>>);

impl Exported {
    /// Adds a page.
    pub(super) fn add(&mut self, page: &str) {
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let (name, labels) =
                line.split_once('{').map_or((line.split(' ').next().unwrap_or(line), ""), |(name, rest)| {
                    (name, rest.rsplit_once('}').map_or("", |(labels, _)| labels))
                });
            let known = self.0.entry(name.to_owned()).or_default();
            // `a="b",c="d"`; no value of ours has a quote in it.
            let mut pieces = labels.split('"');
            while let (Some(label), Some(value)) = (pieces.next(), pieces.next()) {
                let label = label.trim_start_matches(',').trim_end_matches('=');
                known.entry(label.to_owned()).or_default().insert(value.to_owned());
            }
        }
    }

    /// Adds what a rule records, with the labels that it sets or keeps.
    pub(super) fn record(&mut self, name: &str, labels: &[(String, String)]) {
        let known = self.0.entry(name.to_owned()).or_default();
        for (label, value) in labels {
            known.entry(label.clone()).or_default().insert(value.clone());
        }
    }

    pub(super) fn labels(&self) -> BTreeSet<&str> {
        self.0.values().flat_map(BTreeMap::keys).map(String::as_str).chain(GIVEN).collect()
    }

    /// Panics unless everything that is asked for is there.
    pub(super) fn has(&self, place: &str, asked: &Asked) {
        for selector in &asked.selectors {
            self.has_series(place, selector);
        }
        let labels = self.labels();
        for label in &asked.labels {
            assert!(labels.contains(label.as_str()), "{place}: nobody exports the label {label}");
        }
    }

    fn has_series(&self, place: &str, Selector { metric, matchers }: &Selector) {
        if MADE.contains(&metric.as_str()) {
            return;
        }
        let known = self.0.get(metric).unwrap_or_else(|| panic!("{place}: nobody exports {metric}"));
        for (label, operator, value) in matchers.iter().filter(|(label, ..)| !GIVEN.contains(&label.as_str())) {
            let values = known.get(label).unwrap_or_else(|| panic!("{place}: {metric} has no label {label}"));
            // Routes and statuses are there when they were asked for; all other values from the start on.
            let from_the_start = !label.starts_with("http_");
            let plain = value.chars().all(|c| c.is_ascii_alphanumeric() || "_-|".contains(c));
            assert!(plain || !from_the_start, "{place}: {label}{operator}\"{value}\" cannot be checked");
            for value in value.split('|').filter(|_| from_the_start) {
                assert!(values.contains(value), "{place}: {metric} has no {label}=\"{value}\", but {values:?}");
            }
        }
    }
}
