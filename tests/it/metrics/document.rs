//! docs/METRICS.md says what the code defines, and the pages tell nothing else.

use std::{collections::BTreeSet, fs, path::Path};

use end_to_end::{CommandService, Database, Page, QueryService, Standalone};
use shared::metrics::{Definition, Kind, Values};

/// The tables, as the document must have them: the first is that of what every process tells.
fn tables() -> [String; 3] {
    [shared::metrics::ALL, command_service::metrics::ALL, query_service::metrics::ALL].map(table)
}

fn table(definitions: &[&Definition]) -> String {
    let mut table = "| metric | type | labels | unit | meaning |\n|---|---|---|---|---|\n".to_owned();
    for definition in definitions {
        let Definition { name, help, .. } = definition;
        let labels: Vec<_> = definition.labels.iter().map(label).collect();
        let (kind, unit) = (kind(definition.kind), definition.unit());
        table += &format!("| `{name}` | {kind} | {} | {unit} | {help} |\n", labels.join("; "));
    }
    table
}

fn label(label: &shared::metrics::Label) -> String {
    let values = match label.values {
        Values::Words(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
        Values::Told(told) => told.to_owned(),
    };
    format!("`{}`: {values}", label.name)
}

fn kind(kind: Kind) -> String {
    match kind {
        Kind::Counter => "counter".to_owned(),
        Kind::Gauge => "gauge".to_owned(),
        Kind::Histogram(bounds) => {
            let (first, last) = (bounds.first().expect("a bound"), bounds.last().expect("a bound"));
            format!("histogram, {} bounds from {first} to {last}", bounds.len())
        }
    }
}

fn document() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the root");
    fs::read_to_string(root.join("docs/METRICS.md")).expect("docs/METRICS.md")
}

#[test]
fn the_document_has_the_tables_that_the_code_defines() {
    let document = document();
    let found: Vec<_> = document.split("\n\n").map(|part| format!("{}\n", part.trim_matches('\n'))).collect();
    for table in tables() {
        assert!(found.contains(&table), "docs/METRICS.md lacks this table, to be copied as it is:\n\n{table}");
    }
}

/// What is told has a row, and what has a row is told: with its type, its labels and their values, and its meaning.
#[tokio::test]
async fn the_pages_tell_what_the_document_says_and_nothing_else() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    let both = Standalone::start(&database).await;
    let (of_command, of_query) = (Page::of(&command.client).await, Page::of(&query.client).await);
    // Its first requests were the wait for it and this page.
    let _first = Page::of(&both.client).await;
    let of_both = Page::of(&both.client).await;
    let names = |parts: &[&[&Definition]]| -> BTreeSet<_> {
        parts.iter().flat_map(|part| part.iter().map(|definition| definition.name.to_owned())).collect()
    };
    let told = |page: &Page| -> BTreeSet<_> {
        let (process, own): (BTreeSet<_>, BTreeSet<_>) =
            page.types.keys().cloned().partition(|name| name.starts_with("process_"));
        for name in process {
            assert!(document().contains(&format!("| `{name}` |")), "{name} is not in docs/METRICS.md");
        }
        own
    };
    let _first = (Page::of(&command.client).await, Page::of(&query.client).await);
    let (shared, command, query) = (shared::metrics::ALL, command_service::metrics::ALL, query_service::metrics::ALL);
    assert_eq!(told(&of_both), names(&[shared, command, query]));
    // Without a request there is no duration yet.
    let mut expected = names(&[shared, command]);
    expected.remove("http_server_request_duration_seconds");
    assert_eq!(told(&of_command), expected);
    assert_eq!(told(&of_query), names(&[shared, query]));
    for definition in [shared, command, query].concat() {
        as_defined(&of_both, definition);
    }
}

fn as_defined(page: &Page, definition: &Definition) {
    let name = definition.name;
    let kind = match definition.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram(_) => "histogram",
    };
    assert_eq!((page.types[name].as_str(), page.helps[name].as_str()), (kind, definition.help), "{name}");
    let series = if kind == "histogram" { format!("{name}_count") } else { name.to_owned() };
    let labels = page.series().into_iter().find(|(its, _)| *its == series).expect(name).1;
    let wanted: BTreeSet<_> = definition.labels.iter().map(|label| label.name.to_owned()).collect();
    assert_eq!(labels.into_keys().collect::<BTreeSet<_>>(), wanted, "{name}");
    for label in definition.labels {
        let values = page.label_values(&series, label.name);
        match label.values {
            // Of a request only what came of it is there; of the service, which it is.
            Values::Words(words) if series.starts_with("http_server_request") || label.name == "service" => {
                assert!(values.iter().all(|value| words.contains(&value.as_str())), "{name}: {values:?}");
            }
            Values::Words(words) => {
                assert_eq!(values, words.iter().map(|&word| word.to_owned()).collect(), "{name}");
            }
            Values::Told(told) if told.contains("; `") && told.starts_with('`') => {
                let words = told.split('`').skip(1).step_by(2).map(str::to_owned);
                assert_eq!(values, words.collect(), "{name}");
            }
            Values::Told(_) => {}
        }
    }
}
