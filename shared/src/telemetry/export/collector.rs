//! The collector at the other end of the queue: spans are posted to it, a few times when it is worth it, and counted.
//! Source: OTLP 1.10, "OTLP/HTTP": which answers are worth a further attempt, and what they say.

use std::{
    io::{Read as _, Write as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use bytes::Bytes;
use flate2::write::GzEncoder;
use reqwest::blocking::{Client, Response};
use url::Url;

use super::{
    Counters,
    otlp::{self, Origin, Rejected},
};
use crate::{backoff::Backoff, telemetry::Chain};

/// Attempts of an export behind the first, and the longest wait before the first of them.
const RETRIES: u32 = 2;
const FIRST_RETRY: Duration = Duration::from_millis(100);

/// Longest that a collector is sent nothing because it asked for that.
const MAX_LEFT_ALONE: Duration = Duration::from_secs(600);

/// Most of a collector's own words in a line, in bytes.
const MAX_TOLD_BYTES: usize = 256;

/// Most that is read of an answer, in bytes.
const MAX_ANSWER_BYTES: u64 = 64 * 1024;

/// Who sends, for the collector's own logs.
const USER_AGENT: &str = concat!("config-api/", env!("CARGO_PKG_VERSION"));

/// The client that sends could not be made.
#[derive(Debug, thiserror::Error)]
#[error("traces cannot be sent")]
pub struct NoCollector(#[from] reqwest::Error);

/// Why an export failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the collector did not answer within {} ms", .0.as_millis())]
    Late(Duration),
    #[error("the collector asked for a pause")]
    LeftAlone,
    #[error("the collector cannot be reached")]
    Unreachable(#[source] reqwest::Error),
    #[error("the collector answered {status}")]
    Answered {
        status: StatusCode,
        /// How long it wants to be left alone, if it said so.
        after: Option<Duration>,
    },
}

/// How bodies are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::telemetry) enum Compression {
    None,
    Gzip,
}

/// Where the collector is, and how it is spoken to.
#[derive(Clone, Debug)]
pub(in crate::telemetry) struct CollectorSettings {
    pub(in crate::telemetry) endpoint: Url,
    /// Besides OTLP's own.
    pub(in crate::telemetry) headers: HeaderMap,
    pub(in crate::telemetry) compression: Compression,
    /// Longest that an export may take with all its attempts.
    pub(in crate::telemetry) limit: Duration,
}

/// Takes batches of spans from the queue's thread, one at a time.
#[derive(Debug)]
pub(in crate::telemetry) struct Collector {
    client: Client,
    endpoint: Url,
    headers: HeaderMap,
    compression: Compression,
    /// Longest that an export may take with all its attempts.
    limit: Duration,
    origin: Origin,
    left_alone_until: Mutex<Option<Instant>>,
    counters: Arc<Counters>,
}

impl Collector {
    /// Where the settings say.
    ///
    /// # Errors
    /// When there is no client, for want of a thread or of certificates.
    pub(in crate::telemetry) fn new(
        CollectorSettings { endpoint, mut headers, compression, limit }: CollectorSettings,
        origin: Origin,
        counters: Arc<Counters>,
    ) -> Result<Self, NoCollector> {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        if compression == Compression::Gzip {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(USER_AGENT));
        // Asked for by whoever sends over TLS; another part of the process may have chosen already.
        let _chosen_before = rustls::crypto::ring::default_provider().install_default();
        // Blocking: its runtime is its own, and so it still sends when ours has ended. A redirect is told: whoever is behind it
        // is not whom the headers, which may hold a secret, are for.
        let client = Client::builder().redirect(reqwest::redirect::Policy::none()).build()?;
        let left_alone_until = Mutex::default();
        Ok(Self { client, endpoint, headers, compression, limit, origin, left_alone_until, counters })
    }

    pub(super) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Sends these spans, and counts what becomes of them.
    pub(super) fn export(&self, spans: &[Vec<u8>]) {
        let request = self.origin.request(spans);
        let body = match self.compression {
            Compression::None => request,
            Compression::Gzip => compressed(&request),
        };
        let (sent, spans) = (self.send(&Bytes::from(body)), spans.len());
        let (lost, why) = match sent {
            Ok(Rejected { spans: 0, .. }) => (0, None),
            Ok(Rejected { spans: rejected, why }) => {
                let rejected = usize::try_from(rejected).unwrap_or(usize::MAX);
                (rejected.min(spans), Some(partly(&why)))
            }
            Err(failure) => (spans, Some(Chain(&failure).to_string())),
        };
        let counters = &self.counters;
        counters.exported.fetch_add((spans - lost) as u64, Relaxed);
        counters.failed.fetch_add(lost as u64, Relaxed);
        // Last: whoever counts what is lost at the end finds them in one place at least.
        counters.waiting.fetch_sub(spans, Relaxed);
        if let Some(why) = why {
            counters.export_errors.fetch_add(1, Relaxed);
            counters.tell(&why);
        }
    }

    fn send(&self, body: &Bytes) -> Result<Rejected, Failure> {
        if self.left_alone().is_some_and(|until| Instant::now() < until) {
            return Err(Failure::LeftAlone);
        }
        let sent = self.attempts(body, Instant::now() + self.limit);
        let pause = sent.as_ref().err().map_or(Duration::ZERO, Failure::after);
        if pause > Duration::ZERO {
            *self.left_alone() = Instant::now().checked_add(pause.min(MAX_LEFT_ALONE));
        }
        sent
    }

    fn attempts(&self, body: &Bytes, until: Instant) -> Result<Rejected, Failure> {
        let mut backoff = Backoff::new(FIRST_RETRY, self.limit);
        for _ in 0..RETRIES {
            let failure = match self.attempt(body, until) {
                Err(failure) if failure.may_pass() => failure,
                ended => return ended,
            };
            let pause = failure.after().max(backoff.next_wait());
            if pause >= until.saturating_duration_since(Instant::now()) {
                return Err(failure);
            }
            #[expect(clippy::disallowed_methods, reason = "the thread is the queue's own")]
            thread::sleep(pause);
        }
        self.attempt(body, until)
    }

    /// Until when it asked to be sent nothing.
    fn left_alone(&self) -> MutexGuard<'_, Option<Instant>> {
        self.left_alone_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attempt(&self, body: &Bytes, until: Instant) -> Result<Rejected, Failure> {
        let failed = |error: reqwest::Error| match error.is_timeout() {
            true => Failure::Late(self.limit),
            // The address may hold a secret.
            false => Failure::Unreachable(error.without_url()),
        };
        let left = until.saturating_duration_since(Instant::now());
        let request = self.client.post(self.endpoint.clone()).headers(self.headers.clone()).timeout(left);
        let response = request.body(body.clone()).send().map_err(failed)?;
        let status = response.status();
        if !status.is_success() {
            return Err(Failure::Answered { status, after: retry_after(&response) });
        }
        let mut answer = vec![];
        // It has the spans, whatever becomes of the rest of its answer.
        let _cut_off = response.take(MAX_ANSWER_BYTES).read_to_end(&mut answer);
        Ok(otlp::rejected(&answer))
    }
}

impl Failure {
    /// Whether a further attempt may fare better.
    fn may_pass(&self) -> bool {
        match self {
            Self::Late(_) | Self::LeftAlone => false,
            Self::Unreachable(_) => true,
            Self::Answered { status, .. } => matches!(status.as_u16(), 429 | 502 | 503 | 504),
        }
    }

    fn after(&self) -> Duration {
        match self {
            Self::Answered { after: Some(after), .. } => *after,
            _ => Duration::ZERO,
        }
    }
}

fn compressed(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 8), flate2::Compression::fast());
    // A list of bytes takes all.
    let _infallible = encoder.write_all(body);
    encoder.finish().unwrap_or_default()
}

