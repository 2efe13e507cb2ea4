//! Query parameters: known ones, once each. An unknown one is refused, because a misspelt one would be ignored in silence.

use axum::{extract::Query, http::Uri};

use super::error::ReadError;

/// The position that a read must have.
pub(super) const MIN_POSITION: &str = "min_position";

/// The parameters of a request.
#[derive(Debug)]
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Reads them, when all are among `known` and none is repeated.
    pub(super) fn of(uri: &Uri, known: &'static [&'static str]) -> Result<Self, ReadError> {
        if uri.query().is_none() {
            return Ok(Self(vec![]));
        }
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri).map_err(|_| ReadError::MalformedQuery)?;
        for (index, (name, value)) in pairs.iter().enumerate() {
            // What is no UTF-8 was replaced.
            if name.contains(char::REPLACEMENT_CHARACTER) || value.contains(char::REPLACEMENT_CHARACTER) {
                return Err(ReadError::MalformedQuery);
            }
            if !known.contains(&name.as_str()) {
                return Err(ReadError::UnknownParameter { name: name.clone(), known });
            }
            if pairs[..index].iter().any(|(earlier, _)| earlier == name) {
                return Err(ReadError::RepeatedParameter(name.clone()));
            }
        }
        Ok(Self(pairs))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use shared::http::problem::Problem;

    use super::*;

    fn of(query: &str) -> Result<Parameters, ReadError> {
        Parameters::of(&format!("/v1/config?{query}").parse().unwrap(), &["prefix", MIN_POSITION])
    }

    #[test]
    fn decodes_what_is_known() {
        let parameters = of("prefix=a%2Fb+c&min_position=3").unwrap();
        assert_eq!((parameters.get("prefix"), parameters.get(MIN_POSITION)), (Some("a/b c"), Some("3")));
        assert_eq!(of("").unwrap().get("prefix"), None);
        assert_eq!(of("prefix=").unwrap().get("prefix"), Some(""));
    }

    #[test]
    fn names_what_is_unknown_and_lists_the_known() {
        let problem = format!("{:?}", Problem::from(of("prefiks=a").unwrap_err()));
        assert!(problem.contains("`prefiks` here; known: prefix, min_position."), "{problem}");
    }

    #[test]
    fn refuses_what_is_repeated_or_no_text() {
        assert!(matches!(of("prefix=a&prefix=b"), Err(ReadError::RepeatedParameter(_))));
        assert!(matches!(of("prefix=%ff"), Err(ReadError::MalformedQuery)));
    }
}
