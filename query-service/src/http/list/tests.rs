//! Whole lists, as clients ask for them: pages of one state, whatever is written meanwhile.

use std::collections::BTreeMap;

use axum::http::Uri;
use http_body_util::BodyExt;
use proptest::prelude::*;
use serde_json::Value;

use super::{
    super::states::{apply, apply_foreign, reads, state},
    *,
};
use crate::projection::{Fold, Published};

const NAMES: [&str; 7] = ["a", "a/b", "a/c", "a0", "b", "é/=&+", "🦀"];

type Items = Vec<(String, Value)>;

struct Service {
    projection: Arc<Published>,
    reads: Arc<Reads>,
    fold: Fold,
}

/// What a client sees of an answer.
#[derive(Debug)]
struct Seen {
    status: u16,
    position: String,
    tag: String,
    next: Option<String>,
    items: Items,
}

/// A list that is read page by page.
struct Reading {
    position: String,
    expected: Items,
    read: Items,
    next: Option<String>,
}

impl Service {
    fn new() -> Self {
        let projection = Arc::new(Published::nothing_yet());
        let reads = Arc::new(reads(&projection));
        let service = Self { projection, reads, fold: Fold::default() };
        service.projection.advance(service.fold.snapshot());
        service
    }

    fn set(&mut self, name: &str, value: Option<u32>) {
        apply(&mut self.fold, name, value.map(|value| value.to_string()).as_deref());
        self.projection.advance(self.fold.snapshot());
    }

    async fn get(&self, path: &str, known: Option<&str>) -> Seen {
        let mut headers = HeaderMap::new();
        headers.extend(known.map(|tag| (header::IF_NONE_MATCH, tag.parse().unwrap())));
        let uri: Uri = path.parse().unwrap();
        let answer = handle(State(Arc::clone(&self.reads)), uri, headers).await;
        let (head, body) = answer.unwrap_or_else(IntoResponse::into_response).into_parts();
        let text = |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        let bytes = body.collect().await.unwrap().to_bytes();
        let items: Vec<Value> = serde_json::from_slice(&bytes).unwrap_or_default();
        let items = items.iter().map(|item| (item["name"].as_str().unwrap().to_owned(), item["value"].clone()));
        let next = text("link")
            .map(|link| link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap().to_owned());
        Seen {
            status: head.status.as_u16(),
            position: text("config-position").unwrap_or_default(),
            tag: text("etag").unwrap_or_default(),
            next,
            items: items.collect(),
        }
    }
}

#[tokio::test]
async fn a_page_that_is_the_last_has_no_link() {
    let mut service = Service::new();
    for name in ["a", "b", "c"] {
        service.set(name, Some(1));
    }
    for (path, linked) in [
        ("/v1/config", false),
        ("/v1/config?limit=3", false),
        ("/v1/config?limit=2", true),
        ("/v1/config?limit=2&after=a", false),
        ("/v1/config?limit=1&after=a", true),
        ("/v1/config?limit=1&prefix=c", false),
        ("/v1/config?count=true", false),
    ] {
        assert_eq!(service.get(path, None).await.next.is_some(), linked, "{path}");
    }
}

#[tokio::test]
async fn what_the_client_has_is_not_sent_again() {
    let mut service = Service::new();
    service.set("a/1", Some(1));
    service.set("b", Some(1));
    for path in ["/v1/config", "/v1/config?prefix=a%2F", "/v1/config?limit=1", "/v1/config?prefix=a&count=true"] {
        let seen = service.get(path, None).await;
        assert_eq!(seen.status, 200, "{path}");
        assert!(seen.tag.starts_with("W/\""), "{}", seen.tag);
        for known in [seen.tag.as_str(), &seen.tag[2..], "\"7\", *".split(", ").last().unwrap()] {
            let again = service.get(path, Some(known)).await;
            assert_eq!((again.status, again.tag, again.next), (304, seen.tag.clone(), seen.next.clone()), "{path}");
        }
        apply_foreign(&mut service.fold);
        service.projection.advance(service.fold.snapshot());
        let moved = service.get(path, Some(&seen.tag)).await;
        assert_eq!(moved.status, 304, "{path}: the position moved, and nothing else");
        assert_ne!(moved.position, seen.position);
        service.set("a/2", Some(2));
        let changed = service.get(path, Some(&seen.tag)).await;
        let unchanged = path.ends_with("limit=1");
        assert_eq!(changed.status, if unchanged { 304 } else { 200 }, "{path}");
        service.set("a/2", None);
    }
}

