//! The value of a configuration: any JSON, its text kept byte for byte.

use std::{borrow::Cow, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::SerializeStruct};
use serde_json::value::RawValue;

/// Largest value by default, in bytes of its JSON text; 1 MiB.
pub const DEFAULT_MAX_VALUE_BYTES: usize = 1024 * 1024;

/// Deepest nesting of arrays and objects. Readers parse recursively; 128 is where `serde_json` stops as well.
pub const MAX_VALUE_DEPTH: usize = 128;

/// A JSON value as its writer spelled it: a number keeps all its digits, an object the order of its keys. Two values are
/// the same when their texts are. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ConfigJson(Arc<RawValue>);

/// Why well-formed JSON is refused as a value. Each says what would be right.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidValue {
    /// Over the limit.
    #[error("The value has {bytes} bytes of JSON; the limit is {limit} bytes.")]
    TooLarge {
        /// How long its JSON text is, in bytes.
        bytes: usize,
        /// The limit in force, in bytes.
        limit: usize,
    },
    /// Postgres's text cannot hold it, and C programs cut the value there.
    #[error("The value contains the NUL character (\\u0000), which cannot be stored; leave it out or encode it.")]
    Nul,
    /// Half a character.
    #[error(
        "The value contains half of a surrogate pair (\\ud800 to \\udfff); write both halves, or the character itself."
    )]
    LoneSurrogate,
    /// Over [`MAX_VALUE_DEPTH`].
    #[error("The value nests deeper than {MAX_VALUE_DEPTH} levels; flatten it.")]
    TooDeep,
}

impl ConfigJson {
    /// Takes well-formed JSON if it can be stored and read back by everybody.
    ///
    /// # Errors
    /// What keeps it from being stored.
    pub fn accept(raw: Box<RawValue>, max_bytes: usize) -> Result<Self, InvalidValue> {
        let text = raw.get();
        if text.len() > max_bytes {
            return Err(InvalidValue::TooLarge { bytes: text.len(), limit: max_bytes });
        }
        check(text.as_bytes())?;
        Ok(Self(raw.into()))
    }

    /// The JSON text, as it was written.
    #[must_use]
    pub fn json(&self) -> &str {
        self.0.get()
    }

    /// The characters of a JSON string, as [`Json::as_text`].
    #[must_use]
    pub fn as_text(&self) -> Option<Cow<'_, str>> {
        self.borrowed().as_text()
    }

    /// The same value, borrowed.
    #[must_use]
    pub fn borrowed(&self) -> Json<'_> {
        Json(self.json())
    }
}

/// A value's JSON text that stands somewhere else: in a row of the log, or in the state of a projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Json<'a>(&'a str);

impl<'a> Json<'a> {
    /// One that is stored already: it is JSON, because the database or a parser said so.
    #[must_use]
    pub fn stored(json: &'a str) -> Self {
        Self(json)
    }

    /// The JSON text, as it was written.
    #[must_use]
    pub fn json(self) -> &'a str {
        self.0
    }

    /// The characters of a JSON string; `None` for other JSON (and for a string with half a character, which only a stock
    /// writer can have stored).
    #[must_use]
    pub fn as_text(self) -> Option<Cow<'a, str>> {
        let inner = self.0.strip_prefix('"')?.strip_suffix('"')?;
        if inner.contains('\\') {
            return serde_json::from_str(self.0).ok().map(Cow::Owned);
        }
        Some(Cow::Borrowed(inner))
    }
}

impl<'a> From<&'a ConfigJson> for Json<'a> {
    fn from(value: &'a ConfigJson) -> Self {
        value.borrowed()
    }
}

impl<'a> From<&'a RawValue> for Json<'a> {
    fn from(raw: &'a RawValue) -> Self {
        Self(raw.get())
    }
}

impl Serialize for Json<'_> {
    /// As `serde_json` writes its own `RawValue`, which cannot be borrowed from a text without parsing it once more. Other
    /// serializers would get a structure with a peculiar name, as from a `RawValue`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const RAW_VALUE: &str = "$serde_json::private::RawValue";
        let mut raw = serializer.serialize_struct(RAW_VALUE, 1)?;
        raw.serialize_field(RAW_VALUE, self.0)?;
        raw.end()
    }
}

/// For what is stored: it was accepted when it was written.
impl From<&RawValue> for ConfigJson {
    fn from(raw: &RawValue) -> Self {
        Self(raw.to_owned().into())
    }
}

impl PartialEq for ConfigJson {
    fn eq(&self, other: &Self) -> bool {
        self.json() == other.json()
    }
}

impl Eq for ConfigJson {}

impl Serialize for ConfigJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ConfigJson {
    /// For what is stored: it was accepted when it was written.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(|raw| Self(raw.into()))
    }
}

/// One pass over well-formed JSON for what the parser leaves unchecked in a value that it keeps raw.
fn check(json: &[u8]) -> Result<(), InvalidValue> {
    let (mut depth, mut at) = (0, 0);
    while let Some(&byte) = json.get(at) {
        at += 1;
        match byte {
            b'[' | b'{' => {
                depth += 1;
                if depth > MAX_VALUE_DEPTH {
                    return Err(InvalidValue::TooDeep);
                }
            }
            b']' | b'}' => depth -= 1,
            b'"' => at = check_string(json, at)?,
            _ => {}
        }
    }
    Ok(())
}

