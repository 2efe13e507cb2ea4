//! Reading JSON bodies: bounded, and each fault with its own sentence.

use axum::{
    body::Body,
    http::{HeaderMap, StatusCode, header},
};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// Reads a JSON body of at most `limit` bytes. `example` shows what would be right.
///
/// # Errors
/// 415 for another content type, 413 over the limit, 400 for a body that is cut off, missing or malformed.
pub async fn read_json<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
    example: &str,
) -> Result<T, Problem> {
    parse_json(&read_body(headers, body, limit, example).await?, example)
}

/// Its first half: the bytes, which say that they are JSON.
///
/// # Errors
/// 415 for another content type, 413 over the limit, 400 for a body that is cut off or missing.
pub async fn read_body(headers: &HeaderMap, body: Body, limit: usize, example: &str) -> Result<Bytes, Problem> {
    check_content_type(headers, example)?;
    let bytes = read(body, limit).await?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(Problem::bad_request("missing-body", format!("The body is missing; send {example}.")));
    }
    Ok(bytes)
}

/// Its second half: what they mean.
///
/// # Errors
/// 400 for what is no JSON, or not this.
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8], example: &str) -> Result<T, Problem> {
    // A derived struct would take an array of its fields as well.
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Err(Problem::bad_request(
            "invalid-body",
            format!("The body is an array, not an object; send {example}."),
        ));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        let detail = format!("The body is not what is expected here: {error}. Send {example}.");
        let code = if error.is_data() { "invalid-body" } else { "malformed-json" };
        Problem::bad_request(code, detail)
    })
}

/// JSON by name, or no content type at all: `curl`'s own default is a form's, and is most likely a forgotten header.
fn check_content_type(headers: &HeaderMap, example: &str) -> Result<(), Problem> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let media = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if media == "application/json" || (media.starts_with("application/") && media.ends_with("+json")) {
        return Ok(());
    }
    let detail =
        format!("The content type is not JSON; send {example} with the header Content-Type: application/json.");
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "Unsupported media type", detail))
}

async fn read(body: Body, limit: usize) -> Result<Bytes, Problem> {
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => {
            Err(Problem::too_large(format!("The body is larger than {limit} bytes, the most that is taken here."))
                // What is still under way is not read; the connection cannot be used again.
                .header(header::CONNECTION, "close"))
        }
        Err(_) => {
            Err(Problem::bad_request("incomplete-body", "The body ended before its announced length; send it again."))
        }
    }
}
