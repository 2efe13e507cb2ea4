//! The rules of `deploy/prometheus/alerts.yml`, and their tests, as far as their YAML goes: one key on a line, folded and
//! literal blocks.

use std::collections::{BTreeMap, BTreeSet};

/// A rule: `record` or `alert`, `expr`, `summary`, …
pub(super) type Rule = BTreeMap<String, String>;

/// Every rule, in order.
pub(super) fn rules(text: &str) -> Vec<Rule> {
    let mut rules: Vec<Rule> = vec![];
    let mut last = String::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let indent = line.len() - line.trim_start().len();
        let new = line
            .trim_start()
            .strip_prefix("- ")
            .filter(|entry| entry.starts_with("record:") || entry.starts_with("alert:"));
        if new.is_some() {
            rules.push(Rule::new());
        }
        let Some(rule) = rules.last_mut() else { continue };
        let entry = new.unwrap_or(line.trim());
        // A key stands at 8, or at 10 below annotations; a block's lines are deeper or have no key.
        match entry
            .split_once(':')
            .filter(|(key, _)| new.is_some() || key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        {
            Some((key, value)) if new.is_some() || indent <= 10 => {
                key.clone_into(&mut last);
                rule.insert(
                    last.clone(),
                    value.trim().trim_matches('"').trim_matches(['>', '-', '|']).trim().to_owned(),
                );
            }
            _ if indent > 8 => {
                let text = rule.entry(last.clone()).or_default();
                text.push(' ');
                text.push_str(entry);
            }
            _ => {}
        }
    }
    rules
}

/// Which alerts have a test in which they fire, and which one in which they do not.
pub(super) fn tested(text: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut firing, mut silent) = (BTreeSet::new(), BTreeSet::new());
    let mut alert = "";
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("alertname: ") {
            alert = name;
        } else if line == "exp_alerts: []" {
            silent.insert(alert.to_owned());
        } else if line == "exp_alerts:" {
            firing.insert(alert.to_owned());
        }
    }
    (firing, silent)
}
