//! What an answer about the past holds at most, however large values are: of a page, and of memory.

use end_to_end::{Database, QueryService, process::Process};

use super::{joined, pages};

const MIB: usize = 1024 * 1024;

/// So many events of one MiB each: every other one of `hot`, the others each of a name of its own.
async fn fill(database: &Database, events: usize) {
    let fill = format!(
        "insert into events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
         select 'ConfigValue', case when i % 2 = 0 then 'hot' else 'name-' || i end, case when i % 2 = 0 then i / 2 else 1 end,
                'ConfigValueSet', '1.0', ('{{\"value\":\"' || repeat('x', {MIB}) || '\"}}')::json, '{{}}'
           from generate_series(1, {events}) i"
    );
    database.execute(&fill).await;
}

#[tokio::test]
async fn a_page_ends_where_it_is_large_enough_and_the_next_one_has_the_rest() {
    let database = Database::new().await;
    fill(&database, 40).await;
    let query = QueryService::start(&database).await;
    // A history tells each value twice: as a value, and as the one that was replaced.
    for (path, member, entries, most) in [
        ("/v1/config?at=40&limit=1000", None, 21, 18 * MIB),
        ("/v1/diff?from=0&to=40&limit=1000", Some("changes"), 21, 18 * MIB),
        ("/v1/config/hot/history?limit=1000&order=desc", None, 20, 36 * MIB),
    ] {
        let pages = pages(&query.client, path).await;
        let sizes: Vec<_> = pages.iter().map(|page| page.body.len() / MIB).collect();
        assert_eq!(pages.len(), 2, "{path}: {sizes:?} MiB");
        assert!(pages.iter().all(|page| page.body.len() < most), "{path}: {sizes:?} MiB");
        assert_eq!(joined(&pages, member).len(), entries, "{path}");
    }
}

/// Most that a reader of a long log may add to a process, in KiB: half of the log.
const MOST_MORE_KIB: u64 = 48 * 1024;

#[tokio::test]
async fn whoever_reads_the_log_from_its_beginning_is_sent_it_in_pieces_that_fit_into_memory() {
    let database = Database::new().await;
    fill(&database, 96).await;
    for path in ["/v1/events?limit=10000", "/v1/watch?from=0"] {
        // The allocator gives back at once what is freed: by default it keeps it for a moment, which is then counted.
        let at_once = [("MIMALLOC_PURGE_DELAY", "0")];
        let query = Process::start_with("query-service", &["--database-url", &database.url], &at_once).await;
        query.client.until_ready().await;
        // The highest mark is that from now on.
        std::fs::write(format!("/proc/{}/clear_refs", query.pid()), "5").expect("Linux lets us");
        let before = memory_kib(&query, "VmRSS:");
        let mut answer = reqwest::get(format!("{}{path}", query.client.base())).await.expect("an answer");
        let mut bytes = 0;
        while bytes < 96 * MIB {
            bytes += answer.chunk().await.expect("it is not cut off").expect("there is more").len();
        }
        let peak = memory_kib(&query, "VmHWM:");
        assert!(peak < before + MOST_MORE_KIB, "{path}: {before} KiB before it, {peak} KiB at most");
    }
}

fn memory_kib(process: &Process, which: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(which)).expect("Linux tells");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
