//! Text to a tree of spanned TOML values, with every syntax error. Knows nothing of what the keys mean.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, Error};

use super::problem::Problem;
use super::source::{FILE_BYTES_MAX, Source};
use crate::model::desired::Origin;

/// Above this size only the first syntax error of a file is looked for: text that is no TOML at all would otherwise
/// yield millions of errors. Bytes.
const ALL_ERRORS_BYTES_MAX: usize = 4 << 20;
/// More syntax errors than this in one file help nobody.
const ERRORS_MAX: usize = 50;

/// Messages of the parser that are told in other words.
const DUPLICATE: &str = "duplicate key";
const UNQUOTED: &str = "string values must be quoted, expected literal string";

/// A file as far as it could be read.
pub(super) struct Tree<'s> {
    pub(super) root: DeTable<'s>,
    pub(super) problems: Vec<Problem>,
}

/// Reads a file. A tree with problems holds what stands in well-formed lines.
pub(super) fn parse(file: u32, source: &Source) -> Tree<'_> {
    let text = source.text.as_str();
    if let Some(problem) = unreadable(file, text) {
        return Tree { root: DeTable::new(), problems: vec![problem] };
    }
    match DeTable::parse(text) {
        Ok(root) => Tree { root: root.into_inner(), problems: Vec::new() },
        Err(first) if text.len() > ALL_ERRORS_BYTES_MAX => {
            let problem = syntax_problem(file, text, &first)
                .help("the file is large, so this is only its first syntax error: the rest of it was not read");
            Tree { root: DeTable::new(), problems: vec![problem] }
        }
        Err(_) => {
            let (root, errors) = DeTable::parse_recoverable(text);
            let mut problems: Vec<Problem> = Vec::new();
            for error in errors.iter().take(ERRORS_MAX) {
                let problem = syntax_problem(file, text, error);
                if problems.last().is_none_or(|last| !follows(text, last.at, error, problem.at)) {
                    problems.push(problem);
                }
            }
            Tree { root: Spanned::into_inner(root), problems }
        }
    }
}

/// Does an error only follow from the one before it? One slip often makes several errors in its line, and a table that is
/// opened twice makes all its keys duplicates.
fn follows(text: &str, last: Origin, error: &Error, at: Origin) -> bool {
    let between = text.get(last.start as usize..at.start as usize).unwrap_or_default();
    let in_header = line_at(text, last.start as usize).trim_start().starts_with('[');
    same_line(text, last, at) || in_header && error.message() == DUPLICATE && !between.contains("\n[")
}

fn unreadable(file: u32, text: &str) -> Option<Problem> {
    let start = Origin { file, start: 0, end: 0 };
    if text.len() > FILE_BYTES_MAX {
        let title = format!("the file is larger than {} MiB", FILE_BYTES_MAX >> 20);
        return Some(Problem::new(title, start, "not read").help("split it into several files of one folder"));
    }
    let nul = text.find('\0')?;
    let at = origin(file, text, nul..nul + 1);
    Some(Problem::new("the file holds a NUL byte", at, "here").help("save it as plain text"))
}

fn syntax_problem(file: u32, text: &str, error: &Error) -> Problem {
    let span = error.span().unwrap_or_default();
    let at = origin(file, text, span.clone());
    match error.message() {
        DUPLICATE => duplicate(file, text, at),
        UNQUOTED if at.start == at.end => Problem::new("not valid TOML: a value is missing", at, "it belongs here"),
        message if message.contains("recursion") => {
            Problem::new("nested too deeply", at, "here").help("nothing in the state language is nested more than a few levels")
        }
        message => Problem::new(format!("not valid TOML: {message}"), at, "here"),
    }
}

/// The parser does not say where the first of two stands, so it is looked for: by line, which is how people write tables.
fn duplicate(file: u32, text: &str, at: Origin) -> Problem {
    let key = slice(text, at);
    let problem =
        Problem::new(format!("{} is defined twice", super::problem::quoted(key)), at, "again here").help("keep one of the two");
    let line = line_at(text, at.start as usize);
    let header =
        |line: &str| line.trim_start().starts_with('[').then(|| line.split('#').next().unwrap_or_default().trim().to_owned());
    let wanted = header(line);
    let mut found = None;
    let mut end = line_start(text, at.start as usize);
    while end > 0 {
        let start = line_start(text, end - 1);
        let before = text.get(start..end).unwrap_or_default();
        let same = match (&wanted, header(before)) {
            (Some(wanted), Some(header)) => *wanted == header,
            (None, None) => before.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with(['=', '.'])),
            (None, Some(_)) => break,
            (Some(_), None) => false,
        };
        if same {
            // In a header the last key is meant, and not what a comment behind it says.
            let offset = match &wanted {
                Some(_) => before.split('#').next().and_then(|header| header.rfind(key)),
                None => before.find(key),
            };
            let offset = offset.unwrap_or_default();
            found = Some(origin(file, text, start + offset..start + offset + key.len()));
            break;
        }
        end = start;
    }
    match found {
        Some(first) => problem.other(first, "first defined here"),
        None => problem,
    }
}

/// A span as a place that surely lies inside the text, on character boundaries.
pub(super) fn origin(file: u32, text: &str, span: Range<usize>) -> Origin {
    let start = text.floor_char_boundary(span.start.min(text.len()));
    let end = text.floor_char_boundary(span.end.min(text.len())).max(start);
    let narrow = |offset: usize| u32::try_from(offset).unwrap_or(u32::MAX);
    Origin { file, start: narrow(start), end: narrow(end) }
}

fn slice(text: &str, at: Origin) -> &str {
    text.get(at.start as usize..at.end as usize).unwrap_or_default()
}

fn line_start(text: &str, offset: usize) -> usize {
    text.get(..offset).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1)
}

fn line_at(text: &str, offset: usize) -> &str {
    text.get(line_start(text, offset)..).unwrap_or_default().lines().next().unwrap_or_default()
}

/// Is there no line break between two places of one file?
pub(super) fn same_line(text: &str, one: Origin, other: Origin) -> bool {
    let (from, to) = (one.start.min(other.start) as usize, one.start.max(other.start) as usize);
    text.get(from..to).is_some_and(|between| !between.contains('\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<Problem> {
        parse(0, &Source { name: "x.toml".into(), text: text.into() }).problems
    }

    #[test]
    fn ten_thousand_levels_are_an_error_and_no_overflow() {
        for text in [
            format!("x = {}{}", "[".repeat(10_000), "]".repeat(10_000)),
            format!("x = {}", "[".repeat(10_000)),
            format!("x = {}{}", "{a=".repeat(10_000), "}".repeat(10_000)),
            format!("[{}a]", "a.".repeat(10_000)),
            format!("{}a = 1", "a.".repeat(10_000)),
        ] {
            let found = problems(&text);
            assert!(found[0].title.contains("too deeply"), "{found:?}");
        }
    }

    #[test]
    fn both_places_of_a_duplicate_are_found() {
        let text = "[a]\nx = 1\ny = 2\nx = 3\n[b]\n[a] # again\n";
        let found = problems(text);
        let places: Vec<_> = found.iter().map(|p| (p.at.start, p.others.first().map(|(at, _)| at.start))).collect();
        assert_eq!(places, [(16, Some(4)), (27, Some(1))], "{found:?}");
    }

    #[test]
    fn a_byte_order_mark_is_tolerated_and_a_nul_is_not() {
        assert_eq!(problems("\u{feff}x = 1\n"), []);
        assert_eq!(problems("x = \"\0\"\n")[0].at, Origin { file: 0, start: 5, end: 6 });
    }
}
