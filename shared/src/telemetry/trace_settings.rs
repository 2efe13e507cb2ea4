//! What the standard `OTEL_*` variables say about traces. A wrong one is told before the process serves.

use std::{env, time::Duration};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{KeyValue, Value};
use opentelemetry_sdk::{Resource, resource::EnvResourceDetector};
use percent_encoding::percent_decode_str;
use url::Url;

use super::{
    export::{CollectorSettings, Compression, QueueLimits, SpanLimits},
    sampler::Sampler,
};
use crate::ids::Ids;

/// Longest that one export may take with all its attempts, when `OTEL_EXPORTER_OTLP_TIMEOUT` says nothing.
const EXPORT_LIMIT: Duration = Duration::from_secs(10);

/// Spans that wait to be sent, when `OTEL_BSP_MAX_QUEUE_SIZE` says nothing; about half a KiB each. The standard's 2,048 are the writes
/// of a tenth of a second.
const QUEUE_SPANS: usize = 16_384;

/// Spans in an export, and how long the first of them waits for it: the standard's.
const BATCH_SPANS: usize = 512;
const BATCH_DELAY: Duration = Duration::from_secs(5);

/// Attributes of a span, its events and its links, each: the standard's.
const MAX_IN_SPAN: u32 = 128;

/// Where the variables come from; tests say them.
pub(super) type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A variable that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: `{value}` {wrong}")]
pub struct InvalidVariable {
    name: &'static str,
    value: String,
    wrong: String,
}

/// Where traces go, and which.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) collector: CollectorSettings,
    pub(super) sampler: Sampler,
    pub(super) queue: QueueLimits,
    pub(super) span: SpanLimits,
}

/// The process's variables; one that is set to nothing is as good as none.
pub(super) fn of_process(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.trim().is_empty())
}

impl Settings {
    /// `None` when nothing says where traces go, or something says that there shall be none.
    ///
    /// # Errors
    /// The first variable that cannot be used.
    pub(super) fn read(variable: Variables<'_>) -> Result<Option<Self>, InvalidVariable> {
        let disabled = flag(variable, "OTEL_SDK_DISABLED")?;
        let exporter = one_of(variable, "OTEL_TRACES_EXPORTER", &["otlp", "none"])?;
        let sampler = Sampler::read(variable)?;
        for name in ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"] {
            one_of(variable, name, &["http/protobuf"])?;
        }
        let compression = compression(variable)?;
        let headers = headers(variable)?;
        let limit = timeout(variable)?;
        let endpoint = endpoint(variable)?;
        let (queue, span) = (queue_limits(variable)?, span_limits(variable)?);
        let Some(endpoint) = endpoint.filter(|_| !disabled && exporter.as_deref() != Some("none")) else {
            return Ok(None);
        };
        let collector = CollectorSettings { endpoint, headers, compression, limit };
        Ok(Some(Self { collector, sampler, queue, span }))
    }
}

pub(super) fn invalid(name: &'static str, value: &str, wrong: impl Into<String>) -> InvalidVariable {
    InvalidVariable { name, value: value.to_owned(), wrong: wrong.into() }
}

fn flag(variable: Variables<'_>, name: &'static str) -> Result<bool, InvalidVariable> {
    match variable(name) {
        None => Ok(false),
        Some(value) if value.eq_ignore_ascii_case("true") => Ok(true),
        Some(value) if value.eq_ignore_ascii_case("false") => Ok(false),
        Some(value) => Err(invalid(name, &value, "is neither true nor false")),
    }
}

fn one_of(variable: Variables<'_>, name: &'static str, known: &[&str]) -> Result<Option<String>, InvalidVariable> {
    match variable(name) {
        Some(value) if !known.contains(&value.as_str()) => {
            Err(invalid(name, &value, format!("is not spoken here; known: {}", known.join(", "))))
        }
        value => Ok(value),
    }
}

fn endpoint(variable: Variables<'_>) -> Result<Option<Url>, InvalidVariable> {
    const TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
    const ALL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    // What is told of it has no password, nor a key in the query.
    let told = |value: &str| {
        let shown = value.split('?').next().unwrap_or_default();
        shown.rsplit_once('@').map_or_else(|| shown.to_owned(), |(_, host)| format!("…@{host}"))
    };
    let (name, value) = match (variable(TRACES), variable(ALL)) {
        (Some(value), _) => (TRACES, value),
        (None, Some(value)) => (ALL, value),
        (None, None) => return Ok(None),
    };
    let wrong = "is no URL of a collector; write one such as http://localhost:4318";
    let mut url = Url::parse(&value).map_err(|error| invalid(name, &told(&value), format!("{wrong} ({error})")))?;
    if !["http", "https"].contains(&url.scheme()) || url.host_str().is_none_or(str::is_empty) {
        return Err(invalid(name, &told(&value), wrong));
    }
    if name == ALL {
        // The one for all signals is where their paths begin; the one for traces is used as it is.
        let path = format!("{}/v1/traces", url.path().trim_end_matches('/'));
        url.set_path(&path);
    }
    Ok(Some(url))
}

