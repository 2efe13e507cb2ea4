//! Runs the shell blocks of a document as one script, so that each finds what those before it left, and compares what they
//! print with what the document says.

use std::{
    fs::{self, File},
    process::Stdio,
    time::Duration,
};

use end_to_end::process::program;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde_json::Value;
use tokio::process::Command;

use super::{markdown::Block, root};

/// Begins a line that says what the commands above it print. `…` in it stands for any text.
const PRINTS: &str = "# -> ";

/// How long a document may take. Far more than it needs: only a failing test waits so long.
const LIMIT: Duration = Duration::from_secs(120);

/// Between the outputs of two chunks.
const MARK: char = '\u{1e}';

/// What a refusal is: to a curl whose output the document states, an answer; to another one, the end.
const PRELUDE: &str = r#"set -eu
stated=no
curl() {
    case "$stated $*" in
        yes* | *" -f"* | *" -sf"*) command curl -s "$@" ;;
        *) command curl -s --fail-with-body "$@" ;;
    esac
}
"#;

/// Commands, and what they print when the document says so.
#[derive(Debug)]
pub(super) struct Chunk {
    line: usize,
    commands: String,
    prints: Option<Prints>,
}

#[derive(Debug)]
enum Prints {
    Text(String),
    /// The same fields of the same types.
    Like(Value),
}

/// Cuts blocks behind each statement of what is printed. A block of JSON right behind a shell block is one.
pub(super) fn chunks(blocks: &[Block]) -> Vec<Chunk> {
    let mut chunks: Vec<Chunk> = vec![];
    let mut behind_shell = false;
    for block in blocks {
        if block.is_shell() {
            chunks.extend(cut(block));
        } else if block.language == "json" && block.follows && behind_shell {
            let like = serde_json::from_str(&block.text).unwrap_or_else(|error| panic!("line {}: {error}", block.line));
            chunks.last_mut().expect("a block before it").prints = Some(Prints::Like(like));
        }
        behind_shell = block.is_shell();
    }
    chunks
}

fn cut(block: &Block) -> Vec<Chunk> {
    let mut chunks: Vec<Chunk> = vec![];
    let mut complete = true;
    for (line, text) in (block.line + 1..).zip(block.text.lines()) {
        if complete && !text.starts_with(PRINTS.trim_end()) {
            chunks.push(Chunk { line, commands: String::new(), prints: None });
            complete = false;
        }
        let chunk = chunks.last_mut().expect("commands come first");
        match text.strip_prefix(PRINTS) {
            Some(printed) => {
                complete = true;
                match &mut chunk.prints {
                    Some(Prints::Text(before)) => before.push_str(&format!("\n{printed}")),
                    prints => *prints = Some(Prints::Text(printed.to_owned())),
                }
            }
            None => chunk.commands.push_str(&format!("{text}\n")),
        }
    }
    chunks
}

/// Where and with what a document's blocks are run.
#[derive(Debug)]
pub(super) struct Shell {
    /// What stands in the documents, and what is meant here.
    addresses: Vec<(String, String)>,
    environment: Vec<(&'static str, String)>,
    at_exit: &'static str,
}

impl Shell {
    pub(super) fn new() -> Self {
        let own = program("config-api").parent().expect("it is in a folder").to_owned();
        let path = std::env::var("PATH").expect("there is a PATH");
        let path = format!("{}:{path}", own.display());
        Self { addresses: vec![], environment: vec![("PATH", path)], at_exit: ":" }
    }

    /// The documents' port on localhost is this service.
    pub(super) fn reaching(mut self, port: u16, base: &str) -> Self {
        let address = base.strip_prefix("http://").expect("plain HTTP").to_owned();
        self.addresses.push((format!("localhost:{port}"), address));
        self
    }

    pub(super) fn with(mut self, variable: &'static str, value: &str) -> Self {
        self.environment.push((variable, value.to_owned()));
        self
    }

    /// However the script ends, this is run.
    pub(super) fn ending_with(mut self, commands: &'static str) -> Self {
        self.at_exit = commands;
        self
    }

