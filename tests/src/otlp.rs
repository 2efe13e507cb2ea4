//! A collector of traces: takes them over OTLP/HTTP as any other does, and keeps them for the test.

use std::{
    collections::BTreeMap,
    io::Read as _,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value},
    trace::v1::{Span as Sent, Status, span::SpanKind, status::StatusCode},
};
use prost::Message as _;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::wait::until;

/// A collector on a free port; gone when it is dropped.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    received: Arc<Mutex<Received>>,
    _serving: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Received {
    spans: Vec<Span>,
    raw: Vec<u8>,
    exports: usize,
    compressed: usize,
}

impl Received {
    fn keep(&mut self, body: &[u8], compressed: bool, sent: ExportTraceServiceRequest) {
        self.exports += 1;
        self.compressed += usize::from(compressed);
        self.raw.extend_from_slice(body);
        self.spans.extend(spans(sent));
    }
}

/// A span, as a dashboard shows it.
#[derive(Clone, Debug)]
pub struct Span {
    /// Its name.
    pub name: String,
    /// `server`, `client`, `producer`, `consumer`, `internal`.
    pub kind: &'static str,
    /// In hex.
    pub trace: String,
    /// In hex.
    pub id: String,
    /// In hex; empty without one.
    pub parent: String,
    /// `<trace>/<span>` of each.
    pub links: Vec<String>,
    /// As texts.
    pub attributes: BTreeMap<String, String>,
    /// Names, and attributes as texts.
    pub events: Vec<(String, BTreeMap<String, String>)>,
    /// Of the process that sent it.
    pub resource: BTreeMap<String, String>,
    /// `unset`, `ok`, `error`.
    pub status: &'static str,
    /// In nanoseconds.
    pub start: u64,
    /// In nanoseconds.
    pub end: u64,
}

impl Span {
    /// `<trace>/<span>`, as links name it.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}/{}", self.trace, self.id)
    }

    /// An attribute; empty without it.
    #[must_use]
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }

    /// The program that sent it.
    #[must_use]
    pub fn service(&self) -> &str {
        self.resource.get("service.name").map_or("", String::as_str)
    }

    /// The process that sent it.
    #[must_use]
    pub fn instance(&self) -> &str {
        self.resource.get("service.instance.id").map_or("", String::as_str)
    }
}

impl Collector {
    /// Serves from now on.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let received = Arc::<Mutex<Received>>::default();
        let mut serving = JoinSet::new();
        let keep = Arc::clone(&received);
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&keep)));
            }
        });
        Self { address, received, _serving: serving }
    }

    /// The variables that make a process send its traces here, soon after they end.
    #[must_use]
    pub fn variables(&self) -> [(&'static str, String); 2] {
        [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", self.address)),
            ("OTEL_BSP_SCHEDULE_DELAY", "20".to_owned()),
        ]
    }

    fn received(&self) -> MutexGuard<'_, Received> {
        self.received.lock().expect("no receiver panicked")
    }

    /// What came so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        self.received().spans.clone()
    }

    /// How often something was sent.
    #[must_use]
    pub fn exports(&self) -> usize {
        self.received().exports
    }

    /// Whether all that came was compressed.
    #[must_use]
    pub fn was_compressed(&self) -> bool {
        let received = self.received();
        received.exports > 0 && received.compressed == received.exports
    }

    /// Whether these bytes came, in whatever place.
    #[must_use]
    pub fn has_bytes(&self, bytes: &[u8]) -> bool {
        self.received().raw.windows(bytes.len()).any(|window| window == bytes)
    }

    /// Waits for so many spans of this name in the trace, and returns them.
    ///
    /// # Panics
    /// When they do not come in time.
    pub async fn wait_for(&self, trace: &str, name: &str, number: usize) -> Vec<Span> {
        let what = format!("{number} spans `{name}` of trace {trace} came");
        until(&what, async || {
            let found: Vec<_> =
                self.spans().into_iter().filter(|span| span.trace == trace && span.name == name).collect();
            (found.len() >= number).then_some(found)
        })
        .await
    }

    /// Waits for the only span of this name in the trace.
    ///
    /// # Panics
    /// When it does not come in time, or there are several.
    pub async fn one(&self, trace: &str, name: &str) -> Span {
        let mut found = self.wait_for(trace, name, 1).await;
        assert_eq!(found.len(), 1, "{found:#?}");
        found.remove(0)
    }

    /// Waits for a span that is so, in whatever trace.
    ///
    /// # Panics
    /// When it does not come in time.
    pub async fn find(&self, what: &str, is_it: impl Fn(&Span) -> bool) -> Span {
        until(what, async || self.spans().into_iter().find(|span| is_it(span))).await
    }
}

