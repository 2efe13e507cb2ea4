//! Reading a binary's settings: flags win over the environment, that over the file, that over the defaults.

use std::{ffi::OsString, io::Write, path::PathBuf, process::ExitCode};

use clap::{
    Arg, Command, CommandFactory, FromArgMatches,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::{
    file::File,
    print,
    usage::{UsageError, usage},
};

/// What the command line asks for.
#[derive(Debug)]
pub enum Asked<S> {
    /// To run with these settings.
    Run(S),
    /// To print this and end: help, version, settings.
    Print(String),
}

/// Defaults that only the binary knows, by the settings' names.
#[derive(Clone, Debug, Default)]
pub struct Defaults {
    /// Those that are taken as if they had been given.
    pub given: Vec<(&'static str, String)>,
    /// Those that the binary works out when a setting is not given; only shown here.
    pub worked_out: Vec<(&'static str, String)>,
}

/// The process's own settings.
///
/// # Errors
/// The exit code to end with; everything is said.
pub fn parse<S: CommandFactory + FromArgMatches>(defaults: &Defaults) -> Result<S, ExitCode> {
    match read(&std::env::args_os().collect::<Vec<_>>(), defaults) {
        Ok(Asked::Run(settings)) => Ok(settings),
        Ok(Asked::Print(text)) => {
            // A reader that has seen enough, such as head, is no fault.
            let _unread = std::io::stdout().write_all(text.as_bytes());
            Err(ExitCode::SUCCESS)
        }
        Err(error) => Err(crate::telemetry::fail(S::command().get_name(), &error)),
    }
}

/// The settings that these arguments and this process's environment make.
///
/// # Errors
/// What was wrong, in one line.
pub fn read<S: CommandFactory + FromArgMatches>(
    arguments: &[OsString],
    defaults: &Defaults,
) -> Result<Asked<S>, UsageError> {
    let mut command = without_empty_variables(S::command());
    for (id, text) in &defaults.given {
        let text = text.clone();
        command = command.mut_arg(id, |arg| arg.default_value(text).required(false));
    }
    let told = |command: &Command, error: clap::Error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            Ok(Asked::Print(format!("{}\n", error.to_string().trim_end())))
        }
        _ => Err(usage(explain(command, arguments, &error))),
    };
    // First only to find the file; what is wrong beside it is told by the second look.
    let file = match command.clone().ignore_errors(true).try_get_matches_from(arguments) {
        Ok(found) => found.get_one::<PathBuf>("config").map(|path| File::read(path)).transpose().map_err(usage)?,
        Err(error) => return told(&command, error),
    };
    if let Some(file) = &file {
        command = file.apply(command).map_err(usage)?;
    }
    let matches = match command.try_get_matches_from_mut(arguments) {
        Ok(matches) => matches,
        Err(error) => return told(&command, error),
    };
    let task = matches.subcommand();
    if matches.get_flag("print_config") || task.is_some_and(|(_, task)| task.get_flag("print_config")) {
        // In the order of the definition, which changed defaults have changed.
        let order = S::command();
        let levels =
            [Some((&order, &matches)), task.and_then(|(name, task)| Some((order.find_subcommand(name)?, task)))];
        return Ok(Asked::Print(print::settings(levels.into_iter().flatten(), &defaults.worked_out, file.as_ref())));
    }
    S::from_arg_matches(&matches).map(Asked::Run).map_err(|error| usage(one_line(&error)))
}

/// A variable that is set to nothing is as good as none: so compose files write it.
fn without_empty_variables(command: Command) -> Command {
    command.mut_args(|arg| {
        let empty = arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
        if empty { arg.env(None::<&str>) } else { arg }
    })
}

/// clap's own words in one line, with what it leaves out: that the value came from the environment, and how to get help.
fn explain(command: &Command, arguments: &[OsString], error: &clap::Error) -> String {
    let named = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(named)) => named.as_str(),
        _ => "",
    };
    let flag = named.split(' ').next().unwrap_or_default();
    let given = arguments
        .iter()
        .any(|argument| argument.to_str().is_some_and(|argument| argument.split('=').next() == Some(flag)));
    let is_named = |arg: &&Arg| arg.get_long().is_some_and(|long| flag.strip_prefix("--") == Some(long));
    let variable = command.get_arguments().find(is_named).and_then(Arg::get_env).filter(|_| !given);
    let from = variable.filter(|variable| std::env::var_os(variable).is_some());
    let from = from.map(|variable| format!(" (from the environment variable {})", variable.display()));
    format!("{}{}; see {} --help", one_line(error), from.unwrap_or_default(), command.get_name())
}

/// Without its heading, its usage and its advice to ask for help.
pub(super) fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let told: Vec<_> = lines.filter(|line| !line.is_empty() && !line.starts_with("For more information")).collect();
    let told = told.join("; ").replace(":; ", ": ");
    without_credentials(told.strip_prefix("error: ").unwrap_or(&told))
}

