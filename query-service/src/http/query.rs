//! What several endpoints check in a query alike.

use shared::{
    http::{
        parameters::{Parameters, invalid},
        problem::Problem,
    },
    name::MAX_NAME_BYTES,
};

/// The beginning of a name.
///
/// # Errors
/// When no name begins so.
pub(super) fn beginning<'a>(name: &str, parameters: &'a Parameters) -> Result<Option<&'a str>, Problem> {
    let text = parameters.get(name);
    if text.is_some_and(|text| text.len() > MAX_NAME_BYTES || text.contains(char::is_control)) {
        return Err(invalid(name, "up to 256 bytes of UTF-8 without control characters, as names are"));
    }
    Ok(text)
}

/// A place between names. Those that other writers put into the log may have control characters, and pages end at them.
///
/// # Errors
/// When the log could not look for it.
pub(super) fn between_names<'a>(name: &str, parameters: &'a Parameters) -> Result<Option<&'a str>, Problem> {
    let text = parameters.get(name);
    if text.is_some_and(|text| text.len() > MAX_NAME_BYTES || text.contains('\0')) {
        return Err(invalid(name, "up to 256 bytes of UTF-8 without a zero byte, as names are"));
    }
    Ok(text)
}

/// # Errors
/// When one of the others is there as well.
pub(super) fn exclude(parameters: &Parameters, name: &str, others: &[&str]) -> Result<(), Problem> {
    let other = others.iter().find(|other| parameters.get(name).is_some() && parameters.get(other).is_some());
    other.map_or(Ok(()), |other| Err(excluding(name, other)))
}

/// Two parameters that cannot be combined.
pub(super) fn excluding(one: &str, other: &str) -> Problem {
    let detail = format!("The query parameters `{one}` and `{other}` exclude each other; leave one of them out.");
    Problem::bad_request("excluding-parameters", detail)
}
