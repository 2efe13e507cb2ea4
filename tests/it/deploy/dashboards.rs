//! The dashboards of `deploy/grafana/dashboards/`.

use std::fs;

use percent_encoding::percent_decode_str;
use serde_json::Value;

use super::root;

pub(super) const FILES: [&str; 5] = ["overview", "writes", "reads", "projection", "event-store"];

/// A dashboard, by its file's name.
#[derive(Debug)]
pub(super) struct Dashboard {
    pub(super) file: &'static str,
    pub(super) json: Value,
}

impl Dashboard {
    pub(super) fn all() -> Vec<Self> {
        let folder = root().join("deploy/grafana/dashboards");
        assert_eq!(fs::read_dir(&folder).expect("the folder").count(), FILES.len(), "FILES names every dashboard");
        let read = |file| fs::read_to_string(folder.join(format!("{file}.json"))).expect("a dashboard");
        FILES.map(|file| Self { file, json: serde_json::from_str(&read(file)).expect("JSON") }).into()
    }

    pub(super) fn rows_and_panels(&self) -> &Vec<Value> {
        self.json["panels"].as_array().expect("panels")
    }

    /// Without the rows.
    pub(super) fn panels(&self) -> impl Iterator<Item = Panel<'_>> {
        let panels = self.rows_and_panels().iter().filter(|panel| panel["type"] != "row");
        panels.map(|json| Panel { dashboard: self.file, json })
    }
}

/// A panel that shows something.
#[derive(Debug)]
pub(super) struct Panel<'a> {
    dashboard: &'static str,
    pub(super) json: &'a Value,
}

impl<'a> Panel<'a> {
    pub(super) fn place(&self) -> String {
        format!("{}, panel {}", self.dashboard, self.text("title"))
    }

    pub(super) fn text(&self, key: &str) -> &'a str {
        self.json[key].as_str().unwrap_or_default()
    }

    pub(super) fn targets(&self) -> &'a Vec<Value> {
        self.json["targets"].as_array().unwrap_or_else(|| panic!("{}: no queries", self.place()))
    }

    pub(super) fn queries(&self) -> impl Iterator<Item = &'a str> {
        self.targets().iter().map(|target| target["expr"].as_str().unwrap_or_default())
    }

    pub(super) fn defaults(&self) -> &'a Value {
        &self.json["fieldConfig"]["defaults"]
    }

    /// Left, top, right and bottom.
    pub(super) fn square(&self) -> [u64; 4] {
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| self.json["gridPos"][key].as_u64().expect("a place"));
        [x, y, x + w, y + h]
    }

    /// The searches for traces that its data links lead to.
    pub(super) fn trace_searches(&self) -> Vec<Value> {
        let links = self.defaults()["links"].as_array().into_iter().flatten();
        let urls = links.map(|link| link["url"].as_str().expect("a URL"));
        urls.map(|url| trace_search(url).unwrap_or_else(|| panic!("{}: {url} leads to no traces", self.place())))
            .collect()
    }
}

/// The query that a link to Grafana's Explore has in it.
pub(super) fn trace_search(url: &str) -> Option<Value> {
    let (_, panes) = url.strip_prefix("/explore?schemaVersion=1&")?.split_once("panes=")?;
    let panes: Value = serde_json::from_str(&percent_decode_str(panes).decode_utf8().ok()?).ok()?;
    let pane = &panes["traces"];
    (pane["datasource"] == "${traces}" && pane["range"]["from"] == "${__from}").then(|| pane["queries"][0].clone())
}
