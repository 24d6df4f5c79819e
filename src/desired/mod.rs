//! INTENT: TOML text to [`Desired`], or all that is wrong with it at once, each with its place and a cure.
//!
//! Pure: reading files, secrets and folders is `cli/source.rs`, showing problems is `cli/problems.rs`. The way of a text:
//! [`Source`] → `syntax` (tree) → `reader` along [`schema`] (`fleet`, `instance`, `user`: drafts) → `link` and `merge`
//! (all files, references) → `revision`.

mod draft;
mod fleet;
mod instance;
pub mod json_schema;
mod link;
mod merge;
mod problem;
mod reader;
mod revision;
pub mod schema;
mod secret;
mod source;
mod syntax;
mod user;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use problem::{Problem, nearest, refusals_to_problems};
pub use secret::{SecretRef, Secrets};
pub use source::{FILE_BYTES_MAX, Source, SourceError};

use crate::model::desired::{Desired, Origin};
use draft::Draft;
use reader::Reader;

/// A text that has been read file by file: what it says, and what is wrong so far.
///
/// It stands between reading and checking because the passwords that it refers to are read in between.
#[derive(Debug)]
pub struct Read {
    drafts: Vec<Draft>,
    problems: Vec<Problem>,
    /// A file was not wholly readable, so what seems to be missing may be there.
    partial: bool,
}

/// Reads and checks a text.
///
/// # Errors
/// All problems, in the order of files and places.
pub fn parse(sources: &[Source], secrets: &Secrets) -> Result<Desired, Vec<Problem>> {
    read(sources).check(secrets)
}

/// Reads all files, several at a time.
pub fn read(sources: &[Source]) -> Read {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(source) = sources.get(index) else { return done };
            done.push((index, read_file(index, source)));
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(sources.len());
    let mut files: Vec<(usize, FileRead)> = if workers <= 1 {
        work()
    } else {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            threads.into_iter().flat_map(join).collect()
        })
    };
    files.sort_by_key(|(index, _)| *index);

    let mut read = Read { drafts: Vec::with_capacity(files.len()), problems: Vec::new(), partial: false };
    for (_, file) in files {
        read.drafts.push(file.draft);
        read.problems.extend(file.problems);
        read.partial |= file.partial;
    }
    if sources.is_empty() {
        let problem = Problem::new("there are no TOML files", Origin::default(), "nothing to read");
        read.problems
            .push(problem.help("name a file, or a folder with files that end in .toml; `examples/desired.toml` is a start"));
    }
    read
}

struct FileRead {
    draft: Draft,
    problems: Vec<Problem>,
    partial: bool,
}

/// A panic of a worker is a panic of the whole.
fn join<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn read_file(index: usize, source: &Source) -> FileRead {
    let file = u32::try_from(index).unwrap_or(u32::MAX);
    let tree = syntax::parse(file, source);
    let partial = !tree.problems.is_empty();
    let mut reader = Reader::new(file, source, partial);
    let draft = fleet::read(&mut reader, &tree.root);
    let mut problems = tree.problems;
    let found = reader.problems;
    // In a line that is not TOML, the syntax error is the one to cure first.
    let beside = |problem: &Problem| problems.iter().any(|known| syntax::same_line(&source.text, known.at, problem.at));
    let found: Vec<Problem> = if partial { found.into_iter().filter(|problem| !beside(problem)).collect() } else { found };
    problems.extend(found);
    FileRead { draft, problems, partial }
}

impl Read {
    /// The passwords that must be read before [`Read::check`], each once.
    pub fn secret_refs(&self) -> Vec<SecretRef> {
        let users = self.drafts.iter().flat_map(|draft| &draft.instances).flat_map(|instance| &instance.body.users);
        let refs: BTreeSet<&SecretRef> = users.flat_map(|user| &user.secrets).map(|reference| &reference.value).collect();
        refs.into_iter().cloned().collect()
    }

    /// Checks what the files say together.
    ///
    /// # Errors
    /// All problems, in the order of files and places.
    pub fn check(self, secrets: &Secrets) -> Result<Desired, Vec<Problem>> {
        let Self { drafts, mut problems, partial } = self;
        let nothing = drafts.is_empty();
        let desired = if partial || nothing { None } else { link::link(drafts, secrets, &mut problems) };
        match desired {
            Some(mut desired) if problems.is_empty() => {
                desired.revision = revision::revision(&desired);
                Ok(desired)
            }
            Some(_) | None => {
                problem::sort(&mut problems);
                Err(problems)
            }
        }
    }
}
