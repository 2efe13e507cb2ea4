//! `Link: <…>; rel="next"`: where the next page is, as clients may follow it without a thought.

use axum::{
    http::{HeaderValue, header},
    response::Response,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What stands for itself in the value of a query parameter.
const IN_A_VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Adds the link to a page. `path` is that of the request; parameters without a value are left out.
pub(super) fn next(response: &mut Response, path: &str, parameters: &[(&str, Option<&str>)]) {
    let given = parameters.iter().filter_map(|(name, value)| value.map(|value| (name, value)));
    let query: Vec<_> =
        given.map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, IN_A_VALUE))).collect();
    if let Ok(link) = HeaderValue::try_from(format!("<{path}?{}>; rel=\"next\"", query.join("&"))) {
        response.headers_mut().insert(header::LINK, link);
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;

    use super::*;

    #[test]
    fn names_are_encoded_and_what_is_not_given_is_left_out() {
        let mut response = ().into_response();
        next(&mut response, "/v1/config", &[("at", Some("4.9f3a01bc")), ("prefix", None), ("after", Some("é/a b&c"))]);
        assert_eq!(response.headers()["link"], "</v1/config?at=4.9f3a01bc&after=%C3%A9%2Fa%20b%26c>; rel=\"next\"");
    }
}