fn compression(variable: Variables<'_>) -> Result<Compression, InvalidVariable> {
    const NAMES: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"];
    let mut said = None;
    for name in NAMES {
        said = said.or(one_of(variable, name, &["gzip", "none"])?);
    }
    Ok(if said.as_deref() == Some("gzip") { Compression::Gzip } else { Compression::None })
}

/// `name=value,…`, values percent-encoded. They may hold secrets, so what is wrong is told by its place.
fn headers(variable: Variables<'_>) -> Result<HeaderMap, InvalidVariable> {
    const NAMES: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"];
    let Some((name, value)) = NAMES.into_iter().find_map(|name| Some((name, variable(name)?))) else {
        return Ok(HeaderMap::new());
    };
    let entries = value.split(',').enumerate().filter(|(_, entry)| !entry.trim().is_empty());
    let header = |(place, entry): (usize, &str)| {
        let header = entry.split_once('=').and_then(|(name, value)| {
            let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
            let mut value = HeaderValue::from_str(&value).ok()?;
            value.set_sensitive(true);
            Some((name.trim().parse::<HeaderName>().ok()?, value))
        });
        let wrong = "is no header; write name=value,name=value, with values percent-encoded";
        header.ok_or_else(|| invalid(name, &format!("entry {}", place + 1), wrong))
    };
    entries.map(header).collect()
}

fn whole(variable: Variables<'_>, name: &'static str, unit: &str) -> Result<Option<u64>, InvalidVariable> {
    let Some(value) = variable(name) else { return Ok(None) };
    match value.parse() {
        Ok(number @ 1..) => Ok(Some(number)),
        _ => Err(invalid(name, &value, format!("is no number of {unit}, from 1 on"))),
    }
}

fn timeout(variable: Variables<'_>) -> Result<Duration, InvalidVariable> {
    let millis = match whole(variable, "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "milliseconds")? {
        None => whole(variable, "OTEL_EXPORTER_OTLP_TIMEOUT", "milliseconds")?,
        millis => millis,
    };
    Ok(millis.map_or(EXPORT_LIMIT, Duration::from_millis))
}

fn queue_limits(variable: Variables<'_>) -> Result<QueueLimits, InvalidVariable> {
    let spans = |name, default| {
        let spans = whole(variable, name, "spans")?;
        Ok(spans.map_or(default, |spans| usize::try_from(spans).unwrap_or(usize::MAX)))
    };
    let delay = whole(variable, "OTEL_BSP_SCHEDULE_DELAY", "milliseconds")?;
    let queued = spans("OTEL_BSP_MAX_QUEUE_SIZE", QUEUE_SPANS)?;
    Ok(QueueLimits {
        spans: queued,
        // A batch that never fits would never be full.
        batch: spans("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", BATCH_SPANS)?.min(queued),
        delay: delay.map_or(BATCH_DELAY, Duration::from_millis),
    })
}

