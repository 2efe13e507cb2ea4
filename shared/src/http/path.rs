//! Names in paths.

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};

use super::problem::Problem;
use crate::name::{ConfigName, InvalidName};

/// The `{name}` of a route, decoded and checked.
#[derive(Debug)]
pub struct NameInPath(pub ConfigName);

/// Of a route that has a name and more; `rest` are the other segments, in order.
#[derive(Debug)]
pub struct NameAnd(pub ConfigName, pub String);

impl<S: Send + Sync> FromRequestParts<S> for NameInPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        check_escapes(parts)?;
        let Path(name) = Path::<String>::from_request_parts(parts, state).await.map_err(|_| not_utf8())?;
        Ok(Self(ConfigName::parse(&name)?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for NameAnd {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        check_escapes(parts)?;
        let Path((name, rest)) =
            Path::<(String, String)>::from_request_parts(parts, state).await.map_err(|_| not_utf8())?;
        Ok(Self(ConfigName::parse(&name)?, rest))
    }
}

impl From<InvalidName> for Problem {
    fn from(invalid: InvalidName) -> Self {
        Self::bad_request("invalid-name", invalid.to_string())
    }
}

fn not_utf8() -> Problem {
    Problem::bad_request(
        "invalid-name",
        "The path is not UTF-8 once percent-decoded; encode the name's UTF-8 bytes, as in %C3%A9 for é.",
    )
}

/// The router takes a `%` that begins no escape for itself: two paths for one name, and a slip of the pen that looks stored.
fn check_escapes(parts: &Parts) -> Result<(), Problem> {
    let is_escape = |rest: &str| rest.len() >= 2 && rest.as_bytes()[..2].iter().all(u8::is_ascii_hexdigit);
    if parts.uri.path().split('%').skip(1).all(is_escape) {
        return Ok(());
    }
    Err(Problem::bad_request(
        "invalid-name",
        "The path has a % that two hex digits do not follow; a % that is part of a name is written %25.",
    ))
}

/// For a route that ends where a name should begin.
///
/// # Errors
/// Always.
pub async fn empty_name() -> Result<(), Problem> {
    Err(InvalidName::Empty.into())
}
