//! A problem of the text: what, where, and the cure. How it is shown is `cli/problems.rs`.

use crate::model::acl::WordRefusal;
use crate::model::desired::{Located, Origin};
use crate::model::plan::Refusal;

/// Something that is wrong with the text, for a person who wrote it. No part of it repeats a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong, in one line.
    pub title: String,
    pub at: Origin,
    /// What is to be seen at the place.
    pub label: String,
    /// Other places that have to do with it.
    pub others: Vec<(Origin, String)>,
    /// The cure.
    pub help: Option<String>,
}

impl Problem {
    pub fn new(title: impl Into<String>, at: Origin, label: impl Into<String>) -> Self {
        Self { title: title.into(), at, label: label.into(), others: Vec::new(), help: None }
    }

    #[must_use]
    pub fn other(mut self, at: Origin, label: impl Into<String>) -> Self {
        self.others.push((at, label.into()));
        self
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// An ACL word that must not be declared. A word that may be a password is not repeated by the cure.
    pub(super) fn of_word(key: &str, word: &Located<&str>, refusal: WordRefusal) -> Self {
        let problem = Self::new(format!("{key}: {}", refusal.problem), word.at, "refused");
        if word.value.starts_with(['>', '<', '#', '!']) {
            problem.help("say passwords in password_sha256 or password")
        } else {
            problem.help(refusal.cure)
        }
    }
}

/// In the order of files and places, each once.
pub(super) fn sort(problems: &mut Vec<Problem>) {
    problems.sort_by(|a, b| (a.at, &a.title).cmp(&(b.at, &b.title)));
    problems.dedup();
}

/// What the nodes' own servers would refuse, in the same form as what `check` finds.
pub fn refusals_to_problems(refusals: &[Refusal]) -> Vec<Problem> {
    let problem = |refusal: &Refusal| {
        let found = Problem::new(refusal.problem.clone(), refusal.at, "declared here");
        if refusal.cure.is_empty() { found } else { found.help(refusal.cure.clone()) }
    };
    let mut problems: Vec<Problem> = refusals.iter().map(problem).collect();
    sort(&mut problems);
    problems
}

/// What was probably meant by a name; nothing for a name so long that comparing would cost more than it helps.
pub fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const NAME_BYTES_MAX: usize = 256;
    if name.len() > NAME_BYTES_MAX { None } else { crate::model::binary::nearest(name, candidates) }
}

/// A name as it may stand in a message: quoted, control characters escaped, not endless.
pub(super) fn quoted(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    match text.char_indices().nth(CHARS_MAX) {
        None => format!("{text:?}"),
        Some((cut, _)) => format!("{:?}…", text.get(..cut).unwrap_or_default()),
    }
}