/// From behind a string's opening quote to behind its closing one.
fn check_string(json: &[u8], mut at: usize) -> Result<usize, InvalidValue> {
    while let Some(&byte) = json.get(at) {
        match byte {
            b'"' => return Ok(at + 1),
            b'\\' if json.get(at + 1) == Some(&b'u') => match code_unit(json, at) {
                0 => return Err(InvalidValue::Nul),
                0xD800..=0xDBFF => {
                    let paired = json.get(at + 6..at + 8) == Some(b"\\u")
                        && (0xDC00..=0xDFFF).contains(&code_unit(json, at + 6));
                    if !paired {
                        return Err(InvalidValue::LoneSurrogate);
                    }
                    at += 12;
                }
                0xDC00..=0xDFFF => return Err(InvalidValue::LoneSurrogate),
                _ => at += 6,
            },
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    Ok(at)
}

/// The four hexadecimal digits of the `\uXXXX` at `at`.
fn code_unit(json: &[u8], at: usize) -> u32 {
    let digits = json.get(at + 2..at + 6).unwrap_or_default();
    digits.iter().fold(0, |unit, digit| unit * 16 + char::from(*digit).to_digit(16).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn accept(json: &str) -> Result<ConfigJson, InvalidValue> {
        ConfigJson::accept(RawValue::from_string(json.to_owned()).unwrap(), 1000)
    }

    #[test]
    fn keeps_the_text_byte_for_byte() {
        for json in
            ["12345678901234567890123", "1.10", "1e400", "-0", "{\"b\": 1,\"a\":[ ]}", "\"\\u00e9\"", "null", "\"\""]
        {
            assert_eq!(accept(json).unwrap().json(), json);
        }
    }

    #[test]
    fn refuses_what_cannot_be_stored() {
        assert_eq!(accept(r#""a\u0000b""#), Err(InvalidValue::Nul));
        assert_eq!(accept(r#"{"a\u0000":1}"#), Err(InvalidValue::Nul));
        assert_eq!(accept(r#"["\ud83e"]"#), Err(InvalidValue::LoneSurrogate));
        assert_eq!(accept(r#""\udd80\ud83e""#), Err(InvalidValue::LoneSurrogate));
        assert_eq!(accept(&"[".repeat(129).add_closing()), Err(InvalidValue::TooDeep));
        assert_eq!(
            accept(&format!("\"{}\"", "x".repeat(999))),
            Err(InvalidValue::TooLarge { bytes: 1001, limit: 1000 })
        );
    }

    #[test]
    fn is_not_fooled_by_what_only_looks_like_it() {
        accept(r#""\\u0000""#).unwrap();
        accept(r#""\ud83e\udd80""#).unwrap();
        accept(r#""[[[[""#).unwrap();
        accept(&"[".repeat(128).add_closing()).unwrap();
        accept(&format!("\"{}\"", "x".repeat(998))).unwrap();
    }

    #[test]
    fn tells_the_characters_of_a_string_and_of_nothing_else() {
        assert_eq!(accept(r#""a\nb""#).unwrap().as_text().unwrap(), "a\nb");
        assert_eq!(accept(r#""plain""#).unwrap().as_text().unwrap(), "plain");
        assert_eq!(accept(r#""""#).unwrap().as_text().unwrap(), "");
        assert_eq!(accept("7").unwrap().as_text(), None);
        assert_eq!(accept(r#"["a"]"#).unwrap().as_text(), None);
    }

    #[test]
    fn a_borrowed_text_is_written_byte_for_byte_too() {
        for json in ["1.10", "{\"b\": 1,\"a\":[ ]}", "\"\\u00e9\"", "null"] {
            let owned = accept(json).unwrap();
            assert_eq!(serde_json::to_string(&[owned.borrowed()]).unwrap(), format!("[{json}]"));
            assert_eq!(serde_json::to_string(&owned).unwrap(), json);
            assert_eq!(owned.borrowed().as_text(), owned.as_text());
        }
    }

    trait Closing {
        fn add_closing(&self) -> String;
    }
    impl Closing for String {
        fn add_closing(&self) -> String {
            format!("{self}{}", "]".repeat(self.len()))
        }
    }

    proptest! {
        /// Any text, spelled with any mix of escapes, is accepted exactly when a strict parser can read it back without NUL.
        #[test]
        fn agrees_with_a_strict_parser(pieces in prop::collection::vec(prop_oneof![
            "[ -!#-\\[\\]-~é🦀]{0,4}".prop_map(|s| s),
            Just("\\u0000".to_owned()), Just("\\ud83e".to_owned()), Just("\\udd80".to_owned()),
            Just("\\\\".to_owned()), Just("\\\"".to_owned()), Just("\\u0041".to_owned()), Just("\\uD83E\\uDD80".to_owned()),
        ], 0..12)) {
            let json = format!("\"{}\"", pieces.concat());
            let Ok(raw) = RawValue::from_string(json.clone()) else { return Ok(()) };
            let strict = serde_json::from_str::<String>(&json);
            let accepted = ConfigJson::accept(raw, 1000);
            match strict {
                Ok(text) if !text.contains('\0') => {
                    let accepted = accepted.unwrap();
                    prop_assert_eq!(accepted.as_text().unwrap(), text);
                }
                _ => prop_assert!(accepted.is_err(), "{}", json),
            }
        }
    }
}
