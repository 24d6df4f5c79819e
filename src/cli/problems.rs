//! Shows problems to people and to programs: place, marked excerpt, cure. The one home of annotate-snippets.
//!
//! What is shown of a file is masked first, so that no excerpt holds a secret.

use std::collections::BTreeMap;

use annotate_snippets::{Annotation, AnnotationKind, Element, Group, Level, Renderer, Snippet};
use serde_json::{Value, json};

use super::mask::mask;
use super::out::printable;
use crate::desired::{Problem, Source};
use crate::model::desired::Origin;

/// Beyond this many problems the first cures are worth more than the list.
const PROBLEMS_MAX: usize = 100;
/// A place that goes over more lines than this is shown by its first ones.
const EXCERPT_LINES_MAX: usize = 6;
/// Two places of one file share an excerpt if no more than this lies between them. Bytes.
const SHARED_BYTES_MAX: u32 = 16 << 10;
/// A longer excerpt shrinks to the line of its first place. Bytes.
const EXCERPT_BYTES_MAX: usize = 64 << 10;
/// Of a longer line only the neighbourhood of the place is shown. Bytes.
const LINE_BYTES_MAX: usize = 1 << 10;

/// Renders problems for a terminal or a log. With `styled`, colours stand in the text as ANSI sequences.
pub fn render(problems: &[Problem], sources: &[Source], styled: bool) -> String {
    let mut shown = ShownFiles { sources, files: BTreeMap::new() };
    let renderer = if styled { Renderer::styled() } else { Renderer::plain() };
    let mut text = String::new();
    for problem in problems.iter().take(PROBLEMS_MAX) {
        text.push_str(&renderer.render(&[group(problem, &mut shown)]));
        text.push_str("\n\n");
    }
    if problems.len() > PROBLEMS_MAX {
        text.push_str(&format!("and {} more\n\n", problems.len() - PROBLEMS_MAX));
    }
    text
}

/// Problems for programs; lines and columns count from 1, columns in characters.
pub fn to_json(problems: &[Problem], sources: &[Source]) -> Value {
    let mut shown = ShownFiles { sources, files: BTreeMap::new() };
    let mut place = |at: Origin, label: &str| {
        let mut object = json!({ "file": null, "line": null, "column": null, "label": label });
        if let Some((source, lines)) = shown.get(at) {
            let (line, column) = lines.place(&source.text, at.start as usize);
            object = json!({ "file": source.name, "line": line, "column": column, "label": label });
        }
        object
    };
    let each = problems.iter().map(|problem| {
        let Problem { title, at, label, others, help } = problem;
        let mut object = place(*at, label);
        let others: Vec<Value> = others.iter().map(|(at, label)| place(*at, label)).collect();
        if let Some(fields) = object.as_object_mut() {
            fields.extend([
                ("title".to_owned(), json!(title)),
                ("others".to_owned(), json!(others)),
                ("help".to_owned(), json!(help)),
            ]);
        }
        object
    });
    each.collect()
}

/// `1 problem`, `3 users`.
pub fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

fn group<'a>(problem: &Problem, shown: &mut ShownFiles<'a>) -> Group<'a> {
    let mut group = Group::with_title(Level::ERROR.primary_title(printable(&problem.title).into_owned()));
    let mut marks = vec![Mark { at: problem.at, label: printable(&problem.label).into_owned(), primary: true }];
    for (at, label) in &problem.others {
        marks.push(Mark { at: *at, label: printable(label).into_owned(), primary: false });
    }
    // Places that are near each other share an excerpt, in which the renderer folds what lies between.
    let mut rest = marks.as_slice();
    while let Some((first, _)) = rest.split_first() {
        let near = |mark: &&Mark| mark.at.file == first.at.file && mark.at.start.abs_diff(first.at.start) <= SHARED_BYTES_MAX;
        let together = rest.iter().take_while(near).count().max(1);
        let (excerpt, after) = rest.split_at(together);
        rest = after;
        match shown.excerpt(excerpt) {
            Some(elements) => group = group.elements(elements),
            None => group = group.elements(excerpt.iter().map(|mark| Level::NOTE.message(mark.label.clone()))),
        }
    }
    match &problem.help {
        Some(help) => group.element(Level::HELP.message(printable(help).into_owned())),
        None => group,
    }
}

/// A place to mark.
struct Mark {
    at: Origin,
    label: String,
    primary: bool,
}

/// The files that excerpts are taken from, masked and indexed when first needed.
struct ShownFiles<'a> {
    sources: &'a [Source],
    files: BTreeMap<u32, Lines>,
}

/// A masked file and where its lines start.
struct Lines {
    masked: String,
    starts: Vec<usize>,
}

impl<'a> ShownFiles<'a> {
    fn get(&mut self, at: Origin) -> Option<(&'a Source, &Lines)> {
        let source = self.sources.get(at.file as usize)?;
        Some((source, self.files.entry(at.file).or_insert_with(|| Lines::new(&source.text))))
    }

