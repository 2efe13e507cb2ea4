//! `--print-config`: the settings as they are, in the form of the file, each with where it comes from.

use std::fmt::Write;

use clap::{ArgMatches, Command, parser::ValueSource};
use url::Url;

use super::file::{File, NO_SETTINGS};

/// What stands in place of a secret.
const HIDDEN: &str = "***";

/// One line for each setting of these `ids`: `name = value  # source`.
pub(super) fn settings<'a>(
    ids: impl Iterator<Item = &'a str>,
    command: &Command,
    matches: &ArgMatches,
    file: Option<&File>,
) -> String {
    let mut text =
        format!("# Settings of {}. A flag wins over the environment,\n", command.render_version().trim_end());
    text.push_str("# that over the file, that over the default.\n");
    let arg = |id| command.get_arguments().find(|arg| arg.get_id() == id);
    for (id, arg) in ids.filter(|id| !NO_SETTINGS.contains(id)).filter_map(|id| Some((id, arg(id)?))) {
        let values = matches.get_raw(id).into_iter().flatten().map(|value| value.to_string_lossy());
        let value = values.collect::<Vec<_>>().join(",");
        let source = match matches.value_source(id) {
            Some(ValueSource::CommandLine) => format!("flag --{}", id.replace('_', "-")),
            Some(ValueSource::EnvVariable) => format!("environment {}", arg.get_env().unwrap_or_default().display()),
            Some(_) if file.is_some_and(|file| file.has(id)) => {
                format!("file {}", file.map(|file| file.path.display().to_string()).unwrap_or_default())
            }
            Some(_) => "default".to_owned(),
            None => {
                writeln!(text, "# {id} is not set").expect("a String takes everything");
                continue;
            }
        };
        let shown = if arg.is_hide_env_values_set() { without_password(&value) } else { value };
        writeln!(text, "{id} = {}  # {source}", literal(&shown)).expect("a String takes everything");
    }
    text
}

/// As TOML: numbers, `true` and `false` bare, everything else quoted.
fn literal(value: &str) -> String {
    if value.parse::<i64>().is_ok() || matches!(value, "true" | "false") {
        return value.to_owned();
    }
    toml::Value::String(value.to_owned()).to_string()
}

/// A URL without its password; what is no URL is not shown at all.
fn without_password(value: &str) -> String {
    let Ok(mut url) = Url::parse(value) else { return HIDDEN.to_owned() };
    if url.password().is_some() && url.set_password(Some(HIDDEN)).is_err() {
        return HIDDEN.to_owned();
    }
    let hidden = |(name, value): (std::borrow::Cow<'_, str>, std::borrow::Cow<'_, str>)| {
        let secret = name.contains("password");
        (name.into_owned(), if secret { HIDDEN.to_owned() } else { value.into_owned() })
    };
    if url.query().is_some() {
        let pairs: Vec<_> = url.query_pairs().map(hidden).collect();
        url.query_pairs_mut().clear().extend_pairs(pairs);
    }
    url.to_string()
}
