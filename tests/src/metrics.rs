//! The page `/metrics`, read as Prometheus reads it.

use std::collections::{BTreeMap, BTreeSet};

use crate::Client;

/// A page.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// As it came.
    pub text: String,
    /// The type of each metric.
    pub types: BTreeMap<String, String>,
    /// The meaning of each metric.
    pub helps: BTreeMap<String, String>,
    series: BTreeMap<Series, f64>,
}

/// A name and its labels.
type Series = (String, BTreeMap<String, String>);

impl Page {
    /// Of a service.
    ///
    /// # Panics
    /// When there is none, or it is not as it should be.
    pub async fn of(client: &Client) -> Self {
        let answer = client.get("/metrics").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        Self::read(&answer.body)
    }

    /// Reads one.
    ///
    /// # Panics
    /// When a line is not understood, or a series comes twice.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let mut page = Self { text: text.to_owned(), ..Self::default() };
        for line in text.lines() {
            let mut words = line.splitn(4, ' ');
            match (words.next(), words.next(), words.next(), words.next()) {
                (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                    page.types.insert(name.to_owned(), kind.to_owned());
                }
                (Some("#"), Some("HELP"), Some(name), Some(help)) => {
                    page.helps.insert(name.to_owned(), help.to_owned());
                }
                _ => {
                    let (series, value) = line.rsplit_once(' ').expect("a series and its value");
                    let value = value.parse().expect("a number");
                    assert!(page.series.insert(parse(series), value).is_none(), "{series} comes twice");
                }
            }
        }
        page
    }

    /// The value of a metric; summed over all series that have these labels.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let values: Vec<_> = self.values(name, labels).collect();
        assert!(!values.is_empty(), "there is no {name} with {labels:?}");
        values.iter().sum()
    }

    /// Whether there is such a series.
    #[must_use]
    pub fn has(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.values(name, labels).next().is_some()
    }

    fn values(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = f64> {
        self.series.iter().filter_map(move |((its, has), value)| {
            let all = labels.iter().all(|(label, value)| has.get(*label).is_some_and(|its| its == value));
            (its == name && all).then_some(*value)
        })
    }

    /// Its series, without their values.
    #[must_use]
    pub fn series(&self) -> BTreeSet<Series> {
        self.series.keys().cloned().collect()
    }

    /// The values that a label of a metric has.
    #[must_use]
    pub fn label_values(&self, name: &str, label: &str) -> BTreeSet<String> {
        let of_metric = self.series.keys().filter(|(its, _)| its == name);
        of_metric.filter_map(|(_, labels)| labels.get(label).cloned()).collect()
    }
}

/// `name{label="value",other="value"}`
fn parse(series: &str) -> Series {
    let Some((name, labels)) = series.split_once('{') else { return (series.to_owned(), BTreeMap::new()) };
    let labels = labels.strip_suffix("\"}").expect("labels end");
    let pair = |pair: &str| {
        let (label, value) = pair.split_once("=\"").expect("a label and its value");
        (label.to_owned(), value.to_owned())
    };
    (name.to_owned(), labels.split("\",").map(pair).collect())
}