fn partly(why: &str) -> String {
    match &why[..why.floor_char_boundary(MAX_TOLD_BYTES)] {
        "" => "the collector took not all".to_owned(),
        why => format!("the collector took not all: {why}"),
    }
}

/// In seconds; a date, which nobody is known to send, is passed over.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::{
        super::answering::{Answering, TAKEN},
        *,
    };
    use crate::telemetry::TraceCounts;

    const MINUTE: Duration = Duration::from_secs(60);

    fn collector(endpoint: &str, limit: Duration) -> Collector {
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static("Bearer s"))]);
        let endpoint = endpoint.parse().unwrap();
        let settings = CollectorSettings { endpoint, headers, compression: Compression::None, limit };
        Collector::new(settings, Origin::default(), Arc::default()).unwrap()
    }

    /// Of an export of three spans.
    fn counts(collector: &Collector) -> TraceCounts {
        collector.counters.waiting.store(3, Relaxed);
        collector.export(&[vec![], vec![], vec![]]);
        assert_eq!(collector.counters.waiting.load(Relaxed), 0, "they wait no more");
        collector.counters.now()
    }

    fn failed(spans: u64, export_errors: u64) -> TraceCounts {
        TraceCounts { failed: spans, export_errors, ..TraceCounts::default() }
    }

    fn failure(collector: &Collector) -> String {
        Chain(&collector.send(&Bytes::new()).unwrap_err()).to_string()
    }

    #[test]
    fn what_may_pass_is_tried_again_twice_and_what_is_sent_says_what_it_is() {
        const AWAY: &str = "503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let answering = Answering::with(&[AWAY, AWAY, TAKEN]);
        let counted = counts(&collector(&answering.endpoint, MINUTE));
        assert_eq!(counted, TraceCounts { exported: 3, ..TraceCounts::default() });
        let asked = answering.asked();
        assert_eq!(asked.len(), 3);
        for head in asked {
            assert!(head.starts_with("POST / HTTP/1.1\r\n"), "{head}");
            for line in ["content-type: application/x-protobuf", "authorization: Bearer s", "user-agent: config-api/"] {
                assert!(head.contains(line), "{line}: {head}");
            }
        }
        let answering = Answering::with(&[AWAY]);
        assert_eq!(counts(&collector(&answering.endpoint, MINUTE)), failed(3, 1));
        assert_eq!(answering.asked().len(), 3);
    }

    #[test]
    fn what_will_not_pass_is_told_at_once() {
        for (answer, told) in [
            ("401 Unauthorized\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", "answered 401"),
            (
                "307 Temporary Redirect\r\nlocation: /x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
                "answered 307",
            ),
        ] {
            let answering = Answering::with(&[answer]);
            let error = failure(&collector(&answering.endpoint, MINUTE));
            assert!(error.contains(told), "{error}");
            assert_eq!(answering.asked().len(), 1);
        }
    }

    #[test]
    fn a_collector_that_asks_for_a_pause_gets_it() {
        for answer in [
            "429 Too Many Requests\r\nretry-after: 61\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            "503 Service Unavailable\r\nretry-after: 18446744073709551615\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        ] {
            let answering = Answering::with(&[answer]);
            let collector = collector(&answering.endpoint, MINUTE);
            assert_eq!(counts(&collector), failed(3, 1));
            assert_eq!(failure(&collector), "the collector asked for a pause");
            assert_eq!(counts(&collector), failed(6, 2));
            assert_eq!(answering.asked().len(), 1, "it was asked once");
        }
    }

    #[test]
    fn who_is_not_there_and_who_does_not_answer_are_told_apart() {
        let error = failure(&collector("http://127.0.0.1:1/", MINUTE));
        assert!(error.contains("cannot be reached: ") && error.contains("Connection refused"), "{error}");
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", silent.local_addr().unwrap());
        let error = failure(&collector(&endpoint, Duration::from_millis(50)));
        assert_eq!(error, "the collector did not answer within 50 ms");
    }

    #[test]
    fn what_the_collector_did_not_take_is_lost() {
        // rejected_spans = 2, error_message = "full"
        const SOME: &str = "200 OK\r\nconnection: close\r\ncontent-length: 10\r\n\r\n\x0a\x08\x08\x02\x12\x04full";
        let answering = Answering::with(&[SOME]);
        let counted = counts(&collector(&answering.endpoint, MINUTE));
        assert_eq!(counted, TraceCounts { exported: 1, ..failed(2, 1) });
    }

    #[test]
    fn a_collectors_own_words_are_cut() {
        assert_eq!(partly(""), "the collector took not all");
        assert_eq!(partly("full"), "the collector took not all: full");
        assert_eq!(partly(&"é".repeat(200)).matches('é').count(), MAX_TOLD_BYTES / 2);
    }
}
