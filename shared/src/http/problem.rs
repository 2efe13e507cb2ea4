//! Errors as clients see them: RFC 9457 problems, rendered as JSON or as plain text by what the client accepts.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// Media type of a problem in JSON.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// Advice with a 503, in seconds.
pub const RETRY_AFTER_SECONDS: u32 = 1;

/// What went wrong, for the client: a sentence that names the fault and the remedy. Says nothing internal.
#[derive(Clone, Debug)]
pub struct Problem(Box<Parts>);

/// Behind a box: a problem is the unlikely half of many results.
#[derive(Clone, Debug)]
struct Parts {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    detail: String,
    /// The old system's body, where its clients match on it.
    plain: Option<&'static str>,
    more: Map<String, Value>,
    headers: HeaderMap,
}

impl Problem {
    /// A problem of its own kind. `code` ends its type URI, `urn:config-api:problem:<code>`.
    pub fn new(status: StatusCode, code: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        let (more, headers) = (Map::new(), HeaderMap::new());
        Self(Box::new(Parts { status, code, title, detail: detail.into(), plain: None, more, headers }))
    }

    /// What ends its type URI.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.0.code
    }

    /// The plain text body, where it is not the detail.
    #[must_use]
    pub fn plain(mut self, body: &'static str) -> Self {
        self.0.plain = Some(body);
        self
    }

    /// A further member of the JSON form.
    #[must_use]
    pub fn with(mut self, member: &'static str, value: impl Serialize) -> Self {
        self.0.more.insert(member.to_owned(), json!(value));
        self
    }

    /// A header of the answer.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.0.headers.insert(name, value);
        }
        self
    }

    /// 400: the request cannot be understood.
    pub fn bad_request(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, "Bad request", detail)
    }

    /// 404: no such route.
    #[must_use]
    pub fn unknown_route(path: &str) -> Self {
        let hint = if path.contains("/config/") { " A `/` inside a name is written %2F." } else { "" };
        let detail = format!("There is no such route; the routes are under /v1/config and /v1/health.{hint}");
        Self::new(StatusCode::NOT_FOUND, "unknown-route", "Unknown route", detail)
    }

    /// 405: the route exists, for other methods. The router adds `Allow`.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        let detail = "This route does not take this method; the Allow header names those that it takes.";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed", detail)
    }

    /// 413: more than a limit.
    pub fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "Too large", detail)
    }

    /// 500: a bug. The cause is in the log, under the request's id.
    #[must_use]
    pub fn internal() -> Self {
        let detail = "The service failed to answer; its log has the cause under this request id.";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal-error", "Internal error", detail)
    }

    /// 503: try again.
    pub fn unavailable(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, "Service unavailable", detail)
            .header(header::RETRY_AFTER, &RETRY_AFTER_SECONDS.to_string())
    }

    /// Renders it, as JSON or as text; with the trace that the request belongs to, if there is one.
    #[must_use]
    pub fn render(&self, as_json: bool, request_id: &str, trace_id: Option<&str>) -> Response<Body> {
        let problem = &self.0;
        let mut response = if as_json {
            let mut body = problem.more.clone();
            body.insert("type".to_owned(), json!(format!("urn:config-api:problem:{}", problem.code)));
            body.insert("title".to_owned(), json!(problem.title));
            body.insert("status".to_owned(), json!(problem.status.as_u16()));
            body.insert("detail".to_owned(), json!(problem.detail));
            body.insert("request_id".to_owned(), json!(request_id));
            if let Some(trace_id) = trace_id {
                body.insert("trace_id".to_owned(), json!(trace_id));
            }
            ([(header::CONTENT_TYPE, PROBLEM_JSON)], Value::Object(body).to_string()).into_response()
        } else if problem.status.is_server_error() {
            format!("{} (request id {request_id})", problem.detail).into_response()
        } else {
            problem.plain.map_or_else(|| problem.detail.clone().into_response(), IntoResponse::into_response)
        };
        *response.status_mut() = problem.status;
        response.headers_mut().extend(problem.headers.clone());
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

impl IntoResponse for Problem {
    /// Only marks the answer: `context::Context` renders it, because it knows what the client accepts.
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.0.status;
        response.extensions_mut().insert(self);
        response
    }
}
