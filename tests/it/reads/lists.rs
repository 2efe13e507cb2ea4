//! Lists: pages of one state while writers write, tags, counts, how many long ones at once, and what is no list.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use end_to_end::{Client, CommandService, Database, QueryService, until};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};

use super::{folded, get, items, next, position};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn all_pages_of_a_list_are_of_one_state_while_writers_write() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    let done = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for writer in 0..4_u64 {
        let (client, done) = (command.client.clone(), Arc::clone(&done));
        writers.spawn(async move {
            for n in 0_u64.. {
                let name = format!("{}/n{}", ["a", "b"][usize::from(n % 3 == 0)], (n * 7 + writer) % 40);
                if n % 5 == 4 {
                    client.delete(&name).await;
                } else {
                    client.put(&name, json!({ "writer": writer, "n": n })).await;
                }
                if done.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
    }
    let (mut lists, mut span) = (vec![], 0..=0);
    for n in 0_usize.. {
        if n >= 30 && span.end() - span.start() >= 100 {
            break;
        }
        let (prefix, limit) = (["", "a/", "b/"][n % 3], [1, 7, 1000][n / 3 % 3]);
        let first = get(&query.client, &format!("/v1/config?prefix={prefix}&limit={limit}"), &[]).await;
        let (at, mut all, mut link) = (position(&first), items(&first), next(&first));
        while let Some(path) = link {
            let page = query.client.get(&path).await;
            assert_eq!(page.header("config-position"), first.header("config-position"), "{page:?}");
            let items = items(&page);
            assert!((1..=limit).contains(&items.len()), "{page:?}");
            all.extend(items);
            link = next(&page);
        }
        lists.push((at, prefix, all));
        let whole = query.client.get(&format!("/v1/config?prefix={prefix}")).await;
        lists.push((position(&whole), prefix, items(&whole)));
        span = lists[0].0..=position(&whole);
    }
    done.store(true, Ordering::Relaxed);
    writers.join_all().await;
    let mut connection = database.connect().await;
    for (at, prefix, listed) in lists {
        assert_eq!(listed, folded(&mut connection, at, prefix).await, "{prefix:?} at {at}");
    }
}

#[tokio::test]
async fn names_alone_and_their_number_can_be_asked_for() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    let mut written = command.client.put("team/a", "1").await;
    for name in ["team/b", "team/c", "other"] {
        written = command.client.put(name, "1").await;
    }
    let token = written.header("config-position");
    let list = async |query_string: &str| {
        get(&query.client, &format!("/v1/config?{query_string}"), &[("config-min-position", token)]).await
    };
    let names = list("fields=name&prefix=team/&limit=2").await;
    assert_eq!(names.short(), (200, r#"[{"name":"team/a"},{"name":"team/b"}]"#));
    let rest = query.client.get(&next(&names).unwrap()).await;
    assert_eq!((rest.short(), next(&rest)), ((200, r#"[{"name":"team/c"}]"#), None));
    assert_eq!(list("count=true").await.short(), (200, r#"{"count":4}"#));
    assert_eq!(list("count=true&prefix=team%2F").await.short(), (200, r#"{"count":3}"#));
    assert_eq!(list("after=team%2Fb&fields=name").await.short(), (200, r#"[{"name":"team/c"}]"#));
    let empty = list("prefix=x&limit=1").await;
    assert_eq!((empty.short(), next(&empty)), ((200, "[]"), None));
}

#[tokio::test]
async fn a_list_has_a_tag_that_changes_only_when_something_in_it_does() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    command.client.put("a/1", "1").await;
    let mut written = command.client.put("b", "1").await.header("config-position").to_owned();
    for path in ["/v1/config", "/v1/config?prefix=a/", "/v1/config?prefix=a/&limit=5", "/config?prefix=a/&fields=name"]
    {
        let list = async |known: &str, at_least: &str| {
            get(&query.client, path, &[("if-none-match", known), ("config-min-position", at_least)]).await
        };
        let first = list("\"0\"", &written).await;
        let tag = first.header("etag").to_owned();
        assert_eq!(first.status, 200, "{first:?}");
        database
            .execute(
                "insert into events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
                 select 'Account', 'x', count(*) + 1, 'Opened', '1.0', '{}', '{}' from events where aggregate_type = 'Account'",
            )
            .await;
        let moved = list(&tag, &(position(&first) + 1).to_string()).await;
        assert_eq!((moved.short(), moved.header("etag")), ((304, ""), tag.as_str()), "{path}: {moved:?}");
        assert!(position(&moved) > position(&first));
        written = command.client.put("a/1", json!(path)).await.header("config-position").to_owned();
        let changed = list(&tag, &written).await;
        assert_eq!(changed.status, 200, "{path}");
        assert_ne!(changed.header("etag"), tag);
    }
}

#[tokio::test]
async fn a_list_can_be_waited_for_until_something_in_it_changes() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    command.client.put("team/b", 1).await;
    let mut written = command.client.put("other", 1).await;
    let client = &query.client;
    for path in
        ["/v1/config?prefix=team/", "/v1/config?prefix=team/&limit=1&fields=name", "/v1/config?prefix=team/&count=true"]
    {
        let first = get(client, path, &[("config-min-position", written.header("config-position"))]).await;
        let tag = first.header("etag").to_owned();
        let headers = [("if-none-match", tag.as_str()), ("prefer", "wait=60")];
        let (changed, last) = tokio::join!(get(client, path, &headers), async {
            until("it waits", async || (client.get("/v1/projection").await.json()["watchers"] == 1).then_some(()))
                .await;
            command.client.put("other", json!(path)).await;
            if path.contains("limit") {
                // Behind the page's end.
                command.client.put("team/c", json!(path)).await;
            }
            command.client.put("team/b", json!(path)).await
        });
        assert_eq!((changed.status.as_u16(), changed.header("preference-applied")), (200, "wait=60"), "{path}");
        assert_ne!(changed.header("etag"), tag);
        assert!(position(&changed) >= position(&last), "{changed:?} before {last:?}");
        let at_once = get(client, path, &headers).await;
        assert_eq!((at_once.status.as_u16(), at_once.header("etag")), (200, changed.header("etag")), "{path}");
        written = last;
    }
    let path = "/v1/config?prefix=none/";
    let empty = client.get(path).await;
    let began = Instant::now();
    let in_vain = get(client, path, &[("if-none-match", empty.header("etag")), ("prefer", "wait=1")]).await;
    assert!((1..10).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert_eq!((in_vain.short(), in_vain.header("preference-applied")), ((304, ""), "wait=1"));
    let refused = get(client, path, &[("if-none-match", empty.header("etag")), ("prefer", "wait=61")]).await;
    assert_eq!(refused.status, 400, "{refused:?}");
}

#[tokio::test]
async fn a_long_list_is_compressed_for_who_accepts_that_and_is_the_same_list() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    let mut written = command.client.put("small", 1).await;
    let headers = [("accept-encoding", "gzip"), ("config-min-position", written.header("config-position"))];
    let small = get(&query.client, "/v1/config?prefix=small", &headers).await;
    assert_eq!((small.short(), small.header("content-encoding")), ((200, r#"[{"name":"small","value":1}]"#), ""));
    for n in 0..20 {
        written = command.client.put(&format!("long/{n}"), "x".repeat(10_000)).await;
    }
    let list = async |path: &str, headers: &[(&str, &str)]| {
        let at_least = ("config-min-position", written.header("config-position"));
        get(&query.client, path, &[headers, &[at_least]].concat()).await
    };
    let plain = list("/v1/config", &[]).await;
    assert_eq!(plain.header("vary").to_ascii_lowercase(), "accept-encoding");
    for (accepts, expected) in [("gzip", "gzip"), ("zstd, gzip", "zstd"), ("br", "")] {
        for path in ["/v1/config", "/config?limit=15", "/v1/config/long%2F1/history", "/v1/diff?from=0"] {
            let answer = list(path, &[("accept-encoding", accepts)]).await;
            assert_eq!((answer.status.as_u16(), answer.header("content-encoding")), (200, expected), "{path}");
            assert!(answer.header("vary").to_ascii_lowercase().contains("accept-encoding"), "{path}");
            assert_eq!(answer.body.len() < 10_000, !expected.is_empty(), "{path}: {} bytes", answer.body.len());
        }
        let same = list("/v1/config", &[("accept-encoding", accepts)]).await;
        assert_eq!(same.header("etag"), plain.header("etag"), "weak: of the content, whatever its encoding");
        let known = list("/v1/config", &[("accept-encoding", accepts), ("if-none-match", plain.header("etag"))]).await;
        assert_eq!(
            (known.status.as_u16(), known.header("vary").to_ascii_lowercase()),
            (304, "accept-encoding".to_owned())
        );
    }
    let one = list("/v1/config/long%2F1", &[("accept-encoding", "gzip")]).await;
    assert_eq!((one.header("content-encoding"), one.header("etag")), ("", "\"1\""), "its tag is for If-Match");
    let refused = list("/v1/config", &[("accept-encoding", "identity;q=0, *;q=0")]).await;
    assert_eq!(refused.status, 406);
    assert!(refused.body.contains("allow one of them"), "{refused:?}");
}

/// Whatever the list becomes, the client has it.
#[tokio::test]
async fn who_has_any_list_waits_as_long_as_it_prefers() {
    let database = Database::new().await;
    let query = QueryService::start(&database).await;
    let began = Instant::now();
    let in_vain = get(&query.client, "/v1/config", &[("if-none-match", "*"), ("prefer", "wait=1")]).await;
    assert!(began.elapsed().as_secs() >= 1, "{:?}", began.elapsed());
    assert_eq!((in_vain.short(), in_vain.header("preference-applied")), ((304, ""), "wait=1"));
}

/// More lists are begun, each of a state of its own, than states are kept; and the other replica never kept any.
#[tokio::test]
async fn a_page_whose_state_is_not_kept_any_more_is_the_same_from_the_log() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    let other = QueryService::start(&database).await;
    for name in ["a", "b", "gone", "l/1"] {
        command.client.put(name, 0).await;
    }
    command.client.delete("gone").await;
    let mut written = command.client.put("z\u{e9}/1", json!({ "n": 1.0 })).await;
    let begin = async |token: &str| get(&query.client, "/v1/config?limit=2", &[("config-min-position", token)]).await;
    let first = begin(written.header("config-position")).await;
    let second = query.client.get(&next(&first).unwrap()).await;
    assert_eq!(items(&second).len(), 2);
    for n in 1..=64 {
        written = command.client.put("l/1", n).await;
        let page = begin(written.header("config-position")).await;
        let kept = query.client.get(&next(&page).unwrap()).await;
        assert_eq!(items(&kept)[0], ("l/1".to_owned(), Value::from(n)));
    }
    other.client.value_after("l/1", &written).await;
    for replica in [&query, &other] {
        let page = replica.client.get(&next(&first).unwrap()).await;
        for header in ["config-position", "etag", "content-type", "cache-control"] {
            assert_eq!(page.header(header), second.header(header), "{header}");
        }
        assert_eq!((page.short(), next(&page)), ((200, second.body.as_str()), None));
        let known = get(&replica.client, &next(&first).unwrap(), &[("if-none-match", second.header("etag"))]).await;
        assert_eq!(known.short(), (304, ""));
    }
    let names = get(&query.client, "/v1/config?limit=1&fields=name", &[]).await;
    command.client.put("a", 2).await;
    let mut link = next(&names);
    let mut told = vec![];
    while let Some(path) = link {
        let page = other.client.get(&path).await;
        told.push(page.body.clone());
        link = next(&page);
    }
    assert_eq!(told, [r#"[{"name":"b"}]"#, r#"[{"name":"l/1"}]"#, "[{\"name\":\"z\u{e9}/1\"}]"]);
}

#[tokio::test]
async fn a_page_of_a_past_that_was_rewritten_is_refused() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    command.client.put("a", 1).await;
    let written = command.client.put("b", 1).await;
    let first =
        get(&query.client, "/v1/config?limit=1", &[("config-min-position", written.header("config-position"))]).await;
    database.rewrite_from(2, &[("real", "2")]).await;
    let other = QueryService::start(&database).await;
    let refused = get(&other.client, &next(&first).unwrap(), &[("accept", "application/json")]).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.json()["type"]),
        (409, &json!("urn:config-api:problem:position-diverged"))
    );
}

/// Begins to read an answer on a connection that takes in little, and leaves it there.
async fn left_unread(client: &Client, path: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("the system lets us");
    let address = client.base().strip_prefix("http://").and_then(|address| address.parse().ok());
    let mut stream = socket.connect(address.expect("plain HTTP")).await.expect("it listens");
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.expect("it reads");
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.expect("it answers");
    assert_eq!(&status, b"HTTP/1.1 200", "{path}");
    stream
}

/// Each holds a state, or a piece of the log, for as long as its client reads.
#[tokio::test]
async fn long_answers_of_all_kinds_share_one_limit_and_a_place_is_free_again_when_one_ends() {
    let database = Database::new().await;
    // Far more than the system takes in for a client that does not read.
    database
        .execute(
            "insert into events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
             select 'ConfigValue', 'a' || i, 1, 'ConfigValueSet', '1.0',
                    ('{\"value\":\"' || repeat('x', 1024 * 1024) || '\"}')::json, '{}'
               from generate_series(1, 16) i",
        )
        .await;
    let query = QueryService::start(&database).await;
    let client = &query.client;
    const LONG: [&str; 4] = ["/v1/config", "/v1/config?at=16", "/v1/events?limit=16", "/v1/watch?initial=true"];
    let mut sent = vec![];
    for path in LONG.iter().cycle().take(64) {
        sent.push(left_unread(client, path).await);
    }
    for path in LONG {
        let refused = client.get_json(path).await;
        assert_eq!((refused.status.as_u16(), refused.header("retry-after")), (503, "1"), "{path}: {refused:?}");
        assert_eq!(refused.json()["type"], "urn:config-api:problem:too-many-lists", "{path}");
    }
    for short in ["/v1/config?fields=name", "/v1/config?at=16&fields=name", "/v1/events?from=16", "/v1/config/a1"] {
        assert_eq!(client.get(short).await.status, 200, "{short} needs no place");
    }
    sent.pop();
    until("a place is free", async || (client.get("/v1/config?at=16").await.status == 200).then_some(())).await;
}
