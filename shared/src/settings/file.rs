//! The file of settings: flat TOML, whose keys are the flags' names with `_`.

use std::path::{Path, PathBuf};

use clap::{Arg, Command};
use toml::{Table, Value};

/// Keys that name no setting: they are about settings, or ask for something else.
pub(super) const NO_SETTINGS: [&str; 5] = ["config", "print_config", "live", "help", "version"];

/// How alike two names must be, from 0 to 1, for one to be suggested.
const LIKENESS: f64 = 0.75;

/// The file cannot be used. Each names it.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    /// It is not there, or not ours to read.
    #[error("the settings file {} cannot be read", .path.display())]
    Unreadable {
        /// Of the file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no TOML.
    #[error("{}:{line}: no TOML: {message}; write a line as max_value_bytes = 65536, and texts in double quotes", .path.display())]
    Malformed {
        /// Of the file.
        path: PathBuf,
        /// Where, from 1 on.
        line: usize,
        /// What.
        message: String,
    },
    /// A key that is no setting of this program.
    #[error("{}: there is no setting `{key}`; {hint}", .path.display())]
    Unknown {
        /// Of the file.
        path: PathBuf,
        /// As it stands there.
        key: String,
        /// The one that may be meant, or all.
        hint: String,
    },
    /// Settings are not grouped.
    #[error("{}: `{key}` is a table; settings stand without one, each on a line as max_value_bytes = 65536", .path.display())]
    Table {
        /// Of the file.
        path: PathBuf,
        /// As it stands there.
        key: String,
    },
    /// A date, or a list of other things than texts.
    #[error("{}: `{key}` must be a text, a number, true or false, or a list of texts", .path.display())]
    Kind {
        /// Of the file.
        path: PathBuf,
        /// As it stands there.
        key: String,
    },
    /// The setting does not take this value.
    #[error("{}: `{key}`: {message}", .path.display())]
    Invalid {
        /// Of the file.
        path: PathBuf,
        /// As it stands there.
        key: String,
        /// What was wrong and what would be right.
        message: String,
    },
}

/// The settings of a file, as texts that flags take.
#[derive(Debug)]
pub(super) struct File {
    pub(super) path: PathBuf,
    entries: Vec<(String, String)>,
}

impl File {
    pub(super) fn read(path: &Path) -> Result<Self, FileError> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|source| FileError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, FileError> {
        let table: Table = toml::from_str(text).map_err(|error| FileError::Malformed {
            path: path.to_owned(),
            line: error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1),
            message: error.message().replace('\n', ", "),
        })?;
        let entries = table.into_iter().map(|(key, value)| match flag_text(&value) {
            Some(text) => Ok((key, text)),
            None if value.is_table() => Err(FileError::Table { path: path.to_owned(), key }),
            None => Err(FileError::Kind { path: path.to_owned(), key }),
        });
        Ok(Self { path: path.to_owned(), entries: entries.collect::<Result<_, _>>()? })
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|(known, _)| known == key)
    }

    /// Makes the file's settings the command's defaults, so that the environment and flags win over them. Each is checked by
    /// itself first, so that a fault in the file is told as one.
    pub(super) fn apply(&self, mut command: Command) -> Result<Command, FileError> {
        for (key, text) in &self.entries {
            let Some(place) = place_of(&command, key) else { return Err(self.unknown(&command, key)) };
            command = match place {
                Place::Own => set_default(self.check(command, key, text)?, key, text),
                Place::Subcommand(name) => {
                    let mut failed = None;
                    let command = command.mut_subcommand(name, |task| match self.check(task.clone(), key, text) {
                        Ok(task) => set_default(task, key, text),
                        Err(error) => {
                            failed = Some(error);
                            task
                        }
                    });
                    failed.map_or(Ok(command), Err)?
                }
            };
        }
        Ok(command)
    }

    fn check(&self, command: Command, key: &str, text: &str) -> Result<Command, FileError> {
        let mut alone = command.clone().no_binary_name(true).mut_args(|arg| arg.required(false).env(None::<&str>));
        if alone.get_arguments().any(|arg| arg.get_id() == key && is_switch(arg)) {
            return match text {
                "true" | "false" => Ok(command),
                _ => Err(self.invalid(key, format!("`{text}` is neither true nor false"))),
            };
        }
        let flag = format!("--{}={text}", key.replace('_', "-"));
        match alone.try_get_matches_from_mut([flag]) {
            Ok(_) => Ok(command),
            Err(error) => Err(self.invalid(key, super::read::one_line(&error))),
        }
    }

    fn invalid(&self, key: &str, message: String) -> FileError {
        FileError::Invalid { path: self.path.clone(), key: key.to_owned(), message }
    }

    fn unknown(&self, command: &Command, key: &str) -> FileError {
        let own = command.get_arguments().map(|arg| arg.get_id().as_str());
        let tasks = command.get_subcommands().flat_map(Command::get_arguments).map(|arg| arg.get_id().as_str());
        let mut known: Vec<_> = own.chain(tasks).filter(|id| !NO_SETTINGS.contains(id)).collect();
        known.sort_unstable();
        known.dedup();
        let likeness = |id: &&str| strsim::jaro_winkler(&key.replace('-', "_").to_lowercase(), id);
        let nearest = known.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
        let hint = match nearest.filter(|id| likeness(id) >= LIKENESS) {
            Some(id) => format!("is `{id}` meant?"),
            None => format!("known: {}", known.join(", ")),
        };
        FileError::Unknown { path: self.path.clone(), key: key.to_owned(), hint }
    }
}

/// To which command a key belongs.
enum Place {
    Own,
    Subcommand(String),
}

fn place_of(command: &Command, key: &str) -> Option<Place> {
    let has = |command: &Command| command.get_arguments().any(|arg| arg.get_id() == key);
    if NO_SETTINGS.contains(&key) {
        return None;
    }
    if has(command) {
        return Some(Place::Own);
    }
    command.get_subcommands().find(|task| has(task)).map(|task| Place::Subcommand(task.get_name().to_owned()))
}

fn set_default(command: Command, key: &str, text: &str) -> Command {
    let text = text.to_owned();
    command.mut_arg(key, |arg| arg.default_value(text).required(false))
}

/// Takes no value as a flag.
fn is_switch(arg: &Arg) -> bool {
    !arg.get_action().takes_values()
}

/// As it would stand behind the flag.
fn flag_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Boolean(yes) => Some(yes.to_string()),
        Value::Array(items) => {
            let texts: Option<Vec<_>> = items.iter().map(Value::as_str).collect();
            texts.map(|texts| texts.join(","))
        }
        Value::Datetime(_) | Value::Table(_) => None,
    }
}
