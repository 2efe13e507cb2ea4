//! What of Markdown the documents use.

/// Languages of blocks. Only `sh` is run, and `promql` by the tests of what is deployed; the others hold no commands.
const LANGUAGES: [&str; 8] = ["sh", "json", "text", "toml", "yaml", "sql", "promql", "mermaid"];

/// What begins a command, outside of a block that is run.
const COMMANDS: [&str; 3] = ["curl ", "psql ", "$ "];

/// A fenced block.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) language: String,
    /// Of its fence, from 1 on.
    pub(super) line: usize,
    pub(super) text: String,
    /// Nothing but blank lines stands between it and the block before.
    pub(super) follows: bool,
}

impl Block {
    pub(super) fn is_shell(&self) -> bool {
        self.language == "sh"
    }
}

/// The blocks of a document.
///
/// # Panics
/// When a command stands where it is not run: in a block of another language, or in one that is not fenced.
pub(super) fn blocks(document: &str, text: &str) -> Vec<Block> {
    let (mut found, mut open): (Vec<Block>, Option<Block>) = (vec![], None);
    let (mut follows, mut blank_before) = (false, true);
    for (number, line) in (1..).zip(text.lines()) {
        let at = format!("{document}:{number}");
        match (&mut open, line.trim_start().strip_prefix("```")) {
            (None, Some(language)) => {
                assert!(LANGUAGES.contains(&language), "{at}: a block's language is one of {LANGUAGES:?}");
                open = Some(Block { language: language.to_owned(), line: number, text: String::new(), follows });
            }
            (Some(_), Some(_)) => {
                found.extend(open.take());
                follows = true;
            }
            (Some(block), None) => {
                let is_command = COMMANDS.iter().any(|command| line.trim_start().starts_with(command));
                assert!(block.is_shell() || !is_command, "{at}: a command in a block that is not run");
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {
                let is_code = blank_before && line.starts_with("    ") && !line.trim().is_empty();
                assert!(!is_code, "{at}: fence this block and name its language");
                assert!(!line.contains("`curl "), "{at}: a curl outside of a block is not run");
                follows &= line.trim().is_empty();
            }
        }
        blank_before = line.trim().is_empty();
    }
    assert!(open.is_none(), "{document}: the last block has no end");
    found
}

/// Where the links of a document lead.
pub(super) fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

/// The anchors of a document's headings.
pub(super) fn slugs(text: &str) -> impl Iterator<Item = String> {
    text.lines().filter(|line| line.starts_with('#')).map(|heading| {
        let title = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    })
}

/// What it quotes of the log, in lines and in `code`, without the level; `…` stands for what differs.
pub(super) fn log_lines(text: &str) -> impl Iterator<Item = &str> {
    let quoted = text.lines().chain(text.split('`'));
    quoted.filter_map(|piece| {
        let message =
            ["[info] ", "[warning] ", "[error] ", "[debug] "].iter().find_map(|level| piece.strip_prefix(level));
        message.filter(|message| !message.contains('\n'))
    })
}
