//! A process's metrics: where they are registered, and the page that they are told on.

use std::{
    fmt,
    marker::PhantomData,
    sync::{Arc, OnceLock},
    time::Instant,
};

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
    core::{Collector, Desc},
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};

use super::{
    BUILD_INFO, EventStoreMetrics, HttpMetrics, MEMORY_LIMIT, TRACE_EXPORT_ERRORS, TRACE_SPANS, UPTIME,
    definition::{Definition, Kind, Words},
    memory,
};
use crate::telemetry::{self, TraceCounts};

/// The metrics of one process: passed in, so that two of them live in one process, and both services of a standalone share
/// one. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    http: OnceLock<HttpMetrics>,
    event_store: OnceLock<EventStoreMetrics>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Of a process of this name: `command-service`, `query-service` or `config-api`. What every process tells is there.
    #[must_use]
    pub fn of(service: &'static str) -> Self {
        let inner = Inner { registry: Registry::new(), http: OnceLock::new(), event_store: OnceLock::new() };
        let metrics = Self(Arc::new(inner));
        let began = Instant::now();
        metrics.read(&[&BUILD_INFO, &UPTIME, &MEMORY_LIMIT], move |told| {
            told.labelled(&BUILD_INFO, &[env!("CARGO_PKG_VERSION"), service], 1.0);
            told.value(&UPTIME, began.elapsed().as_secs_f64());
            if let Some(limit) = memory::limit() {
                told.value(&MEMORY_LIMIT, float(limit));
            }
        });
        metrics.read(&[&TRACE_SPANS, &TRACE_EXPORT_ERRORS], |told| {
            let TraceCounts { exported, failed, dropped, export_errors } =
                telemetry::trace_counts().unwrap_or_default();
            for (outcome, spans) in [("exported", exported), ("failed", failed), ("dropped", dropped)] {
                told.labelled(&TRACE_SPANS, &[outcome], float(spans));
            }
            told.value(&TRACE_EXPORT_ERRORS, float(export_errors));
        });
        #[cfg(target_os = "linux")]
        metrics.register(prometheus::process_collector::ProcessCollector::for_self());
        metrics
    }

    /// What every request is counted by.
    #[must_use]
    pub fn http(&self) -> &HttpMetrics {
        self.0.http.get_or_init(|| HttpMetrics::new(self))
    }

    /// What connections to the event store are told by.
    #[must_use]
    pub fn event_store(&self) -> &EventStoreMetrics {
        self.0.event_store.get_or_init(|| EventStoreMetrics::new(self))
    }

    /// A counter without labels.
    #[must_use]
    pub fn counter(&self, definition: &Definition) -> IntCounter {
        debug_assert_eq!(definition.kind, Kind::Counter);
        let counter = IntCounter::new(definition.name, definition.help).expect(NAMED_RIGHT);
        self.register(counter.clone());
        counter
    }

    /// A counter for each word of its label, resolved once.
    #[must_use]
    pub fn counters<A: Words>(&self, definition: &Definition) -> Counters<A> {
        let all = self.counter_vec(definition);
        let of = |word: &&'static str| all.with_label_values(&[word]);
        Counters { counters: A::WORDS.iter().map(of).collect(), words: PhantomData }
    }

    /// A counter for each pair of words of its two labels, resolved once.
    #[must_use]
    pub fn counter_pairs<A: Words, B: Words>(&self, definition: &Definition) -> CounterPairs<A, B> {
        let all = self.counter_vec(definition);
        let of = |a: &&'static str| B::WORDS.iter().map(|b| all.with_label_values(&[a, b])).collect::<Vec<_>>();
        CounterPairs { counters: A::WORDS.iter().flat_map(of).collect(), words: PhantomData }
    }

    /// A counter with labels, whose series the caller makes.
    #[must_use]
    pub fn counter_vec(&self, definition: &Definition) -> IntCounterVec {
        debug_assert_eq!(definition.kind, Kind::Counter);
        let opts = Opts::new(definition.name, definition.help);
        let counters = IntCounterVec::new(opts, &definition.label_names()).expect(NAMED_RIGHT);
        self.register(counters.clone());
        counters
    }

    /// A gauge that is set where what it tells happens.
    #[must_use]
    pub fn gauge(&self, definition: &Definition) -> IntGauge {
        debug_assert_eq!(definition.kind, Kind::Gauge);
        let gauge = IntGauge::new(definition.name, definition.help).expect(NAMED_RIGHT);
        self.register(gauge.clone());
        gauge
    }

    /// The same with labels.
    #[must_use]
    pub fn gauge_vec(&self, definition: &Definition) -> IntGaugeVec {
        debug_assert_eq!(definition.kind, Kind::Gauge);
        let opts = Opts::new(definition.name, definition.help);
        let gauges = IntGaugeVec::new(opts, &definition.label_names()).expect(NAMED_RIGHT);
        self.register(gauges.clone());
        gauges
    }

    /// A histogram without labels.
    #[must_use]
    pub fn histogram(&self, definition: &Definition) -> Histogram {
        let histogram = Histogram::with_opts(histogram_opts(definition)).expect(NAMED_RIGHT);
        self.register(histogram.clone());
        histogram
    }

    /// The same with labels.
    #[must_use]
    pub fn histogram_vec(&self, definition: &Definition) -> HistogramVec {
        let histograms = HistogramVec::new(histogram_opts(definition), &definition.label_names()).expect(NAMED_RIGHT);
        self.register(histograms.clone());
        histograms
    }

    /// Values that are there already as state: read when the page is made. `read` must tell all of them, and not wait.
    pub fn read(&self, definitions: &[&'static Definition], read: impl Fn(&mut Told) + Send + Sync + 'static) {
        let desc = |definition: &&'static Definition| {
            let labels = definition.label_names().into_iter().map(str::to_owned).collect();
            Desc::new(definition.name.to_owned(), definition.help.to_owned(), labels, <_>::default())
                .expect(NAMED_RIGHT)
        };
        let descs = definitions.iter().map(desc).collect();
        self.register(Reading { descs, definitions: definitions.to_vec(), read: Box::new(read) });
    }

    fn register(&self, collector: impl Collector + 'static) {
        let registered = self.0.registry.register(Box::new(collector));
        registered.expect("each metric is registered once: a process's metrics are of one service of a kind");
    }

    /// The page, in Prometheus's text format.
    #[must_use]
    pub fn page(&self) -> Vec<u8> {
        let mut page = Vec::new();
        let encoded = TextEncoder::new().encode(&self.0.registry.gather(), &mut page);
        encoded.expect("a family without a metric is not gathered, and memory takes what is written");
        page
    }
}

