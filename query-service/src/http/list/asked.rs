//! What a request for a list asks for.

use axum::{http::Uri, response::Response};
use shared::{
    http::{
        parameters::{Parameters, invalid},
        problem::Problem,
    },
    name::ConfigName,
    position::PositionToken,
};

use super::{page_token::PageToken, writer::Fields};
use crate::http::{
    link,
    list_at::{self, AT},
    query::{beginning, between_names, exclude},
    reads::{CONSISTENCY, MIN_POSITION},
};

const PREFIX: &str = "prefix";
const LIMIT: &str = "limit";
const AFTER: &str = "after";
const PAGE: &str = "page";
const FIELDS: &str = "fields";
const COUNT: &str = "count";

/// Most entries of a page. Without `limit` there are no pages: everything is sent.
const PAGE_ENTRIES: u16 = 1_000;

/// All parameters of the route; not all go together.
const KNOWN: [&str; 9] = [AT, PREFIX, LIMIT, AFTER, PAGE, FIELDS, COUNT, MIN_POSITION, CONSISTENCY];

/// What is asked for.
#[derive(Debug)]
pub(super) enum Question {
    /// The state now, or a page of one that was answered from before.
    Now(Asked),
    /// The state at a place in the log.
    Past(Parameters),
}

impl Question {
    /// # Errors
    /// 400 that names the parameter, and what would be right.
    pub(super) fn of(uri: &Uri) -> Result<Self, Problem> {
        let parameters = Parameters::of(uri, &KNOWN)?;
        exclude(&parameters, PAGE, &[AFTER, AT, MIN_POSITION, CONSISTENCY])?;
        exclude(&parameters, AT, &[CONSISTENCY])?;
        beginning(PREFIX, &parameters)?;
        between_names(AFTER, &parameters)?;
        if parameters.get(AT).is_some() {
            return Parameters::of(uri, &list_at::PARAMETERS).map(Self::Past);
        }
        Asked::of(parameters).map(Self::Now)
    }
}

/// Which of a state's entries are to be told, and how.
#[derive(Debug)]
pub(super) struct Asked {
    /// Of the state to answer from.
    pub(super) freshness: Parameters,
    pub(super) prefix: String,
    pub(super) limit: Option<u16>,
    pub(super) begin: Begin,
    pub(super) told: Told,
}

/// Where it begins.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Begin {
    First,
    After(ConfigName),
    Page(PageToken),
}

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Entries(Fields),
    Count,
}

impl Asked {
    fn of(parameters: Parameters) -> Result<Self, Problem> {
        let prefix = beginning(PREFIX, &parameters)?.unwrap_or_default().to_owned();
        let told = told(&parameters)?;
        let begin = match (parameters.get(PAGE), between_names(AFTER, &parameters)?) {
            (Some(page), _) => Begin::Page(page_token(page, &prefix)?),
            (None, Some(after)) => Begin::After(ConfigName::stored(after)),
            (None, None) => Begin::First,
        };
        let limit = match parameters.get(LIMIT).map(str::parse) {
            None => matches!(begin, Begin::Page(_)).then_some(PAGE_ENTRIES),
            Some(Ok(limit @ 1..=PAGE_ENTRIES)) => Some(limit),
            Some(_) => return Err(invalid(LIMIT, "a number from 1 to 1000")),
        };
        Ok(Self { freshness: parameters, prefix, limit, begin, told })
    }

    /// Adds the link to the page behind `last`, of the same state.
    pub(super) fn link_next(&self, response: &mut Response, path: &str, of: PositionToken, last: ConfigName) {
        let prefix = Some(self.prefix.as_str()).filter(|prefix| !prefix.is_empty());
        let fields = (self.told == Told::Entries(Fields::Name)).then_some("name");
        let limit = self.limit.map(|limit| limit.to_string());
        let page = PageToken::new(of, &self.prefix, last).to_string();
        let query = [(PREFIX, prefix), (FIELDS, fields), (LIMIT, limit.as_deref()), (PAGE, Some(page.as_str()))];
        link::next(response, path, &query);
    }
}

fn told(parameters: &Parameters) -> Result<Told, Problem> {
    let fields = match parameters.get(FIELDS) {
        None => Fields::NameAndValue,
        Some("name") => Fields::Name,
        Some(_) => return Err(invalid(FIELDS, "`name`, for the names alone, or left out")),
    };
    match parameters.get(COUNT) {
        None | Some("false") => Ok(Told::Entries(fields)),
        Some("true") => {
            exclude(parameters, COUNT, &[FIELDS, LIMIT, AFTER, PAGE])?;
            Ok(Told::Count)
        }
        Some(_) => Err(invalid(COUNT, "`true`, for the number alone, or left out")),
    }
}

