//! The past, against a plain fold of the log: states, differences, versions, whatever their way and however they are cut.

use end_to_end::{Answer, Client};
use serde_json::Value;

mod bad_input;
mod bounds;
mod cost;
mod differences;
mod events;
mod history;
mod states;
mod versions;

/// Every page from this one on, by the links between them.
async fn pages(client: &Client, first: &str) -> Vec<Answer> {
    let mut pages = vec![];
    let mut next = Some(first.to_owned());
    while let Some(path) = next {
        let page = client.get(&path).await;
        assert_eq!(page.status, 200, "{path}: {page:?}");
        next = following(&page);
        pages.push(page);
    }
    pages
}

/// Where the next page is.
fn following(page: &Answer) -> Option<String> {
    let link = page.header("link").strip_prefix('<')?.strip_suffix(">; rel=\"next\"")?;
    Some(link.to_owned())
}

/// The entries of several pages, in their order.
fn joined(pages: &[Answer], member: Option<&str>) -> Vec<Value> {
    let entries = pages.iter().flat_map(|page| {
        let body = page.json();
        let entries = member.map_or(&body, |member| &body[member]);
        entries.as_array().expect("an array").clone()
    });
    entries.collect()
}