const NAMED_RIGHT: &str = "names of metrics and labels are well-formed constants";

fn histogram_opts(definition: &Definition) -> HistogramOpts {
    let Kind::Histogram(bounds) = definition.kind else { unreachable!("{} is a histogram", definition.name) };
    HistogramOpts::new(definition.name, definition.help).buckets(bounds.to_vec())
}

/// Counters by the words of one label.
#[derive(Clone, Debug)]
pub struct Counters<A> {
    counters: Arc<[IntCounter]>,
    words: PhantomData<A>,
}

impl<A: Words> Counters<A> {
    /// Of this word.
    #[must_use]
    pub fn of(&self, word: A) -> &IntCounter {
        &self.counters[word.index()]
    }
}

/// Counters by the words of two labels.
#[derive(Clone, Debug)]
pub struct CounterPairs<A, B> {
    counters: Arc<[IntCounter]>,
    words: PhantomData<(A, B)>,
}

impl<A: Words, B: Words> CounterPairs<A, B> {
    /// Of these words.
    #[must_use]
    pub fn of(&self, a: A, b: B) -> &IntCounter {
        &self.counters[a.index() * B::WORDS.len() + b.index()]
    }
}

/// Tells what is read.
type Read = Box<dyn Fn(&mut Told) + Send + Sync>;

/// Metrics that are read when the page is made.
struct Reading {
    descs: Vec<Desc>,
    definitions: Vec<&'static Definition>,
    read: Read,
}

/// What was read.
#[derive(Debug, Default)]
pub struct Told(Vec<(&'static str, Metric)>);

impl Told {
    /// A metric without labels.
    pub fn value(&mut self, definition: &'static Definition, value: f64) {
        self.labelled(definition, &[], value);
    }

    /// A metric with these label values.
    pub fn labelled(&mut self, definition: &'static Definition, values: &[&str], value: f64) {
        debug_assert_eq!(definition.labels.len(), values.len(), "{}", definition.name);
        let label = |(label, value): (&super::Label, &&str)| {
            let mut pair = LabelPair::default();
            pair.set_name(label.name.to_owned());
            pair.set_value((*value).to_owned());
            pair
        };
        let mut metric = Metric::from_label(definition.labels.iter().zip(values).map(label).collect());
        // Only the one of its family's type is told.
        let (mut counter, mut gauge) = (Counter::default(), Gauge::default());
        counter.set_value(value);
        gauge.set_value(value);
        metric.set_counter(counter);
        metric.set_gauge(gauge);
        self.0.push((definition.name, metric));
    }
}

impl Collector for Reading {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut told = Told::default();
        (self.read)(&mut told);
        let family = |definition: &&'static Definition| {
            let metrics = told.0.iter().filter(|(name, _)| *name == definition.name);
            let mut family = MetricFamily::default();
            family.set_name(definition.name.to_owned());
            family.set_help(definition.help.to_owned());
            let counts = definition.kind == Kind::Counter;
            family.set_field_type(if counts { MetricType::COUNTER } else { MetricType::GAUGE });
            family.set_metric(metrics.map(|(_, metric)| metric.clone()).collect());
            family
        };
        self.definitions.iter().map(family).collect()
    }
}

/// Metrics are floats; what is counted here is far from where those have gaps.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "2^53 events, bytes or connections are out of reach")]
pub fn float(value: u64) -> f64 {
    value as f64
}