fn span_limits(variable: Variables<'_>) -> Result<SpanLimits, InvalidVariable> {
    let most = |name, of| {
        let Some(value) = variable(name) else { return Ok(MAX_IN_SPAN) };
        value.parse().map_err(|_| invalid(name, &value, format!("is no number of {of}, from 0 on")))
    };
    Ok(SpanLimits {
        attributes: most("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "attributes")?,
        events: most("OTEL_SPAN_EVENT_COUNT_LIMIT", "events")?,
        links: most("OTEL_SPAN_LINK_COUNT_LIMIT", "links")?,
    })
}

/// Who sends: the program, this process of it, and what `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME` say, which win.
pub(super) fn resource(program: &'static str, ids: Ids, variable: Variables<'_>) -> Resource {
    let ours = [
        KeyValue::new("service.name", program),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", ids.next().to_string()),
    ];
    let name = variable("OTEL_SERVICE_NAME").map(|name| KeyValue::new("service.name", Value::from(name)));
    Resource::builder_empty()
        .with_attributes(ours)
        .with_detector(Box::new(EnvResourceDetector::new()))
        .with_attributes(name)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Settings>, String> {
        let variable =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Settings::read(&variable).map_err(|error| error.to_string())
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/");

    #[test]
    fn there_are_traces_only_where_something_says_where_they_go() {
        for none in [&[][..], &[("OTEL_SDK_DISABLED", "true"), ENDPOINT], &[("OTEL_TRACES_EXPORTER", "none"), ENDPOINT]]
        {
            assert!(read(none).unwrap().is_none(), "{none:?}");
        }
        let endpoint = |variables: &[_]| read(variables).unwrap().unwrap().collector.endpoint.to_string();
        assert_eq!(endpoint(&[ENDPOINT]), "http://collector:4318/v1/traces");
        assert_eq!(
            endpoint(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c/otlp")]),
            "https://c/otlp/v1/traces",
            "the path goes on"
        );
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:1/x");
        assert_eq!(endpoint(&[ENDPOINT, own]), "http://traces:1/x", "used as it is");
    }

    #[test]
    fn a_wrong_endpoint_is_told_without_a_password() {
        for wrong in ["ftp://user:secret@c:1/?key=secret", "https://user:se/cret@c:x?secret"] {
            let error = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", wrong)]).unwrap_err();
            assert!(error.starts_with("OTEL_EXPORTER_OTLP_ENDPOINT: `…@c:"), "{error}");
            assert!(!error.contains("cret"), "{error}");
        }
    }

    #[test]
    fn bodies_are_compressed_where_a_variable_says_so() {
        let (all, traces) = ("OTEL_EXPORTER_OTLP_COMPRESSION", "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION");
        let compression = |said: &[_]| read(&[&[ENDPOINT], said].concat()).unwrap().unwrap().collector.compression;
        assert_eq!(compression(&[]), Compression::None);
        assert_eq!(compression(&[(all, "gzip")]), Compression::Gzip);
        assert_eq!(compression(&[(all, "gzip"), (traces, "none")]), Compression::None);
    }

    #[test]
    fn limits_are_the_standards_but_for_the_queue() {
        let limits = |variables: &[_]| {
            let Settings { queue, span, .. } = read(variables).unwrap().unwrap();
            (queue, span)
        };
        let queue = QueueLimits { spans: 16_384, batch: 512, delay: Duration::from_secs(5) };
        assert_eq!(limits(&[ENDPOINT]), (queue, SpanLimits { attributes: 128, events: 128, links: 128 }));
        let said = [
            ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
            ("OTEL_BSP_SCHEDULE_DELAY", "20"),
            ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "1"),
            ("OTEL_SPAN_EVENT_COUNT_LIMIT", "0"),
            ("OTEL_SPAN_LINK_COUNT_LIMIT", "3"),
            ENDPOINT,
        ];
        let queue = QueueLimits { spans: 100, batch: 100, delay: Duration::from_millis(20) };
        assert_eq!(limits(&said), (queue, SpanLimits { attributes: 1, events: 0, links: 3 }));
    }

    #[test]
    fn headers_are_pairs_and_a_wrong_one_is_told_without_its_value() {
        let headers = |value| {
            read(&[ENDPOINT, ("OTEL_EXPORTER_OTLP_HEADERS", value)]).map(|read| read.unwrap().collector.headers)
        };
        let two = headers("api-key=a%20b%2C, x=1=2,").unwrap();
        assert_eq!((&two["api-key"], &two["x"], two.len()), (&"a b,".parse().unwrap(), &"1=2".parse().unwrap(), 2));
        for wrong in ["x=1,secret", "x=1,a b=secret", "x=1,y=secret%0A", "x=1,=secret", "x=1,y=%FFsecret"] {
            let error = headers(wrong).unwrap_err();
            assert!(
                error.starts_with("OTEL_EXPORTER_OTLP_HEADERS: `entry 2` is no header; write name=value"),
                "{error}"
            );
            assert!(!error.contains("secret"), "{error}");
        }
        let own = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "y=2");
        let wins = read(&[ENDPOINT, ("OTEL_EXPORTER_OTLP_HEADERS", "x=1"), own]).unwrap().unwrap().collector.headers;
        assert!(wins.contains_key("y") && !wins.contains_key("x"), "{wins:?}");
    }

    #[test]
    fn a_wrong_variable_is_told_with_what_would_be_right() {
        for (name, value, told) in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "is no URL of a collector"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "/v1/traces", "http://localhost:4318"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "ftp://c/", "is no URL of a collector"),
            ("OTEL_TRACES_SAMPLER", "sometimes", "is no sampler; known: always_on"),
            ("OTEL_TRACES_SAMPLER_ARG", "2", "write a number from 0 to 1"),
            ("OTEL_SDK_DISABLED", "yes", "is neither true nor false"),
            ("OTEL_TRACES_EXPORTER", "zipkin", "known: otlp, none"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "known: http/protobuf"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "known: gzip, none"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "is no number of milliseconds"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "is no number of spans"),
            ("OTEL_SPAN_LINK_COUNT_LIMIT", "many", "is no number of links"),
        ] {
            let error = read(&[(name, value), ("OTEL_TRACES_SAMPLER", "traceidratio"), ENDPOINT]).unwrap_err();
            assert!(error.starts_with(&format!("{name}: `{value}` ")) && error.contains(told), "{error}");
        }
    }
}
