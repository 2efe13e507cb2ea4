//! Conditional requests: an entity tag is a version in double quotes.

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::problem::Problem;
use crate::digits::Digits;

/// Most entity tags in one header.
const MAX_TAGS: usize = 64;

/// The content of `If-Match` or `If-None-Match`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tags {
    /// `*`: whatever there is.
    Any,
    /// These versions.
    Versions(Vec<u64>),
}

/// How tags are compared, RFC 9110 section 8.8.3.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// For writes: a weak tag (`W/"3"`) is refused.
    Strong,
    /// For reads: a compressing proxy may have weakened the tag that it passed on.
    Weak,
}

/// The entity tag of a version.
#[must_use]
pub fn entity_tag(version: u64) -> HeaderValue {
    value(&quoted(version))
}

/// A tag of content that may be sent in several encodings.
#[must_use]
pub fn weak_tag(content: u64) -> HeaderValue {
    value(&quoted(content).before(b'/').before(b'W'))
}

fn quoted(number: u64) -> Digits<24> {
    Digits::new().before(b'"').decimal(number).before(b'"')
}

fn value(tag: &Digits<24>) -> HeaderValue {
    HeaderValue::from_bytes(tag.as_bytes()).expect("digits in quotes are a header's value")
}

/// Reads a header of entity tags; `None` when it was not sent.
///
/// # Errors
/// 400 when it is malformed, or holds a tag that this service never gave.
pub fn tags(headers: &HeaderMap, name: &HeaderName, comparison: Comparison) -> Result<Option<Tags>, Problem> {
    let mut versions = Vec::new();
    let mut any = false;
    for value in headers.get_all(name) {
        let malformed = || malformed(name, comparison);
        for tag in value.to_str().map_err(|_| malformed())?.split(',').map(str::trim) {
            if tag == "*" {
                any = true;
                continue;
            }
            let strong = match tag.strip_prefix("W/") {
                Some(strong) if comparison == Comparison::Weak => strong,
                Some(_) => return Err(malformed()),
                None => tag,
            };
            let digits = strong.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            let version = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
            versions.push(version.and_then(|digits| digits.parse().ok()).ok_or_else(malformed)?);
        }
        if versions.len() > MAX_TAGS || (any && !versions.is_empty()) {
            return Err(malformed());
        }
    }
    Ok(if any {
        Some(Tags::Any)
    } else {
        Some(Tags::Versions(versions)).filter(|tags| *tags != Tags::Versions(vec![]))
    })
}

fn malformed(name: &HeaderName, comparison: Comparison) -> Problem {
    let weak = if comparison == Comparison::Strong { ", not weak (W/…)" } else { "" };
    let detail = format!(
        "{name} takes `*`, or up to {MAX_TAGS} versions in double quotes as the ETag header gives them, such as \"3\"{weak}."
    );
    Problem::bad_request("malformed-entity-tag", detail)
}

#[cfg(test)]
mod tests {
    use axum::http::header::IF_MATCH;

    use super::*;

    fn read(value: &str, comparison: Comparison) -> Result<Option<Tags>, Problem> {
        let mut headers = HeaderMap::new();
        headers.insert(IF_MATCH, value.parse().unwrap());
        tags(&headers, &IF_MATCH, comparison)
    }

    #[test]
    fn reads_versions_and_the_star() {
        assert_eq!(read("*", Comparison::Strong).unwrap(), Some(Tags::Any));
        assert_eq!(read("\"3\"", Comparison::Strong).unwrap(), Some(Tags::Versions(vec![3])));
        assert_eq!(read("\"3\", \"4\"", Comparison::Strong).unwrap(), Some(Tags::Versions(vec![3, 4])));
        assert_eq!(read("W/\"3\"", Comparison::Weak).unwrap(), Some(Tags::Versions(vec![3])));
        assert_eq!(tags(&HeaderMap::new(), &IF_MATCH, Comparison::Strong).unwrap(), None);
    }

    #[test]
    fn refuses_what_was_never_an_entity_tag_of_ours() {
        for value in [
            "",
            "3",
            "\"\"",
            "\"x\"",
            "\"-1\"",
            "\"+1\"",
            "\"3",
            "W/\"3\"",
            "*, \"3\"",
            "\"3\",",
            "\"99999999999999999999\"",
        ] {
            assert!(read(value, Comparison::Strong).is_err(), "{value:?}");
        }
    }
}