/// Each keeps its state alive for as long as its client reads.
#[tokio::test]
async fn there_is_a_limit_to_long_lists_and_a_place_is_free_again_when_one_ends() {
    let mut service = Service::new();
    for n in 0..10_000 {
        apply(&mut service.fold, &format!("n{n:05}"), Some("1"));
    }
    service.projection.advance(service.fold.snapshot());
    let ask = async |path: &'static str| {
        handle(State(Arc::clone(&service.reads)), path.parse().unwrap(), HeaderMap::new()).await
    };
    let mut sent = vec![];
    for _ in 0..64 {
        sent.push(ask("/v1/config").await.unwrap());
    }
    assert_eq!(ask("/v1/config").await.unwrap_err().code(), "too-many-lists");
    assert!(ask("/v1/config?limit=1000").await.is_ok(), "a short one needs no place");
    sent.pop();
    assert!(ask("/v1/config").await.is_ok());
}

#[tokio::test]
async fn a_page_of_a_state_that_is_not_kept_needs_the_log() {
    let mut service = Service::new();
    service.set("a", Some(1));
    service.set("b", Some(1));
    let next = service.get("/v1/config?limit=1", None).await.next.unwrap();
    // Another replica, which never saw that page.
    let mut other = Service::new();
    other.fold = service.fold;
    other.set("c", Some(1));
    let refused = other.get(&next, None).await;
    assert_eq!(refused.status, 503, "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_page_of_a_state_that_is_still_to_come_waits_for_it() {
    let mut ahead = Service::new();
    for name in ["a", "b", "c"] {
        ahead.set(name, Some(1));
    }
    let next = ahead.get("/v1/config?limit=1", None).await.next.unwrap();
    let behind = Service::new();
    behind.projection.advance(state(1));
    assert_eq!(behind.get(&next, None).await.status, 503, "bounded");
    let catch_up = async {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        behind.projection.replace(ahead.fold.snapshot());
    };
    let (page, ()) = tokio::join!(behind.get(&next, None), catch_up);
    assert_eq!((page.status, page.items[0].0.as_str()), (200, "b"));
}

proptest! {
    /// Lists that begin at random moments of a random history, each read on in pages while it goes on: all pages of a list are
    /// the fold of the log up to its position, and each page's tag tells whether its content is another.
    #[test]
    fn all_pages_of_a_list_are_of_the_state_at_its_position(
        history in prop::collection::vec((0..NAMES.len(), prop::option::of(0..3_u32), any::<bool>()), 1..60),
        limit in 1..4_usize,
        prefix in prop::sample::select(vec!["", "a", "a/", "é", "x"]),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut service, mut plain) = (Service::new(), BTreeMap::<&str, u32>::new());
            let mut lists: Vec<Reading> = vec![];
            for (name, value, list) in history {
                service.set(NAMES[name], value);
                match value {
                    Some(value) => plain.insert(NAMES[name], value),
                    None => plain.remove(NAMES[name]),
                };
                for list in &mut lists {
                    let Some(path) = list.next.take() else { continue };
                    let page = service.get(&path, None).await;
                    prop_assert_eq!((page.status, &page.position), (200, &list.position));
                    prop_assert!(page.items.len() <= limit);
                    list.read.extend(page.items);
                    list.next = page.next;
                }
                if list {
                    let encoded = prefix.replace('/', "%2F").replace('é', "%C3%A9");
                    let page = service.get(&format!("/v1/config?prefix={encoded}&limit={limit}"), None).await;
                    let expected: Items = plain.iter().filter(|(name, _)| name.starts_with(prefix))
                        .map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect();
                    let whole = service.get(&format!("/v1/config?prefix={encoded}"), None).await;
                    prop_assert_eq!(&whole.items, &expected, "from memory, at the newest position");
                    lists.push(Reading { position: page.position, expected, read: page.items, next: page.next });
                }
            }
            for Reading { position, expected, mut read, mut next } in lists {
                while let Some(path) = next {
                    let page = service.get(&path, None).await;
                    prop_assert_eq!((page.status, &page.position), (200, &position));
                    read.extend(page.items);
                    next = page.next;
                }
                prop_assert_eq!(read, expected, "at {}", position);
            }
            Ok(())
        })?;
    }
}
