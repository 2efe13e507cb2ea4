//! The collector at the other end of the queue: spans are posted to it, a few times when it is worth it, and counted.
//! Source: OTLP 1.10, "OTLP/HTTP": which answers are worth a further attempt, and what they say.

use std::{
    io::Read as _,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use bytes::Bytes;
use reqwest::blocking::{Client, Response};
use url::Url;

use super::{
    Counters,
    otlp::{self, Rejected, Sender},
};
use crate::telemetry::Chain;

/// Attempts of an export behind the first, and the wait before the first of them; the next waits twice as long.
const RETRIES: u32 = 2;
const FIRST_RETRY: Duration = Duration::from_millis(100);

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
    #[error("the collector cannot be reached")]
    Unreachable(#[source] reqwest::Error),
    #[error("the collector answered {status}")]
    Answered {
        status: StatusCode,
        /// When it wants to be asked again, if it said so.
        after: Option<Duration>,
    },
}

/// Takes batches of spans from the queue's thread, one at a time.
#[derive(Debug)]
pub(in crate::telemetry) struct Collector {
    client: Client,
    endpoint: Url,
    headers: HeaderMap,
    /// Longest that an export may take with all its attempts.
    limit: Duration,
    sender: Sender,
    counters: Arc<Counters>,
}

impl Collector {
    /// At this endpoint, with these headers besides OTLP's own.
    ///
    /// # Errors
    /// When there is no client, for want of a thread or of certificates.
    pub(in crate::telemetry) fn new(
        endpoint: Url,
        mut headers: HeaderMap,
        limit: Duration,
        sender: Sender,
        counters: Arc<Counters>,
    ) -> Result<Self, NoCollector> {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(USER_AGENT));
        // Asked for by whoever sends over TLS; another part of the process may have chosen already.
        let _chosen_before = rustls::crypto::ring::default_provider().install_default();
        // Blocking: its runtime is its own, and so it still sends when ours has ended. A redirect is told: whoever is behind it
        // is not whom the headers, which may hold a secret, are for.
        let client = Client::builder().redirect(reqwest::redirect::Policy::none()).build()?;
        Ok(Self { client, endpoint, headers, limit, sender, counters })
    }

    pub(super) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Sends these spans, and counts what becomes of them.
    pub(super) fn export(&self, spans: &[Vec<u8>]) {
        let (sent, spans) = (self.send(&Bytes::from(self.sender.request(spans))), spans.len());
        let (lost, why) = match sent {
            Ok(Rejected { spans: 0, .. }) => (0, None),
            Ok(Rejected { spans: rejected, why }) => {
                let rejected = usize::try_from(rejected).unwrap_or(usize::MAX);
                (rejected.min(spans), Some(format!("the collector took not all: {why}")))
            }
            Err(failure) => (spans, Some(Chain(&failure).to_string())),
        };
        let counters = &self.counters;
        counters.waiting.fetch_sub(spans, Relaxed);
        counters.exported.fetch_add((spans - lost) as u64, Relaxed);
        counters.failed.fetch_add(lost as u64, Relaxed);
        if let Some(why) = why {
            counters.export_errors.fetch_add(1, Relaxed);
            counters.tell(&why);
        }
    }

    fn send(&self, body: &Bytes) -> Result<Rejected, Failure> {
        let until = Instant::now() + self.limit;
        let mut wait = FIRST_RETRY;
        for _ in 0..RETRIES {
            let failure = match self.attempt(body, until) {
                Err(failure) if failure.may_pass() => failure,
                ended => return ended,
            };
            let pause = failure.after().max(wait);
            if Instant::now() + pause >= until {
                return Err(failure);
            }
            #[expect(clippy::disallowed_methods, reason = "the thread is the queue's own")]
            thread::sleep(pause);
            wait *= 2;
        }
        self.attempt(body, until)
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
            Self::Late(_) => false,
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

/// In seconds; a date, which nobody is known to send, is passed over.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::{super::answering::answering, *};
    use crate::telemetry::TraceCounts;

    fn export(endpoint: Url, headers: HeaderMap, limit: Duration) -> TraceCounts {
        let counters = Arc::<Counters>::default();
        counters.waiting.store(3, Relaxed);
        let collector = Collector::new(endpoint, headers, limit, Sender::default(), Arc::clone(&counters)).unwrap();
        collector.export(&[vec![], vec![], vec![]]);
        assert_eq!(counters.waiting.load(Relaxed), 0, "they wait no more");
        counters.now()
    }

    fn failure(endpoint: Url, limit: Duration) -> String {
        let collector = Collector::new(endpoint, HeaderMap::new(), limit, Sender::default(), Arc::default()).unwrap();
        Chain(&collector.send(&Bytes::new()).unwrap_err()).to_string()
    }

    const MINUTE: Duration = Duration::from_secs(60);
    const TAKEN: &str = "200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

    fn counts(exported: u64, failed: u64) -> TraceCounts {
        TraceCounts { exported, failed, dropped: 0, export_errors: u64::from(failed > 0) }
    }

    #[test]
    fn what_may_pass_is_tried_again_twice_and_what_is_sent_says_what_it_is() {
        const AWAY: &str = "503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let (endpoint, asked) = answering(&[AWAY, AWAY, TAKEN]);
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static("Bearer s"))]);
        assert_eq!(export(endpoint, headers, MINUTE), counts(3, 0));
        for head in asked.join().unwrap() {
            assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
            for line in ["content-type: application/x-protobuf", "authorization: Bearer s", "user-agent: config-api/"] {
                assert!(head.contains(line), "{line}: {head}");
            }
        }
        let (endpoint, asked) = answering(&[AWAY, AWAY, AWAY]);
        assert_eq!(export(endpoint, HeaderMap::new(), MINUTE), counts(0, 3));
        assert_eq!(asked.join().unwrap().len(), 3);
    }

    #[test]
    fn what_will_not_pass_is_told_at_once() {
        for (answer, told) in [
            ("401 Unauthorized\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", "answered 401"),
            (
                "307 Temporary Redirect\r\nlocation: /x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
                "answered 307",
            ),
            (
                "429 Too Many Requests\r\nretry-after: 61\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
                "answered 429",
            ),
        ] {
            let (endpoint, asked) = answering(vec![answer].leak());
            let error = failure(endpoint, MINUTE);
            assert!(error.contains(told), "{error}");
            assert_eq!(asked.join().unwrap().len(), 1);
        }
    }

    #[test]
    fn who_is_not_there_and_who_does_not_answer_are_told_apart() {
        let error = failure("http://127.0.0.1:1/".parse().unwrap(), Duration::from_millis(50));
        assert!(error.contains("cannot be reached: ") && error.contains("Connection refused"), "{error}");
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", silent.local_addr().unwrap()).parse().unwrap();
        let error = failure(endpoint, Duration::from_millis(50));
        assert_eq!(error, "the collector did not answer within 50 ms");
    }

    #[test]
    fn what_the_collector_did_not_take_is_lost() {
        // rejected_spans = 2, error_message = "full"
        const SOME: &str = "200 OK\r\nconnection: close\r\ncontent-length: 10\r\n\r\n\x0a\x08\x08\x02\x12\x04full";
        let (endpoint, asked) = answering(&[SOME]);
        assert_eq!(export(endpoint, HeaderMap::new(), MINUTE), counts(1, 2));
        assert_eq!(asked.join().unwrap().len(), 1);
    }
}
