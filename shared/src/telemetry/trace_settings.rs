//! What the standard `OTEL_*` variables say about traces. The library reads some of them by itself and passes over what it does
//! not understand; here a wrong one is told before the process serves.

use std::{env, time::Duration};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{KeyValue, Value};
use opentelemetry_sdk::{
    Resource,
    resource::{EnvResourceDetector, TelemetryResourceDetector},
    trace::{BatchConfig, BatchConfigBuilder, Sampler},
};
use percent_encoding::percent_decode_str;
use url::Url;

use crate::ids::Ids;

/// Longest that one export may take with all its attempts, when `OTEL_EXPORTER_OTLP_TIMEOUT` says nothing.
const EXPORT_LIMIT: Duration = Duration::from_secs(10);

/// Spans that wait to be sent, when `OTEL_BSP_MAX_QUEUE_SIZE` says nothing; about a KiB each. The library's 2,048 are the writes
/// of a tenth of a second.
const QUEUE_SPANS: usize = 16_384;

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
    pub(super) endpoint: Url,
    pub(super) headers: HeaderMap,
    pub(super) timeout: Duration,
    pub(super) sampler: Sampler,
    pub(super) queue_spans: usize,
    pub(super) batch: BatchConfig,
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
        let sampler = sampler(variable)?;
        for name in ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"] {
            one_of(variable, name, &["http/protobuf"])?;
        }
        for name in ["OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"] {
            one_of(variable, name, &["none"])?;
        }
        let headers = headers(variable)?;
        let timeout = timeout(variable)?;
        let endpoint = endpoint(variable)?;
        let queue_spans = queue_spans(variable)?;
        let Some(endpoint) = endpoint.filter(|_| !disabled && exporter.as_deref() != Some("none")) else {
            return Ok(None);
        };
        // Reads the other OTEL_BSP_ variables by itself.
        let batch = BatchConfigBuilder::default().with_max_queue_size(queue_spans).build();
        Ok(Some(Self { endpoint, headers, timeout, sampler, queue_spans, batch }))
    }
}

fn invalid(name: &'static str, value: &str, wrong: impl Into<String>) -> InvalidVariable {
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
    let (name, value) = match (variable(TRACES), variable(ALL)) {
        (Some(value), _) => (TRACES, value),
        (None, Some(value)) => (ALL, value),
        (None, None) => return Ok(None),
    };
    let wrong = "is no URL of a collector; write one such as http://localhost:4318";
    let mut url = Url::parse(&value).map_err(|error| invalid(name, &value, format!("{wrong} ({error})")))?;
    if !["http", "https"].contains(&url.scheme()) || url.host_str().is_none_or(str::is_empty) {
        return Err(invalid(name, &value, wrong));
    }
    if name == ALL {
        // The one for all signals is where their paths begin; the one for traces is used as it is.
        let path = format!("{}/v1/traces", url.path().trim_end_matches('/'));
        url.set_path(&path);
    }
    Ok(Some(url))
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
            Some((name.trim().parse::<HeaderName>().ok()?, HeaderValue::from_str(&value).ok()?))
        });
        let wrong = "is no header; write name=value,name=value, with values percent-encoded";
        header.ok_or_else(|| invalid(name, &format!("entry {}", place + 1), wrong))
    };
    entries.map(header).collect()
}

fn sampler(variable: Variables<'_>) -> Result<Sampler, InvalidVariable> {
    const NAME: &str = "OTEL_TRACES_SAMPLER";
    const RATIO: &str = "OTEL_TRACES_SAMPLER_ARG";
    let ratio = || match variable(RATIO) {
        None => Ok(1.0),
        Some(value) => match value.parse::<f64>() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
            _ => Err(invalid(RATIO, &value, "is no ratio; write a number from 0 to 1, such as 0.1")),
        },
    };
    let by_parent = |root| Sampler::ParentBased(Box::new(root));
    Ok(match variable(NAME).as_deref() {
        None | Some("parentbased_always_on") => by_parent(Sampler::AlwaysOn),
        Some("parentbased_always_off") => by_parent(Sampler::AlwaysOff),
        Some("parentbased_traceidratio") => by_parent(Sampler::TraceIdRatioBased(ratio()?)),
        Some("always_on") => Sampler::AlwaysOn,
        Some("always_off") => Sampler::AlwaysOff,
        Some("traceidratio") => Sampler::TraceIdRatioBased(ratio()?),
        Some(other) => {
            let known = "always_on, always_off, traceidratio, and the same behind parentbased_";
            return Err(invalid(NAME, other, format!("is no sampler; known: {known}")));
        }
    })
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

fn queue_spans(variable: Variables<'_>) -> Result<usize, InvalidVariable> {
    whole(variable, "OTEL_BSP_SCHEDULE_DELAY", "milliseconds")?;
    whole(variable, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "spans")?;
    let spans = whole(variable, "OTEL_BSP_MAX_QUEUE_SIZE", "spans")?;
    Ok(spans.map_or(QUEUE_SPANS, |spans| usize::try_from(spans).unwrap_or(usize::MAX)))
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
        .with_detector(Box::new(TelemetryResourceDetector))
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
        let endpoint = |variables: &[_]| read(variables).unwrap().unwrap().endpoint.to_string();
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
    fn samplers_are_the_standards() {
        let sampler = |name: &str, ratio: &str| {
            let variables = [ENDPOINT, ("OTEL_TRACES_SAMPLER", name), ("OTEL_TRACES_SAMPLER_ARG", ratio)];
            format!("{:?}", read(&variables).unwrap().unwrap().sampler)
        };
        assert_eq!(sampler("always_off", "0.5"), "AlwaysOff");
        assert_eq!(sampler("traceidratio", "0.25"), "TraceIdRatioBased(0.25)");
        assert_eq!(sampler("parentbased_traceidratio", "0.5"), "ParentBased(TraceIdRatioBased(0.5))");
        assert_eq!(format!("{:?}", read(&[ENDPOINT]).unwrap().unwrap().sampler), "ParentBased(AlwaysOn)");
    }

    #[test]
    fn headers_are_pairs_and_a_wrong_one_is_told_without_its_value() {
        let headers = |value| read(&[ENDPOINT, ("OTEL_EXPORTER_OTLP_HEADERS", value)]).map(|read| read.unwrap().headers);
        let two = headers("api-key=a%20b%2C, x=1=2,").unwrap();
        assert_eq!((&two["api-key"], &two["x"], two.len()), (&"a b,".parse().unwrap(), &"1=2".parse().unwrap(), 2));
        for wrong in ["x=1,secret", "x=1,a b=secret", "x=1,y=secret%0A", "x=1,=secret", "x=1,y=%FFsecret"] {
            let error = headers(wrong).unwrap_err();
            assert!(error.starts_with("OTEL_EXPORTER_OTLP_HEADERS: `entry 2` is no header; write name=value"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
        let own = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "y=2");
        let wins = read(&[ENDPOINT, ("OTEL_EXPORTER_OTLP_HEADERS", "x=1"), own]).unwrap().unwrap().headers;
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
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip", "known: none"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "is no number of milliseconds"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "is no number of spans"),
        ] {
            let error = read(&[(name, value), ("OTEL_TRACES_SAMPLER", "traceidratio"), ENDPOINT]).unwrap_err();
            assert!(error.starts_with(&format!("{name}: `{value}` ")) && error.contains(told), "{error}");
        }
    }
}