fn page_token(text: &str, prefix: &str) -> Result<PageToken, Problem> {
    let token = text.parse().ok().filter(|token: &PageToken| token.is_of(prefix));
    token.ok_or_else(|| {
        let detail = "The query parameter `page` is not as it was given, or was given for another `prefix`. Follow the \
                      link of the page before as it stands, or begin again without `page`.";
        Problem::bad_request("invalid-page", detail)
    })
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use shared::position::Position;
    use uuid::Uuid;

    use super::*;

    fn asked(query: &str) -> Result<Asked, Problem> {
        match Question::of(&format!("/v1/config?{query}").parse().unwrap())? {
            Question::Now(asked) => Ok(asked),
            Question::Past(_) => panic!("{query} asks for the past"),
        }
    }

    fn of() -> PositionToken {
        PositionToken::new(Position(42), Uuid::from_u128(0x9f3a_01bc))
    }

    #[test]
    fn reads_what_is_asked_for() {
        let all = asked("").unwrap();
        assert_eq!((all.prefix.as_str(), all.limit, all.begin), ("", None, Begin::First));
        assert_eq!(all.told, Told::Entries(Fields::NameAndValue));
        let page = asked("prefix=a%2F&limit=2&after=a%2Fb&fields=name").unwrap();
        assert_eq!((page.prefix.as_str(), page.limit), ("a/", Some(2)));
        assert_eq!(page.begin, Begin::After(ConfigName::stored("a/b")));
        assert_eq!(page.told, Told::Entries(Fields::Name));
        assert_eq!(asked("count=true&prefix=a").unwrap().told, Told::Count);
        assert_eq!(asked("limit=1000").unwrap().limit, Some(1000));
    }

    #[test]
    fn the_link_to_the_next_page_is_understood() {
        for name in ["a/b", "a/é&=+ %.x", "a/\n"] {
            let first = asked("prefix=a%2F&limit=2&fields=name").unwrap();
            let mut response = ().into_response();
            first.link_next(&mut response, "/config", of(), ConfigName::stored(name));
            let link = response.headers()["link"].to_str().unwrap();
            let link = link.strip_prefix("</config?").unwrap().strip_suffix(">; rel=\"next\"").unwrap();
            let next = asked(link).unwrap();
            assert_eq!((next.prefix.as_str(), next.limit, next.told), ("a/", Some(2), first.told));
            assert_eq!(next.begin, Begin::Page(PageToken::new(of(), "a/", ConfigName::stored(name))));
        }
    }

    #[test]
    fn each_fault_is_named() {
        let page = PageToken::new(of(), "", ConfigName::stored("b"));
        let long = "x".repeat(257);
        for (query, code) in [
            ("limit=0".to_owned(), "invalid-parameter"),
            ("limit=1001".to_owned(), "invalid-parameter"),
            ("limit=-1".to_owned(), "invalid-parameter"),
            ("limit=".to_owned(), "invalid-parameter"),
            (format!("prefix={long}"), "invalid-parameter"),
            ("prefix=a%0A".to_owned(), "invalid-parameter"),
            (format!("after={long}"), "invalid-parameter"),
            ("after=%00".to_owned(), "invalid-parameter"),
            ("fields=value".to_owned(), "invalid-parameter"),
            ("count=1".to_owned(), "invalid-parameter"),
            ("count=true&limit=1".to_owned(), "excluding-parameters"),
            ("count=true&fields=name".to_owned(), "excluding-parameters"),
            (format!("page={page}&after=a"), "excluding-parameters"),
            (format!("page={page}&min_position=3"), "excluding-parameters"),
            (format!("page={page}&consistency=strong"), "excluding-parameters"),
            (format!("page={page}&at=3"), "excluding-parameters"),
            ("at=3&consistency=strong".to_owned(), "excluding-parameters"),
            ("at=3&prefix=%00".to_owned(), "invalid-parameter"),
            (format!("page={page}&prefix=a"), "invalid-page"),
            ("page=x".to_owned(), "invalid-page"),
            (format!("page={}", page.to_string().replace("42.", "41.")), "invalid-page"),
        ] {
            assert_eq!(asked(&query).unwrap_err().code(), code, "{query}");
        }
        assert!(asked(&format!("page={page}")).is_ok());
    }
}
