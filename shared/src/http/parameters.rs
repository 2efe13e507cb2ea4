//! Query parameters: known ones, once each. An unknown one is refused, because a misspelt one would be ignored in silence.

use axum::{extract::Query, http::Uri};

use super::problem::Problem;

/// The parameters of a request.
#[derive(Debug)]
pub struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Reads them, when all are among `known` and none is repeated.
    ///
    /// # Errors
    /// 400 that names the parameter.
    pub fn of(uri: &Uri, known: &[&str]) -> Result<Self, Problem> {
        Self::read(uri, known, None)
    }

    fn read(uri: &Uri, known: &[&str], repeatable: Option<&str>) -> Result<Self, Problem> {
        if uri.query().is_none() {
            return Ok(Self(vec![]));
        }
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri).map_err(|_| malformed())?;
        for (index, (name, value)) in pairs.iter().enumerate() {
            // What is no UTF-8 was replaced.
            if name.contains(char::REPLACEMENT_CHARACTER) || value.contains(char::REPLACEMENT_CHARACTER) {
                return Err(malformed());
            }
            if !known.contains(&name.as_str()) {
                return Err(unknown(name, known));
            }
            if Some(name.as_str()) != repeatable && pairs[..index].iter().any(|(earlier, _)| earlier == name) {
                let detail = format!("The query parameter `{name}` is given twice; give it once.");
                return Err(Problem::bad_request("repeated-parameter", detail));
            }
        }
        Ok(Self(pairs))
    }

    /// The same, with one that may be repeated.
    ///
    /// # Errors
    /// 400 that names the parameter.
    pub fn with_repeated(uri: &Uri, known: &[&str], repeated: &str) -> Result<Self, Problem> {
        Self::read(uri, known, Some(repeated))
    }

    /// None, for a route that takes none.
    ///
    /// # Errors
    /// 400 that names the parameter.
    pub fn none(uri: &Uri) -> Result<(), Problem> {
        Self::of(uri, &[]).map(drop)
    }

    /// The decoded value; empty for a parameter without one.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The decoded values of one that may be repeated, in their order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// 400: a parameter's value is not what it must be.
#[must_use]
pub fn invalid(name: &str, expected: &str) -> Problem {
    Problem::bad_request("invalid-parameter", format!("The query parameter `{name}` must be {expected}."))
}

fn malformed() -> Problem {
    let detail = "The query is malformed; write it as name=value&name=value, percent-encoded UTF-8.";
    Problem::bad_request("malformed-query", detail)
}

fn unknown(name: &str, known: &[&str]) -> Problem {
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    let detail = format!("There is no query parameter `{name}` here; known: {known}.");
    Problem::bad_request("unknown-parameter", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(query: &str) -> Result<Parameters, Problem> {
        Parameters::of(&format!("/v1/config?{query}").parse().unwrap(), &["prefix", "min_position"])
    }

    #[test]
    fn decodes_what_is_known() {
        let parameters = of("prefix=a%2Fb+c&min_position=3").unwrap();
        assert_eq!((parameters.get("prefix"), parameters.get("min_position")), (Some("a/b c"), Some("3")));
        assert_eq!(of("").unwrap().get("prefix"), None);
        assert_eq!(of("prefix=").unwrap().get("prefix"), Some(""));
    }

    #[test]
    fn names_what_is_unknown_and_lists_the_known() {
        let problem = format!("{:?}", of("prefiks=a").unwrap_err());
        assert!(problem.contains("`prefiks` here; known: prefix, min_position."), "{problem}");
    }

    #[test]
    fn takes_one_that_may_be_repeated_as_often_as_it_comes() {
        let uri = "/v1/watch?name=b&prefix=x&name=a".parse().unwrap();
        let parameters = Parameters::with_repeated(&uri, &["prefix", "name"], "name").unwrap();
        assert_eq!(parameters.all("name").collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!(Parameters::of(&uri, &["prefix", "name"]).unwrap_err().code(), "repeated-parameter");
    }

    #[test]
    fn refuses_what_is_repeated_or_no_text() {
        assert_eq!(of("prefix=a&prefix=b").unwrap_err().code(), "repeated-parameter");
        assert_eq!(of("prefix=%ff").unwrap_err().code(), "malformed-query");
    }
}
