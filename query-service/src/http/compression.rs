//! Answers that may be long, compressed for clients that accept it, piece by piece as they are written. On the routes of
//! lists and histories only: the answer for one name pays nothing for it, and keeps the strong tag that `If-Match` needs.

use axum::{
    http::{HeaderValue, StatusCode, header},
    middleware::map_response,
    response::{IntoResponse, Response},
    routing::MethodRouter,
};
use shared::http::problem::Problem;
use tower_http::{
    CompressionLevel,
    compression::{CompressionLayer, predicate::SizeAbove},
};

/// Smallest answer that is compressed, in bytes: below, the head is most of what is sent.
const MIN_BYTES: u64 = 1_024;

/// The route, its answers compressed by zstd or gzip. At the fastest level: pieces of 64 KiB hold up the thread shortly.
pub(super) fn compressed<S: Clone + Send + Sync + 'static>(route: MethodRouter<S>) -> MethodRouter<S> {
    let layer = CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(SizeAbove::new(MIN_BYTES));
    route.layer(layer).layer(map_response(told))
}

/// What the layer leaves open: caches are told of the encoding also where there was nothing to compress, and a client that
/// refuses every encoding is told what would be right.
async fn told(mut response: Response) -> Response {
    if response.status() == StatusCode::NOT_ACCEPTABLE {
        let detail =
            "Accept-Encoding takes neither zstd nor gzip nor an answer as it is; allow one of them, or leave it out.";
        return Problem::new(StatusCode::NOT_ACCEPTABLE, "not-acceptable", "Not acceptable", detail).into_response();
    }
    let vary = response.headers().get_all(header::VARY);
    let has_encoding = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"accept-encoding");
    if !vary.iter().any(has_encoding) {
        response.headers_mut().append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    response
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use axum::{
        Router,
        body::{Body, Bytes},
        extract::Request,
        routing::get,
    };
    use futures_util::{StreamExt, stream};
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    async fn answer(accepts: &str, body: &'static [&'static str]) -> Response {
        let handler = async move || {
            let pieces = body.iter().map(|piece| Ok::<_, std::io::Error>(Bytes::from_static(piece.as_bytes())));
            if body.len() == 1 { Body::from(body[0]) } else { Body::from_stream(stream::iter(pieces)) }
        };
        let request = Request::builder().uri("/").header("accept-encoding", accepts).body(Body::empty()).unwrap();
        let routes: Router = Router::new().route("/", compressed(get(handler)));
        routes.oneshot(request).await.unwrap()
    }

    fn encoding(response: &Response) -> &str {
        response.headers().get("content-encoding").map_or("", |value| value.to_str().unwrap())
    }

    const LONG: &[&str] = &["x", "y"];

    /// Sent whole, and just long enough.
    const MEDIUM: &[&str] = match std::str::from_utf8(&[b'x'; 1_025]) {
        Ok(text) => &[text],
        Err(_) => panic!("it is ASCII"),
    };

    #[tokio::test]
    async fn the_client_says_which_encoding() {
        for (accepts, expected) in [
            ("", ""),
            ("identity", ""),
            ("br", ""),
            ("gzip", "gzip"),
            ("gzip, deflate, br, zstd", "zstd"),
            ("zstd;q=0.1, gzip;q=0.9", "gzip"),
            ("zstd;q=0", ""),
        ] {
            let response = answer(accepts, LONG).await;
            assert_eq!((response.status(), encoding(&response)), (StatusCode::OK, expected), "{accepts}");
            assert!(response.headers()["vary"].as_bytes().eq_ignore_ascii_case(b"accept-encoding"), "{accepts}");
        }
    }

    #[tokio::test]
    async fn a_small_answer_is_sent_as_it_is() {
        let response = answer("gzip", &["small"]).await;
        assert_eq!(encoding(&response), "");
        assert!(response.headers().contains_key("vary"), "a longer one is another");
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "small");
        assert_eq!(encoding(&answer("gzip", MEDIUM).await), "gzip");
    }

    #[tokio::test]
    async fn who_refuses_everything_is_told_what_would_be_right() {
        let response = answer("identity;q=0, *;q=0", LONG).await;
        assert_eq!(response.extensions().get::<Problem>().unwrap().code(), "not-acceptable");
    }

    #[tokio::test]
    async fn what_arrives_is_what_was_written() {
        static PIECES: [&str; 3] = ["[{\"name\":\"a\",\"value\":1},", "{\"name\":\"b\",\"value\":2}", "]"];
        let body = async |accepts| answer(accepts, &PIECES).await.into_body().collect().await.unwrap().to_bytes();
        let mut text = String::new();
        flate2::read::GzDecoder::new(&*body("gzip").await).read_to_string(&mut text).unwrap();
        assert_eq!(text, PIECES.concat());
        assert_eq!(zstd::decode_all(&*body("zstd").await).unwrap(), PIECES.concat().as_bytes());
        assert_eq!(body("identity").await, PIECES.concat());
    }

    /// The body that comes in is endless: what goes out begins all the same.
    #[tokio::test]
    async fn it_is_sent_as_it_is_written() {
        let handler = async || {
            let mut state = 1_u32;
            let piece = move || {
                let bytes: Vec<u8> = (0..4096)
                    .map(|_| {
                        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        state.to_be_bytes()[0]
                    })
                    .collect();
                Some(Ok::<_, std::io::Error>(Bytes::from(bytes)))
            };
            Body::from_stream(stream::iter(std::iter::from_fn(piece)))
        };
        for accepts in ["gzip", "zstd"] {
            let routes: Router = Router::new().route("/", compressed(get(handler)));
            let request = Request::builder().uri("/").header("accept-encoding", accepts).body(Body::empty()).unwrap();
            let mut body = routes.oneshot(request).await.unwrap().into_body().into_data_stream();
            let mut bytes = 0;
            while bytes < 100_000 {
                bytes += body.next().await.unwrap().unwrap().len();
            }
        }
    }
}