/// A URL in a wrong place may hold a password.
fn without_credentials(text: &str) -> String {
    let word = |word: &str| if word.contains('@') { "'***'".to_owned() } else { word.to_owned() };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::settings::SourceArgs;

    #[derive(Debug, Parser)]
    #[command(name = "program", version)]
    struct Cli {
        #[command(flatten)]
        source: SourceArgs,
        /// Bytes
        #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u64).range(1..=100))]
        size_bytes: u64,
        #[arg(long)]
        place: String,
        #[arg(long)]
        loud: bool,
        #[arg(long, hide_env_values = true)]
        url: Option<String>,
    }

    /// Reads these arguments, and this file if there is one.
    fn asked(arguments: &[&str], file: Option<&str>) -> Result<Asked<Cli>, String> {
        let written = file.map(|text| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            file
        });
        let mut all: Vec<OsString> = vec!["program".into()];
        all.extend(written.iter().flat_map(|file| ["--config".into(), file.path().into()]));
        all.extend(arguments.iter().map(Into::into));
        let given = vec![("place", "here".to_owned())];
        let asked = read(&all, &Defaults { given, worked_out: vec![("url", "worked out".to_owned())] });
        asked.map_err(|error| crate::telemetry::Chain(&error).to_string())
    }

    fn settings(arguments: &[&str], file: Option<&str>) -> Cli {
        match asked(arguments, file) {
            Ok(Asked::Run(settings)) => settings,
            other => panic!("{other:?}"),
        }
    }

    fn printed(arguments: &[&str], file: Option<&str>) -> String {
        match asked(arguments, file) {
            Ok(Asked::Print(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_win_over_the_file_and_that_over_the_defaults() {
        let file = Some("size_bytes = 20\nloud = true");
        let plain = settings(&[], None);
        assert_eq!((plain.size_bytes, plain.place.as_str(), plain.loud), (7, "here", false));
        let filed = settings(&[], file);
        assert_eq!((filed.size_bytes, filed.place.as_str(), filed.loud), (20, "here", true));
        let flagged = settings(&["--size-bytes", "30", "--place=there"], file);
        assert_eq!((flagged.size_bytes, flagged.place.as_str(), flagged.loud), (30, "there", true));
    }

    #[test]
    fn a_fault_in_the_file_is_one_line_that_names_the_key_and_the_remedy() {
        for (file, told) in [
            ("size_byts = 1", "there is no setting `size_byts`; is `size_bytes` meant?"),
            ("size-bytes = 1", "there is no setting `size-bytes`; is `size_bytes` meant?"),
            ("xyz = 1", "there is no setting `xyz`; known: loud, place, size_bytes, url"),
            ("config = \"x\"", "there is no setting `config`"),
            ("place = \"x\"\nsize_bytes = 0", "`size_bytes`: invalid value '0'"),
            ("size_bytes = 0", "0 is not in 1..=100"),
            ("loud = 1", "`loud`: `1` is neither true nor false"),
            ("url = { a = 1 }", "`url` is a table; settings stand without one"),
            ("url = [1]", "`url` must be a text, a number, true or false, or a list of texts"),
            ("place = \"x\"\nsize_bytes", ":2: no TOML"),
            ("loud = true\nloud = true", ":2: no TOML: duplicate key"),
        ] {
            let error = asked(&[], Some(file)).unwrap_err();
            assert!(error.contains(told), "{file}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
        let missing = asked(&["--config", "/does/not/exist"], None).unwrap_err();
        assert!(missing.contains("/does/not/exist cannot be read: No such file"), "{missing}");
    }

    #[test]
    fn a_fault_on_the_command_line_is_one_line_with_a_suggestion() {
        for (arguments, told) in [
            (
                vec!["--size-byte", "1"],
                "unexpected argument '--size-byte' found; tip: a similar argument exists: '--size-bytes'",
            ),
            (
                vec!["--size-bytes", "x"],
                "invalid value 'x' for '--size-bytes <SIZE_BYTES>': invalid digit found in string",
            ),
            (vec!["--size-bytes"], "a value is required"),
            (vec!["more"], "unexpected argument 'more' found"),
            (vec!["postgres://me:secret@h/d"], "unexpected argument '***' found"),
        ] {
            let error = asked(&arguments, None).unwrap_err();
            assert!(error.starts_with(told) && error.ends_with("; see program --help"), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn what_is_printed_can_be_a_file_and_names_its_sources_but_no_secrets() {
        let url = "postgres://me:secret@host/db?sslpassword=secret&sslmode=require";
        let text = printed(&["--print-config", "--place", "a \"b\"", "--url", url], Some("size_bytes = 9"));
        for line in [
            "size_bytes = 9  # file /",
            "place = 'a \"b\"'  # flag --place",
            "loud = false  # default",
            "url = \"postgres://me:***@host/db?sslpassword=***&sslmode=require\"  # flag --url",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        assert!(!text.contains("secret"), "{text}");
        assert!(printed(&["--print-config"], None).contains("# url = \"worked out\"  # default"));
        let again = settings(&[], Some(&text));
        assert_eq!((again.size_bytes, again.place.as_str(), again.loud), (9, "a \"b\"", false));
    }

    #[test]
    fn what_is_no_url_may_be_a_password() {
        for url in ["postgres:/me:secret@h/d", "me:secret@h/d", "postgresql:me:secret@h/d", "postgres://h/d?pwd=secret"]
        {
            let text = printed(&["--print-config", "--url", url], None);
            assert!(!text.contains("secret") && text.contains("***"), "{text}");
        }
    }

    #[test]
    fn help_and_version_are_asked_for_and_no_faults() {
        assert!(printed(&["--help"], None).contains("--size-bytes"));
        assert_eq!(printed(&["--version"], None), format!("program {}\n", env!("CARGO_PKG_VERSION")));
    }
}