async fn serve(stream: TcpStream, received: Arc<Mutex<Received>>) {
    let mut stream = BufReader::new(stream);
    while let Some((body, compressed)) = request(&mut stream).await {
        let sent = ExportTraceServiceRequest::decode(&body[..]).expect("it is OTLP");
        received.lock().expect("no receiver panicked").keep(&body, compressed, sent);
        let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// The body of the next request, and whether it was compressed; `None` when there are no more.
async fn request(stream: &mut BufReader<TcpStream>) -> Option<(Vec<u8>, bool)> {
    let (mut line, mut bytes, mut is_gzip) = (String::new(), 0, false);
    stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
    assert!(line.starts_with("POST /v1/traces "), "{line}");
    while line.trim() != "" {
        line.clear();
        stream.read_line(&mut line).await.ok()?;
        let (name, value) = line.split_once(':').unwrap_or_default();
        if name.eq_ignore_ascii_case("content-length") {
            bytes = value.trim().parse().expect("a length");
        }
        is_gzip |= name.eq_ignore_ascii_case("content-encoding") && value.trim() == "gzip";
    }
    let mut body = vec![0; bytes];
    stream.read_exact(&mut body).await.ok()?;
    if is_gzip {
        let mut whole = vec![];
        GzDecoder::new(&body[..]).read_to_end(&mut whole).expect("it is what it says");
        body = whole;
    }
    Some((body, is_gzip))
}

fn spans(sent: ExportTraceServiceRequest) -> impl Iterator<Item = Span> {
    sent.resource_spans.into_iter().flat_map(|of_process| {
        let resource = texts(of_process.resource.unwrap_or_default().attributes);
        let sent = of_process.scope_spans.into_iter().flat_map(|scope| scope.spans);
        sent.map(move |sent| span(sent, resource.clone()))
    })
}

fn span(sent: Sent, resource: BTreeMap<String, String>) -> Span {
    let place = |trace: &[u8], span: &[u8]| format!("{}/{}", hex(trace), hex(span));
    Span {
        kind: match sent.kind() {
            SpanKind::Server => "server",
            SpanKind::Client => "client",
            SpanKind::Producer => "producer",
            SpanKind::Consumer => "consumer",
            SpanKind::Internal => "internal",
            SpanKind::Unspecified => "?",
        },
        status: match sent.status.as_ref().map(Status::code) {
            None | Some(StatusCode::Unset) => "unset",
            Some(StatusCode::Ok) => "ok",
            Some(StatusCode::Error) => "error",
        },
        trace: hex(&sent.trace_id),
        id: hex(&sent.span_id),
        parent: hex(&sent.parent_span_id),
        links: sent.links.iter().map(|link| place(&link.trace_id, &link.span_id)).collect(),
        attributes: texts(sent.attributes),
        events: sent.events.into_iter().map(|event| (event.name, texts(event.attributes))).collect(),
        resource,
        start: sent.start_time_unix_nano,
        end: sent.end_time_unix_nano,
        name: sent.name,
    }
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    attributes.into_iter().map(|attribute| (attribute.key, text(attribute.value))).collect()
}

fn text(value: Option<AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::BoolValue(yes)) => yes.to_string(),
        Some(any_value::Value::DoubleValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
