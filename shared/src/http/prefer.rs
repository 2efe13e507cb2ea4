//! The header `Prefer: wait=N` (RFC 7240): a client would rather wait for news than ask again.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::problem::Problem;

/// Longest that a client may ask to wait, in seconds.
pub const MAX_WAIT_SECONDS: u64 = 60;

/// Tells the client that its preference was heeded.
pub const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

const PREFER: HeaderName = HeaderName::from_static("prefer");

/// How long a client prefers to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    seconds: u64,
}

impl Wait {
    /// What the request prefers; of several the first counts. Other preferences are left aside.
    ///
    /// # Errors
    /// 400 when it is no number of seconds that is allowed.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        for header in headers.get_all(PREFER) {
            for preference in header.to_str().unwrap_or_default().split(',') {
                let preference = preference.split(';').next().unwrap_or_default();
                let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
                if !name.trim().eq_ignore_ascii_case("wait") {
                    continue;
                }
                let digits =
                    Some(value.trim().trim_matches('"')).filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
                let seconds = digits.and_then(|digits| digits.parse().ok());
                let seconds = seconds.filter(|seconds| (1..=MAX_WAIT_SECONDS).contains(seconds)).ok_or_else(invalid)?;
                return Ok(Some(Self { seconds }));
            }
        }
        Ok(None)
    }

    /// How long.
    #[must_use]
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// The value of [`PREFERENCE_APPLIED`].
    #[must_use]
    pub fn applied(self) -> HeaderValue {
        HeaderValue::try_from(format!("wait={}", self.seconds)).expect("digits are a header's value")
    }
}

fn invalid() -> Problem {
    let detail = format!("The header Prefer takes `wait=` and a number of seconds from 1 to {MAX_WAIT_SECONDS}.");
    Problem::bad_request("invalid-preference", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&str]) -> Result<Option<u64>, &'static str> {
        let values = values.iter().map(|value| (PREFER, value.parse().unwrap()));
        let wait = Wait::of(&values.collect()).map_err(|problem| problem.code())?;
        Ok(wait.map(|wait| wait.duration().as_secs()))
    }

    #[test]
    fn reads_how_long_among_other_preferences() {
        assert_eq!((of(&[]), of(&["return=minimal"]), of(&["wait=5"])), (Ok(None), Ok(None), Ok(Some(5))));
        assert_eq!(of(&["respond-async, Wait = \"60\"; x=1"]), Ok(Some(60)));
        assert_eq!(of(&["handling=lenient", "wait=1, wait=2"]), Ok(Some(1)));
        assert_eq!(Wait { seconds: 7 }.applied(), "wait=7");
    }

    #[test]
    fn refuses_what_is_no_time_to_wait() {
        for value in
            ["wait", "wait=", "wait=0", "wait=61", "wait=-1", "wait=1.5", "wait=x", "wait=99999999999999999999"]
        {
            assert_eq!(of(&[value]), Err("invalid-preference"), "{value}");
        }
    }
}
