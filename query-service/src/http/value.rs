//! How one value is told: raw, as the old system did, or in JSON with what is known about it.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use serde::Serialize;
use shared::{
    http::{
        conditional::{self, Comparison, Tags},
        negotiation,
        problem::Problem,
    },
    moment::Moment,
    position::Position,
    value::Json,
};

/// A client may keep it, but asks whether it still holds.
pub(super) const REVALIDATE: HeaderValue = HeaderValue::from_static("no-cache");
/// It may not be what is answered next time, whatever the entity tag.
pub(super) const DO_NOT_KEEP: HeaderValue = HeaderValue::from_static("no-store");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Room for the headers of such an answer, those of the layers around it included, so that they are not moved for the last.
const MOST_HEADERS: usize = 12;

/// A value and where it comes from; its JSON form.
#[derive(Debug, Serialize)]
pub(super) struct Told<'a> {
    pub(super) name: &'a str,
    pub(super) value: Json<'a>,
    pub(super) version: u64,
    pub(super) position: Position,
    pub(super) recorded_at: Moment,
    pub(super) actor: &'a str,
    pub(super) reason: Option<&'a str>,
}

/// Which versions the client has.
///
/// # Errors
/// 400 when the header is malformed.
pub(super) fn known_versions(headers: &HeaderMap) -> Result<Option<Tags>, Problem> {
    conditional::tags(headers, &header::IF_NONE_MATCH, Comparison::Weak)
}

/// The answer to a client that sent these headers.
pub(super) fn tell(told: &Told<'_>, headers: &HeaderMap, known: Option<&Tags>, cache: HeaderValue) -> Response {
    let is_known = known.is_some_and(|known| match known {
        Tags::Any => true,
        Tags::Versions(versions) => versions.contains(&told.version),
    });
    let (content_type, body) = if is_known {
        (None, Body::empty())
    } else if negotiation::prefers_json(headers) {
        (Some(JSON), serde_json::to_vec(told).expect("texts and numbers are JSON").into())
    } else if let Some(text) = told.value.as_text() {
        // The characters of a string; other JSON byte for byte.
        (Some(TEXT), text.into_owned().into())
    } else {
        (Some(JSON), told.value.json().to_owned().into())
    };
    let mut response = Response::new(body);
    if is_known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let more = response.headers_mut();
    more.reserve(MOST_HEADERS);
    more.extend(content_type.map(|content_type| (header::CONTENT_TYPE, content_type)));
    more.insert(header::ETAG, conditional::entity_tag(told.version));
    more.insert(header::VARY, HeaderValue::from_static("Accept"));
    more.insert(header::CACHE_CONTROL, cache);
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::value::RawValue;
    use shared::value::ConfigJson;

    use super::*;

    pub(crate) fn value(json: &str) -> ConfigJson {
        ConfigJson::accept(RawValue::from_string(json.to_owned()).unwrap(), 1000).unwrap()
    }

    async fn text(body: Body) -> String {
        String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    async fn told(json: &str, request: &[(&'static str, &str)]) -> (StatusCode, HeaderMap, String) {
        let headers: HeaderMap =
            request.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let (value, recorded_at) = (value(json), "2024-01-15T10:30:00Z".parse().unwrap());
        let told = Told {
            name: "a\"b",
            value: value.borrowed(),
            version: 3,
            position: Position(9),
            recorded_at,
            actor: "ann",
            reason: None,
        };
        let known = known_versions(&headers).unwrap();
        let (head, body) = tell(&told, &headers, known.as_ref(), REVALIDATE).into_parts();
        (head.status, head.headers, text(body).await)
    }

    #[tokio::test]
    async fn a_string_is_told_as_its_characters_and_other_json_as_it_was_written() {
        for (json, content_type, body) in [
            (r#""a\nbé""#, "text/plain; charset=utf-8", "a\nbé"),
            (r#""""#, "text/plain; charset=utf-8", ""),
            ("12345678901234567890123", "application/json", "12345678901234567890123"),
            (r#"{"b": 1.10,"a":[ ]}"#, "application/json", r#"{"b": 1.10,"a":[ ]}"#),
            ("null", "application/json", "null"),
        ] {
            let (status, headers, answer) = told(json, &[]).await;
            assert_eq!((status, answer.as_str()), (StatusCode::OK, body));
            assert_eq!(headers["content-type"], content_type);
            assert_eq!(
                (&headers["etag"], &headers["vary"], &headers["cache-control"]),
                (
                    &HeaderValue::from_static("\"3\""),
                    &HeaderValue::from_static("Accept"),
                    &HeaderValue::from_static("no-cache")
                )
            );
        }
    }

    #[tokio::test]
    async fn the_json_form_keeps_the_value_byte_for_byte() {
        let (_, headers, body) = told("12345678901234567890123", &[("accept", "application/json")]).await;
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(
            body,
            r#"{"name":"a\"b","value":12345678901234567890123,"version":3,"position":9,"recorded_at":"2024-01-15T10:30:00.000000Z","actor":"ann","reason":null}"#
        );
    }

    #[tokio::test]
    async fn a_version_that_the_client_has_is_not_sent_again() {
        for known in ["\"3\"", "W/\"3\"", "\"2\", \"3\"", "*"] {
            let (status, headers, body) = told("1", &[("if-none-match", known)]).await;
            assert_eq!(
                (status, body.as_str(), &headers["etag"]),
                (StatusCode::NOT_MODIFIED, "", &HeaderValue::from_static("\"3\""))
            );
        }
        assert_eq!(told("1", &[("if-none-match", "\"2\"")]).await.0, StatusCode::OK);
    }
}