    fn excerpt(&mut self, marks: &[Mark]) -> Option<Vec<Element<'a>>> {
        let first = marks.first()?;
        let (source, lines) = self.get(first.at)?;
        let top = lines.number(marks.iter().map(|mark| mark.at.start as usize).min()?);
        let bottom = marks.iter().map(|mark| lines.last_line(mark.at)).max()?;
        let (mut from, mut to) = (lines.start(top), lines.start(bottom + 1));
        let long = to - from > EXCERPT_BYTES_MAX || top == bottom && to - from > LINE_BYTES_MAX;
        let mut line_start = top;
        if long {
            let start = first.at.start as usize;
            line_start = lines.number(start);
            from = lines.masked.floor_char_boundary(start.saturating_sub(LINE_BYTES_MAX / 2).max(lines.start(line_start)));
            to = lines.masked.ceil_char_boundary((from + LINE_BYTES_MAX).min(lines.start(line_start + 1)));
        }
        let excerpt = lines.masked.get(from..to)?.to_owned();
        let annotation = |mark: &Mark| {
            let inside = |offset: u32| excerpt.floor_char_boundary((offset as usize).clamp(from, to) - from);
            let kind = if mark.primary { AnnotationKind::Primary } else { AnnotationKind::Context };
            kind.span(inside(mark.at.start)..inside(mark.at.end)).label(mark.label.clone())
        };
        let shown = |mark: &&Mark| (from..=to).contains(&(mark.at.start as usize));
        let annotations: Vec<Annotation<'a>> = marks.iter().filter(shown).map(annotation).collect();
        let snippet = Snippet::source(excerpt).line_start(line_start + 1).annotations(annotations);
        if !long {
            return Some(vec![Element::from(snippet.path(source.name.as_str()))]);
        }
        // In a part of a line the renderer would count columns from the start of the part.
        let (line, column) = lines.place(&source.text, first.at.start as usize);
        let place = annotate_snippets::Origin::path(source.name.as_str()).line(line).char_column(column);
        Some(vec![Element::from(place), Element::from(snippet)])
    }
}

impl Lines {
    fn new(text: &str) -> Self {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let starts = std::iter::once(0).chain(newlines.map(|(place, _)| place + 1)).collect();
        Self { masked: mask(text), starts }
    }

    /// The line of an offset, from 0.
    fn number(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset).saturating_sub(1)
    }

    fn start(&self, line: usize) -> usize {
        self.starts.get(line).copied().unwrap_or(self.masked.len())
    }

    /// The last line of a place that is shown.
    fn last_line(&self, at: Origin) -> usize {
        let first = self.number(at.start as usize);
        let last = self.number((at.end as usize).saturating_sub(1).max(at.start as usize));
        last.min(first + EXCERPT_LINES_MAX - 1)
    }

    /// Line and column for people, from 1.
    fn place(&self, text: &str, offset: usize) -> (usize, usize) {
        let line = self.number(offset);
        let before = text.get(self.start(line)..offset).unwrap_or_default();
        (line + 1, before.chars().count() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: impl Into<String>) -> [Source; 1] {
        [Source { name: "x.toml".to_owned(), text: text.into() }]
    }

    fn at(start: usize, end: usize) -> Origin {
        Origin { file: 0, start: u32::try_from(start).unwrap(), end: u32::try_from(end).unwrap() }
    }

    #[test]
    fn a_place_in_a_long_line_keeps_its_column() {
        let sources = source(format!("a = 1\nx = [{}bad{}]\n", "1, ".repeat(5_000), ", 1".repeat(5_000)));
        let place = sources[0].text.find("bad").unwrap();
        let told = render(&[Problem::new("t", at(place, place + 3), "here")], &sources, false);
        assert!(told.contains("x.toml:2:15006") && told.contains("bad") && told.contains("^^^ here"), "{told}");
        assert!(told.len() < 2_000, "{told}");
    }

    #[test]
    fn many_problems_end_in_a_number() {
        let sources = source("a = 1\n");
        let problems: Vec<Problem> = (0..103).map(|number| Problem::new(format!("t{number}"), at(0, 1), "here")).collect();
        let told = render(&problems, &sources, false);
        assert!(told.contains("error: t99\n") && !told.contains("error: t100\n") && told.ends_with("and 3 more\n\n"), "{told}");
        assert_eq!(to_json(&problems, &sources).as_array().unwrap().len(), 103);
    }

    #[test]
    fn a_place_over_many_lines_is_shown_by_its_first_ones() {
        let text = "line\n".repeat(1_000);
        let told = render(&[Problem::new("t", at(0, text.len()), "here")], &source(text), false);
        assert!(told.contains("x.toml:1:1") && told.lines().count() < 15, "{told}");
    }

    #[test]
    fn a_problem_of_no_file_is_told_all_the_same() {
        let told = render(&[Problem::new("t", Origin { file: 9, start: 1, end: 2 }, "label").help("cure")], &[], false);
        assert!(told.contains("error: t") && told.contains("label") && told.contains("cure"), "{told}");
    }
}
