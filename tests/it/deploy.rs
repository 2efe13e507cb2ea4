//! What is deployed beside the services: alerts, dashboards, and who is asked for them. `promtool` has checked and tested the
//! rules in `./dev lint`.

mod dashboards;
mod exported;
mod promql;
mod rules;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use dashboards::{Dashboard, Panel, trace_search};
use end_to_end::{Client, CommandService, Database, Prometheus, QueryService, Standalone, process::Process, until};
use exported::Exported;
use promql::asked;
use reqwest::Method;
use rules::{Rule, rules, tested};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const ALERTS: &str = "deploy/prometheus/alerts.yml";
const RUNBOOK: &str = "docs/RUNBOOK.md";

#[test]
fn every_alert_says_how_bad_it_is_and_what_is_seen_and_where_to_read_on() {
    let alerts = alerts();
    assert!(alerts.len() > 20, "{alerts:#?}");
    for alert in &alerts {
        let name = &alert["alert"];
        let severity =
            alert["labels"].trim_matches(['{', '}']).split(", ").find_map(|label| label.strip_prefix("severity: "));
        assert!(matches!(severity, Some("critical" | "warning")), "{name}: {severity:?}");
        assert!(alert["summary"].len() > 10, "{alert:?}");
        let value =
            ["humanize", "humanizeDuration", "humanizePercentage"].map(|form| format!("{{{{ $value | {form} }}}}"));
        assert!(value.iter().any(|value| alert["description"].contains(value)), "{name} does not say its value");
        assert_eq!(alert["runbook_url"], format!("{RUNBOOK}#{}", name.to_lowercase()));
    }
}

#[test]
fn every_alert_has_its_section_in_the_runbook_and_every_such_section_its_alert() {
    let runbook = read(RUNBOOK);
    let sections: Vec<_> =
        runbook.split("\n### ").skip(1).map(|section| section.split_once('\n').expect("a text")).collect();
    let of_alerts: BTreeMap<_, _> =
        sections.into_iter().filter(|(heading, _)| heading.starts_with("ConfigApi")).collect();
    let headings: BTreeSet<_> = of_alerts.keys().copied().collect();
    let alerts = alerts();
    assert_eq!(headings, alerts.iter().map(|alert| alert["alert"].as_str()).collect());
    for (heading, text) in of_alerts {
        for part in ["**Meaning.**", "**Impact.**", "**Diagnosis.**", "**Remedy.**"] {
            assert!(text.contains(part), "{heading} has no {part}");
        }
    }
}

#[test]
fn every_alert_is_tested_for_firing_and_for_not_firing() {
    let (firing, silent) = tested(&read("deploy/prometheus/alerts_test.yml"));
    let alerts: BTreeSet<_> = alerts().into_iter().map(|mut alert| alert.remove("alert").expect("its name")).collect();
    assert_eq!((&firing, &silent), (&alerts, &alerts));
}

#[test]
fn prometheus_scrapes_the_jobs_that_alerts_and_dashboards_ask_for() {
    let config = read("deploy/prometheus/prometheus.yml");
    for (job, port) in [("command-service", 4001), ("query-service", 4002)] {
        let (_, of_job) = config.split_once(&format!("job_name: {job}\n")).unwrap_or_else(|| panic!("no job {job}"));
        let targets = of_job.lines().next().expect("targets");
        assert!(targets.contains(&format!(":{port}\"")), "{job}: {targets}");
    }
    let collector = read("deploy/otel-collector.yaml");
    for (there, here) in [("otel-collector:8888", "port: 8888"), ("otel-collector:8888", "host: 0.0.0.0")] {
        assert!(config.contains(there) && collector.contains(here), "{there} {here}");
    }
}

