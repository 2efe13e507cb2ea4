//! `Idempotency-Key`: a request that is sent again with the same key is carried out once, and answered the same.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use sha2::{Digest, Sha256};
use shared::{event::metadata::ANONYMOUS, http::problem::Problem};

use crate::store::IdempotencyKey;

/// The client's key.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Whether an answer is that of an earlier request.
pub(super) const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Longest key, in bytes.
const MAX_KEY_BYTES: usize = 255;

/// The request's key, if it has one. `route` is the method and the path as far as they say what is changed; `body` its bytes.
///
/// # Errors
/// 400 for a key that is none.
pub(super) fn key(headers: &HeaderMap, route: &[&str], body: &[u8]) -> Result<Option<IdempotencyKey>, Problem> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = keys.next() else { return Ok(None) };
    if keys.next().is_some() {
        return Err(invalid("is given twice; give it once"));
    }
    let key = key.as_bytes();
    if key.is_empty() || key.len() > MAX_KEY_BYTES || !key.iter().all(u8::is_ascii_graphic) {
        return Err(invalid("must have 1 to 255 visible ASCII characters, such as those of a UUID"));
    }
    // As long as there are no accounts, all clients are one.
    let owner = route.iter().map(|part| part.as_bytes()).chain([ANONYMOUS.as_bytes(), key]);
    let preconditions = [header::IF_MATCH, header::IF_NONE_MATCH];
    let asked = preconditions.iter().flat_map(|name| {
        let values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
        std::iter::once(name.as_str().as_bytes()).chain(values)
    });
    Ok(Some(IdempotencyKey { hash: digest(owner), request: digest(asked.chain([body])) }))
}

/// Of the parts with their lengths, so that no two lists of parts are one text.
fn digest<'a>(parts: impl Iterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

fn invalid(what: &str) -> Problem {
    Problem::bad_request("invalid-idempotency-key", format!("The header Idempotency-Key {what}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(headers: &[(&'static str, &str)], route: &[&str], body: &str) -> Option<IdempotencyKey> {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        key(&headers, route, body.as_bytes()).unwrap()
    }

    #[test]
    fn a_key_is_one_of_its_route_and_remembers_body_and_preconditions() {
        let one = of(&[("idempotency-key", "k")], &["PUT", "a"], "1").unwrap();
        assert_eq!(of(&[("idempotency-key", "k"), ("accept", "x")], &["PUT", "a"], "1"), Some(one));
        for (headers, route, body, same_key) in [
            (&[("idempotency-key", "l")][..], &["PUT", "a"], "1", false),
            (&[("idempotency-key", "k")], &["PUT", "b"], "1", false),
            (&[("idempotency-key", "k")], &["PU", "Ta"], "1", false),
            (&[("idempotency-key", "k")], &["PUT", "a"], "2", true),
            (&[("idempotency-key", "k"), ("if-match", "1")], &["PUT", "a"], "1", true),
            (&[("idempotency-key", "k"), ("if-none-match", "1")], &["PUT", "a"], "1", true),
        ] {
            let other = of(headers, route, body).unwrap();
            assert_eq!(other.hash == one.hash, same_key, "{headers:?} {route:?} {body}");
            assert_eq!(other.request == one.request, !same_key, "{headers:?} {route:?} {body}");
        }
        assert_eq!(of(&[], &["PUT", "a"], "1"), None);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for keys in [vec![""], vec!["a b"], vec!["k", "k"]] {
            let mut headers = HeaderMap::new();
            for key in keys {
                headers.append(IDEMPOTENCY_KEY, key.parse().unwrap());
            }
            assert_eq!(key(&headers, &["PUT", "a"], b"").unwrap_err().code(), "invalid-idempotency-key");
        }
        let long = "x".repeat(MAX_KEY_BYTES + 1);
        let headers = HeaderMap::from_iter([(IDEMPOTENCY_KEY, long.parse().unwrap())]);
        assert!(key(&headers, &["PUT", "a"], b"").is_err());
        let just_fits = HeaderMap::from_iter([(IDEMPOTENCY_KEY, long[1..].parse().unwrap())]);
        assert!(key(&just_fits, &["PUT", "a"], b"").unwrap().is_some());
    }
}