    /// Runs them in one shell, in the root of the repository.
    pub(super) async fn run(&self, document: &str, chunks: &[Chunk]) {
        let place = tempfile::tempdir().expect("a temporary directory");
        let (output, complaints) = (place.path().join("output"), place.path().join("complaints"));
        let mut command = Command::new("sh");
        command.arg("-c").arg(self.script(chunks)).current_dir(root()).env_clear().process_group(0);
        command.envs(self.environment.iter().map(|(name, value)| (name, value))).stdin(Stdio::null());
        command.stdout(File::create(&output).expect("a file")).stderr(File::create(&complaints).expect("a file"));
        let mut child = command.spawn().expect("there is a shell");
        let _group = Group(Pid::from_raw(child.id().and_then(|pid| i32::try_from(pid).ok()).expect("it runs")));
        let ended = tokio::time::timeout(LIMIT, child.wait()).await.map(|ended| ended.expect("it is a child"));

        let read = |path| fs::read_to_string(path).expect("it speaks UTF-8");
        let (output, complaints) = (read(output), read(complaints));
        let printed: Vec<_> = output.split(MARK).skip(1).collect();
        for (chunk, printed) in chunks.iter().zip(&printed) {
            let place = format!("{document}:{}", chunk.line);
            assert!(
                chunk.is_as_said(printed),
                "{place}: not what is said\n{}\nsaid: {:?}\nprinted: {printed}\n{complaints}",
                chunk.commands,
                chunk.prints
            );
        }
        let last = &chunks[printed.len().min(chunks.len()).saturating_sub(1)];
        let well = matches!(ended, Ok(status) if status.success()) && printed.len() == chunks.len();
        assert!(
            well,
            "{document}:{}: ended with {ended:?} at\n{}\nprinted: {:?}\n{complaints}",
            last.line,
            last.commands,
            printed.last()
        );
    }

    fn script(&self, chunks: &[Chunk]) -> String {
        let mut script = format!("{PRELUDE}trap '{}' EXIT\n", self.at_exit);
        for chunk in chunks {
            let stated = if chunk.prints.is_some() { "yes" } else { "no" };
            script.push_str(&format!("printf '\\036'; stated={stated}\n{}", chunk.commands));
        }
        for (there, here) in &self.addresses {
            script = script.replace(there, here);
        }
        script
    }
}

/// Whatever the script left running.
struct Group(Pid);

impl Drop for Group {
    fn drop(&mut self) {
        let _gone = killpg(self.0, Signal::SIGKILL);
    }
}

impl Chunk {
    fn is_as_said(&self, printed: &str) -> bool {
        match &self.prints {
            None => true,
            Some(Prints::Text(said)) => matches(&joined(said), &joined(printed)),
            Some(Prints::Like(said)) => serde_json::from_str(printed).is_ok_and(|printed| is_like(said, &printed)),
        }
    }
}

/// Without blanks around lines, and without their ends: a long line may be broken in a document.
fn joined(text: &str) -> String {
    text.lines().map(str::trim).collect()
}

/// Whether the text is the one that is said, where `…` stands for any text.
pub(super) fn matches(said: &str, printed: &str) -> bool {
    let mut pieces = said.split('…');
    let Some(mut rest) = printed.strip_prefix(pieces.next().unwrap_or_default()) else { return false };
    let mut last = None;
    for piece in pieces {
        // The one before the last is searched; the last is at the end.
        if let Some(piece) = last.replace(piece) {
            let Some((_, behind)) = rest.split_once(piece) else { return false };
            rest = behind;
        }
    }
    last.map_or(rest.is_empty(), |last| rest.ends_with(last))
}

fn is_like(said: &Value, printed: &Value) -> bool {
    match (said, printed) {
        (Value::Object(said), Value::Object(printed)) => {
            said.len() == printed.len()
                && said.iter().all(|(key, value)| printed.get(key).is_some_and(|printed| is_like(value, printed)))
        }
        (Value::Array(said), Value::Array(printed)) => {
            said.len() == printed.len() && said.iter().zip(printed).all(|(said, printed)| is_like(said, printed))
        }
        (said, printed) => std::mem::discriminant(said) == std::mem::discriminant(printed),
    }
}

#[test]
fn what_is_said_matches_what_is_printed_and_nothing_else() {
    for (said, printed) in [("OK", "OK"), ("a…c", "abbc"), ("…", ""), ("a…c…", "abcd"), ("…b", "ab"), ("ab", "a\n b\n")]
    {
        assert!(matches(&joined(said), &joined(printed)), "{said} {printed}");
    }
    for (said, printed) in [("OK", "OKs"), ("a…c", "abd"), ("a…b…c", "acb"), ("…b", "ba"), ("aa…a", "aa"), ("", "x")]
    {
        assert!(!matches(&joined(said), &joined(printed)), "{said} {printed}");
    }
}
