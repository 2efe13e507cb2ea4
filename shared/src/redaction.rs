//! How values stand in logs: never when their name says that they are secret, cut when long, and always on one line.

use std::{
    fmt::{self, Write as _},
    sync::Arc,
};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::{
    telemetry::OneLine,
    value::{ConfigJson, Json},
};

/// Names whose values are not logged, unless `REDACT_NAMES` says otherwise.
pub const DEFAULT_REDACT_NAMES: &str = "*secret*,*password*,*token*,*key*";

/// Most of a value that a log line shows, in bytes.
pub const MAX_LOGGED_VALUE_BYTES: usize = 1024;

/// Knows which names' values are secret. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Redaction {
    names: Arc<GlobSet>,
}

/// A pattern in `REDACT_NAMES` that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("REDACT_NAMES: `{pattern}` is no pattern; write names with `*` for any characters, such as *password*")]
pub struct InvalidPattern {
    pattern: String,
    source: globset::Error,
}

impl Redaction {
    /// Values of names that match one of the patterns (`*` any characters, `?` one; case does not matter) are secret.
    ///
    /// # Errors
    /// The first pattern that cannot be understood.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidPattern> {
        let invalid = |pattern: &str, source| InvalidPattern { pattern: pattern.to_owned(), source };
        let mut names = GlobSetBuilder::new();
        for pattern in patterns.into_iter().map(str::trim).filter(|pattern| !pattern.is_empty()) {
            let glob = GlobBuilder::new(pattern).case_insensitive(true).build();
            names.add(glob.map_err(|source| invalid(pattern, source))?);
        }
        let names = names.build().map_err(|source| invalid("the list of patterns", source))?;
        Ok(Self { names: Arc::new(names) })
    }

    /// That of [`DEFAULT_REDACT_NAMES`].
    #[must_use]
    pub fn by_default() -> Self {
        Self::new(DEFAULT_REDACT_NAMES.split(',')).expect("the default patterns are patterns")
    }

    /// How this name's values are shown. Ask once for all of them: it costs as much as a line.
    #[must_use]
    pub fn of(&self, name: &str) -> Shown {
        Shown { secret: self.names.is_match(name) }
    }
}

/// How one name's values are shown.
#[derive(Clone, Copy, Debug)]
pub struct Shown {
    secret: bool,
}

impl Shown {
    /// The value as the request's line shows it: its JSON, so strings are quoted.
    #[must_use]
    pub fn quoted<'a>(self, value: impl Into<Json<'a>>) -> LoggedValue<'a> {
        if self.secret { LoggedValue::Redacted } else { LoggedValue::Cut(value.into().json().into()) }
    }

    /// The value as the worker's line shows it: strings without quotes, and `nil` when there is none.
    #[must_use]
    pub fn bare(self, value: Option<&ConfigJson>) -> LoggedValue<'_> {
        match value {
            None => LoggedValue::Nil,
            Some(_) if self.secret => LoggedValue::Redacted,
            Some(value) => LoggedValue::Cut(value.as_text().unwrap_or(value.json().into())),
        }
    }
}

/// Displays a value for a log line.
#[derive(Debug)]
pub enum LoggedValue<'a> {
    /// Its name is secret.
    Redacted,
    /// There is none.
    Nil,
    /// Up to [`MAX_LOGGED_VALUE_BYTES`] of it, control characters escaped.
    Cut(std::borrow::Cow<'a, str>),
}

impl fmt::Display for LoggedValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Redacted => return f.write_str("[redacted]"),
            Self::Nil => return f.write_str("nil"),
            Self::Cut(text) => text,
        };
        let shown = &text[..text.floor_char_boundary(MAX_LOGGED_VALUE_BYTES)];
        OneLine(&mut *f).write_str(shown)?;
        if shown.len() < text.len() {
            write!(f, "… [{} bytes]", text.len())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    fn value(json: &str) -> ConfigJson {
        ConfigJson::accept(RawValue::from_string(json.to_owned()).unwrap(), 1 << 20).unwrap()
    }

    #[test]
    fn values_of_secret_names_never_show() {
        let redaction = Redaction::new(DEFAULT_REDACT_NAMES.split(',')).unwrap();
        for name in ["db.password", "API_KEY", "a/b/secret/c", "MyToken"] {
            assert_eq!(redaction.of(name).quoted(&value("\"x\"")).to_string(), "[redacted]");
            assert_eq!(redaction.of(name).bare(Some(&value("\"x\""))).to_string(), "[redacted]");
        }
        assert_eq!(redaction.of("db.host").quoted(&value("\"x\"")).to_string(), "\"x\"");
        assert_eq!(redaction.of("db.host").bare(Some(&value("\"x\""))).to_string(), "x");
        assert_eq!(redaction.of("db.host").bare(None).to_string(), "nil");
    }

    #[test]
    fn a_value_cannot_forge_a_log_line_or_flood_the_log() {
        let redaction = Redaction::new([]).unwrap();
        assert_eq!(
            redaction.of("a").bare(Some(&value(r#""x\n[info] forged\u001b[2J""#))).to_string(),
            "x\\n[info] forged\\u{1b}[2J"
        );
        let long = value(&format!("\"{}\"", "é".repeat(2000)));
        let shown = redaction.of("a").bare(Some(&long)).to_string();
        assert_eq!(shown, format!("{}… [4000 bytes]", "é".repeat(512)));
    }

    #[test]
    fn a_pattern_that_cannot_be_understood_is_named() {
        assert!(Redaction::new(["[x"]).unwrap_err().to_string().contains("`[x`"));
    }
}