#[test]
fn every_dashboard_is_complete() {
    let mut uids = BTreeSet::new();
    for dashboard in Dashboard::all() {
        let (file, json) = (dashboard.file, &dashboard.json);
        assert_eq!(json["uid"], format!("config-api-{file}"));
        assert!(uids.insert(json["uid"].to_string()), "{file}: its uid is another's too");
        assert_eq!(json["tags"], json!(["config-api"]), "{file}");
        assert!(json["title"].as_str().is_some_and(|title| title.starts_with("Config API: ")), "{file}");
        let variables = json["templating"]["list"].as_array().expect("variables");
        let variable = |name: &str| variables.iter().find(|variable| variable["name"] == name).unwrap_or(&Value::Null);
        for (name, query) in [("datasource", "prometheus"), ("traces", "jaeger")] {
            assert_eq!(
                (&variable(name)["type"], &variable(name)["query"]),
                (&json!("datasource"), &json!(query)),
                "{file}"
            );
        }
        for link in json["links"].as_array().expect("links").iter().filter(|link| link["type"] == "link") {
            assert!(trace_search(link["url"].as_str().expect("a URL")).is_some(), "{file}: {link}");
        }
        let all = dashboard.rows_and_panels();
        let ids: BTreeSet<_> = all.iter().map(|panel| panel["id"].as_u64().expect("an id")).collect();
        assert_eq!(ids.len(), all.len(), "{file}: an id is there twice");
        let panels: Vec<_> = dashboard.panels().collect();
        for (number, panel) in panels.iter().enumerate() {
            panel_is_complete(panel);
            let [left, top, right, bottom] = panel.square();
            let overlaps = |other: &Panel<'_>| {
                let [x, y, end, foot] = other.square();
                x < right && left < end && y < bottom && top < foot
            };
            assert!(right <= 24 && !panels[..number].iter().any(overlaps), "{}: its place", panel.place());
        }
    }
}

fn panel_is_complete(panel: &Panel<'_>) {
    let place = panel.place();
    assert!(
        !panel.text("title").is_empty() && panel.text("description").ends_with('.'),
        "{place}: title and description"
    );
    assert!(panel.defaults()["unit"].as_str().is_some_and(|unit| !unit.is_empty()), "{place}: no unit");
    let searches = panel.trace_searches();
    assert!(!searches.is_empty(), "{place}: no link to traces");
    for search in searches {
        assert_eq!(search["datasource"], json!({"type": "jaeger", "uid": "${traces}"}), "{place}");
        assert!(search["service"].as_str().is_some_and(|service| !service.is_empty()), "{place}: {search}");
    }
    if panel.text("type") == "stat" {
        assert!(panel.defaults()["thresholds"]["steps"].is_array(), "{place}: no thresholds");
    }
    for source in panel.targets().iter().map(|target| &target["datasource"]).chain([&panel.json["datasource"]]) {
        assert_eq!(source, &json!({"type": "prometheus", "uid": "${datasource}"}), "{place}");
    }
    for query in panel.queries() {
        for (function, range) in asked(query).ranges {
            let total = function == "increase" && range == "$__range";
            assert!(range == "$__rate_interval" || total, "{place}: [{range}] in {query}");
        }
    }
}

/// A metric that was renamed leaves an alert that never fires, and a panel that is empty.
#[tokio::test]
async fn every_metric_and_label_that_is_asked_for_is_exported() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    let standalone = Standalone::start(&Database::new().await).await;
    for client in [&command.client, &standalone.client] {
        client.put("a", 1).await;
    }
    let mut exported = Exported::default();
    for client in [&command.client, &query.client, &standalone.client] {
        exported.add(&client.get("/metrics").await.body);
    }
    for rule in rules(&read(ALERTS)) {
        let asked = asked(&rule["expr"]);
        exported.has(rule.get("alert").unwrap_or_else(|| &rule["record"]), &asked);
        if let Some(name) = rule.get("record") {
            let set = rule.get("labels").map(String::as_str).unwrap_or_default().trim_matches(['{', '}']);
            let set = set.split(", ").filter_map(|label| label.split_once(": "));
            exported.record(name, &set.map(|(label, value)| (label.to_owned(), value.to_owned())).collect::<Vec<_>>());
        }
    }
    for dashboard in Dashboard::all() {
        for panel in dashboard.panels() {
            for target in panel.targets() {
                exported.has(&panel.place(), &asked(target["expr"].as_str().expect("a query")));
                let legend = target["legendFormat"].as_str().unwrap_or_default();
                for label in legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()) {
                    assert!(exported.labels().contains(label), "{}: {legend}", panel.place());
                }
            }
        }
    }
    for query in promql_of_the_runbook() {
        exported.has(RUNBOOK, &asked(&query));
    }
}

