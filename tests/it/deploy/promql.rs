//! What of PromQL the rules, the dashboards and the runbook use: which series a query asks for, and by which labels.

/// One `metric{label="value"}` of a query.
#[derive(Debug, PartialEq)]
pub(super) struct Selector {
    pub(super) metric: String,
    /// Label, operator, value.
    pub(super) matchers: Vec<(String, String, String)>,
}

/// What a query asks for.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) selectors: Vec<Selector>,
    /// The labels by which it groups or joins.
    pub(super) labels: Vec<String>,
    /// The ranges in brackets, each with the function around it.
    pub(super) ranges: Vec<(String, String)>,
}

const OPERATORS: [&str; 5] = ["and", "or", "unless", "bool", "offset"];
const GROUPINGS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
const AGGREGATIONS: [&str; 9] = ["sum", "min", "max", "avg", "count", "topk", "bottomk", "quantile", "group"];

/// Reads a query.
pub(super) fn asked(query: &str) -> Asked {
    let mut asked = Asked::default();
    let mut functions: Vec<String> = vec![];
    let mut rest = query.trim_start();
    while let Some(first) = rest.chars().next() {
        if first.is_ascii_alphabetic() || first == '_' {
            let (word, behind) = split_word(rest);
            let next = behind.trim_start();
            if GROUPINGS.contains(&word) {
                let list = next.strip_prefix('(').and_then(|list| list.split_once(')'));
                let (list, behind) = list.unwrap_or(("", next));
                asked.labels.extend(list.split(',').map(|label| label.trim().to_owned()).filter(|l| !l.is_empty()));
                rest = behind;
            } else if OPERATORS.contains(&word) || AGGREGATIONS.contains(&word) {
                rest = next;
            } else if let Some(inside) = next.strip_prefix('(') {
                functions.push(word.to_owned());
                rest = inside;
            } else {
                let (matchers, behind) = matchers(next);
                asked.selectors.push(Selector { metric: word.to_owned(), matchers });
                rest = behind;
            }
        } else if first.is_ascii_digit() {
            rest = rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '.');
        } else if first == '"' {
            rest = text(rest).1;
        } else {
            match first {
                '(' => functions.push(String::new()),
                ')' => drop(functions.pop()),
                '[' => {
                    let range = rest[1..].split(']').next().unwrap_or_default();
                    asked.ranges.push((functions.last().cloned().unwrap_or_default(), range.to_owned()));
                    rest = &rest[range.len() + 1..];
                }
                _ => {}
            }
            rest = &rest[first.len_utf8()..];
        }
        rest = rest.trim_start();
    }
    asked
}

fn split_word(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':').unwrap_or(text.len()))
}

/// What stands in quotes at the beginning, and what is behind.
fn text(quoted: &str) -> (&str, &str) {
    quoted[1..].split_once('"').unwrap_or((&quoted[1..], ""))
}

fn matchers(next: &str) -> (Vec<(String, String, String)>, &str) {
    let Some(mut rest) = next.strip_prefix('{') else { return (vec![], next) };
    let mut found = vec![];
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(behind) = rest.strip_prefix('}') {
            return (found, behind);
        }
        let (label, behind) = split_word(rest);
        let quote = behind.find('"').unwrap_or_else(|| panic!("a matcher in {next}"));
        let (value, behind_value) = text(&behind[quote..]);
        found.push((label.to_owned(), behind[..quote].to_owned(), value.to_owned()));
        rest = behind_value;
    }
}

#[test]
fn a_query_is_read() {
    let asked = asked(
        r#"histogram_quantile(0.99, sum by (job, le) (rate(a_bucket{x=~"{b}|c", y!="d"}[5m]))) or 0 * on (z) group_left e:f > 1e3"#,
    );
    let matcher = |label: &str, operator: &str, value: &str| (label.to_owned(), operator.to_owned(), value.to_owned());
    let first = Selector {
        metric: "a_bucket".to_owned(),
        matchers: vec![matcher("x", "=~", "{b}|c"), matcher("y", "!=", "d")],
    };
    assert_eq!(asked.selectors, [first, Selector { metric: "e:f".to_owned(), matchers: vec![] }]);
    assert_eq!(asked.labels, ["job", "le", "z"]);
    assert_eq!(asked.ranges, [("rate".to_owned(), "5m".to_owned())]);
}
