//! What is counted of every request. Counting one costs a few atomic additions: the series of a route are looked up once and
//! kept beside it.

use std::sync::{Arc, OnceLock};

use axum::http::{Method, StatusCode};
use prometheus::{Histogram, HistogramVec, IntCounter, IntGauge};

use super::{
    ACTIVE_REQUESTS, CONNECTIONS, CONNECTIONS_LIMIT, CONNECTIONS_STALLED, Metrics, REQUEST_DURATION,
    REQUESTS_ABANDONED, definition::Words, float,
};
use crate::{http::server::MAX_CONNECTIONS, words};

words! {
    /// The methods of HTTP.
    pub(super) enum KnownMethod {
        Get = "GET",
        Head = "HEAD",
        Post = "POST",
        Put = "PUT",
        Delete = "DELETE",
        Connect = "CONNECT",
        Options = "OPTIONS",
        Trace = "TRACE",
        Patch = "PATCH",
        /// Whatever else a client calls one.
        Other = "_OTHER",
    }
}

impl KnownMethod {
    fn of(method: &Method) -> Self {
        match *method {
            Method::GET => Self::Get,
            Method::HEAD => Self::Head,
            Method::POST => Self::Post,
            Method::PUT => Self::Put,
            Method::DELETE => Self::Delete,
            Method::CONNECT => Self::Connect,
            Method::OPTIONS => Self::Options,
            Method::TRACE => Self::Trace,
            Method::PATCH => Self::Patch,
            _ => Self::Other,
        }
    }

    fn word(self) -> &'static str {
        Self::WORDS[self.index()]
    }
}

/// Series that are kept beside a route: a method is answered with a few statuses. Further ones are looked up each time.
const KEPT_SERIES: usize = 8;

/// What requests and connections are counted by; cheap to clone.
#[derive(Clone, Debug)]
pub struct HttpMetrics {
    durations: HistogramVec,
    active: Arc<[IntGauge]>,
    abandoned: IntCounter,
    connections: IntGauge,
    stalled: IntCounter,
}

impl HttpMetrics {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let active = metrics.gauge_vec(&ACTIVE_REQUESTS);
        metrics.read(&[&CONNECTIONS_LIMIT], |told| told.value(&CONNECTIONS_LIMIT, float(MAX_CONNECTIONS as u64)));
        Self {
            durations: metrics.histogram_vec(&REQUEST_DURATION),
            active: KnownMethod::WORDS.iter().map(|method| active.with_label_values(&[method])).collect(),
            abandoned: metrics.counter(&REQUESTS_ABANDONED),
            connections: metrics.gauge(&CONNECTIONS),
            stalled: metrics.counter(&CONNECTIONS_STALLED),
        }
    }

    /// For one route, or one of its methods, wherever that is served.
    pub(crate) fn route(&self) -> RouteMetrics {
        RouteMetrics(Arc::new(Route { http: self.clone(), kept: Default::default() }))
    }

    /// A connection is open until this is dropped.
    pub(crate) fn connection(&self) -> OpenConnection {
        self.connections.inc();
        OpenConnection(self.clone())
    }
}

/// What the requests of a route are counted by; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct RouteMetrics(Arc<Route>);

#[derive(Debug)]
struct Route {
    http: HttpMetrics,
    kept: [OnceLock<Kept>; KEPT_SERIES],
}

#[derive(Debug)]
struct Kept {
    method: KnownMethod,
    status: StatusCode,
    durations: Histogram,
}

impl RouteMetrics {
    /// A request begins.
    pub(crate) fn begin(&self, method: &Method) -> ActiveRequest {
        let method = KnownMethod::of(method);
        self.0.http.active[method.index()].inc();
        ActiveRequest { route: self.clone(), method, began: std::time::Instant::now(), answered: false }
    }

    fn observe(&self, method: KnownMethod, route: &str, status: StatusCode, seconds: f64) {
        let find = || {
            let labels = [method.word(), route, status.as_str()];
            self.0.http.durations.with_label_values(&labels)
        };
        for kept in &self.0.kept {
            let kept = kept.get_or_init(|| Kept { method, status, durations: find() });
            if kept.method == method && kept.status == status {
                return kept.durations.observe(seconds);
            }
        }
        find().observe(seconds);
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(crate) struct ActiveRequest {
    route: RouteMetrics,
    method: KnownMethod,
    began: std::time::Instant,
    answered: bool,
}

impl ActiveRequest {
    /// Its answer begins, after so many microseconds. `route` is the pattern that it matched.
    pub(crate) fn answered(mut self, route: &str, status: StatusCode) -> u128 {
        self.answered = true;
        let took = self.began.elapsed();
        self.route.observe(self.method, route, status, took.as_secs_f64());
        took.as_micros()
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        let http = &self.route.0.http;
        http.active[self.method.index()].dec();
        if !self.answered {
            http.abandoned.inc();
        }
    }
}

/// A client's connection.
#[derive(Debug)]
pub(crate) struct OpenConnection(HttpMetrics);

impl OpenConnection {
    /// It is cut: its client does not read what it asked for.
    pub(crate) fn stalled(&self) {
        self.0.stalled.inc();
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.connections.dec();
    }
}
