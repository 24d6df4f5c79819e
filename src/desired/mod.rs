//! INTENT: TOML text to [`Desired`], or all that is wrong with it at once, each with its place and a cure.
//!
//! Pure: reading files is `repo/`, reading secrets is `cli/source.rs`, showing problems is `cli/problems.rs`. The way of a text:
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
pub mod service;
mod source;
mod syntax;
mod user;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use problem::{Problem, nearest, refusals_to_problems};
pub use secret::{SecretRef, Secrets};
pub use source::{FILE_BYTES_MAX, Source, SourceError};

use toml::de::DeTable;

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
    if let Some(problem) = facts(file, &source.text, &tree.root) {
        return FileRead { draft: Draft::default(), problems: vec![problem], partial: true };
    }
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

/// One problem for a file that holds what nodes show, which is easily written into the folder that is looked at.
fn facts(file: u32, text: &str, root: &DeTable<'_>) -> Option<Problem> {
    let nodes = root.get("nodes")?.get_ref().as_table()?;
    let shows = |node: &DeTable<'_>| node.contains_key("observed_at") || node.contains_key("unseen");
    let (name, _) = nodes.iter().find(|(_, node)| node.get_ref().as_table().is_some_and(shows))?;
    let problem =
        Problem::new("live facts are not state", syntax::origin(file, text, name.span()), "what a node shows, and not a node");
    Some(problem.help("\"valkeeper observe\" printed this for \"plan --live\": move the file out of the folder of the state"))
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::password::PasswordHash;

    fn sources(texts: &[&str]) -> Vec<Source> {
        let source = |(number, text): (usize, &&str)| Source { name: format!("{number}.toml"), text: (*text).to_owned() };
        texts.iter().enumerate().map(source).collect()
    }

    const FLEET: &str = "[fleet]\nname = \"f\"\n[nodes.n]\nlocal = \"./n\"\n[shards.s]\nnodes = [\"n\"]\nports = \"6400-6401\"\n";

    fn parsed(texts: &[&str]) -> Desired {
        let mut all = vec![FLEET];
        all.extend(texts);
        parse(&sources(&all), &Secrets::Placeholder).unwrap()
    }

    fn setting(desired: &Desired, name: &str) -> (String, u32) {
        let found = &desired.instances["i"].settings[name];
        (found.value.clone(), found.at.file)
    }

    #[test]
    fn an_instance_wins_over_defaults_and_these_over_the_base() {
        let instance = "[instances.i]\nshard = \"s\"\n";
        let bare = parsed(&["", instance]);
        assert_eq!(setting(&bare, "maxmemory"), ("67108864".into(), 2));
        assert_eq!(setting(&bare, "appendonly"), ("yes".into(), 2));
        let defaults = "[defaults]\nmax_memory_mb = 1\nconfig = { timeout = 5, appendonly = false }\n";
        let merged = parsed(&[defaults, instance]);
        assert_eq!(setting(&merged, "maxmemory"), ("1048576".into(), 1));
        assert_eq!(setting(&merged, "appendonly"), ("no".into(), 1));
        let own = parsed(&[defaults, "[instances.i]\nshard = \"s\"\nmax_memory_mb = 2\nconfig.timeout = 6\n"]);
        assert_eq!(setting(&own, "maxmemory"), ("2097152".into(), 2));
        assert_eq!(setting(&own, "timeout"), ("6".into(), 2));
    }

    #[test]
    fn values_of_settings_are_the_servers_text() {
        let text =
            "[instances.i]\nshard = \"s\"\nconfig = { a = 0x10, b = true, c = [\"900 1\", \"300 10\"], d = \"\", e = [] }\n";
        let desired = parsed(&[text]);
        for (name, value) in [("a", "16"), ("b", "yes"), ("c", "900 1 300 10"), ("d", ""), ("e", "")] {
            assert_eq!(setting(&desired, name).0, value);
        }
    }

    #[test]
    fn a_place_covers_the_whole_of_a_setting() {
        let text = "[instances.i]\nshard = \"s\"\nmax_memory_mb = 5\nconfig = { timeout = 300 }\n";
        let desired = parsed(&[text]);
        let at = |name: &str| {
            let at = desired.instances["i"].settings[name].at;
            text.get(at.start as usize..at.end as usize).unwrap()
        };
        assert_eq!((at("timeout"), at("maxmemory"), at("appendonly")), ("timeout = 300", "max_memory_mb = 5", "i"));
    }

    #[test]
    fn secrets_are_asked_for_once_and_become_hashes() {
        let user = |name: &str| {
            format!("[instances.i.users.{name}]\nprivileges = []\npassword = [{{ file = \"x\" }}, {{ env = \"Y\" }}]\n")
        };
        let text = format!("{FLEET}[instances.i]\nshard = \"s\"\n{}{}", user("a"), user("b"));
        let sources = sources(&[&text]);
        let refs = read(&sources).secret_refs();
        assert_eq!(refs, [SecretRef::File("x".into()), SecretRef::Env("Y".into())]);

        let hash = PasswordHash::of_password(b"hunter2");
        let both = Secrets::Read(refs.iter().map(|reference| (reference.clone(), Ok(hash.clone()))).collect());
        let desired = parse(&sources, &both).unwrap();
        assert_eq!(desired.instances["i"].users["a"].passwords(), [hash]);

        let missing = Secrets::Read(BTreeMap::from([(refs[0].clone(), Err("x: no such file".to_owned()))]));
        let problems = parse(&sources, &missing).unwrap_err();
        let labels: Vec<_> = problems.iter().map(|problem| problem.label.as_str()).collect();
        assert_eq!(labels, ["x: no such file", "it was not read"].repeat(2));
        let at = problems[1].at;
        assert_eq!(text.get(at.start as usize..at.end as usize), Some("{ env = \"Y\" }"));
    }

    #[test]
    fn a_user_gets_every_key_by_default_and_a_selector_none() {
        let user =
            "[instances.i]\nshard = \"s\"\n[instances.i.users.u]\nenabled = false\nselectors = [{ privileges = [\"+get\"] }]\n";
        let desired = parsed(&[user]);
        let user = &desired.instances["i"].users["u"];
        assert_eq!((user.root.keys.as_slice(), user.root.privileges.len()), (&["~*".to_owned()][..], 0));
        assert_eq!((user.selectors[0].keys.len(), user.selectors[0].channels.len()), (0, 0));
    }

    #[test]
    fn places_of_refusals_are_told_in_order() {
        use crate::model::plan::Refusal;
        let refusal = |start| Refusal { at: Origin { file: 0, start, end: start + 1 }, problem: "p".into(), cure: String::new() };
        let problems = refusals_to_problems(&[refusal(5), refusal(1), refusal(5)]);
        assert_eq!(
            problems.iter().map(|problem| (problem.at.start, problem.help.is_some())).collect::<Vec<_>>(),
            [(1, false), (5, false)]
        );
    }
}