/// Of both forms: two services, and one process.
#[tokio::test]
async fn every_panel_and_every_query_of_the_runbook_shows_something_of_real_services() {
    let (database, other) = (Database::new().await, Database::new().await);
    let start = async |program: &str, database: &Database| {
        let service = Process::start(program, &["--database-url", &database.url]).await;
        service.client.until_ready().await;
        service
    };
    let command = start("command-service", &database).await;
    let queries = [start("query-service", &database).await, start("query-service", &database).await];
    let both = start("config-api", &other).await;
    let prometheus = Prometheus::start(
        &root().join(ALERTS),
        &[
            ("command-service", &[command.client.base()]),
            ("query-service", &[queries[0].client.base(), queries[1].client.base()]),
            ("config-api", &[both.client.base()]),
        ],
    )
    .await;
    let mut load = JoinSet::new();
    for (writes, reads) in [(&command, &queries[0]), (&command, &queries[1]), (&both, &both)] {
        load.spawn(ask_for_everything(writes.client.clone(), reads.client.clone()));
        load.spawn(watch(reads.client.clone()));
    }
    let mut asked: Vec<(String, String)> = vec![];
    for dashboard in Dashboard::all() {
        for panel in dashboard.panels() {
            for job in ["command-service|query-service", "config-api"] {
                asked.extend(panel.queries().map(|query| (panel.place(), filled_in(query, job))));
            }
        }
    }
    asked.extend(promql_of_the_runbook().into_iter().map(|query| (RUNBOOK.to_owned(), query)));
    assert!(asked.len() > 200, "{}", asked.len());
    for (place, query) in asked {
        until(&format!("{place} shows something by\n{query}"), async || {
            assert!(load.try_join_next().is_none(), "the load ended");
            prometheus.query(&query).await.iter().any(is_a_number).then_some(())
        })
        .await;
    }
    let unwell: Vec<_> = prometheus.rules().await.into_iter().filter(|rule| rule["health"] != "ok").collect();
    assert!(unwell.is_empty(), "{unwell:#?}");
}

/// What Grafana puts in for its variables.
fn filled_in(query: &str, job: &str) -> String {
    let query = query.replace("$job", job).replace("$instance", ".+");
    query.replace("$__rate_interval", "10s").replace("$__range", "1m")
}

fn is_a_number(series: &Value) -> bool {
    series["value"][1].as_str().is_some_and(|value| value.parse::<f64>().is_ok_and(f64::is_finite))
}

/// Every kind of write and read, again and again.
async fn ask_for_everything(writes: Client, reads: Client) {
    for round in 0.. {
        let name = format!("name-{round}");
        let path = format!("/v1/config/{name}");
        let written = writes.put(&name, "one").await;
        writes.put_with(&name, r#"{"value":"two"}"#, &[("idempotency-key", &name)]).await;
        writes.put_with(&name, r#"{"value":"two"}"#, &[("idempotency-key", &name)]).await;
        writes.put_with(&name, r#"{"value":"three"}"#, &[("if-match", "\"7\"")]).await;
        let body = json!({"operations": [{"op": "set", "name": "batch", "value": round}]});
        let json = [("content-type", "application/json")];
        writes.send(Method::POST, "/v1/batch", &json, Some(body.to_string())).await;
        writes.send(Method::POST, &format!("{path}/rollback"), &json, Some(r#"{"version":1}"#.to_owned())).await;
        reads.value_after(&name, &written).await;
        writes.delete(&name).await;
        let position = written.header("config-position").to_owned();
        for path in [
            "/v1/config?limit=2",
            "/config",
            "/v1/config?consistency=strong",
            &path,
            &format!("{path}/history"),
            &format!("{path}/versions/1"),
            &format!("/v1/diff?from=0&to={position}"),
            "/v1/events?limit=3",
        ] {
            reads.get(path).await;
        }
    }
}

/// Reads on, so that it is never slow.
async fn watch(client: Client) {
    let mut watcher = client.watch("", None).await;
    while watcher.next().await.is_some() {}
}

fn alerts() -> Vec<Rule> {
    rules(&read(ALERTS)).into_iter().filter(|rule| rule.contains_key("alert")).collect()
}

/// Each query of a block `promql`; a line that begins with `#` says what it asks.
fn promql_of_the_runbook() -> Vec<String> {
    let text = read(RUNBOOK);
    let blocks = text.split("```promql\n").skip(1).map(|block| block.split("```").next().expect("its end"));
    let queries = blocks.flat_map(|block| block.lines().filter(|line| !line.starts_with('#') && !line.is_empty()));
    let queries: Vec<_> = queries.map(str::to_owned).collect();
    assert!(queries.len() > 10, "{queries:?}");
    queries
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the root").to_owned()
}
