//! `--print-config`: the settings as they are, in the form of the file, each with where it comes from.

use clap::{Arg, ArgMatches, Command, parser::ValueSource};
use url::Url;

use super::file::{File, NO_SETTINGS};
use crate::database::URL_PARAMETERS;

/// What stands in place of a secret.
const HIDDEN: &str = "***";

/// One line for each setting: `name = value  # source`. `levels` are the command, and the task if one is asked for.
pub(super) fn settings<'a>(
    levels: impl Iterator<Item = (&'a Command, &'a ArgMatches)>,
    worked_out: &[(&'static str, String)],
    file: Option<&File>,
) -> String {
    let mut text = String::from("# A flag wins over the environment, that over the file, that over the default.\n");
    let mut told = vec![];
    for (command, matches) in levels {
        for arg in command.get_arguments() {
            let id = arg.get_id().as_str();
            if !NO_SETTINGS.contains(&id) && !told.contains(&id.to_owned()) {
                text.push_str(&line(arg, matches, worked_out, file));
                told.push(id.to_owned());
            }
        }
    }
    text
}

fn line(arg: &Arg, matches: &ArgMatches, worked_out: &[(&'static str, String)], file: Option<&File>) -> String {
    let id = arg.get_id().as_str();
    let source = match matches.value_source(id) {
        Some(ValueSource::CommandLine) => format!("flag --{}", id.replace('_', "-")),
        Some(ValueSource::EnvVariable) => format!("environment {}", arg.get_env().unwrap_or_default().display()),
        Some(_) => match file.filter(|file| file.has(id)) {
            Some(file) => format!("file {}", file.path.display()),
            None => "default".to_owned(),
        },
        None => {
            return match worked_out.iter().find(|(name, _)| *name == id) {
                Some((_, value)) => format!("# {id} = {}  # default\n", literal(value)),
                None => format!("# {id} is not set\n"),
            };
        }
    };
    let value = if arg.get_action().takes_values() {
        let values = matches.get_raw(id).into_iter().flatten().map(|value| value.to_string_lossy());
        values.collect::<Vec<_>>().join(",")
    } else {
        matches.get_flag(id).to_string()
    };
    let shown = if arg.is_hide_env_values_set() { without_password(&value) } else { value };
    format!("{id} = {}  # {source}\n", literal(&shown))
}

/// As TOML: numbers, `true` and `false` bare, everything else quoted.
fn literal(value: &str) -> String {
    if value.parse::<i64>().is_ok() || is_decimal(value) || matches!(value, "true" | "false") {
        return value.to_owned();
    }
    toml::Value::String(value.to_owned()).to_string()
}

/// A number as TOML has it: digits on both sides of a dot.
fn is_decimal(value: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    value
        .split_once('.')
        .is_some_and(|(whole, part)| digits(whole) && digits(part) && (whole == "0" || !whole.starts_with('0')))
}

/// A URL without its password; what is no Postgres URL is not shown at all, nor a parameter that the driver does not know.
fn without_password(value: &str) -> String {
    let url =
        Url::parse(value).ok().filter(|url| ["postgres", "postgresql"].contains(&url.scheme()) && url.has_authority());
    let Some(mut url) = url else { return HIDDEN.to_owned() };
    if url.password().is_some() && url.set_password(Some(HIDDEN)).is_err() {
        return HIDDEN.to_owned();
    }
    if url.query().is_some() {
        let shown = |name: &str| URL_PARAMETERS.contains(&name) && !name.contains("password");
        let pairs = url.query_pairs().map(|(name, value)| {
            let value = if shown(&name) { value.into_owned() } else { HIDDEN.to_owned() };
            (name.into_owned(), value)
        });
        let pairs: Vec<_> = pairs.collect();
        url.query_pairs_mut().clear().extend_pairs(pairs);
    }
    url.to_string()
}
