//! The name of a configuration.

use std::{fmt, ops::Deref, sync::Arc};

use serde::Serialize;

/// Longest name, in bytes of UTF-8: names are index keys in Postgres and stand in every log line.
pub const MAX_NAME_BYTES: usize = 256;

/// A valid name: 1 to [`MAX_NAME_BYTES`] bytes of UTF-8, no control characters, no blank at either end, not `.` or `..`.
/// Compared as bytes. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ConfigName(Arc<str>);

/// Why a text is no name. Each says what would be right.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Nothing between the slashes.
    #[error("The name is empty; give 1 to {MAX_NAME_BYTES} bytes, as in /config/my_config.")]
    Empty,
    /// Over the limit.
    #[error("The name has {bytes} bytes; the limit is {MAX_NAME_BYTES} bytes of UTF-8.")]
    TooLong {
        /// How long it is, in bytes.
        bytes: usize,
    },
    /// Proxies and clients resolve these away as path segments.
    #[error("`.` and `..` cannot be names, because clients and proxies resolve them in paths; choose another name.")]
    DotSegment,
    /// It could not be told from the name without the blank.
    #[error("The name begins or ends with a blank; leave it out.")]
    OuterBlank,
    /// A newline in a name would forge log lines.
    #[error("The name contains the control character U+{code:04X}; names are text on one line.", code = u32::from(*.0))]
    ControlCharacter(char),
}

impl ConfigName {
    /// Checks a text against the rules above.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        if text.is_empty() {
            return Err(InvalidName::Empty);
        }
        if text.len() > MAX_NAME_BYTES {
            return Err(InvalidName::TooLong { bytes: text.len() });
        }
        if let Some(character) = text.chars().find(|c| c.is_control()) {
            return Err(InvalidName::ControlCharacter(character));
        }
        if text.trim() != text {
            return Err(InvalidName::OuterBlank);
        }
        if text == "." || text == ".." {
            return Err(InvalidName::DotSegment);
        }
        Ok(Self(text.into()))
    }

    /// A name that is in the log already. Stock writers are not bound to the rules; what they wrote is kept as it is.
    #[must_use]
    pub fn stored(text: &str) -> Self {
        Self(text.into())
    }

    /// The name's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for ConfigName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for ConfigName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ConfigName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn accepts_ordinary_and_unusual_names() {
        for name in ["a", "test_recovery", "team/app/db.url", "größe", "名前", "a b", "...", "🦀", &"x".repeat(256)]
        {
            assert_eq!(ConfigName::parse(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn refuses_each_fault_with_its_own_reason() {
        assert_eq!(ConfigName::parse(""), Err(InvalidName::Empty));
        assert_eq!(ConfigName::parse(&"é".repeat(129)), Err(InvalidName::TooLong { bytes: 258 }));
        assert_eq!(ConfigName::parse("a\nb"), Err(InvalidName::ControlCharacter('\n')));
        assert_eq!(ConfigName::parse("a\u{85}"), Err(InvalidName::ControlCharacter('\u{85}')));
        assert_eq!(ConfigName::parse(" a"), Err(InvalidName::OuterBlank));
        assert_eq!(ConfigName::parse("a\u{3000}"), Err(InvalidName::OuterBlank));
        assert_eq!(ConfigName::parse("   "), Err(InvalidName::OuterBlank));
        assert_eq!(ConfigName::parse("."), Err(InvalidName::DotSegment));
        assert_eq!(ConfigName::parse(".."), Err(InvalidName::DotSegment));
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_kept_as_it_is_and_stays_on_one_line(text in ".{0,300}") {
            if let Ok(name) = ConfigName::parse(&text) {
                prop_assert_eq!(name.as_str(), text.as_str());
                prop_assert!(!text.is_empty() && text.len() <= MAX_NAME_BYTES);
                prop_assert!(!text.chars().any(char::is_control));
            }
        }
    }
}
