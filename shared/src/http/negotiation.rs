//! Which of the two forms of an answer a client wants: the old system's plain one, or JSON.

use axum::http::{HeaderMap, header};

/// Whether the client prefers JSON: it names `application/json` (or the type of problems, or `application/*`), and ranks no plain form (`text/plain`,
/// `text/*`, `*/*`) as high. The old system's clients send `*/*`, or list JSON beside plain text, and get what they always got.
#[must_use]
pub fn prefers_json(headers: &HeaderMap) -> bool {
    let (mut json, mut plain) = (0, 0);
    for accept in headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()) {
        for range in accept.split(',') {
            let (media, quality) = weigh(range);
            let is_one_of = |types: &[&str]| types.iter().any(|known| media.eq_ignore_ascii_case(known));
            if is_one_of(&["application/json", "application/problem+json", "application/*"]) {
                json = json.max(quality);
            } else if is_one_of(&["text/plain", "text/*", "*/*"]) {
                plain = plain.max(quality);
            }
        }
    }
    json > plain
}

/// A media range and its `q`, in thousandths.
fn weigh(range: &str) -> (&str, u16) {
    let mut parts = range.split(';').map(str::trim);
    let media = parts.next().unwrap_or_default();
    let quality = parts.filter_map(|part| part.split_once('=')).find(|(name, _)| name.trim().eq_ignore_ascii_case("q"));
    let quality = quality.and_then(|(_, q)| q.trim().parse::<f32>().ok()).unwrap_or(1.0).clamp(0.0, 1.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0 ..= 1000")]
    let thousandths = (quality * 1000.0) as u16;
    (media, thousandths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefers(accept: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        prefers_json(&headers)
    }

    #[test]
    fn json_only_when_it_is_wanted_more_than_plain_text() {
        for accept in
            ["application/json", "application/problem+json", "Application/JSON; q=0.5", "application/json, */*;q=0.1"]
        {
            assert!(prefers(accept), "{accept}");
        }
        // The last one is what old clients' HTTP libraries send unasked.
        for accept in ["*/*", "text/plain", "text/html", "application/json;q=0", "application/json, text/plain, */*"] {
            assert!(!prefers(accept), "{accept}");
        }
        assert!(!prefers_json(&HeaderMap::new()));
    }
}
